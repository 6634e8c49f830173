"""The configuration of small corpora with a catalog."""

from support.corpora import ONE_PROCESS

TOML = f"""
root = "corpus"
[source]
kind = "webdataset"
path = "source"
[sets.train]
{ONE_PROCESS}"""

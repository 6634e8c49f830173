"""The configuration of small corpora with a catalog."""

import pytest
from support.corpora import ONE_PROCESS

pytestmark = pytest.mark.usefixtures("catalogs")

TOML = f"""
root = "corpus"
[source]
kind = "webdataset"
path = "source"
[sets.train]
{ONE_PROCESS}"""

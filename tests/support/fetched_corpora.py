"""Corpora of URLs, small enough to be fetched in a test."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from support.corpora import ONE_PROCESS
from support.fetching import CONTACT

REASONS_OF = "select i.partition, url, i.reason from images i join rows using (partition, key)"


# In a corpus


def configure(folder: Path, urls: list[str], more: str = "", fetch: str = "", **columns: list) -> Path:
    folder.mkdir(exist_ok=True)
    table = {"URL": urls, "TEXT": [f"picture {n}" for n in range(len(urls))]} | columns
    pq.write_table(pa.table(table), folder / "in.parquet")
    return rewrite(folder, more, fetch)


def rewrite(folder: Path, more: str = "", fetch: str = "") -> Path:
    config = folder / "my.toml"
    config.write_text(f"""
root = "corpus"
[source]
kind = "laion"
path = "in.parquet"
rows_per_partition = 20
{more}
[fetch]
contact = "{CONTACT}"
allow_hosts = ["localhost"]
deadline = 2
read_seconds = 0.5
{fetch}
""" + ("" if "[beam]" in fetch else ONE_PROCESS))  # fmt: skip
    return config

"""Shard sets as Prefect's assets: each release of a set is a materialization, which other deployments can follow."""

from pathlib import Path

from prefect.assets import Asset, AssetProperties, materialize

from pipelines.build.corpus import Corpus
from pipelines.engine.ledger import Ledger
from schemas.arrow import Row


def asset_key(root: str, name: str) -> str:
    """The asset of a set: the URL under which its card lies."""
    return f"{Path(root).as_uri() if '://' not in root else root.rstrip('/')}/shards/{name}"


def announce_releases(corpus: Corpus, run: str) -> None:
    """Tells Prefect of each set that a run has published anew."""
    for row in Ledger(corpus.root, run).releases():
        announce(asset_key(corpus.root.url, row["set"]), row)


def announce(key: str, row: Row) -> None:
    asset = Asset(key=key, properties=AssetProperties(name=f"shard set {row['set']}"))

    @materialize(asset, by="shardmill", task_run_name="release of {set}", name="release")
    def release(set: str, released: str) -> None:
        asset.add_metadata({name: row[name] for name in ("release", "samples", "added", "removed", "changed", "run")})

    release(row["set"], row["release"])

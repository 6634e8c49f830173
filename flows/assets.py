"""Shard sets as Prefect's assets: each release of a set is a materialization, which other deployments can follow."""

import hashlib
import re
from pathlib import Path
from urllib.parse import unquote

from prefect.assets import Asset, AssetProperties, materialize
from prefect.types.names import validate_valid_asset_key

from pipelines.build.corpus import Corpus
from pipelines.engine.ledger import Ledger
from schemas.arrow import Row

LONGEST = 200  # characters of a root or of a name in a key that is made shorter


def asset_key(root: str, name: str) -> str:
    """The asset of a set: the URL under which its card lies, without the signs that Prefect refuses in a key.

    A key that is not the URL itself has a digest of it, so that no two sets share one.
    """
    url = Path(root).as_uri() if "://" not in root else root.rstrip("/")
    key = f"{url}/shards/{name}"
    try:
        return validate_valid_asset_key(key)
    except ValueError:
        scheme, _, path = url.partition("://")
        words = "/".join(_slug(word) for word in unquote(path)[-LONGEST:].split("/"))
        digest = hashlib.sha256(key.encode()).hexdigest()[:8]
        return f"{re.sub('[^a-z0-9]', '', scheme.lower())}://{words}/shards/{_slug(name[-LONGEST:])}-{digest}"


def _slug(word: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", word)


def announce_releases(corpus: Corpus, run: str) -> None:
    """Tells Prefect of each set that a run has published."""
    for row in Ledger(corpus.root, run).releases():
        announce(asset_key(corpus.root.url, row["set"]), row)


def announce(key: str, row: Row) -> None:
    asset = Asset(key=key, properties=AssetProperties(name=f"shard set {row['set']}"))

    @materialize(asset, by="shardmill", task_run_name="release of {set}", name="release")
    def release(set: str, released: str) -> None:
        asset.add_metadata({name: row[name] for name in ("release", "samples", "added", "removed", "changed", "run")})

    release(row["set"], row["release"])

"""A small corpus to damage, and what `verify` says of each kind of file."""

from pathlib import Path

from support.corpora import ONE_PROCESS, build

from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root

TOML = f"""
root = "corpus"
[source]
kind = "webdataset"
path = "source"
[sets.train]
samples_per_shard = 4
{ONE_PROCESS}"""


def find(root: Root, pattern: str) -> str:
    """The first file of a name like this."""
    return str(sorted(Path(root.url).glob(pattern))[0].relative_to(root.url))


def flip(root: Root, name: str, at: int) -> None:
    """Turns one bit of a file."""
    path = Path(root.path(name))
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << (at % 8)
    path.write_bytes(data)


# What is said of a file of this kind when it is deleted.
PARTITIONS = {
    "rows/00000.parquet": "rows: 1 of 2 partitions missing, the first is rows/00000.parquet; run again",
    "images/00001.parquet": "images: 1 of 2 partitions missing, the first is images/00001.parquet; run again",
    "selection/00000.parquet": "selection: 1 of 2 partitions missing, the first is selection/00000.parquet; run again",
}
DIGESTED = {
    "images/00000-*.tar": "{name}: is gone; remove images/00000.parquet, run again",
    "shards/train-000000-*.tar": "{name}: is gone, run again",
    "shards/train-000001-*.parquet": "{name}: is gone, run again",
    "shards/train.json": "{name}: is gone; run again",
    "shards/train@*.json": "shards/train.json: is not the same as {name}; remove it, run again",
}
KINDS = PARTITIONS | DIGESTED


def do_what_verify_says(root: Root) -> None:
    """Every problem says what to remove before the next run."""
    for problem in verify_root(root).problems:
        if "; remove " in problem:
            fix = problem.split("; remove ")[1].split(",")[0]
            Path(root.path(problem.split(":")[0] if fix == "it" else fix)).unlink(missing_ok=True)
    build(Path(root.url).parent / "my.toml")


# Cleaning


def releases(root: Root) -> set[str]:
    return {name.split("@")[1].removesuffix(".json") for name in root.files("shards") if "@" in name}

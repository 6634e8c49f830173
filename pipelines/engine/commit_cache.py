"""All commits of a stage at once, from `<stage>/_commits.parquet`: a cache over the footers, which can be deleted.

Reading 100,000 Parquet footers takes 10 s, listing as many files a second: so only footers of files that changed
since the cache was written are read.
"""

import gc
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import orjson
import pyarrow as pa

from pipelines.engine.commit import Commit, commit_json, file_of, read_commit
from pipelines.engine.parquet import FOOTER, Corrupt, opened, parquet_bytes
from pipelines.engine.root import Entry, Root
from schemas.arrow import Row
from schemas.parquet import ParquetTable, checked_table

CACHE = "_commits.parquet"
CACHED = pa.schema([(name, pa.string()) for name in ("file", "stamp", "commit")])
PARTITION = re.compile(r"[0-9]{5,}\.parquet")


@contextmanager
def uncollected() -> Iterator[None]:
    """Stops the garbage collector while millions of objects are made, none of which is garbage."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Part(NamedTuple):
    """The partitions whose number modulo `of` is `rest`."""

    rest: int
    of: int

    def __contains__(self, partition: object) -> bool:
        return isinstance(partition, int) and partition % self.of == self.rest

    def __str__(self) -> str:
        return f"{self.rest + 1}/{self.of}"


ALL = Part(0, 1)


@uncollected()
def read_commits(
    root: Root, stage: str, *, write: bool = False, cached: bool = True, only: Container[int] = ALL
) -> dict[int, Commit]:
    """partition -> its commit, for every partition file of a stage that can be read, in order. `only`: some partitions;
    then no cache is written."""
    files = {name: entry for name, entry in root.files(stage).items() if is_partition(name) and number_of(name) in only}
    write = write and only is ALL
    known, columns = _cached(root, stage) if cached else ({}, None)
    fresh = {name: known[name][1] for name, entry in files.items() if name in known and known[name][0] == entry.stamp}
    stale = [name for name in files if name not in fresh]
    if stale:
        fresh |= _read_as_json(root, stage, stale)
    try:
        commits = [Commit.read(orjson.loads(text)) for text in fresh.values()]
        whole = all(file_of(stage, c.partition) == f"{stage}/{name}" for name, c in zip(fresh, commits, strict=True))
    except (ValueError, TypeError, AttributeError):
        commits, whole = [], False
    if not whole and cached:  # the cache is damaged
        return read_commits(root, stage, write=write, cached=False, only=only)
    if write and (stale or len(known) != len(fresh) or columns is None):
        rows = [{"file": name, "stamp": files[name].stamp, "commit": text} for name, text in fresh.items()]
        _write_cache(root, stage, rows, commits)
    return {commit.partition: commit for commit in sorted(commits, key=lambda commit: commit.partition)}


def _read_as_json(root: Root, stage: str, names: list[str]) -> dict[str, str]:
    """file -> its commit as JSON, from the footers of those files that can be read."""
    with ThreadPoolExecutor(16) as pool:
        commits = pool.map(lambda name: read_commit(root, f"{stage}/{name}"), names)
        return {name: commit_json(commit) for name, commit in zip(names, commits, strict=True) if commit}


def _write_cache(root: Root, stage: str, rows: list[Row], commits: list[Commit]) -> None:
    columns = sorted({tuple(sorted(commit.digests)) for commit in commits})
    root.write(f"{stage}/{CACHE}", parquet_bytes(rows, CACHED, orjson.dumps(columns).decode()))


def cached_columns(root: Root, stage: str, files: Mapping[str, Entry]) -> list[frozenset[str]] | None:
    """The sets of columns that a stage's files have; None if the cache is not about exactly these files."""
    try:
        with opened(root, f"{stage}/{CACHE}") as file:
            names, stamps = (column.to_pylist() for column in checked_table(file, ["file", "stamp"]).columns)
            columns = _columns_in(file)
    except (FileNotFoundError, Corrupt, ValueError):
        return None
    return (
        columns
        if dict(zip(names, stamps, strict=True)) == {name: entry.stamp for name, entry in files.items()}
        else None
    )


def _columns_in(file: ParquetTable) -> list[frozenset[str]] | None:
    """The sets of columns that a cache's footer names; None if a version that did not name them wrote it."""
    try:
        return [frozenset(columns) for columns in orjson.loads((file.metadata.metadata or {})[FOOTER])]
    except (ValueError, KeyError, TypeError):
        return None


def remove_partitions(root: Root, stage: str, partitions: Iterable[int]) -> None:
    """Takes partitions of a vanished source file out of a stage. Their payloads become garbage."""
    for partition in partitions:
        root.remove(file_of(stage, partition))


def is_partition(name: str) -> bool:
    return PARTITION.fullmatch(name) is not None


def number_of(name: str) -> int:
    """The partition of a file's name."""
    return int(name.removesuffix(".parquet"))


def _cached(root: Root, stage: str) -> tuple[dict[str, tuple[str, str]], list[frozenset[str]] | None]:
    """file -> (stamp, commit as JSON) from the cache, and the sets of columns; nothing if it is missing or damaged."""
    try:
        with opened(root, f"{stage}/{CACHE}") as file:
            names, stamps, texts = (column.to_pylist() for column in checked_table(file, CACHED.names, CACHED).columns)
            columns = _columns_in(file)
    except (FileNotFoundError, Corrupt, ValueError):
        return {}, None
    return dict(zip(names, zip(stamps, texts, strict=True), strict=True)), columns

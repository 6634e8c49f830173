"""All commits of a stage at once, from `<stage>/_commits.parquet`: a cache over the footers, which can be deleted.

Reading 100,000 Parquet footers takes 10 s, listing as many files a second: so only footers of files that changed
since the cache was written are read.
"""

import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pyarrow as pa

from pipelines.commit import Commit, canonical, file_of, read_commit
from pipelines.parquet import Corrupt, parquet_bytes, read_rows
from pipelines.root import Root

CACHE = "_commits.parquet"
CACHED = pa.schema([(name, pa.string()) for name in ("file", "stamp", "commit")])


def read_commits(root: Root, stage: str, *, write: bool = False, cached: bool = True) -> dict[int, Commit]:
    """partition -> its commit, for every partition file of a stage that can be read, in order."""
    files = {name: entry for name, entry in root.files(stage).items() if is_partition(name)}
    known = _cached(root, stage) if cached else {}
    fresh = {name: known[name][1] for name, entry in files.items() if name in known and known[name][0] == entry.stamp}
    stale = [name for name in files if name not in fresh]
    if stale:
        with ThreadPoolExecutor(16) as pool:
            found = pool.map(lambda name: read_commit(root, f"{stage}/{name}"), stale)
            fresh.update({name: json_of(commit) for name, commit in zip(stale, found) if commit})
    try:
        commits = [Commit(**json.loads(text)) for text in fresh.values()]
    except (ValueError, TypeError):  # the cache is damaged
        return read_commits(root, stage, write=write, cached=False)
    if write and (stale or len(known) != len(fresh)):
        rows = [{"file": name, "stamp": files[name].stamp, "commit": text} for name, text in fresh.items()]
        root.write(f"{stage}/{CACHE}", parquet_bytes(rows, CACHED))
    return {commit.partition: commit for commit in sorted(commits, key=lambda commit: commit.partition)}


def remove_partitions(root: Root, stage: str, partitions: Iterable[int]) -> None:
    """Takes partitions of a vanished source file out of a stage. Their payloads become garbage."""
    for partition in partitions:
        root.remove(file_of(stage, partition))


def is_partition(name: str) -> bool:
    return re.fullmatch(r"[0-9]{5,}\.parquet", name) is not None


def json_of(commit: Commit) -> str:
    return canonical(asdict(commit)).decode()


def _cached(root: Root, stage: str) -> dict[str, tuple[str, str]]:
    """file -> (stamp, commit as JSON), as the cache has it; nothing if there is none or it is damaged."""
    try:
        return {row["file"]: (row["stamp"], row["commit"]) for row in read_rows(root, f"{stage}/{CACHE}")}
    except (Corrupt, KeyError):
        return {}

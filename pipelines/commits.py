"""All commits of a stage at once, from `<stage>/_commits.parquet`: a cache over the footers, which can be deleted.

Reading 100,000 Parquet footers takes 10 s, listing as many files a second: so only footers of files that changed
since the cache was written are read.
"""

import io
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.commit import Commit, canonical, file_of, read_commit
from pipelines.root import Root

CACHE = "_commits.parquet"


def read_commits(root: Root, stage: str, *, write: bool = False) -> dict[int, Commit]:
    """partition -> its commit, for every partition file of a stage that can be read, in order."""
    files = {name: entry for name, entry in root.files(stage).items() if is_partition(name)}
    known = _cached(root, stage)
    fresh = {name: known[name][1] for name, entry in files.items() if name in known and known[name][0] == entry.stamp}
    stale = [name for name in files if name not in fresh]
    if stale:
        with ThreadPoolExecutor(16) as pool:
            found = pool.map(lambda name: read_commit(root, f"{stage}/{name}"), stale)
            fresh.update({name: json_of(commit) for name, commit in zip(stale, found) if commit})
    if write and (stale or len(known) != len(fresh)):
        table = pa.table(
            {
                "file": list(fresh),
                "stamp": [files[name].stamp for name in fresh],
                "commit": list(fresh.values()),
            }
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        root.write(f"{stage}/{CACHE}", buffer.getvalue())
    commits = (Commit(**json.loads(text)) for text in fresh.values())
    return {commit.partition: commit for commit in sorted(commits, key=lambda commit: commit.partition)}


def remove_partitions(root: Root, stage: str, partitions: Iterable[int]) -> None:
    """Takes partitions of a vanished source file out of a stage. Their payloads become garbage."""
    for partition in partitions:
        root.remove(file_of(stage, partition))


def is_partition(name: str) -> bool:
    return name.endswith(".parquet") and name.removesuffix(".parquet").isdigit()


def json_of(commit: Commit) -> str:
    return canonical(asdict(commit)).decode()


def _cached(root: Root, stage: str) -> dict[str, tuple[str, str]]:
    """file -> (stamp, commit as JSON), as the cache has it; nothing if there is none or it is damaged."""
    try:
        table = pq.read_table(io.BytesIO(root.read(f"{stage}/{CACHE}")))
        columns = (table[name].to_pylist() for name in ("file", "stamp", "commit"))
        return {file: (stamp, commit) for file, stamp, commit in zip(*columns)}
    except (FileNotFoundError, pa.ArrowInvalid, KeyError):
        return {}

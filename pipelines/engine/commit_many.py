"""Commits many partitions at once: one note of the ledger for all of them, and an object store is asked by threads."""

import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from pipelines.engine.commit import (
    Commit,
    Stage,
    changes,
    column_digests,
    commit_json,
    completed,
    fingerprint_of,
    old_rows,
    read_now,
    replace_rows,
)
from pipelines.engine.conditional import Replaced, stamp_of
from pipelines.engine.ledger import Ledger
from pipelines.engine.parquet import parquet_bytes
from pipelines.engine.read_once import ReadOnce
from pipelines.engine.root import Root, point
from schemas.arrow import Row
from schemas.ledger import MADE

THREADS = 32  # partitions that are read or written at the same time in an object store: each waits for its requests


@dataclass(frozen=True)
class Replacement:
    """A partition whose rows are about to be replaced."""

    partition: int
    rows: list[Row]
    data: bytes  # its file
    stamp: str | None  # of the file that is replaced
    note: Row


def replace_many(
    root: Root, ledger: Ledger, stage: Stage, partitions: Mapping[int, list[Row]], absent: Collection[int] = ()
) -> None:  # fmt: skip
    """Commits the rows of partitions that differ from what is there, as `replace_rows` does one by one. `absent`:
    partitions that did not exist when the run looked."""

    def compared(partition: int) -> Replacement | None:
        return _replacement(root, ledger, stage, partition, partitions[partition], partition in absent)

    def commit(one: Replacement) -> None:
        try:
            root.write_if(stage.file(one.partition), one.data, one.stamp)
        except Replaced:
            replace_rows(root, ledger, stage, one.partition, one.rows)
        point(f"{stage.name}:committed")

    ledger.check()
    with ThreadPoolExecutor(THREADS) as threads:  # of which a local root begins none
        each = map if root.is_local else threads.map
        changed = [one for one in each(compared, partitions) if one]
        if changed:
            ledger.record_all(stage.name, [one.note for one in changed])
            point(f"{stage.name}:recorded")
            for _ in each(commit, changed):
                pass


def _replacement(
    root: Root, ledger: Ledger, stage: Stage, partition: int, rows: list[Row], absent: bool
) -> Replacement | None:  # fmt: skip
    """What replaces a partition; None if it has these rows already."""
    started, once, name = time.time(), ReadOnce(root.url), stage.file(partition)
    rows.sort(key=lambda row: row["key"])
    fingerprint = fingerprint_of(stage.identity(), column_digests(rows, stage.schema))
    now, stamp = (None, None) if absent else read_now(once, name)
    if now and now.fingerprint == fingerprint:
        return None
    old = old_rows(once, name, stage.info.optional) if stamp else []
    commit = Commit(stage.name, partition, stage.version, stage.settings(), {}, fingerprint)
    commit = completed(commit, rows, stage.schema)
    changed = changes(old, rows, stage.places) if now or old else [MADE]
    note = ledger.note(
        stage.name, f"{partition:05d}", fingerprint, changed, partition=partition, rows=commit.rows, kept=commit.kept,
        made=len(rows), started=started,
    )  # fmt: skip
    data = parquet_bytes(rows, stage.schema, commit_json(commit))
    note |= {"stamp": stamp_of(data), "commit": asdict(commit)}
    return Replacement(partition, rows, data, stamp, note)

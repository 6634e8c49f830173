"""What makes Shardmill make: a partition is rebuilt when what it was made from has changed, and only then.

It is current iff its fingerprint is the one that would be recorded now. A stage's inputs are the digests of the
*columns it declares to read*, so a rebuild that gives equal columns stops there. Each row carries `made_from`, the
same hash for that row alone; rows whose `made_from` has not changed are taken over.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pipelines.commit import Commit, Stage, commit_rows, digest, file_of, old_rows, read_commit
from pipelines.ledger import Ledger
from pipelines.parquet import Corrupt, parquet_bytes, read_rows
from pipelines.root import Root, point
from pipelines.tar import TarWriter
from schemas.arrow import Row

UPSTREAM = "upstream"  # the reason of a row that an earlier stage left out; its detail names that reason


class Rejected(ValueError):
    """A row that did not work out: `reason` is a word of the stage's list, `detail` is for a person."""

    def __init__(self, reason: str, detail: str = "", measured: Row | None = None):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.measured = reason, detail, measured


class PartitionStage(Stage):
    """A stage that turns partition p of what it reads into partition p of what it writes: a row in, a row out."""

    reads: ClassVar[Mapping[str, tuple[str, ...]]]  # stage -> columns that decide what comes out
    finds: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # stage -> columns that only say where bytes lie
    payload: ClassVar[bool] = False  # made rows carry `bytes`, which go into a tar beside the Parquet
    chunk_rows: ClassVar[int | None] = None  # costly rows are put down every so many, for a run that is killed
    measures: ClassVar[str | None] = None  # table of the ledger for what is measured of single rows
    at_once: int = 1  # partitions that a worker has in hand; more where it waits for others

    def make(self, rows: Iterable[dict[str, Row]], root: Root) -> Iterator[tuple[str, Row | Rejected]]:
        """(key, the stage's own columns) for each row, or (key, `Rejected`).

        A row is {stage that is read: its columns}; a stage with a payload finds its own row of before there too, if it
        had one. What comes out may hold `bytes`, and `measured` for the ledger. Any order; in key order if the stage
        has a payload.
        """
        raise NotImplementedError

    def fingerprint(self, inputs: Mapping[str, Mapping[str, str]]) -> str:
        return digest([self.identity(), inputs])

    def declared(self, upstream: Mapping[str, Commit]) -> dict[str, dict[str, str]]:
        """The digests of the declared columns, of the partitions that are read."""
        return {stage: {c: upstream[stage].digests[c] for c in columns} for stage, columns in self.reads.items()}


def make_partition(stage: PartitionStage, root: Root, ledger: Ledger, partition: int) -> Commit:
    """Makes one partition, or finds that it is current. Safe to be killed at any moment, and to be run twice."""
    started = time.time()
    upstream = {}
    for name in stage.reads:
        upstream[name] = read_commit(root, file_of(name, partition))
        if upstream[name] is None:
            raise Corrupt(f"{file_of(name, partition)} is missing or unreadable")
    inputs = stage.declared(upstream)
    fingerprint = stage.fingerprint(inputs)
    now = read_commit(root, stage.file(partition))
    if now and now.fingerprint == fingerprint:
        drop_chunks(root, stage, partition)
        return now

    incoming = read_inputs(stage, root, partition, upstream)
    identity = stage.identity()
    made_from = {key: digest([identity, _read(stage, row)]) for key, row in incoming.items()}
    old = old_rows(root, stage.file(partition))
    at_hand = {row["key"]: row for row in [*old, *read_chunks(root, stage, partition)]}
    at_hand = {key: row for key, row in at_hand.items() if row["made_from"] == made_from.get(key)}
    left_out = {key: left_out_by(row) for key, row in incoming.items()}
    todo = [key for key in incoming if key not in at_hand and not left_out[key]]

    pack = _Payload(root, stage, partition, now) if stage.payload else None
    before = {}
    if pack and now and now.version == stage.version:
        before = {row["key"]: {stage.name: {**row, "payload": now.payload}} for row in old}
    measured: list[Row] = []
    made = _made(
        stage, root, partition, {key: incoming[key] | before.get(key, {}) for key in todo}, made_from, measured
    )
    rows = []
    for key in incoming:
        if left_out[key]:
            row, data = _blank(stage, key, made_from[key], UPSTREAM, left_out[key]), None
        elif key in at_hand:
            row, data = at_hand[key], pack and pack.old_bytes(at_hand[key])
        else:
            row, data = made(key)
        rows.append(pack.place(row, data) if pack else row)
    commit = Commit(stage.name, partition, stage.version, stage.settings(), inputs, fingerprint)
    if pack:
        name, sha256 = pack.put()
        commit = replace(commit, payload=name, payload_sha256=sha256)
        point(f"{stage.name}:payload")
    if measured:
        ledger.measure(stage.measures, partition, measured)
    commit = commit_rows(root, ledger, stage, commit, rows, old, made=len(todo), started=started)
    drop_chunks(root, stage, partition)
    return commit


@dataclass(frozen=True)
class MakePartitions:
    """The work of a partition stage, for Beam: an item is a partition."""

    stage: PartitionStage
    root: Root
    ledger: Ledger

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def at_once(self) -> int:
        return self.stage.at_once

    def make(self, partition: int) -> None:
        make_partition(self.stage, self.root, self.ledger, partition)


def read_inputs(
    stage: PartitionStage, root: Root, partition: int, upstream: Mapping[str, Commit]
) -> dict[str, dict[str, Row]]:
    """key -> stage that is read -> its declared columns, in key order. Every stage read has the same keys."""
    tables = {}
    for name, columns in stage.reads.items():
        wanted = dict.fromkeys(("key", *columns, "reason", *stage.finds.get(name, ())))
        tables[name] = {row["key"]: row for row in read_rows(root, file_of(name, partition), list(wanted))}
        for row in tables[name].values():
            row["payload"] = upstream[name].payload
    first = next(iter(tables.values()))
    for name, rows in tables.items():
        if rows.keys() != first.keys():
            raise Corrupt(f"{file_of(name, partition)} has other keys than the stages it was made from")
    return {key: {name: rows[key] for name, rows in tables.items()} for key in first}


def _read(stage: PartitionStage, row: Mapping[str, Row]) -> dict[str, Any]:
    """What a stage reads of a row. Nulls are as if they were not there: so a row that nothing leaves out stays the same
    when a stage that might have done so comes or goes."""
    read = {f"{name}.{column}": row[name][column] for name, columns in stage.reads.items() for column in columns}
    return {name: value for name, value in read.items() if value is not None}


def left_out_by(row: Mapping[str, Row]) -> str | None:
    """Which earlier stage left a row out, and why. The later stage says it in full: `images: truncated`."""
    for name, columns in row.items():
        if columns["reason"]:
            return name if columns["reason"] == UPSTREAM else f"{name}: {columns['reason']}"
    return None


def _blank(stage: Stage, key: str, made_from: str, reason: str | None, detail: str | None) -> Row:
    """A row with nothing in it: null, or an empty list where null is not allowed."""
    row: Row = {f.name: None if f.nullable else [] for f in stage.schema}
    return {**row, "key": key, "reason": reason, "detail": detail or None, "made_from": made_from}


def _made(
    stage: PartitionStage, root: Root, partition: int, todo: Mapping[str, dict], made_from: Mapping[str, str],
    measured: list[Row],
):  # fmt: skip
    """A function that gives the made row of a key, and its bytes, pulling the stage along as far as needed; what was
    measured is added to `measured`."""
    stream, ready, chunk = stage.make(todo.values(), root), {}, []

    def get(key: str) -> tuple[Row, bytes | None]:
        while key not in ready:
            done, fields = next(stream)
            if isinstance(fields, Rejected):
                if fields.reason not in stage.reasons:
                    raise TypeError(f"{stage.name}: {fields.reason!r} is not a declared reason") from fields
                seen = fields.measured
                ready[done] = _blank(stage, done, made_from[done], fields.reason, fields.detail), None
            else:
                data, seen = fields.pop("bytes", None), fields.pop("measured", None)
                ready[done] = {**_blank(stage, done, made_from[done], None, None), **fields}, data
            if seen:
                measured.append({"key": done, **seen})
            if stage.chunk_rows:
                chunk.append(ready[done][0])
                if len(chunk) >= stage.chunk_rows:
                    write_chunk(root, stage, partition, chunk)
                    chunk.clear()
        return ready.pop(key)

    return get


# Chunks: costly rows of a partition that is not finished yet


def chunks_folder(stage: Stage, partition: int) -> str:
    return f"{stage.name}/chunks/{partition:05d}"


def write_chunk(root: Root, stage: Stage, partition: int, rows: Sequence[Row]) -> None:
    data = parquet_bytes(rows, stage.schema)
    root.write(f"{chunks_folder(stage, partition)}/{hashlib.sha256(data).hexdigest()[:16]}.parquet", data)
    point(f"{stage.name}:chunk")


def read_chunks(root: Root, stage: PartitionStage, partition: int) -> list[Row]:
    if not stage.chunk_rows:
        return []
    folder = chunks_folder(stage, partition)
    return [row for name in root.files(folder) for row in old_rows(root, f"{folder}/{name}")]


def drop_chunks(root: Root, stage: PartitionStage, partition: int) -> None:
    if stage.chunk_rows:
        folder = chunks_folder(stage, partition)
        for name in root.files(folder):
            root.remove(f"{folder}/{name}")
        root.remove_folder(folder)


# Payloads: the bytes beside a partition


class _Payload:
    """The tar of a partition that is being made. Rows get the offset and size of their bytes in it."""

    def __init__(self, root: Root, stage: Stage, partition: int, before: Commit | None):
        self.root, self.stage, self.partition = root, stage, partition
        self.before = before.payload if before else None
        self.temporary = root.temporary(stage.name)
        self.file = open(self.temporary, "wb")
        self.tar = TarWriter(self.file)

    def old_bytes(self, row: Row) -> bytes | None:
        """The bytes of a row that is taken over."""
        return read_payload(self.root, self.stage.name, {**row, "payload": self.before}) if row["size"] else None

    def place(self, row: Row, data: bytes | None) -> Row:
        if data is None:
            return row
        offset = self.tar.add(f"{row['key']}.{row['format'].lower()}", data)
        return {**row, "byte_offset": offset, "size": len(data)}

    def put(self) -> tuple[str | None, str | None]:
        """Commits the tar under a name with its digest; (name, SHA-256), or neither if nothing was kept."""
        empty = self.tar.size == 0
        sha256 = self.tar.close()
        self.file.close()
        if empty:
            self.temporary.unlink()
            return None, None
        name = f"{self.partition:05d}-{sha256[:16]}.tar"
        self.root.put(self.temporary, f"{self.stage.name}/{name}")
        return name, sha256


def read_payload(root: Root, stage: str, row: Row) -> bytes:
    """The bytes of a row, checked. Raises `Corrupt` naming the key."""
    name = f"{stage}/{row['payload']}"
    try:
        data = root.read_range(name, row["byte_offset"], row["size"])
    except (FileNotFoundError, EOFError) as error:
        raise Corrupt(f"{name}: the bytes of {row['key']} are gone: {error}") from None
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise Corrupt(f"{name}: the bytes of {row['key']} are not those that were committed")
    return data

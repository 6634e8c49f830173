"""What makes Shardmill make: a partition is rebuilt when what it was made from has changed, and only then.

It is current iff its fingerprint is the one that would be recorded now. A stage's inputs are the digests of the
*columns it declares to read*, so a rebuild that gives equal columns stops there. Each row carries `made_from`, the
same hash for that row alone; rows whose `made_from` has not changed are taken over.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol

from pipelines.engine.checkpoints import drop_chunks, read_chunks, write_chunk
from pipelines.engine.commit import Commit, Stage, commit_rows, digest, file_of, fingerprint_of, old_rows, read_commit
from pipelines.engine.ledger import Ledger, new_attempt
from pipelines.engine.parquet import Corrupt, read_rows
from pipelines.engine.root import Root, point
from pipelines.engine.tar import TarWriter
from schemas.arrow import Row

UPSTREAM = "upstream"  # the reason of a row that an earlier stage left out; its detail names that reason


class Again(Protocol):
    """Which rows that did not work out are to be made anew. Pickles."""

    def keys(self, root: Root, stage: str, partition: int) -> set[str]: ...


class Rejected(ValueError):
    """A row that did not work out: `reason` is a word of the stage's list, `detail` is for a person."""

    def __init__(self, reason: str, detail: str = "", measured: Row | list[Row] | None = None):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.measured = reason, detail, measured


class Unit(NamedTuple):
    """What a row is made of."""

    key: str  # of the row
    row: Mapping[str, Any]  # {stage that is read: its columns}
    made_from: str


class PartitionStage(Stage):
    """A stage that turns partition p of what it reads into partition p of what it writes: a row in, a row out, or
    several where it says so by `units`."""

    reads: ClassVar[Mapping[str, tuple[str, ...]]]  # stage -> columns that decide what comes out
    finds: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # stage -> columns that only say where bytes lie
    joins: ClassVar[Mapping[str, tuple[str, str]]] = {}  # stage -> the column of another that names its row, if not key
    payload: ClassVar[bool] = False  # made rows carry `bytes`, which go into a tar beside the Parquet
    chunk_rows: ClassVar[int | None] = None  # costly rows are put down every so many, for a run that is killed
    measures: ClassVar[str | None] = None  # table of the ledger for what is measured of single rows
    at_once: int = 1  # partitions that a worker has in hand; more where it waits for others
    one_process: bool = False  # on one machine a single worker does it all
    holds_model: ClassVar[bool] = False  # its workers keep what takes much memory: they end with the stage

    def make(self, rows: Iterable[dict[str, Row]], root: Root) -> Iterator[tuple[str, Row | Rejected]]:
        """(key, the stage's own columns) for each row, or (key, `Rejected`).

        A row is {stage that is read: its columns}; a stage with a payload finds its own row of before there too, if it
        had one. What comes out may hold `bytes`, and `measured` for the ledger. Any order; in key order if the stage
        has a payload.
        """
        raise NotImplementedError

    def units(self, key: str, row: dict[str, Row], identity: str) -> list[Unit]:
        """What is to be made of a row that nothing leaves out. Units made from the same are made once."""
        return [Unit(key, row, made_from(self, row, identity))]

    def named(self, unit: Unit, row: Row) -> Row:
        """A row with the names of what it is of, which are not what it was made from."""
        return {**row, "key": unit.key}

    def declared(self, upstream: Mapping[str, Commit]) -> dict[str, dict[str, str]]:
        """The digests of the declared columns, of the partitions that are read."""
        return {stage: {c: upstream[stage].digests[c] for c in columns} for stage, columns in self.reads.items()}


def make_partition(
    stage: PartitionStage, root: Root, ledger: Ledger, partition: int, again: Again | None = None
) -> Commit:
    """Makes one partition, or finds that it is current. Safe to be killed at any moment, and to be run twice.

    `again` says which of its rows that did not work out are made anew.
    """
    started = time.time()
    upstream = {}
    for name in stage.reads:
        upstream[name] = read_commit(root, file_of(name, partition))
        if upstream[name] is None:
            raise Corrupt(f"{file_of(name, partition)} is missing or unreadable")
    inputs, identity = stage.declared(upstream), stage.identity()
    fingerprint = fingerprint_of(identity, inputs)
    now = read_commit(root, stage.file(partition))
    anew = again.keys(root, stage.name, partition) if again and now else set()
    if now and now.fingerprint == fingerprint and not anew:
        drop_chunks(root, stage, partition)
        return now

    incoming = read_inputs(stage, root, partition, upstream)
    left_out = {key: left_out_by(row) for key, row in incoming.items()}
    units = {key: [] if left_out[key] else stage.units(key, row, identity) for key, row in incoming.items()}
    old = old_rows(root, stage.file(partition))
    gone = {row["made_from"] for row in old if row["key"] in anew}
    kept = [row for row in old if row["made_from"] not in gone]
    at_hand = {row["made_from"]: row for row in [*kept, *read_chunks(root, stage, partition)]}
    at_hand = {of: row for of, row in at_hand.items() if row["reason"] != UPSTREAM}
    wanted = [unit for some in units.values() for unit in some if unit.made_from not in at_hand]
    todo: dict[str, Unit] = {}
    for unit in wanted:
        todo.setdefault(unit.made_from, unit)

    pack = _Payload(root, stage, partition, now) if stage.payload else None
    before = {}
    if pack and now and now.version == stage.version:
        before = {row["key"]: {stage.name: {**row, "payload": now.payload}} for row in old if row["key"] not in anew}
    measured: list[Row] = []
    attempt = new_attempt()

    def put_measured() -> None:
        if measured:
            ledger.measure(stage.measures, stage.name, partition, measured, attempt)

    def put_chunk(rows: list[Row]) -> None:
        put_measured()  # first: what was paid for is counted, even if it is lost here and paid for again
        write_chunk(root, stage, partition, rows)

    more = [unit._replace(row=unit.row | before.get(unit.key, {})) for unit in todo.values()]
    made = _made(stage, root, more, Counter(unit.made_from for unit in wanted), measured, put_chunk)
    rows = []
    try:
        for key, row in incoming.items():
            if left_out[key]:
                unit = Unit(key, row, made_from(stage, row, identity))
                rows.append(stage.named(unit, _blank(stage, unit.made_from, UPSTREAM, left_out[key])))
            for unit in units[key]:
                if unit.made_from in at_hand:
                    row = at_hand[unit.made_from]
                    data = pack and pack.old_bytes(row)
                else:
                    row, data = made(unit)
                row = stage.named(unit, row)
                rows.append(pack.place(row, data) if pack else row)
    finally:
        put_measured()
    if not pack:
        rows.sort(key=lambda row: row["key"])
    commit = Commit(stage.name, partition, stage.version, stage.settings(), inputs, fingerprint)
    if pack:
        name, sha256 = pack.put()
        commit = replace(commit, payload=name, payload_sha256=sha256)
        point(f"{stage.name}:payload")
    commit = commit_rows(root, ledger, stage, commit, rows, old, now, made=len(todo), started=started)
    drop_chunks(root, stage, partition)
    return commit


@dataclass(frozen=True)
class MakePartitions:
    """The work of a partition stage, for Beam: an item is a partition."""

    stage: PartitionStage
    root: Root
    ledger: Ledger
    again: Again | None = None  # rows that are made anew

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def at_once(self) -> int:
        return self.stage.at_once

    @property
    def one_process(self) -> bool:
        return self.stage.one_process

    @property
    def holds_model(self) -> bool:
        return self.stage.holds_model

    def make(self, partition: int) -> None:
        make_partition(self.stage, self.root, self.ledger, partition, self.again)


def read_inputs(
    stage: PartitionStage, root: Root, partition: int, upstream: Mapping[str, Commit]
) -> dict[str, dict[str, Row]]:
    """key -> stage that is read -> its declared columns, in key order.

    Every stage read has the same keys as the first, but for those that it joins by another column.
    """
    tables = {}
    for name, columns in stage.reads.items():
        by = [column for other, column in stage.joins.values() if other == name]
        wanted = dict.fromkeys(("key", *columns, "reason", *by, *stage.finds.get(name, ())))
        tables[name] = {row["key"]: row for row in read_rows(root, file_of(name, partition), list(wanted))}
        for row in tables[name].values():
            row["payload"] = upstream[name].payload
    first, incoming = next(iter(tables.values())), {}
    for name, rows in tables.items():
        if name not in stage.joins and rows.keys() != first.keys():
            raise Corrupt(f"{file_of(name, partition)} has other keys than the stages it was made from")
    for key in first:
        row = incoming[key] = {}
        for name, rows in tables.items():
            other, column = stage.joins.get(name, (None, None))
            named = row[other][column] if other else key
            if named not in rows:
                raise Corrupt(f"{file_of(name, partition)} has no {named}, which {file_of(other, partition)} names")
            row[name] = rows[named]
    return incoming


def read_of(stage: PartitionStage, row: Mapping[str, Row]) -> dict[str, Any]:
    """What a stage reads of a row. Nulls are as if they were not there: so a row that nothing leaves out stays the same
    when a stage that might have done so comes or goes."""
    read = {f"{name}.{column}": row[name][column] for name, columns in stage.reads.items() for column in columns}
    return {name: value for name, value in read.items() if value is not None}


def made_from(stage: PartitionStage, row: Mapping[str, Row], identity: str) -> str:
    """The hash of what a row is made from, where it is made of all that the stage reads of it."""
    return digest([identity, read_of(stage, row)])


def left_out_by(row: Mapping[str, Row]) -> str | None:
    """Which earlier stage left a row out, and why. The later stage says it in full: `images: truncated`."""
    for name, columns in row.items():
        if columns["reason"]:
            return name if columns["reason"] == UPSTREAM else f"{name}: {columns['reason']}"
    return None


def _blank(stage: Stage, made_from: str, reason: str | None, detail: str | None) -> Row:
    """A row with nothing in it: null, or an empty list where null is not allowed."""
    row: Row = {f.name: None if f.nullable else [] for f in stage.schema}
    return {**row, "reason": reason, "detail": detail or None, "made_from": made_from}


def finished(stage: PartitionStage, unit: Unit, fields: Row | Rejected) -> tuple[Row, bytes | None, list[Row]]:
    """The row of a unit, its bytes, and what was measured."""
    if isinstance(fields, Rejected):
        if fields.reason not in stage.reasons:
            raise TypeError(f"{stage.name}: {fields.reason!r} is not a declared reason") from fields
        row, data, seen = _blank(stage, unit.made_from, fields.reason, fields.detail), None, fields.measured
    else:
        data, seen = fields.pop("bytes", None), fields.pop("measured", None)
        row = {**_blank(stage, unit.made_from, None, None), **fields}
    seen = [{"key": unit.key, **one} for one in (seen if isinstance(seen, list) else [seen]) if one]
    return stage.named(unit, row), data, seen


def _made(
    stage: PartitionStage,
    root: Root,
    todo: Sequence[Unit],
    uses: Counter[str],
    measured: list[Row],
    put_chunk: Callable[[list[Row]], None],
) -> Callable[[Unit], tuple[Row, bytes | None]]:
    """A function that gives the made row of a unit, and its bytes, pulling the stage along as far as needed; it is
    asked as often for what is made from the same as `uses` says. What was measured is added to `measured`."""
    stream, units, chunk = stage.make([unit.row for unit in todo], root), {unit.key: unit for unit in todo}, []
    ready: dict[str, tuple[Row, bytes | None]] = {}

    def get(unit: Unit) -> tuple[Row, bytes | None]:
        try:
            while unit.made_from not in ready:
                key, fields = next(stream)
                done = units[key]
                row, data, seen = finished(stage, done, fields)
                ready[done.made_from] = row, data
                measured.extend(seen)
                if stage.chunk_rows:
                    chunk.append(row)
                    if len(chunk) >= stage.chunk_rows:
                        put_chunk(chunk)
                        chunk.clear()
        except Exception:
            if chunk:  # what was paid for is kept, whatever went wrong
                put_chunk(chunk)
            raise
        uses[unit.made_from] -= 1
        return ready[unit.made_from] if uses[unit.made_from] else ready.pop(unit.made_from)

    return get


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

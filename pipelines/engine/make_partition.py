"""Makes one partition of a stage: takes over the rows that have not changed, makes the others, and commits.

See `pipelines.engine.partition_stage` for when a partition and a row are current.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.engine.checkpoints import drop_chunks, read_chunks, write_chunk
from pipelines.engine.commit import (
    Commit,
    MadeWith,
    commit_rows,
    file_of,
    fingerprint_of,
    old_rows,
    read_commit,
    read_now,
    unless_replaced,
)
from pipelines.engine.ledger import Ledger, new_attempt
from pipelines.engine.parquet import Corrupt
from pipelines.engine.partition_stage import (
    UPSTREAM,
    Again,
    Before,
    Data,
    PartitionStage,
    Unit,
    blank_row,
    finished,
    left_out_by,
    made_from,
    read_inputs,
)
from pipelines.engine.payload import Payload
from pipelines.engine.read_once import ReadOnce
from pipelines.engine.root import Root, point
from schemas.arrow import Row

CHUNK_BYTES = 32 << 20  # of a chunk, whatever the number of its rows


def make_partition(
    stage: PartitionStage, root: Root, ledger: Ledger, partition: int, again: Again | None = None
) -> Commit:
    """Makes one partition unless it is current. Can be killed at any moment, and run twice.

    `again` says which of its failed rows are made again.
    """
    return unless_replaced(ledger, lambda: _make_partition(stage, root, ledger, partition, again))


def _make_partition(
    stage: PartitionStage, root: Root, ledger: Ledger, partition: int, again: Again | None
) -> Commit:  # fmt: skip
    started, once = time.time(), ReadOnce(root.url)
    upstream = _read_upstream(stage, once, partition)
    inputs = stage.declared(upstream)
    fingerprint = fingerprint_of(stage.identity(), inputs)
    now, stamp = read_now(once, stage.file(partition))
    anew = again.keys(root, stage.name, partition) if again and now else set()
    if now and stage.is_current(now, fingerprint, upstream) and not anew:
        drop_chunks(root, stage, partition)
        return now

    old = OldRows.read(stage, once, partition, now, anew)
    incoming = read_inputs(stage, once, partition, upstream)
    made_with = stage.made_with()
    units = {key: stage.units(key, row, made_with) for key, row in incoming.items() if not left_out_by(row)}
    missing = [unit for of_row in units.values() for unit in of_row if unit.made_from not in old.at_hand]
    making = Making(stage, root, ledger, partition, Counter(unit.made_from for unit in missing))
    todo = {unit.made_from: unit for unit in reversed(missing)}  # the first of each `made_from`
    making.begin([old.handed_on(unit, stage) for unit in missing if todo[unit.made_from] is unit])

    with Payload(root, stage, partition, now) if stage.payload else nullcontext() as pack:
        rows = []
        with making.measured_in_the_end():
            for key, source in incoming.items():
                if key in units:
                    rows += [_row_of(unit, stage, old, making, pack) for unit in units[key]]
                else:
                    rows.append(_left_out(key, source, stage, made_with))
            making.end()
        if not pack:
            rows.sort(key=lambda row: row["key"])
        commit = Commit(stage.name, partition, stage.version, stage.settings(), inputs, fingerprint)
        commit = replace(commit, answered=stage.answered(upstream))
        if pack:
            name, sha256 = pack.put()
            commit = replace(commit, payload=name, payload_sha256=sha256)
            point(f"{stage.name}:payload")
        commit = commit_rows(root, ledger, stage, commit, rows, old.rows, now, stamp, made=len(todo), started=started)
    drop_chunks(root, stage, partition)
    return commit


def _row_of(unit: Unit, stage: PartitionStage, old: "OldRows", making: "Making", pack: Payload | None) -> Row:
    """The row of a unit, taken over or made now; its bytes are in the payload then."""
    if unit.made_from in old.at_hand:
        row = old.at_hand[unit.made_from]
        data = old.bytes_of(row, pack) if pack else None
    else:
        row, data = making.made(unit)
    row = stage.named(unit, row)
    return pack.place(row, data) if pack else row


def _left_out(key: str, source: dict[str, Row], stage: PartitionStage, made_with: MadeWith) -> Row:
    """The row of a key that an earlier stage left out."""
    unit = Unit(key, source, made_from(stage, source, made_with))
    return stage.named(unit, blank_row(stage, unit.made_from, UPSTREAM, left_out_by(source)))


def _read_upstream(stage: PartitionStage, root: Root, partition: int) -> dict[str, Commit]:
    """The commits of the partitions that a stage reads. Raises `Corrupt` if one is missing."""
    upstream = {}
    for name in stage.inputs:
        commit = read_commit(root, file_of(name, partition))
        if commit is None:
            raise Corrupt(f"{file_of(name, partition)} is missing or unreadable")
        upstream[name] = commit
    return upstream


@dataclass(frozen=True)
class OldRows:
    """What exists of a partition that is made again: its old rows, and chunks of a run that was killed."""

    rows: list[Row]
    at_hand: dict[str, Row]  # by `made_from`: rows that are taken over
    now: Commit | None  # of the old rows
    gone: set[str]  # `made_from` of rows that are made again although that is current
    kept: dict[str, Data] = field(default_factory=dict)  # by `made_from`: bytes of rows in chunks
    _index: dict[str, dict[str, Row]] = field(default_factory=dict)
    _made_with: list[MadeWith] = field(default_factory=list)  # the old version, with the settings of today and of then

    @classmethod
    def read(cls, stage: PartitionStage, root: Root, partition: int, now: Commit | None, anew: set[str]) -> "OldRows":
        rows = old_rows(root, stage.file(partition), stage.info.optional)
        gone = {row["made_from"] for row in rows if row["key"] in anew}
        stay = [row for row in rows if row["made_from"] not in gone]
        chunks = stage.taken_over(read_chunks(root, stage, partition), root)
        chunks = [row for row in chunks if row["made_from"] not in gone or not row["reason"]]
        kept = {row["made_from"]: row.pop("bytes") for row in chunks} if stage.payload else {}
        at_hand = {row["made_from"]: row for row in [*stay, *chunks] if row["reason"] != UPSTREAM}
        return cls(rows, at_hand, now, gone, kept)

    def bytes_of(self, row: Row, pack: Payload) -> Data:
        """The bytes of a row that is taken over."""
        made_from = row["made_from"]
        return self.kept[made_from] if made_from in self.kept else pack.old_bytes(row)

    def handed_on(self, unit: Unit, stage: PartitionStage) -> Unit:
        """A unit that is to be made, with what was made of it before."""
        return unit._replace(row={**unit.row, "before": self._before(unit, stage)})

    def _before(self, unit: Unit, stage: PartitionStage) -> Before | None:
        if self.now is None:
            return None
        if not self._index:
            usable = [row for row in self.rows if row["made_from"] not in self.gone and row["reason"] != UPSTREAM]
            self._index.update({column: {row[column]: row for row in usable} for column in ("key", "made_from")})
            both = (stage.settings(), self.now.settings)
            self._made_with.extend(MadeWith(stage.name, self.now.version, settings) for settings in both)
        version, settings, by_made_from = self.now.version, self.now.settings, self._index["made_from"]
        today, then = self._made_with
        unchanged = by_made_from.get(_made_from_then(unit, stage, today) or "")
        same = unchanged or by_made_from.get(_made_from_then(unit, stage, then) or "")
        row = same or self._index["key"].get(unit.key)
        if row is None:
            return None
        payload = self.now.payload
        return Before({**row, "payload": payload}, version, settings, same is not None, unchanged is not None)


def _made_from_then(unit: Unit, stage: PartitionStage, made_with: MadeWith) -> str | None:
    """The `made_from` that the row of a unit had when the old rows were made; None if unknown."""
    source = {name: columns for name, columns in unit.row.items() if name in stage.inputs}
    try:
        then = stage.units(source[stage.answers]["key"], source, made_with)
    except (KeyError, TypeError):  # the settings of that time lack something
        return None
    return next((old_unit.made_from for old_unit in then if old_unit.key == unit.key), None)


@dataclass
class Making:
    """The rows of a partition that are being made, in the order in which the stage makes them."""

    stage: PartitionStage
    root: Root
    ledger: Ledger
    partition: int
    uses: Counter[str]  # `made_from` -> how many rows still need it
    attempt: str = field(default_factory=new_attempt)
    measured: list[Row] = field(default_factory=list)
    ready: dict[str, tuple[Row, Data]] = field(default_factory=dict)  # by `made_from`
    chunk: list[Row] = field(default_factory=list)
    chunk_bytes: int = 0

    def begin(self, todo: list[Unit]) -> None:
        self.units = {unit.key: unit for unit in todo}
        self.stream: Iterator[tuple[str, Any]] = self.stage.make([{**unit.row} for unit in todo], self.root)

    def end(self) -> None:
        """Lets the stage end: it may find only then that something was wrong with all rows."""
        for _ in self.stream:
            pass

    def made(self, unit: Unit) -> tuple[Row, Data]:
        """The row of a unit, and its bytes. Lets the stage make rows until this one is ready."""
        try:
            while unit.made_from not in self.ready:
                self._take_next()
        except Exception:
            if self.chunk:  # what was paid for is kept, whatever went wrong
                self._put_chunk()
            raise
        self.uses[unit.made_from] -= 1
        return self.ready[unit.made_from] if self.uses[unit.made_from] else self.ready.pop(unit.made_from)

    def _take_next(self) -> None:
        key, fields = next(self.stream)
        unit = self.units[key]
        row, data, measured = finished(self.stage, unit, fields)
        self.ready[unit.made_from] = row, data
        self.measured.extend(measured)
        if self.stage.chunk_rows and self.stage.is_costly(measured):
            if self.stage.payload:
                data = data() if callable(data) else data
                row = {**row, "bytes": data}
                self.chunk_bytes += len(data or b"")
            self.chunk.append(row)
            if len(self.chunk) >= self.stage.chunk_rows or self.chunk_bytes >= CHUNK_BYTES:
                self._put_chunk()

    def _put_chunk(self) -> None:
        self._put_measured()  # first: what was paid for is counted, even if it is lost here and paid for again
        write_chunk(self.root, self.stage, self.partition, self.chunk)
        self.chunk.clear()
        self.chunk_bytes = 0

    def _put_measured(self) -> None:
        if self.measured and self.stage.measures:
            self.ledger.measure(self.stage.measures, self.stage.name, self.partition, self.measured, self.attempt)

    @contextmanager
    def measured_in_the_end(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._put_measured()


@dataclass(frozen=True)
class MakePartitions:
    """The work of a partition stage, for Beam: an item is a partition."""

    stage: PartitionStage
    root: Root
    ledger: Ledger
    again: Again | None = None  # failed rows that are made again

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

    def among(self, workers: int) -> "MakePartitions":
        return replace(self, stage=self.stage.among(workers))

    def make(self, partition: int) -> None:
        make_partition(self.stage, self.root, self.ledger, partition, self.again)

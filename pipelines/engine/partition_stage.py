"""A stage that makes partition p of what it writes from partition p of what it reads.

A partition is current if its fingerprint is the one that would be recorded now. A stage's inputs are the digests of
the *columns it declares to read*, so a rebuild that gives equal columns stops there. Each row carries `made_from`, the
same hash for that row alone; rows whose `made_from` has not changed are taken over. `make_partition` does it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from pipelines.engine.commit import Commit, MadeWith, Stage, canonical, digest, file_of
from pipelines.engine.ledger import Ledger
from pipelines.engine.parquet import Corrupt, read_rows
from pipelines.engine.root import Root
from pipelines.engine.secrets import hidden
from schemas.arrow import Row
from schemas.stage import Columns

Data = bytes | Callable[[], bytes] | None  # of a row that goes into a payload, at hand or where it can be read
UPSTREAM = "upstream"  # the reason of a row that an earlier stage left out; its detail names that reason


class Again(Protocol):
    """Which failed rows are made again. Can be pickled."""

    def keys(self, root: Root, stage: str, partition: int) -> set[str]: ...


class Rejected(ValueError):
    """A row that failed: `reason` is a word of the stage's list, `detail` is for a person. The row also has the
    columns in `kept`."""

    def __init__(
        self, reason: str, detail: str | None = "", measured: Row | list[Row] | None = None, kept: Row | None = None
    ):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.measured, self.kept = reason, detail, measured, kept or {}


class Unit(NamedTuple):
    """The inputs of a row."""

    key: str  # of the row
    row: Row  # {stage that is read: its columns}
    made_from: str


class Before(NamedTuple):
    """The row that was made of a unit before, and what it was made with. An upgrade does not pay for, fetch or read
    anything twice: it judges the old result again instead."""

    row: Row
    version: int  # of the stage
    settings: Mapping[str, Any]  # of the stage, as JSON has them
    same_input: bool  # whether all that it was made from is still the same
    same_settings: bool  # and so are the settings that decide of it

    def only_older(self, stage: Stage) -> bool:
        """Whether nothing but the stage's version has changed."""
        return self.same_settings and self.version != stage.version

    def differs_only_in(self, stage: Stage, names: Collection[str] = ()) -> bool:
        """Whether its input is the same, and so are the stage's settings, except perhaps for these."""
        then, today = (
            {name: value for name, value in settings.items() if name not in names}
            for settings in (self.settings, stage.settings())
        )
        return self.same_input and canonical(then) == canonical(today)

    def fields(self, stage: Stage) -> Row | None:
        """The row as it was, without its names; None if the stage no longer has its reason."""
        if self.row["reason"] and self.row["reason"] not in stage.reasons:
            return None
        return {name: value for name, value in self.row.items() if name not in ("key", "made_from", "payload")}


@dataclass(frozen=True)
class PartitionStage(Stage):
    """A stage whose partition p is made from partition p of what it reads: a row in, a row out, or several rows if it
    overrides `units`."""

    finds: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # stage -> columns that only say where bytes lie
    joins: ClassVar[
        Mapping[str, tuple[str, str]]
    ] = {}  # stage -> (another stage, its column that names the row), if not by key
    payload: ClassVar[bool] = False  # made rows have `bytes`, which go into a tar beside the Parquet
    chunk_rows = None  # costly rows are stored after every so many, in case the run is killed
    decodes: ClassVar[bool] = False  # its work grows with the bytes of images, and not only with rows
    measures: ClassVar[str | None] = None  # table of the ledger for what is measured of single rows
    at_once = 1  # partitions that a worker makes at the same time; more where it waits for servers
    one_process: ClassVar[bool] = False  # a single worker on one machine does all of it
    holds_model: ClassVar[bool] = False  # its workers use much memory, so they end with the stage

    @property
    def answers(self) -> str:
        """The stage whose rows it answers."""
        return self.info.answers

    @cached_property
    def columns(self) -> dict[str, Columns]:
        """The columns that it is made from, by stage."""
        return {name: columns or () for name, columns in self.inputs.items()}

    def ready(self, root: Root, ledger: Ledger) -> Self:
        """The stage with all that it needs in a run, such as servers. Called once the stages before it are made."""
        return self

    def finish(self, root: Root) -> None:
        """Removes what `ready` made for the workers. Called when all is made."""

    def is_costly(self, measured: list[Row]) -> bool:
        """Whether a row that was made is stored before its partition is finished. `measured`: what was measured of
        it."""
        return True

    def taken_over(self, rows: Iterable[Row], root: Root) -> list[Row]:
        """Of rows in chunks those that can still be taken over."""
        return [*rows]

    def among(self, workers: int) -> Self:
        """The stage for one of so many workers, which share limits such as that of requests to one host."""
        return self

    def make(self, rows: Iterable[Row], root: Root) -> Iterator[tuple[str, Row | Rejected]]:
        """(key, the stage's own columns) for each row, or (key, `Rejected`).

        A row is {stage that is read: its columns}, and `before`: a `Before` where the row was made before, else None.
        The columns may include `bytes`, and `measured` for the ledger. In any order, but rows with bytes in memory, and
        not a function that reads them, in that of their keys.
        """
        raise NotImplementedError

    def units(self, key: str, row: dict[str, Row], made_with: MadeWith) -> list[Unit]:
        """The units to make for a row that no stage left out. Units with equal `made_from` are made once.

        `made_with`: what the stage is now, or what it was when its old rows were made.
        """
        return [Unit(key, row, made_from(self, row, made_with))]

    def named(self, unit: Unit, row: Row) -> Row:
        """The row with its key and other names. They say what it is about, not what it was made from."""
        return {**row, "key": unit.key}

    def is_current(self, now: Commit, fingerprint: str, upstream: Mapping[str, Commit]) -> bool:
        """Whether a partition is what would be made now: from the same inputs, for rows with the same keys. These keys
        need not be an input, as they do not decide the rows."""
        keys = upstream[self.answers].digests.get("key")
        known = now.digests.get("key") if self.info.named_by == ("key",) else now.answered
        return now.fingerprint == fingerprint and known in (None, keys)

    def answered(self, upstream: Mapping[str, Commit]) -> str | None:
        """The digest of the keys that a partition answers; None where its own keys are the same."""
        return None if self.info.named_by == ("key",) else upstream[self.answers].digests.get("key")

    def declared(self, upstream: Mapping[str, Commit]) -> dict[str, dict[str, str | None]]:
        """The digests of the declared columns, of the partitions that are read."""
        return {stage: {c: upstream[stage].digests.get(c) for c in columns} for stage, columns in self.columns.items()}


def read_inputs(
    stage: PartitionStage, root: Root, partition: int, upstream: Mapping[str, Commit]
) -> dict[str, dict[str, Row]]:
    """key -> stage that is read -> its declared columns, in key order.

    Every stage read has the same keys as the first, but for those that it joins by another column.
    """
    tables = {}
    for name, columns in stage.columns.items():
        joining = [column for namer, column in stage.joins.values() if namer == name]
        wanted = dict.fromkeys(("key", *columns, "reason", *joining, *stage.finds.get(name, ())))
        present = [column for column in wanted if column in upstream[name].digests]  # older files may lack some
        rows = read_rows(root, file_of(name, partition), present)
        place = {"partition": partition, "payload": upstream[name].payload}
        tables[name] = {row["key"]: {**dict.fromkeys(wanted), **row, **place} for row in rows}
    first, incoming = tables[stage.answers], {}
    for name, rows in tables.items():
        if name not in stage.joins and rows.keys() != first.keys():
            raise Corrupt(f"{file_of(name, partition)} has different keys than the stages it was made from")
    for key in first:
        row = incoming[key] = {}
        for name, rows in _in_join_order(tables, stage).items():
            namer, column = stage.joins.get(name, (stage.answers, "key"))
            named = row[namer][column] if name in stage.joins else key
            if named not in rows:
                raise Corrupt(f"{file_of(name, partition)} has no {named}, which {file_of(namer, partition)} names")
            row[name] = rows[named]
    return incoming


def _in_join_order(tables: dict[str, dict[str, Row]], stage: PartitionStage) -> dict[str, dict[str, Row]]:
    """The tables, those first that are not joined by another."""
    return dict(sorted(tables.items(), key=lambda table: table[0] in stage.joins))


def read_of(stage: PartitionStage, row: Mapping[str, Row]) -> dict[str, Any]:
    """What a stage reads of a row, without nulls: so a row that no stage leaves out stays the same when a stage that
    might have left it out is added or removed."""
    read = {f"{name}.{column}": row[name][column] for name, columns in stage.columns.items() for column in columns}
    return {name: value for name, value in read.items() if value is not None}


def made_from(stage: PartitionStage, row: Mapping[str, Row], made_with: MadeWith) -> str:
    """The hash of what a row is made from, if that is everything the stage reads of it."""
    return digest([made_with.identity, read_of(stage, row)])


def left_out_by(row: Mapping[str, Row]) -> str | None:
    """Which earlier stage left a row out, and why, as in `images: truncated`."""
    for name, columns in row.items():
        if columns["reason"]:
            return name if columns["reason"] == UPSTREAM else f"{name}: {columns['reason']}"
    return None


def blank_row(stage: Stage, made_from: str, reason: str | None, detail: str | None) -> Row:
    """A row with nothing in it: null, or an empty list where null is not allowed."""
    row: Row = {f.name: None if f.nullable else [] for f in stage.schema}
    return {**row, "reason": reason, "detail": detail or None, "made_from": made_from}


def finished(stage: PartitionStage, unit: Unit, fields: Row | Rejected) -> tuple[Row, Data, list[Row]]:
    """The row of a unit, its bytes, and what was measured."""
    if isinstance(fields, Rejected):
        if fields.reason not in stage.reasons:
            raise TypeError(f"{stage.name}: {fields.reason!r} is not a declared reason") from fields
        detail = hidden(fields.detail) if fields.detail else None
        row = {**blank_row(stage, unit.made_from, fields.reason, detail), **fields.kept}
        data, seen = None, fields.measured
    else:
        data, seen = fields.pop("bytes", None), fields.pop("measured", None)
        row = {**blank_row(stage, unit.made_from, None, None), **fields}
    seen = [{"key": unit.key, **measured} for measured in (seen if isinstance(seen, list) else [seen]) if measured]
    return stage.named(unit, row), data, seen

"""A partition is one Parquet file whose footer says what it was made from: its `Commit`.

The footer is the only commit point: the payload is written first, then this one small file, in one step.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice, pairwise
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.engine.conditional import Replaced
from pipelines.engine.ledger import Ledger
from pipelines.engine.parquet import FOOTER, Corrupt, opened_bytes, parquet_bytes, read_metadata, read_rows
from pipelines.engine.root import Root, point
from schemas.arrow import Row
from schemas.checked import is_name, too_deep
from schemas.ledger import MADE
from schemas.stage import Columns, StageInfo

if TYPE_CHECKING:
    import duckdb

TRIES = 3  # to replace a file that another process replaces, too

Made = TypeVar("Made")


def canonical(value: Any) -> bytes:
    """A text that is the same for equal values, on any machine and in any order of a mapping's keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Any) -> str:
    """32 hex digits of the SHA-256 of a value."""
    return hashlib.sha256(canonical(value)).hexdigest()[:32]


def key_of(*names: str) -> str:
    """A sample's key: 16 hex digits of the SHA-256 of what names it in its source."""
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def bucket_of(key: str, buckets: int) -> int:
    """Which of a source file's partitions a key belongs to. Uses the key's first half; shards use the second."""
    return int(key[:8], 16) % buckets


@dataclass(frozen=True)
class Commit:
    """What a partition's footer says."""

    stage: str
    partition: int
    version: int  # of the stage
    settings: dict[str, Any]  # configuration, model and prompt identity
    inputs: dict[str, dict[str, str | None]]  # what was read: stage -> column -> digest
    fingerprint: str
    digests: dict[str, str] = field(default_factory=dict)  # column -> digest
    rows: int = 0
    kept: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    payload: str | None = None  # name of the tar beside it
    payload_sha256: str | None = None
    answered: str | None = None  # digest of the keys that it answers, where its own keys are others

    @classmethod
    def read(cls, fields: dict[str, Any]) -> "Commit":
        """A commit from the fields of a footer. Raises `ValueError` or `TypeError` for other fields."""
        commit = cls(**fields)
        counts = [commit.partition, commit.version, commit.rows, commit.kept, *commit.reasons.values()]
        columns = [commit.digests, *commit.inputs.values()]
        if (
            {*map(type, counts)} != {int} or min(counts) < 0
            or not (isinstance(commit.stage, str) and isinstance(commit.fingerprint, str))
            or max(counts) >= 1 << 53 or not isinstance(commit.settings, dict) or too_deep(commit.settings)
            or any({*map(type, digests.values())} - {str, NoneType} for digests in columns)
            or not (commit.payload is None or is_name(commit.payload))
            or not (isinstance(commit.payload_sha256, str | None) and isinstance(commit.answered, str | None))
        ):  # fmt: skip
            raise ValueError("not a commit")
        return commit


def commit_json(commit: Commit) -> str:
    """A commit as a footer holds it. Fields that version 0.1 did not have are left out if they are empty."""
    fields = asdict(commit)
    return canonical(fields if commit.answered else {k: v for k, v in fields.items() if k != "answered"}).decode()


@dataclass(frozen=True)
class MadeWith:
    """The stage, version and settings that something was made with."""

    stage: str
    version: int
    settings: dict[str, Any]

    @cached_property
    def identity(self) -> str:
        return digest([self.stage, self.version, self.settings])


@dataclass(frozen=True)
class Stage:
    """A named step from partitions to partitions. Subclasses are frozen dataclasses of their settings."""

    earlier: tuple[StageInfo, ...] = field(default=(), kw_only=True)  # the stages before it, in order

    info: ClassVar[StageInfo]  # its line in the table of stages
    version: ClassVar[int] = 1  # raised when the same inputs would give other rows
    retryable: ClassVar[frozenset[str]] = frozenset()  # reasons that can pass by themselves
    places: ClassVar[frozenset[str]] = frozenset()  # columns that say where bytes lie, not what they are

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def schema(self) -> pa.Schema:
        return self.info.schema

    @property
    def reasons(self) -> Mapping[str, str]:
        """Reason -> its meaning."""
        return self.info.reasons

    @property
    def reads(self) -> Mapping[str, Columns]:
        """Stage -> columns that decide its rows. The first is the stage whose rows it answers."""
        return self.info.reads

    @cached_property
    def inputs(self) -> dict[str, Columns | None]:
        """All that it is made from: stage -> columns, or None for all of them.

        A stage that names nothing reads all stages before it. Any other inherits what was left out before: it reads
        the `reason` of the stage whose rows it answers, and of each stage of the same kind between that and itself.
        """
        if not self.reads:
            return {stage.name: None for stage in self.earlier}
        first = next(iter(self.reads))
        kin = [stage.name for stage in self.earlier if stage.per_image == self.info.per_image]
        inherited = kin[kin.index(first) :] if first in kin else [first]
        read: dict[str, Columns | None] = {
            name: (*dict.fromkeys((*self.reads.get(name, ()), *(["reason"] if name in inherited else []))),)
            for name in (*self.reads, *inherited)
        }
        if self.earlier and self.info.per_image:
            return {stage.name: read[stage.name] for stage in self.earlier if stage.name in read}
        return read

    def settings(self) -> dict[str, Any]:
        """All settings that change rows, as JSON values."""
        return {}

    def made_with(self) -> MadeWith:
        return MadeWith(self.name, self.version, self.settings())

    def identity(self) -> str:
        return self.made_with().identity

    def file(self, partition: int) -> str:
        return file_of(self.name, partition)

    def check(self, connection: "duckdb.DuckDBPyConnection") -> None:
        """Raises `UserError` for a setting that cannot work. All views exist in `connection`, empty."""

    def prepare(self) -> None:
        """Fetches what a run needs before it begins. Raises `UserError` if it cannot."""


def fingerprint_of(identity: str, made_of: Mapping[str, Any]) -> str:
    """What a partition's commit records: the stage's identity, and the digests of the columns it was made of."""
    return digest([identity, made_of])


def text_of(commit: Commit, columns: Collection[str] | None = None) -> str:
    """What identifies the content of some columns of a partition; of all but `made_from` if none are named."""
    names = sorted(name for name in commit.digests if name != "made_from") if columns is None else sorted(columns)
    return f"{commit.stage}/{commit.partition}{''.join([commit.digests.get(name, '') for name in names])}"


def contents(texts: Iterable[str]) -> str:
    """One digest of the contents of many partitions, each as `text_of` gives it."""
    sha256, left = hashlib.sha256(), iter(texts)
    while some := "".join(islice(left, 1000)):
        sha256.update(some.encode())
    return sha256.hexdigest()[:32]


# Reading


def file_of(stage: str, partition: int) -> str:
    return f"{stage}/{partition:05d}.parquet"


def commit_in(metadata: pq.FileMetaData) -> Commit | None:
    """The commit that a Parquet footer holds."""
    text = (metadata.metadata or {}).get(FOOTER)
    return Commit.read(orjson.loads(text)) if text else None


def read_commit(root: Root, name: str) -> Commit | None:
    """The commit of a partition's file, or None if it is absent, damaged, or the file of another partition."""
    return _commit_at(name, lambda: read_metadata(root, name))


def read_now(root: Root, name: str) -> tuple[Commit | None, str | None]:
    """The commit of a partition's file as `read_commit` gives it, and the stamp of the file that may be replaced; None
    if there is no file."""
    try:
        data, stamp = root.read_stamped(name)
    except FileNotFoundError:
        return None, None

    def metadata() -> pq.FileMetaData:
        with opened_bytes(data, name) as file:
            return file.metadata

    return _commit_at(name, metadata), stamp


def _commit_at(name: str, read: Callable[[], pq.FileMetaData]) -> Commit | None:
    try:
        commit = commit_in(read())
    except (FileNotFoundError, Corrupt, ValueError, TypeError, AttributeError, RecursionError):
        return None
    ours = commit and (commit.stage == "shards" or name == file_of(commit.stage, commit.partition))
    return commit if ours else None


def old_rows(root: Root, name: str, optional: Iterable[str] = ()) -> list[Row]:
    """The rows of a file that is about to be replaced; none if it is absent or damaged. `optional` columns are null
    where the file lacks them."""
    try:
        return [dict.fromkeys(optional) | row for row in read_rows(root, name)]
    except Corrupt:
        return []


# Writing


def column_digests(rows: Sequence[Row], schema: pa.Schema) -> dict[str, str]:
    return {name: digest([row[name] for row in rows]) for name in schema.names}


def completed(commit: Commit, rows: Sequence[Row], schema: pa.Schema) -> Commit:
    """The commit with what can be counted in its rows. Raises `ValueError` when they are not in strict key order."""
    keys = [row["key"] for row in rows]
    if any(a >= b for a, b in pairwise(keys)):
        raise ValueError(f"{commit.stage} {commit.partition}: keys are not unique and in order")
    reasons = Counter(row["reason"] for row in rows if row["reason"])
    counted = {"rows": len(rows), "kept": len(rows) - reasons.total(), "reasons": dict(sorted(reasons.items()))}
    return replace(commit, **counted, digests=column_digests(rows, schema))


def changes(old: Sequence[Row], new: Sequence[Row], ignored: Iterable[str]) -> list[Row]:
    """The changes, key by key: {key, change, before, after}; the last two as JSON, see `schemas.ledger`."""
    ignored = {"made_from", *ignored}
    before, after = ({row["key"]: row for row in rows} for rows in (old, new))
    changed = []
    for key in sorted(before.keys() | after.keys()):
        if key not in before:
            changed.append({"key": key, "change": "added", "before": None, "after": None})
        elif key not in after:
            gone = {name: value for name, value in before[key].items() if name not in ignored}
            changed.append({"key": key, "change": "removed", "before": canonical(gone).decode(), "after": None})
        else:
            names = [n for n in after[key] if n not in ignored and before[key].get(n) != after[key][n]]
            if names:
                was, now = (canonical({n: row.get(n) for n in names}).decode() for row in (before[key], after[key]))
                changed.append({"key": key, "change": "changed", "before": was, "after": now})
    return changed


def commit_rows(
    root: Root, ledger: Ledger, stage: Stage, commit: Commit, rows: Sequence[Row], old: Sequence[Row],
    now: Commit | None, stamp: str | None, **measured: Any,
) -> Commit:  # fmt: skip
    """Replaces a partition's old rows, and records it in the ledger. The partition's payload must exist already.

    `now` is the commit of the old rows, `stamp` that of their file. If two workers make the same partition, as when one
    was given up too early, the first to commit wins. Raises `Replaced` if the file is now another one.
    """
    commit = completed(commit, rows, stage.schema)
    data = parquet_bytes(rows, stage.schema, commit_json(commit))
    ledger.record(
        stage.name,
        f"{commit.partition:05d}",
        commit.fingerprint,
        changes(old, rows, stage.places) if now or old else [MADE],
        partition=commit.partition,
        rows=commit.rows,
        kept=commit.kept,
        **measured,
    )
    point(f"{stage.name}:recorded")
    name = stage.file(commit.partition)
    try:
        root.write_if(name, data, stamp)
    except Replaced:
        first = read_commit(root, name)
        if first and first.fingerprint == commit.fingerprint:
            return first
        raise
    point(f"{stage.name}:committed")
    return commit


def unless_replaced(ledger: Ledger, make: Callable[[], Made]) -> Made:
    """Makes something while its run holds the root. A late worker of an earlier run may replace a file meanwhile, as
    it began before this run did: then it is made again, of what is there now."""
    for number in range(TRIES):
        ledger.check(again=number > 0)
        with suppress(Replaced):
            return make()
    raise Replaced("another process keeps replacing the same partition; stop it and run again")


def replace_rows(
    root: Root, ledger: Ledger, stage: Stage, partition: int, rows: list[Row], absent: bool = False
) -> bool:  # fmt: skip
    """Commits rows that were not made partition by partition (a source's, a corpus step's), if they differ.

    The fingerprint is that of the rows themselves, so that the file's bytes are a function of its content alone.
    `absent`: there was no such partition when the run looked; if there is one now, it is read.
    """
    looks = iter([(None, None)] if absent else [])
    started = time.time()
    rows.sort(key=lambda row: row["key"])
    fingerprint = fingerprint_of(stage.identity(), column_digests(rows, stage.schema))

    def replaced() -> bool:
        now, stamp = next(looks, None) or read_now(root, stage.file(partition))
        if now and now.fingerprint == fingerprint:
            return False
        commit = Commit(stage.name, partition, stage.version, stage.settings(), {}, fingerprint)
        old = old_rows(root, stage.file(partition), stage.info.optional) if stamp else []
        commit_rows(root, ledger, stage, commit, rows, old, now, stamp, made=len(rows), started=started)
        return True

    return unless_replaced(ledger, replaced)

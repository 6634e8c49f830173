"""The ledger under `runs/<run>/`: what a run did and changed, and all that is measured.

Workers leave a small file a partition, just before they commit it; at the end of a stage those become two Parquet
files, `work-<stage>` and `changes-<stage>`. What they measure of single rows stays one file a partition. Nothing here
is ever part of a data file, a fingerprint or a comparison.
"""

import errno
import json
import os
import re
import signal
import socket
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pyarrow as pa

from pipelines.engine.lock import Hold
from pipelines.engine.parquet import Corrupt, parquet_bytes, read_table, table_bytes
from pipelines.engine.read_many import read_each
from pipelines.engine.root import Root, point
from pipelines.engine.secrets import told
from schemas.arrow import Row, to_table
from schemas.checked import plain_json
from schemas.ledger import CHANGES, COMPARISONS, DISTRIBUTIONS, MEASURED, RELEASES, RUNS, WORK

SCHEMAS = {  # by how files begin
    "run": RUNS, "work": WORK, "changes": CHANGES, "releases": RELEASES, "distributions": DISTRIBUTIONS,
    "comparisons": COMPARISONS, **MEASURED,
}  # fmt: skip
SEVERAL = re.compile(r"\+([0-9]{1,9})\.json$")  # the name of a file of several notes
AT_ONCE = 100  # files of notes that are Python objects at the same time
TIME = "%Y%m%dT%H%M%S"  # how the name of a run begins
DAMAGE = (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)  # of a note


def utc(seconds: float | None = None) -> str:
    """A moment as ISO 8601 in UTC; now if none is given."""
    return datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Ledger:
    root: Root
    run: str
    hold: Hold | None = None  # of the root, by the run; None if nothing checks it

    # What a run is

    @classmethod
    def start(cls, root: Root, config: str, version: str, hold: Hold | None = None) -> "Ledger":
        """Opens a run's ledger."""
        run = f"{_start(root):{TIME}}-{uuid.uuid4().hex[:6]}"
        ledger = cls(root, run, hold)
        ledger._write("run", [
            {"run": run, "config": config, "version": version, "started": utc(), "ended": None,
             "status": "running", "detail": None}
        ], RUNS)  # fmt: skip
        return ledger

    def check(self, again: bool = False) -> None:
        """Raises `Lost` if another run holds the root now: nothing is replaced then. `again`: also if it was looked
        at a moment ago."""
        if self.hold:
            self.hold.check(again)

    def end(self, status: str, detail: str | None = None) -> None:
        rows = self._read("run")
        if not rows:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.root.url_of(self._file("run")))
        detail = told(detail, 2000) if detail else None
        self._write("run", [{**rows[0], "ended": utc(), "status": status, "detail": detail}], RUNS)

    def row(self) -> Row | None:
        """The run's row in the ledger; None if it cannot be read."""
        try:
            rows = self._read("run")
        except Corrupt:
            return None
        return rows[0] if rows else None

    # What a worker notes

    def record(
        self, stage: str, item: str, fingerprint: str | None, changes: Sequence[Row], *, partition: int | None,
        rows: int, kept: int, made: int, started: float, release: Row | None = None,
    ) -> None:  # fmt: skip
        """Notes one partition that is about to be committed with this fingerprint, or removed (None), or a `release`
        of a shard set."""
        note = self.note(
            stage, item, fingerprint, changes, partition=partition, rows=rows, kept=kept, made=made, started=started
        )
        if release:
            note["release"] = {"run": self.run, **release, "published": utc()}
        self.record_all(stage, [note])

    def note(
        self, stage: str, item: str, fingerprint: str | None, changes: Sequence[Row], *, partition: int | None,
        rows: int, kept: int, made: int, started: float,
    ) -> Row:  # fmt: skip
        """What `record_all` notes of one partition."""
        work = {
            "run": self.run, "stage": stage, "item": item, "partition": partition, "rows": rows, "kept": kept,
            "made": made, "seconds": round(time.time() - started, 3), "started": utc(started),
            "host": socket.gethostname(), "pid": os.getpid(),
        }  # fmt: skip
        return {"fingerprint": fingerprint, "work": work, "changes": list(changes)}

    def record_all(self, stage: str, notes: Sequence[Row]) -> None:
        """Notes some partitions of a stage that are about to be committed, in one file. Notes of several partitions may
        have a `commit` and a `stamp`: see `told`."""
        name = notes[0]["work"]["item"] + (f"+{len(notes)}" if len(notes) > 1 else "")
        self.root.write(f"{self._notes(stage)}/{name}.json", b"\n".join(json.dumps(note).encode() for note in notes))

    def told(self, stage: str) -> Iterator[tuple[int, str, Row]]:
        """(partition, the stamp that its file has in an object store if it was committed, the fields of its commit), of
        partitions that were noted with others: so their footers need not be read."""
        folder = self._notes(stage)
        names = [name for name in self.root.files(folder) if SEVERAL.search(name)]
        read = read_each(self.root, (f"{folder}/{name}" for name in names))
        for line in (line for data in read for line in data.split(b"\n")):
            with suppress(ValueError, TypeError, KeyError):
                note = plain_json(line)
                yield int(note["work"]["partition"]), str(note["stamp"]), note["commit"]

    def measure(self, table: str, stage: str, partition: int, rows: Sequence[Row], attempt: str) -> None:
        """Notes what was measured for a partition's rows, even if it is never committed. A later note of the same
        attempt (see `new_attempt`) replaces the earlier one."""
        schema, name = MEASURED[table], f"{table}-{stage}-{partition:05d}-{attempt}"
        where = {"run": self.run, "stage": stage, "partition": partition}
        self._write(name, [{n: where.get(n, row.get(n)) for n in schema.names} for row in rows], schema)

    def distribute(self, rows: Sequence[Row]) -> None:
        """Records how the samples of a release are distributed."""
        before = self._read("distributions")
        self._write("distributions", [*before, *(row for row in rows if row not in before)], DISTRIBUTIONS)

    def compared(self, stage: str, pairs: int, copies: int, milliseconds: int) -> None:
        """Records how many pairs of pictures were compared."""
        row = {"run": self.run, "stage": stage, "pairs": pairs, "copies": copies, "milliseconds": milliseconds}
        self._write("comparisons", [*self._read("comparisons"), row], COMPARISONS)

    def spent(self, endpoint: str) -> tuple[int, int]:
        """(calls, tokens) that this run has spent on an endpoint."""
        calls = tokens = 0
        for name in self.root.files(f"runs/{self.run}"):
            if name.startswith("calls-"):
                for row in self._read(name.removesuffix(".parquet")):
                    if row["endpoint"] == endpoint:
                        calls += row["tries"]
                        tokens += row["tokens_in"] + row["tokens_out"]
        return calls, tokens

    def done(self, stage: str) -> int:
        """How many partitions of a stage this run has noted so far."""
        names = self.root.files(self._notes(stage))
        return sum(int(several[1]) if (several := SEVERAL.search(name)) else 1 for name in names)

    def releases(self) -> list[Row]:
        """What this run has published."""
        return self._read("releases")

    def is_empty(self) -> bool:
        """Whether the run has made and measured nothing."""
        folder = f"runs/{self.run}"
        return [*self.root.files(folder), *self.root.folders(folder)] == ["run.parquet"]

    # What is left of it

    def close_stage(self, stage: str, committed: Mapping[str, str], taken: Collection[str] = ()) -> None:
        """Turns a stage's notes into Parquet. `committed` gives the fingerprints that items have now. A note whose
        commit never came (the worker was killed in between) is dropped, and so is a damaged one. For keys that were
        `taken` down it keeps that they changed, but not how."""
        folder = self._notes(stage)
        names = list(self.root.files(folder))
        if not names:
            return
        work, changed = self._kept(f"work-{stage}"), self._kept(f"changes-{stage}")
        known = {*zip(work["item"].to_pylist(), work["started"].to_pylist(), strict=True)}  # left by a killed run
        releases, tables = list[Row](), [(work, CHANGES.empty_table())]
        for start in range(0, len(names), AT_ONCE):
            read = read_each(self.root, (f"{folder}/{name}" for name in names[start : start + AT_ONCE]))
            notes = [note for data in read for note in read_notes(data, taken)]
            notes = [
                note for note in whole(notes)
                if (note.item, note.started) not in known and note.fingerprint == committed.get(note.item)
            ]  # fmt: skip
            releases += [release for note in notes for release in note.releases]
            tables.append(tables_of(notes))
        work, more = (pa.concat_tables(some) for some in zip(*tables, strict=True))
        if not changed.slice(max(0, len(changed) - len(more))).equals(more):  # else killed between the two files
            changed = pa.concat_tables([changed, more])
        if releases:
            before = self._kept("releases").to_pylist()
            self._write("releases", [*before, *(row for row in releases if row not in before)], RELEASES)
        self.root.write(self._file(f"changes-{stage}"), table_bytes(changed))
        point(f"{stage}:changes")
        self.root.write(self._file(f"work-{stage}"), table_bytes(work))
        point(f"{stage}:work")
        self.root.remove_all([f"{folder}/{name}" for name in names])
        self.root.remove_folder(folder)

    def open_stages(self) -> list[str]:
        """Stages with notes that are not yet Parquet."""
        return self.root.folders(f"runs/{self.run}")

    def _notes(self, stage: str) -> str:
        return f"runs/{self.run}/{stage}"

    def _file(self, name: str) -> str:
        return f"runs/{self.run}/{name}.parquet"

    def _table(self, name: str) -> pa.Table:
        """The rows of a file. Columns that an older version did not write are null."""
        return read_table(self.root, self._file(name), SCHEMAS[name.partition("-")[0]])

    def _kept(self, name: str) -> pa.Table:
        """The rows of a file that is written again; none if it is damaged, since they are lost."""
        try:
            return self._table(name)
        except Corrupt:
            return SCHEMAS[name.partition("-")[0]].empty_table()

    def _read(self, name: str) -> list[Row]:
        return self._table(name).to_pylist()

    def _write(self, name: str, rows: Sequence[Row], schema: pa.Schema) -> None:
        self.root.write(self._file(name), parquet_bytes(rows, schema))


class Note(NamedTuple):
    """What a worker noted of one partition or release."""

    work: Row
    changes: list[Row]
    fingerprint: str | None
    releases: list[Row]  # one, or none

    @property
    def item(self) -> str:
        return self.work["item"]

    @property
    def started(self) -> str:
        return self.work["started"]


def tables_of(notes: Sequence[Note]) -> tuple[pa.Table, pa.Table]:
    """The rows of WORK and CHANGES of some notes. Raises an error for what no worker notes."""
    changes = []
    for note in notes:
        place = {name: note.work[name] for name in ("run", "stage", "partition")}
        changes += [place | change for change in note.changes]
    return to_table([note.work for note in notes], WORK), to_table(changes, CHANGES)


def read_notes(data: bytes, taken: Collection[str] = ()) -> list[Note | None]:
    """The notes in a file that `Ledger` wrote, without the changes of keys that were `taken` down; None for one that
    cannot be read. Others may still be damaged, see `whole`."""
    return [_note(line, taken) for line in data.split(b"\n")]


def whole(notes: Sequence[Note | None]) -> list[Note]:
    """The notes that are as workers write them."""
    there = [note for note in notes if note]
    return there if _are_whole(there) else [note for note in there if _are_whole([note])]


def _note(data: bytes, taken: Collection[str]) -> Note | None:
    try:
        note = json.loads(data)
        untold(note["changes"], taken)
        return Note(note["work"], note["changes"], note["fingerprint"], [note["release"]] if "release" in note else [])
    except DAMAGE:
        return None


def _are_whole(notes: Sequence[Note]) -> bool:
    try:
        tables_of(notes)
        to_table([release for note in notes for release in note.releases], RELEASES)
        return all(isinstance(note.item, str) and isinstance(note.started, str) for note in notes)
    except DAMAGE:
        return False


def check_note(root: Root, name: str) -> None:
    """Raises `Corrupt` for a file that does not hold notes."""
    notes = read_notes(root.read(name))
    if len(whole(notes)) < len(notes):
        raise Corrupt(f"{name}: is not a note of the ledger")


def ending(error: BaseException, asked: bool = False) -> tuple[str, str | None]:
    """(status, detail) of a run that an error ended. `asked`: a person cancelled it."""
    if asked or isinstance(error, KeyboardInterrupt):
        return "cancelled", "cancelled in Prefect" if asked else "stopped by Ctrl-C"
    if isinstance(error, Exception):
        return "failed", str(error) or type(error).__name__
    if number := getattr(error, "signal", None):  # Prefect's, for a signal
        return "failed", f"ended by {signal.Signals(number).name}"
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, BrokenPipeError):
            return "failed", "what started it is gone: nobody reads its output any more (broken pipe)"
        cause = cause.__cause__ or cause.__context__
    return "failed", f"ended by {type(error).__name__} {error}".strip()


DIED = "its process was killed, or the machine went down; the next run found it"


def _start(root: Root) -> datetime:
    """The time in a new run's name: now, or a second after the last run's, so that names are always in the order of
    runs: also of two within a second, and after a run whose clock was ahead."""
    now = datetime.now(UTC).replace(microsecond=0)
    for name in reversed(root.folders("runs")):
        try:
            return max(now, datetime.strptime(name[:15], TIME).replace(tzinfo=UTC) + timedelta(seconds=1))
        except (ValueError, OverflowError):
            continue  # not the name of a run
    return now


def new_attempt() -> str:
    """A name for one attempt to make a partition; a run can make several."""
    return uuid.uuid4().hex[:6]


def untold(changes: Iterable[Row], keys: Collection[str]) -> bool:
    """Blanks the changes of some keys, and of samples and responses whose keys begin with them. Returns whether
    anything was blanked."""
    told = [row for row in changes if row["key"][:16] in keys and (row["before"] or row["after"])]
    for row in told:
        row["before"] = row["after"] = None
    return bool(told)


def forget(root: Root, keys: Collection[str]) -> None:
    """Blanks what all runs recorded about changes of some keys, except that they changed."""
    for ledger in runs(root):
        for name in root.files(f"runs/{ledger.run}"):
            if name.startswith("changes-") and name.endswith(".parquet"):
                rows = ledger._read(name.removesuffix(".parquet"))
                if untold(rows, keys):
                    ledger._write(name.removesuffix(".parquet"), rows, CHANGES)


def runs(root: Root) -> list[Ledger]:
    """All runs of a root, oldest first."""
    return [Ledger(root, name) for name in root.folders("runs")]

"""The commits of a stage as columns: some hundred bytes a partition, whatever the stage.

Commits of a stage differ in their digests and counts; the rest (a `Shape`) is held once. A commit becomes an object
when it is asked for. What compares all partitions compares columns.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.engine.commit import Commit, canonical, text_of
from pipelines.engine.partition_stage import PartitionStage

HEX = re.compile("[0-9a-f]{32}")
PAYLOAD = re.compile(r"(\d{5,})-([0-9a-f]{16})\.tar")
DIGEST = 16  # bytes
NONE = bytes(DIGEST)  # of an input that has no such column
COLUMNS = pa.schema([
    pa.field("partition", pa.int32(), nullable=False),
    pa.field("shape", pa.int32(), nullable=False),
    pa.field("rows", pa.int32(), nullable=False),
    pa.field("kept", pa.int32(), nullable=False),
    pa.field("reasons", pa.binary(), nullable=False),    # (uint16, uint32) for each: which, and how many rows
    pa.field("packed", pa.binary(), nullable=False),     # digests; or the whole commit as JSON, if it has no shape
])  # fmt: skip
REASON = np.dtype([("reason", "<u2"), ("rows", "<u4")])
MOST = (1 << 31) - 1  # rows of a commit that has a shape
AT_ONCE = 10_000  # commits that are Python objects at the same time


class Shape(NamedTuple):
    """What many commits of a stage have in common, as JSON holds it."""

    version: int
    settings: str  # canonical JSON
    digests: tuple[str, ...]  # columns in order, `made_from` last: so the others are one piece
    inputs: tuple[tuple[str, tuple[str, ...]], ...]
    payload: bool
    answered: bool

    @property
    def width(self) -> int:
        """Bytes of a packed commit: digests, inputs, fingerprint, `answered`, payload and its SHA-256."""
        count = len(self.digests) + sum(len(columns) for _, columns in self.inputs) + 1 + self.answered
        return DIGEST * count + 40 * self.payload

    def place(self, column: str) -> int | None:
        """Where the digest of a column of the stage itself begins."""
        return DIGEST * self.digests.index(column) if column in self.digests else None

    def input_place(self, stage: str, column: str) -> int | None:
        names = [(name, each) for name, columns in self.inputs for each in columns]
        wanted = (stage, column)
        return DIGEST * (len(self.digests) + names.index(wanted)) if wanted in names else None

    @property
    def fingerprint_place(self) -> int:
        return DIGEST * (len(self.digests) + sum(len(columns) for _, columns in self.inputs))


class Packer:
    """Turns commits into columns, some at a time."""

    def __init__(self, shapes: Sequence[Shape] = (), reasons: Sequence[str] = ()):
        self.shapes = {shape: number for number, shape in enumerate(shapes)}
        self.reasons = {reason: number for number, reason in enumerate(reasons)}

    def pack(self, commits: Iterable[Commit]) -> pa.Table:
        columns: list[list[Any]] = [[] for _ in COLUMNS]
        for commit in commits:
            shape, packed = self._packed(commit)
            rows, kept, reasons = (commit.rows, commit.kept, commit.reasons) if shape >= 0 else (0, 0, {})
            counts = np.array([(self.reasons.setdefault(r, len(self.reasons)), n) for r, n in reasons.items()], REASON)
            row = (commit.partition, shape, rows, kept, counts.tobytes(), packed)
            for column, value in zip(columns, row, strict=True):
                column.append(value)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, COLUMNS, strict=True)]
        return pa.Table.from_arrays(arrays, schema=COLUMNS)

    def _packed(self, commit: Commit) -> tuple[int, bytes]:
        """(number of its shape, its digests); -1 and its JSON for one that has values of another form."""
        names = sorted(commit.digests, key=lambda name: (name == "made_from", name))
        inputs = tuple((stage, tuple(columns)) for stage, columns in commit.inputs.items())
        told = [commit.digests[name] for name in names]
        told += [digest for columns in commit.inputs.values() for digest in columns.values()]
        told += [commit.fingerprint, *([commit.answered] if commit.answered else [])]
        payload = PAYLOAD.fullmatch(commit.payload or "")
        tar = payload and int(payload[1]) == commit.partition and len(commit.payload_sha256 or "") == 64
        usual = bool(tar) == bool(commit.payload or commit.payload_sha256) and commit.rows <= MOST
        usual &= (
            max(commit.kept, *commit.reasons.values(), 0) <= MOST and len(self.reasons) + len(commit.reasons) < 1 << 16
        )
        if not usual or not all(digest is None or HEX.fullmatch(digest) for digest in told):
            return -1, orjson.dumps(vars(commit))
        packed = b"".join(bytes.fromhex(digest) if digest else NONE for digest in told)
        if payload:
            packed += bytes.fromhex(payload[2]) + bytes.fromhex(commit.payload_sha256 or "")
        shape = Shape(
            commit.version, canonical(commit.settings).decode(), tuple(names), inputs, bool(payload),
            bool(commit.answered),
        )  # fmt: skip
        return self.shapes.setdefault(shape, len(self.shapes)), packed


class Commits(Mapping[int, Commit]):
    """partition -> its commit, in order."""

    def __init__(self, stage: str, table: pa.Table, shapes: Sequence[Shape], reasons: Sequence[str]):
        self.stage, self.shapes, self.reasons = stage, [*shapes], [*reasons]
        self.table = table.combine_chunks()
        self.partitions: np.ndarray = table["partition"].to_numpy().astype(np.int64)  # else each search converts it
        self._shape_of: np.ndarray = table["shape"].to_numpy()
        self._settings = [orjson.loads(shape.settings) for shape in self.shapes]

    @classmethod
    def of(cls, stage: str, commits: Iterable[Commit]) -> "Commits":
        packer = Packer()
        table = packer.pack(sorted(commits, key=lambda commit: commit.partition))
        return cls(stage, table, [*packer.shapes], [*packer.reasons])

    def __len__(self) -> int:
        return len(self.partitions)

    def __iter__(self) -> Iterator[int]:
        return iter(self.partitions.tolist())

    def __contains__(self, partition: object) -> bool:
        return isinstance(partition, int) and self._index(partition) is not None

    def __getitem__(self, partition: int) -> Commit:
        index = self._index(partition)
        if index is None:
            raise KeyError(partition)
        return self._commit(index)

    def _index(self, partition: int) -> int | None:
        index = int(np.searchsorted(self.partitions, partition))
        return index if index < len(self) and self.partitions[index] == partition else None

    @cached_property
    def _columns(self) -> dict[str, pa.Array]:
        return {name: self.table[name].chunk(0) if len(self) else pa.array([]) for name in COLUMNS.names}

    def _commit(self, index: int) -> Commit:
        number, packed = int(self._shape_of[index]), self._columns["packed"][index].as_py()
        if number < 0:
            return Commit.read(orjson.loads(packed))
        shape, partition = self.shapes[number], int(self.partitions[index])
        told = packed.hex()
        digests = iter([told[at : at + 32] for at in range(0, len(told), 32)])
        own = dict(zip(shape.digests, digests, strict=False))
        inputs = {
            stage: {column: None if (digest := next(digests)) == NONE.hex() else digest for column in columns}
            for stage, columns in shape.inputs
        }
        payload = sha256 = None
        if shape.payload:
            payload, sha256 = f"{partition:05d}-{told[-80:-64]}.tar", told[-64:]
        return Commit(
            self.stage, partition, shape.version, self._settings[number], inputs, next(digests), own,
            self._columns["rows"][index].as_py(), self._columns["kept"][index].as_py(), self._reasons(index),
            payload, sha256, next(digests) if shape.answered else None,
        )  # fmt: skip

    def _reasons(self, index: int) -> dict[str, int]:
        counts = np.frombuffer(self._columns["reasons"][index].as_py(), REASON)
        return {self.reasons[number]: count for number, count in counts.tolist()}

    # All at once

    def versions(self) -> set[int]:
        """The versions of the stage that made them."""
        odd = {self._commit(index).version for index in np.flatnonzero(self._shape_of < 0).tolist()}
        return odd | {self.shapes[number].version for number in {*self._shape_of.tolist()} - {-1}}

    def totals(self) -> tuple[int, int, dict[str, int]]:
        """Rows, rows that were kept, and rows left out by each reason."""
        rows, kept = (int(self.table[name].to_numpy().sum(dtype=np.int64)) for name in ("rows", "kept"))
        counts = np.frombuffer(b"".join(self.table["reasons"].to_pylist()), REASON)
        summed = np.zeros(len(self.reasons), np.int64)
        np.add.at(summed, counts["reason"], counts["rows"].astype(np.int64))
        reasons = Counter({reason: int(n) for reason, n in zip(self.reasons, summed, strict=True) if n})
        for index in np.flatnonzero(self._shape_of < 0).tolist():
            commit = self._commit(index)
            rows, kept = rows + commit.rows, kept + commit.kept
            reasons.update(commit.reasons)
        return rows, kept, {**reasons}

    def by_reason(self) -> dict[str, np.ndarray]:
        """reason -> the partitions that have rows which were left out for it, in order."""
        told = self.table["reasons"]
        counts = np.frombuffer(b"".join(told.to_pylist()), REASON)
        sizes = pc.call_function("binary_length", [told]).to_numpy() // REASON.itemsize
        numbers, partitions = counts["reason"], np.repeat(self.partitions, sizes)
        found = {reason: partitions[numbers == number] for number, reason in enumerate(self.reasons)}
        for index in np.flatnonzero(self._shape_of < 0).tolist():
            commit = self._commit(index)
            for reason in commit.reasons:
                found[reason] = np.union1d(found.get(reason, self.partitions[:0]), [commit.partition])
        return {reason: having for reason, having in found.items() if len(having)}

    def rows_in(self, partitions: Iterable[int]) -> int | None:
        """The number of rows in some partitions; None if one of them does not exist."""
        wanted = np.fromiter(partitions, np.int64)
        places = np.searchsorted(self.partitions, wanted)
        if len(wanted) and (not len(self) or (self.partitions[places.clip(max=len(self) - 1)] != wanted).any()):
            return None
        odd = sum(self._commit(index).rows for index in places[self._shape_of[places] < 0].tolist())
        return odd + int(self.table["rows"].to_numpy()[places].sum(dtype=np.int64))

    def without(self, partitions: Iterable[int]) -> "Commits":
        """All but those of some partitions."""
        kept = ~np.isin(self.partitions, np.fromiter(partitions, np.int64))
        return Commits(self.stage, self.table.filter(pa.array(kept)), self.shapes, self.reasons)

    def fingerprints(self) -> Iterator[tuple[int, str]]:
        for partition, number, packed in self._packed_in(0, len(self)):
            if number < 0:
                yield partition, self[partition].fingerprint
            else:
                at = self.shapes[number].fingerprint_place
                yield partition, packed[at : at + DIGEST].hex()

    def _packed_in(self, begin: int, end: int) -> Iterator[tuple[int, int, bytes]]:
        """(partition, number of its shape, its digests) of the commits from an index, before another."""
        for start in range(begin, end, AT_ONCE):
            some = slice(start, min(start + AT_ONCE, end))
            columns = self.partitions[some].tolist(), self._shape_of[some].tolist(), self._columns["packed"][some]
            yield from zip(*columns[:2], columns[2].to_pylist(), strict=True)

    def texts(self, columns: Sequence[str] | None, first: int = 0, end: int = 1 << 31) -> Iterator[str]:
        """What `contents` hashes of each commit, in order: of partitions from `first`, before `end`."""
        shapes = [self._pieces(shape, columns) for shape in self.shapes]
        for partition, number, packed in self._packed_in(*np.searchsorted(self.partitions, [first, end]).tolist()):
            if number < 0:
                yield text_of(self[partition], columns)
            else:
                told = packed.hex()
                yield f"{self.stage}/{partition}{''.join([told[piece] for piece in shapes[number]])}"

    def _pieces(self, shape: Shape, columns: Sequence[str] | None) -> list[slice]:
        if columns is None:
            return [slice(0, 2 * DIGEST * sum(name != "made_from" for name in shape.digests))]
        places = [shape.place(name) for name in sorted(columns)]
        return [slice(2 * at, 2 * (at + DIGEST)) for at in places if at is not None]

    def digests(self, place: str, column: str) -> np.ndarray:
        """The digests of a column as (n, 16) bytes, zero where there is none: of a stage that it read, or its own."""
        found = np.zeros((len(self), DIGEST), np.uint8)
        for number, shape in enumerate(self.shapes):
            at = shape.place(column) if place == self.stage else shape.input_place(place, column)
            if at is not None:
                indices, packed = self._packed_of(number)
                found[indices] = packed[:, at : at + DIGEST]
        return found

    def answered(self) -> np.ndarray:
        """The digests of the keys that they answer, as (n, 16) bytes; zero where they do not say so."""
        found = np.zeros((len(self), DIGEST), np.uint8)
        for number, shape in enumerate(self.shapes):
            if shape.answered:
                indices, packed = self._packed_of(number)
                at = shape.fingerprint_place + DIGEST
                found[indices] = packed[:, at : at + DIGEST]
        return found

    def _packed_of(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The indices of the commits of a shape, and their digests as (n, width) bytes."""
        indices = np.flatnonzero(self._shape_of == number)
        column = self._columns["packed"]
        array = column if len(indices) == len(self) else column.take(pa.array(indices))
        width = self.shapes[number].width
        data = np.frombuffer(array.buffers()[2] or b"", np.uint8)
        start = array.offset and int(np.frombuffer(array.buffers()[1], np.int32)[array.offset])
        return indices, data[start : start + len(indices) * width].reshape(len(indices), width)

    def made_as(self, version: int, settings: Mapping[str, Any], inputs: Mapping[str, Sequence[str]]) -> np.ndarray:
        """Whether each was made by this version, with these settings, of these columns."""
        text, wanted = canonical(settings).decode(), {stage: {*columns} for stage, columns in inputs.items()}
        good = [
            (shape.version, shape.settings) == (version, text)
            and {stage: {*columns} for stage, columns in shape.inputs} == wanted
            for shape in self.shapes
        ]
        return np.array([*good, False], bool)[self._shape_of]  # -1 is the last


def as_recorded(stage: PartitionStage, commits: Mapping[str, Mapping[int, Commit]]) -> set[int]:
    """Partitions of a stage that record exactly what it would record now: they are current, without a look at each."""
    own = commits.get(stage.name)
    read = {name: of_stage for name in stage.inputs if isinstance(of_stage := commits[name], Commits)}
    if not isinstance(own, Commits) or not all((len(own), *map(len, read.values()))) or len(read) < len(stage.inputs):
        return set()
    same, places = own.made_as(stage.version, stage.settings(), stage.columns), {}
    for name, of_stage in read.items():
        places[name] = np.searchsorted(of_stage.partitions, own.partitions).clip(max=len(of_stage) - 1)
        same &= of_stage.partitions[places[name]] == own.partitions

    def digests(name: str, column: str) -> np.ndarray:
        return read[name].digests(name, column)[places[name]]

    for name, columns in stage.columns.items():
        for column in columns:
            same &= (own.digests(name, column) == digests(name, column)).all(axis=1)
    known = own.digests(stage.name, "key") if stage.info.named_by == ("key",) else own.answered()
    same &= (known == digests(stage.answers, "key")).all(axis=1) | ~known.any(axis=1)
    return {*own.partitions[same].tolist()}


def texts_of(
    commits: Mapping[int, Commit], columns: Sequence[str] | None = None, first: int = 0, end: int = 1 << 31
) -> Iterator[str]:
    """What `contents` hashes of commits, whether they are columns or objects."""
    if isinstance(commits, Commits):
        return commits.texts(columns, first, end)
    return (text_of(commit, columns) for partition, commit in commits.items() if first <= partition < end)

"""Side files: the samples of some shards in the order of their packs, and everything needed to read them.

A side file is an Arrow stream with one row per sample, then the SHA-256 of the stream. It is memory-mapped, so that it
takes no memory of its own and the processes of a machine share it. Samples that are in no pack come first, each with
its reason.
"""

import json
import os
import uuid
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from schemas.arrow import arrow_schema
from schemas.checked import Count, checked, open_file, plain_json, read_file
from schemas.errors import UserError, naming
from schemas.parquet import misfit
from schemas.shards import Member

SEAL = 32  # bytes of SHA-256
NO_PACK = -1
MOST = 2 << 30  # bytes of a side file


class PlannedSample(TypedDict):
    pack: int  # of this file; NO_PACK if there is a reason
    tokens: int  # 0 if there is a reason
    sample: str  # <key>-<task>
    tar: str  # file name beside the card
    byte_offset: int  # of the sample in the tar, bytes
    size: int  # bytes
    members: list[Member]
    reason: str | None  # a word of `training.samples.REASONS`
    detail: str | None


PLANNED = arrow_schema(PlannedSample)


class Counts(TypedDict):
    """The counts of a side file or of a set."""

    packs: Count
    tokens: Count
    samples: Count  # including those that are in no pack
    reasons: dict[str, Count]


def count(table: pa.Table) -> Counts:
    """Counts the rows of a side file; packs are numbered from 0 without a gap."""
    packs, tokens = table["pack"].to_numpy(), table["tokens"].to_numpy()
    reasons = Counter(table["reason"].drop_null().to_pylist())
    return Counts(
        packs=int(packs.max(initial=NO_PACK)) + 1, tokens=int(tokens.sum()), samples=len(table),
        reasons=dict(sorted(reasons.items())),
    )  # fmt: skip


def write_side_file(file: Path, table: pa.Table) -> None:
    """Writes rows, sorted by pack, atomically. Raises `OSError` if the file cannot be written."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, PLANNED.with_metadata({"counts": json.dumps(count(table))})) as stream:
        stream.write_table(table.combine_chunks())
    body = sink.getvalue()
    temporary = file.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        with naming(file), open(temporary, "wb") as out:
            out.write(body)
            out.write(sha256(body).digest())
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class SideFile:
    """A side file that exists; its rows are read when they are needed."""

    path: Path
    counts: Counts
    seal: bytes

    def pack(self, number: int) -> list[PlannedSample]:
        """The samples of a pack; with NO_PACK, those that are in no pack.

        Raises `UserError` if a byte of the file has changed, or the file was replaced since it was opened.
        """
        packs, table = _read(self.path, self.seal)
        start, end = np.searchsorted(packs, [number, number + 1])
        return table.slice(start, end - start).to_pylist()


def open_side_file(path: Path) -> SideFile | None:
    """A side file, or None if there is none with that name. Reads only its head and its seal."""
    try:
        os.close(open_file(path))
        with pa.memory_map(str(path)) as mapped:
            counts = _counts_of(pa.ipc.open_stream(mapped).schema)
            mapped.seek(mapped.size() - SEAL)
            return SideFile(path, counts, mapped.read())
    except (FileNotFoundError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None


@lru_cache(maxsize=256)
def _read(path: Path, seal: bytes) -> tuple[np.ndarray, pa.Table]:
    """The column of packs of a side file, and the whole file in mapped memory."""
    data = read_file(path, MOST)  # not through the map: all of it would then count as memory of this process
    if data[-SEAL:] != seal:
        raise UserError(f"{path}: was planned again since this run began; start it again")
    if sha256(data[:-SEAL]).digest() != seal:
        raise UserError(f"{path}: is damaged; remove it, and it will be planned again")
    with pa.memory_map(str(path)) as mapped:
        table = pa.ipc.open_stream(mapped, options=pa.ipc.IpcReadOptions(use_threads=False)).read_all()
    try:
        return _checked(table), table
    except ValueError as error:  # its seal is right, but no planner has written this
        raise UserError(f"{path}: is damaged: {error}; remove it, and it will be planned again") from None


def _counts_of(schema: pa.Schema) -> Counts:
    """What a side file says of itself. Raises `ValueError`, `KeyError` and `TypeError`."""
    if not schema.equals(PLANNED):
        raise ValueError("has other columns")
    return checked(Counts, plain_json(schema.metadata[b"counts"]))


def _checked(table: pa.Table) -> np.ndarray:
    """The column of packs of rows that a stranger may have written. Raises `ValueError` for what no planner writes."""
    counts = _counts_of(table.schema)
    table.validate(full=True)
    if any(misfit(table[field.name].combine_chunks(), field) for field in PLANNED):
        raise ValueError("a value is missing")
    packs = table["pack"].combine_chunks().to_numpy()
    if len(packs) and not (NO_PACK <= packs[0] <= 0 and ((packs[1:] - packs[:-1]) >> 1 == 0).all()):
        raise ValueError("its packs are not in order")
    if count(table) != counts:
        raise ValueError("its counts are not those of its rows")
    return packs

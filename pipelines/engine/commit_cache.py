"""All commits of a stage at once, from `<stage>/_commits.parquet`: a cache over the footers, which can be deleted.

Reading 100,000 Parquet footers takes 10 s, listing as many files a second: so only footers of files that changed
since the cache was written are read.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.engine.commit import Commit, file_of, read_commit
from pipelines.engine.commits import COLUMNS, REASON, Commits, Packer, Shape
from pipelines.engine.parquet import FOOTER, Corrupt, opened, table_bytes
from pipelines.engine.root import Entry, Root
from schemas.parquet import ParquetTable, checked_table

CACHE = "_commits.parquet"
CACHED = pa.schema([*COLUMNS, pa.field("stamp", pa.string(), nullable=False)])
PARTITION = re.compile(r"[0-9]{5,}\.parquet")
SHORTEST = len("00000.parquet")  # of the name of a partition's file; zeros fill only that
MOST = 1 << 31  # of a partition's number
AT_ONCE = 10_000  # commits that are objects at the same time


class Part(NamedTuple):
    """The partitions whose number modulo `of` is `rest`."""

    rest: int
    of: int

    def __contains__(self, partition: object) -> bool:
        return isinstance(partition, int) and partition % self.of == self.rest

    def __str__(self) -> str:
        return f"{self.rest + 1}/{self.of}"


ALL = Part(0, 1)


def read_commits(
    root: Root, stage: str, *, write: bool = False, cached: bool = True, only: Container[int] = ALL,
    told: Iterable[tuple[int, str, dict[str, Any]]] = (),
) -> Commits:  # fmt: skip
    """partition -> its commit, for every partition file of a stage that can be read, in order. `only`: some partitions;
    then no cache is written. `told`: (partition, stamp, commit) of files that need not be read if they have this stamp.
    """
    stamps = _stamps(root.stamps(stage))
    if only is not ALL:
        stamps = {number: stamp for number, stamp in stamps.items() if number in only}
    write = write and only is ALL
    known, packer = _cached(root, stage) if cached else _nothing()
    numbers = np.fromiter(sorted(stamps), np.int64, len(stamps))
    fresh = _fresh(known, numbers, [stamps[number] for number in numbers.tolist()])
    stale = np.setdiff1d(numbers, fresh["partition"].to_numpy(), assume_unique=True).tolist()
    noted = _told(told, stamps, {*stale}, packer) if stale and not root.is_local else [CACHED.empty_table()]
    stale = np.setdiff1d(stale, pa.concat_tables(noted)["partition"].to_numpy()).tolist() if stale else stale
    tables = [fresh, *noted, *_read(root, stage, stale, stamps, packer)]
    table = pa.concat_tables(tables)
    if len(tables) > 1:
        table = table.sort_by("partition")
    is_other = stale or len(fresh) != len(table) or len(known) != len(table) or not packer.shapes
    if write and is_other and (len(table) or len(known)):
        _write(root, stage, table, packer)
    return Commits(stage, table.drop_columns(["stamp"]), [*packer.shapes], [*packer.reasons])


def _stamps(files: Iterable[tuple[str, str]]) -> dict[int, str]:
    """partition -> the stamp of its file, of the files of a stage and their stamps."""
    return {
        number: stamp
        for name, stamp in files
        if is_partition(name) and (len(name) == SHORTEST or name[0] != "0") and (number := number_of(name)) < MOST
    }


def _fresh(known: pa.Table, numbers: np.ndarray, stamps: list[str]) -> pa.Table:
    """The rows of the cache whose files are still the same."""
    if not len(known) or not len(numbers):
        return known.slice(0, 0)
    there = known["partition"].to_numpy()
    places = np.searchsorted(there, numbers).clip(max=len(there) - 1)
    same = pc.call_function("equal", [known["stamp"].take(pa.array(places)), pa.array(stamps, pa.string())])
    good = (there[places] == numbers) & same.to_numpy()
    return known if good.all() and len(known) == len(numbers) else known.take(pa.array(places[good]))


def _told(
    told: Iterable[tuple[int, str, dict[str, Any]]], stamps: Mapping[int, str], stale: set[int], packer: Packer
) -> list[pa.Table]:  # fmt: skip
    """The commits among `told` of files that have the stamp that was told."""
    tables, commits = [CACHED.empty_table()], dict[int, Commit]()

    def pack() -> None:
        stamped = pa.array([stamps[partition] for partition in commits], pa.string())
        tables.append(packer.pack(commits.values()).append_column(CACHED.field("stamp"), stamped))
        stale.difference_update(commits)
        commits.clear()

    for partition, stamp, fields in told:
        if partition in stale and stamps[partition] == stamp:
            with suppress(ValueError, TypeError):
                commits[partition] = Commit.read(fields)
        if len(commits) == AT_ONCE:
            pack()
    pack()
    return tables


def _read(root: Root, stage: str, numbers: list[int], stamps: dict[int, str], packer: Packer) -> Iterator[pa.Table]:
    """The commits in the footers of those files that can be read."""
    with ThreadPoolExecutor(16) as pool:
        for start in range(0, len(numbers), AT_ONCE):
            names = [file_of(stage, number) for number in numbers[start : start + AT_ONCE]]
            commits = [commit for commit in pool.map(lambda name: read_commit(root, name), names) if commit]
            told = pa.array([stamps[commit.partition] for commit in commits], pa.string())
            yield packer.pack(commits).append_column(CACHED.field("stamp"), told)


def _write(root: Root, stage: str, table: pa.Table, packer: Packer) -> None:
    footer = orjson.dumps({"shapes": [tuple(shape) for shape in packer.shapes], "reasons": [*packer.reasons]}).decode()
    root.write(f"{stage}/{CACHE}", table_bytes(table, footer))


def write_cache(root: Root, stage: str, commits: Iterable[Commit]) -> None:
    """Writes the cache of a stage whose files have these commits, in order."""
    stamps, packer = _stamps(root.stamps(stage)), Packer()
    table = packer.pack(commits)
    told = pa.array([stamps[number] for number in table["partition"].to_pylist()], pa.string())
    _write(root, stage, table.append_column(CACHED.field("stamp"), told), packer)


def _nothing() -> tuple[pa.Table, Packer]:
    return CACHED.empty_table(), Packer()


def _cached(root: Root, stage: str) -> tuple[pa.Table, Packer]:
    """What the cache holds; nothing if it is missing, damaged, or of an earlier version."""
    try:
        with opened(root, f"{stage}/{CACHE}") as file:
            table, packer = checked_table(file, CACHED.names, CACHED), _packer_in(file)
    except (FileNotFoundError, Corrupt, ValueError, TypeError, KeyError, AttributeError):
        return _nothing()
    return (table.select(CACHED.names), packer) if _is_whole(table, packer) else _nothing()


def _packer_in(file: ParquetTable) -> Packer:
    footer: Any = orjson.loads((file.metadata.metadata or {})[FOOTER])
    shapes = [
        Shape(int(version), str(settings), (*map(str, digests),),
              tuple((str(name), (*map(str, columns),)) for name, columns in inputs), payload is True, answered is True)
        for version, settings, digests, inputs, payload, answered in footer["shapes"]
    ]  # fmt: skip
    for shape in shapes:
        if not isinstance(orjson.loads(shape.settings), dict):
            raise ValueError("not the settings of a stage")
    return Packer(shapes, [*map(str, footer["reasons"])])


def _is_whole(table: pa.Table, packer: Packer) -> bool:
    """Whether every row has a shape that is known, and the bytes that it needs."""
    numbers, shapes = table["partition"].to_numpy(), table["shape"].to_numpy()
    if not len(table):
        return True
    widths = np.array([*(shape.width for shape in packer.shapes), -1])
    lengths = pc.call_function("binary_length", [table["packed"]]).to_numpy()
    told = b"".join(table["reasons"].to_pylist())
    counts = np.frombuffer(told[: len(told) // REASON.itemsize * REASON.itemsize], REASON)
    return bool(
        (np.diff(numbers) > 0).all() and numbers[0] >= 0 and shapes.min() >= -1 and shapes.max() < len(packer.shapes)
        and ((widths[shapes] == lengths) | (shapes == -1)).all() and not len(told) % REASON.itemsize
        and min(table[name].to_numpy().min() for name in ("rows", "kept")) >= 0
        and (counts["reason"] < len(packer.reasons)).all()
        and all(map(_is_commit, table.filter(pa.array(shapes == -1))["packed"].to_pylist()))
    )  # fmt: skip


def _is_commit(text: bytes) -> bool:
    try:
        Commit.read(orjson.loads(text))
    except (ValueError, TypeError, AttributeError):
        return False
    return True


def cached_columns(root: Root, stage: str, files: Mapping[str, Entry]) -> list[frozenset[str]] | None:
    """The sets of columns that a stage's files have; None if the cache is not about exactly these files."""
    table, packer = _cached(root, stage)
    known = dict(zip(table["partition"].to_pylist(), table["stamp"].to_pylist(), strict=True))
    if known != _stamps((name, entry.stamp) for name, entry in files.items()) or (table["shape"].to_numpy() < 0).any():
        return None
    return [frozenset(shape.digests) for shape in packer.shapes]


def remove_partitions(root: Root, stage: str, partitions: Iterable[int]) -> None:
    """Takes partitions of a vanished source file out of a stage. Their payloads become garbage."""
    for partition in partitions:
        root.remove(file_of(stage, partition))


def is_partition(name: str) -> bool:
    return PARTITION.fullmatch(name) is not None


def number_of(name: str) -> int:
    """The partition of a file's name."""
    return int(name.removesuffix(".parquet"))

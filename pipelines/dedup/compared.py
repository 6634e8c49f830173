"""The answers of compared pictures, which lie beside the stage `duplicates`, so that no two are compared again.

Which pictures have to be compared depends on which are kept, and so on earlier answers. So `judge` goes through a
corpus several times: first as if the 256-bit hash told copies, then as if no two pictures were copies; after each time
workers compare the pairs that were asked for in vain, until every answer is known.
"""

import io
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.dedup.decontamination import Hashes
from pipelines.dedup.fine_hash import NEAR
from pipelines.dedup.judgement import DuplicateMarks, ImageHashes, judge
from pipelines.dedup.pixels import Picture, is_copy
from pipelines.engine.commit import digest, file_of, read_commit
from pipelines.engine.ledger import Ledger
from pipelines.engine.parquet import Corrupt, opened, read_rows
from pipelines.engine.payload import read_payload
from pipelines.engine.results import forget_results, results
from pipelines.engine.root import Root
from pipelines.engine.workers import Workers
from schemas.parquet import checked_table

COMPARED = "compared.parquet"  # a file of the stage
COMPARING = "comparing"  # a folder of the stage, for what workers answer
VERSION = 3  # of what `is_copy` says
SCHEMA = pa.schema([
    pa.field("one", pa.uint64(), nullable=False),  # the first 64 bits of an image's SHA-256; lower than `other`
    pa.field("other", pa.uint64(), nullable=False),
    pa.field("copy", pa.bool_(), nullable=False),
])  # fmt: skip
GUESSES = 3  # times that a corpus is judged with the 256-bit hash for answers that are not known
BLOCK = 32  # pictures: those of two blocks are compared with each other while they are in memory
HELD = 64  # pictures that a process holds
PICTURES, PAIRS = 256, 1024  # of an item of work
FEW = 2  # items that the driver makes itself

Pair = tuple[int, int]


def in_order(one: int, other: int) -> Pair:
    return min(one, other), max(one, other)


@dataclass
class ComparedPictures:
    """Answers of workers, by pair. Implements `judgement.Answers`."""

    root: Root
    stage: str
    ledger: Ledger
    workers: Workers | None
    images: ImageHashes
    known: dict[Pair, bool]
    guesses: int = GUESSES
    used: set[Pair] = field(default_factory=set)
    unknown: dict[Pair, None] = field(default_factory=dict)  # pairs that were asked for in vain, in that order

    @cached_property
    def place(self) -> dict[int, int]:
        """The first row with each picture."""
        last = len(self.images.key) - 1
        return dict(zip(self.images.sha256[:, 0].tolist()[::-1], range(last, -1, -1), strict=True))

    def first_copy(self, content: int, others: Sequence[int], apart: Sequence[int]) -> int | None:
        for other, bits in zip(others, apart, strict=True):
            pair = in_order(content, other)
            copy = self.known.get(pair)
            if copy is None:
                self.unknown[pair] = None
                copy = self.guesses > 0 and bits <= NEAR
            else:
                self.used.add(pair)
            if copy:
                return other
        return None

    def settled(self) -> bool:
        """Whether every answer was known. Those that were not are found. Raises what `Workers.make` does."""
        if not self.unknown:
            return True
        items = [*work_of(self.unknown, self.images, self.place)]
        folder = f"{self.stage}/{COMPARING}"
        given = results(self.root, self.stage, items, compare, self.workers, folder, small=FEW)
        milliseconds = 0
        for item, answer in zip(items, given, strict=True):
            self.known.update(zip(item.named(), map(bool, answer["copies"]), strict=True))
            milliseconds += answer["milliseconds"]
        copies = sum(self.known[pair] for pair in self.unknown)
        self.ledger.compared(self.stage, len(self.unknown), copies, milliseconds)
        write_answers(self.root, self.stage, self.known)
        self.guesses, self.used, self.unknown = self.guesses - 1, set(), {}
        return False


def read_answers(root: Root, stage: str) -> dict[Pair, bool]:
    """Those beside a stage; none if the file is absent, damaged or of another version."""
    try:
        with opened(root, f"{stage}/{COMPARED}") as file:
            if not _version().items() <= (file.metadata.metadata or {}).items():
                return {}
            table = checked_table(file, SCHEMA.names, SCHEMA).select(SCHEMA.names)
    except (FileNotFoundError, Corrupt, ValueError):
        return {}
    one, other, copy = (column.to_pylist() for column in table.columns)
    return dict(zip(zip(one, other, strict=True), copy, strict=True))


def write_answers(root: Root, stage: str, known: Mapping[Pair, bool]) -> None:
    pairs = sorted(known)
    columns = [one for one, _ in pairs], [other for _, other in pairs], [known[pair] for pair in pairs]
    buffer = io.BytesIO()
    table = pa.table([*columns], schema=SCHEMA.with_metadata(_version()))
    pq.write_table(table, buffer, compression="zstd")
    root.write(f"{stage}/{COMPARED}", buffer.getvalue())


def _version() -> dict[bytes, bytes]:
    return {b"version": str(VERSION).encode()}


def judged_by_pixels(
    images: ImageHashes, excluded: Hashes, near: int, root: Root, stage: str, ledger: Ledger, workers: Workers | None
) -> DuplicateMarks:
    """What `judge` says with an answer for every pair of pictures. Raises `Corrupt` for images that are gone, and what
    `Workers.make` does."""
    answers = ComparedPictures(root, stage, ledger, workers, images, read_answers(root, stage))
    marks = judge(images, excluded, near, answers)
    if answers.known:
        write_answers(root, stage, {pair: answers.known[pair] for pair in answers.used})
    forget_results(root, f"{stage}/{COMPARING}")
    return marks


@dataclass(frozen=True)
class ComparePictures:
    """Some pairs of pictures to compare."""

    pictures: tuple[tuple[int, int, int], ...]  # partition, key, the first 64 bits of the SHA-256
    pairs: tuple[Pair, ...]  # positions in these

    def named(self) -> Iterator[Pair]:
        """The pairs as `ComparedPictures` names them."""
        return (in_order(self.pictures[one][2], self.pictures[other][2]) for one, other in self.pairs)

    @property
    def name(self) -> str:
        return digest([VERSION, *self.named()])

    @property
    def size(self) -> int:
        return len(self.pairs)


def work_of(pairs: Iterable[Pair], images: ImageHashes, place: dict[int, int]) -> Iterator[ComparePictures]:
    """Pairs as items of work, so that the pictures of an item are few. `place`: of each picture in `images`."""
    rows = sorted(
        (tuple(sorted((place[one], place[other]))) for one, other in pairs),
        key=lambda pair: (pair[0] // BLOCK, pair[1] // BLOCK, pair),
    )
    numbers, some = dict[int, int](), list[Pair]()

    def item() -> ComparePictures:
        partition, key, name = images.partition, images.key, images.sha256[:, 0]
        return ComparePictures(tuple((int(partition[r]), int(key[r]), int(name[r])) for r in numbers), tuple(some))

    for pair in rows:
        if len(some) == PAIRS or len(numbers) > PICTURES - 2:
            yield item()
            numbers, some = {}, []
        one, other = (numbers.setdefault(row, len(numbers)) for row in pair)
        some.append((one, other))
    if some:
        yield item()


def compare(root: Root, item: ComparePictures) -> dict[str, Any]:
    """`copies`: 1 for each pair whose pictures are copies, else 0; `milliseconds` of processor time."""
    started = time.process_time()

    @lru_cache(maxsize=HELD)
    def picture(number: int) -> Picture:
        partition, key, _ = item.pictures[number]
        rows, payload = placed(partition)
        return Picture.read(read_payload(root, "images", rows[f"{key:016x}"] | {"payload": payload}))

    @lru_cache(maxsize=HELD)
    def placed(partition: int) -> tuple[dict[str, dict], str | None]:
        name = file_of("images", partition)
        commit = read_commit(root, name)
        if commit is None:
            raise Corrupt(f"{name}: cannot be read; `shardmill verify` says more")
        wanted = {f"{key:016x}" for where, key, _ in item.pictures if where == partition}
        rows = read_rows(root, name, ["key", "byte_offset", "size", "sha256"])
        return {row["key"]: row for row in rows if row["key"] in wanted}, commit.payload

    copies = [int(is_copy(picture(one), picture(other))) for one, other in item.pairs]
    return {"copies": copies, "milliseconds": round(1000 * (time.process_time() - started))}

"""Corpus steps: stages that see the whole corpus at once, and replace only partition files whose rows changed.

The driver decides, with the columns of some partitions in memory at a time. From what it decided, workers make the rows
and commit them; a small corpus is written by the driver. A step has one fingerprint for all of its partitions, which it
notes when it is done. If it is killed before, it runs again.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.engine.commit import Commit, Stage, contents, digest
from pipelines.engine.commit_many import replace_many
from pipelines.engine.commits import texts_of
from pipelines.engine.ledger import Ledger
from pipelines.engine.root import Root, point
from pipelines.engine.workers import Workers
from schemas.arrow import Row, to_table

NOTE = "step.json"
DECIDED = "decided"  # a folder of the stage: what workers have to write
SMALL = 512  # partitions that the driver writes itself, before local workers would have begun
PIECE = 64  # partitions that are written at once
MOST = 100_000  # rows, of several partitions that are written at once

Upstream = Mapping[str, Mapping[int, Commit]]  # stage -> partition -> commit, of the stages before


@dataclass(frozen=True)
class Piece:
    """Partitions that one worker writes."""

    file: str  # what was decided for them
    partitions: tuple[int, ...]
    absent: frozenset[int]  # those that do not exist yet


@dataclass(frozen=True)
class CorpusStage(Stage):
    def make(self, root: Root, upstream: Upstream) -> Iterator[tuple[int, list[Row]]]:
        """(partition, its rows), for every partition that has any."""
        raise NotImplementedError

    def decide(
        self, root: Root, ledger: Ledger, upstream: Upstream, workers: Workers | None = None
    ) -> Iterator[pa.Table]:  # fmt: skip
        """What `finished` makes rows of, with a column `partition`: some whole partitions at a time, in order. A step
        that does not say otherwise makes its rows here. `ledger`, `workers`: for what needs more than metadata."""
        schema = pa.schema([pa.field("partition", pa.int32()), *self.schema])
        for partition, rows in self.make(root, upstream):
            yield to_table([{"partition": partition} | row for row in rows], schema)

    def finished(self, decided: list[Row]) -> list[Row]:
        """The rows of a partition, of what was decided for it."""
        return [{name: value for name, value in row.items() if name != "partition"} for row in decided]

    def fingerprint(self, upstream: Upstream) -> str:
        """The fingerprint of the whole step: of everything that it reads, in every partition."""
        read = self.inputs or dict.fromkeys(upstream)
        commits = (contents(texts_of(upstream[stage], columns)) for stage, columns in read.items())
        return digest([self.identity(), *commits])

    def is_current(self, root: Root, upstream: Upstream, own: Mapping[int, Commit]) -> bool:
        """Whether the step was done for the corpus as it is now, and all of its files exist."""
        try:
            noted = root.read_json(f"{self.name}/{NOTE}")["fingerprint"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False
        return {*own} == {*upstream["rows"]} and noted == self.fingerprint(upstream)

    def run(
        self, root: Root, ledger: Ledger, upstream: Upstream,
        by_workers: Callable[["WriteDecided", list[Piece]], None] | None = None, workers: Workers | None = None,
    ) -> None:  # fmt: skip
        """Replaces the partition files whose rows change, then notes that the step is done. The old note is removed
        first: it would be valid again if this run were killed and the change were undone."""
        root.remove(f"{self.name}/{NOTE}")
        folder, work, waiting = f"{self.name}/{DECIDED}", WriteDecided(self, root, ledger), list[Piece]()
        root.remove_files(folder)  # what a killed run left
        present = root.files(self.name)
        for number, (partitions, table) in enumerate(self._pieces(root, ledger, upstream, workers)):
            absent = frozenset(p for p in partitions if f"{p:05d}.parquet" not in present)
            piece = Piece(f"{folder}/{number:06d}.parquet", partitions, absent)
            if by_workers:
                buffer = io.BytesIO()
                pq.write_table(table, buffer, compression="zstd")
                root.write(piece.file, buffer.getvalue())
                waiting.append(piece)
            else:
                work.commit(piece, table)
        if by_workers:
            by_workers(work, waiting)
            root.remove_files(folder)
        self.note(root, upstream)
        point(f"{self.name}:step")

    def _pieces(
        self, root: Root, ledger: Ledger, upstream: Upstream, workers: Workers | None
    ) -> Iterator[tuple[tuple[int, ...], pa.Table]]:
        """(partitions, what was decided for them): all partitions, so that those which a source left empty are
        written, too."""
        left, schema = {*upstream["rows"]}, pa.schema([pa.field("partition", pa.int32())])
        for table in self.decide(root, ledger, upstream, workers):
            for partitions, some in pieces(table):
                left -= {*partitions}
                yield partitions, some
        empty = sorted(left)
        for start in range(0, len(empty), PIECE):
            yield tuple(empty[start : start + PIECE]), schema.empty_table()

    def note(self, root: Root, upstream: Upstream) -> None:
        root.write(f"{self.name}/{NOTE}", json.dumps({"fingerprint": self.fingerprint(upstream)}).encode())


def pieces(table: pa.Table) -> Iterator[tuple[tuple[int, ...], pa.Table]]:
    """Pieces of a table in the order of its column `partition`: of whole partitions, at most `PIECE`, and of at most
    `MOST` rows if it is more than one."""
    counts = [(p, sum(1 for _ in rows)) for p, rows in groupby(table["partition"].to_pylist())]
    some, begin, end = list[int](), 0, 0
    for partition, count in counts:
        if some and (len(some) == PIECE or end - begin + count > MOST):
            yield tuple(some), table.slice(begin, end - begin)
            some, begin = [], end
        some.append(partition)
        end += count
    if some:
        yield tuple(some), table.slice(begin, end - begin)


@dataclass(frozen=True)
class WriteDecided:
    """The work of a corpus step, for Beam: an item is a `Piece`."""

    step: CorpusStage
    root: Root
    ledger: Ledger

    @property
    def name(self) -> str:
        return self.step.name

    def make(self, piece: Piece) -> None:
        self.commit(piece, pq.read_table(io.BytesIO(self.root.read(piece.file))))

    def commit(self, piece: Piece, decided: pa.Table) -> None:
        """Makes the rows of some partitions, and commits those that differ."""
        rows: dict[int, list[Row]] = {partition: [] for partition in piece.partitions}
        for row in decided.to_pylist():
            rows[row["partition"]].append(row)
        finished = {partition: self.step.finished(of_it) for partition, of_it in rows.items()}
        replace_many(self.root, self.ledger, self.step, finished, piece.absent)

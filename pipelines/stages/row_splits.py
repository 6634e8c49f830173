"""Splits source files into partitions.

A worker splits off a range of a file's partitions at once, which bounds its memory. A file of several ranges is read
once: its rows wait in a spill, from which each range is split off.
"""

import tempfile
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from math import ceil

from pipelines.engine.commit import bucket_of, canonical
from pipelines.engine.commit_many import replace_many
from pipelines.engine.ledger import Ledger
from pipelines.engine.manifest import SourceFile
from pipelines.engine.root import Root
from pipelines.engine.spill import Spill, read_spill
from pipelines.engine.split_notes import NOTES, Note, SpillName, read_ends, read_notes
from pipelines.stages.rows import Rows, Settlement, finished_rows, keyed_rows
from pipelines.stages.takedown_list import blanked, read_takedowns
from schemas.arrow import Row
from schemas.errors import UserError


@dataclass(frozen=True)
class Split:
    """A range of a source file's partitions that has to be split off."""

    file: SourceFile  # its `split` is what it will be
    first: int  # bucket
    end: int
    is_new: bool = False  # whether the file was never split before
    spilled: tuple[str, int, int] | None = None  # the spill with its rows, from byte to byte; None: read the file

    @property
    def note(self) -> Note:
        return Note(self.file.first, self.first, self.end - self.first, self.file.split or "")

    @property
    def partitions(self) -> range:
        return self.file.partitions[self.first : self.end]


@dataclass
class Waiting:
    """What has to be split and is not yet."""

    splits: list[Split] = field(default_factory=list)
    unread: list[tuple[SourceFile, int]] = field(default_factory=list)  # files for `SpillSource`, the largest first
    spills: dict[SourceFile, SpillName] = field(default_factory=dict)  # of files that are read by then
    kept: set[str] = field(default_factory=set)  # names of the notes and spills of killed runs that still hold

    def placed(self, root: Root) -> list[Split]:
        """The splits, the largest first, each with the place of its rows. Call it once every file is read."""
        ends: dict[SourceFile, list[int]] = {}
        try:
            for file, spill in self.spills.items():
                ends[file] = read_ends(root, spill, ceil(file.buckets / spill.width))
        except ValueError as error:
            raise UserError(f"{root.url}/{NOTES}: is damaged: {error}; remove the folder and run again") from None
        placed = []
        for split in sorted(self.splits, key=lambda split: split.first - split.end):
            if spill := self.spills.get(split.file):
                number, of_file = split.first // spill.width, ends[split.file]
                place = spill.rows, of_file[number - 1] if number else 0, of_file[number]
                split = replace(split, spilled=place)
            placed.append(split)
        return placed


def waiting_splits(root: Root, settlement: Settlement, present: Collection[int]) -> Waiting:
    """Compares what has to be split with what killed runs left. `present`: the partitions that exist."""
    noted = {note: name for name, note in read_notes(root).items()}
    there, present, waiting = {f"{NOTES}/{name}" for name in root.files(NOTES)}, {*present}, Waiting()
    for number, file in enumerate((*settlement.new, *settlement.changed)):
        width = settlement.width(file)
        for first in range(0, file.buckets, width):
            split = Split(file, first, min(first + width, file.buckets), number < len(settlement.new))
            if split.note in noted and present.issuperset(split.partitions):
                waiting.kept.add(noted[split.note])
            else:
                waiting.splits.append(split)
    for file, ranges in Counter(split.file for split in waiting.splits).most_common():
        spill = SpillName(file.first, settlement.width(file), file.split or "")
        if {spill.rows, spill.ends} <= there:
            waiting.kept |= {spill.rows, spill.ends}
        elif ranges > 1:
            waiting.unread.append((file, spill.width))
        else:
            continue
        waiting.spills[file] = spill
    return waiting


@dataclass(frozen=True)
class SpillSource:
    """Reads whole source files into spills, for Beam: an item is (a file, how many partitions a range has)."""

    stages: Mapping[str | None, Rows]  # by the name of their source
    root: Root

    name = "rows"

    def make(self, item: tuple[SourceFile, int]) -> None:
        file, width = item
        spilled, temporary = SpillName(file.first, width, file.split or ""), self.root.temporary(NOTES)
        with tempfile.TemporaryFile(dir=temporary.parent) as unsorted:
            spill = Spill(unsorted, ceil(file.buckets / width))
            for row in keyed_rows(self.stages[file.source], file):
                spill.add(bucket_of(row["key"], file.buckets) // width, row)
            ends = spill.put(self.root, spilled.rows, temporary)
        self.root.write(spilled.ends, canonical(ends))


@dataclass(frozen=True)
class SplitSource:
    """Splits source files, for Beam: an item is a `Split`."""

    stages: Mapping[str | None, Rows]  # by the name of their source
    root: Root
    ledger: Ledger

    name = "rows"

    def make(self, split: Split) -> None:
        file, stage = split.file, self.stages[split.file.source]
        buckets: dict[int, list[Row]] = {bucket: [] for bucket in range(split.first, split.end)}
        keyed = read_spill(self.root, *split.spilled) if split.spilled else keyed_rows(stage, file)
        for row in finished_rows(stage, file, keyed, buckets):
            buckets[bucket_of(row["key"], file.buckets)].append(row)
        taken, identity = read_takedowns(self.root), stage.identity()
        partitions = {file.first + bucket: blanked(rows, taken, identity) for bucket, rows in buckets.items()}
        replace_many(self.root, self.ledger, stage, partitions, absent=partitions if split.is_new else ())
        self.root.write(split.note.name, b"{}")

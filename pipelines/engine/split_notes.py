"""What workers leave while they split source files, until root.json records that the files are split.

A note is a small file whose name says which partitions of a source file are split, so that a listing tells all of them.
Where a file has more partitions than are split at once, its spill lies beside the notes.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, NamedTuple

from pydantic import Field
from typing_extensions import TypedDict

from pipelines.engine.root import Root
from schemas.checked import Count, checked

NOTES = "rows/split"
MOST = 10_000_000  # partitions of a corpus: ten billion rows
NAMED = re.compile(r"(\d{5,8})-(\d{5,8})-(\d{1,8})-([0-9a-f]{32})\.json")
OLD_NAME = re.compile(r"\d{5,8}-(\d{5,8})\.json")  # of version 0.1, which says the rest in its content

Number = Annotated[Count, Field(le=MOST)]  # of a partition


class OldNote(TypedDict):
    first: Number
    buckets: Number
    split: str


class Note(NamedTuple):
    """Partitions of a source file that are split."""

    first: int  # of all partitions of the file
    begin: int  # of those that are meant, counted from `first`
    count: int
    split: str  # see `SourceFile`

    @property
    def name(self) -> str:
        return f"{NOTES}/{self.first:05d}-{self.begin:05d}-{self.count}-{self.split}.json"


def read_notes(root: Root) -> dict[str, Note]:
    """The notes by the names of their files. Raises `ValueError` for a damaged one."""
    notes = {}
    for file in root.files(NOTES):
        name = f"{NOTES}/{file}"
        if named := NAMED.fullmatch(file):
            first, begin, count = map(int, named.groups()[:3])
            notes[name] = Note(first, begin, count, named[4])
        elif file.endswith(".json"):
            old, place = checked(OldNote, root.read_json(name)), OLD_NAME.fullmatch(file)
            notes[name] = Note(old["first"], int(place[1]) if place else 0, old["buckets"], old["split"])
    return notes


def splits_done(notes: Iterable[Note], buckets: Mapping[int, int]) -> set[tuple[int, str]]:
    """(first partition, split) of the files of which notes name all partitions. `buckets`: how many each file has, by
    its first partition."""
    reached: dict[tuple[int, str], int] = {}
    for note in sorted(notes):
        file = note.first, note.split
        if note.begin <= reached.get(file, 0):
            reached[file] = max(reached.get(file, 0), note.begin + note.count)
    return {file for file, end in reached.items() if end == buckets.get(file[0])}


class SpillName(NamedTuple):
    """The spill of a source file: its rows, and the file that says where each range ends, which is written last."""

    first: int  # of the file's partitions
    width: int  # partitions of a range
    split: str

    @property
    def rows(self) -> str:
        return f"{NOTES}/{self.first:05d}-{self.width}-{self.split}.zst"

    @property
    def ends(self) -> str:
        return self.rows.replace(".zst", ".ends")


def read_ends(root: Root, spill: SpillName, ranges: int) -> list[int]:
    """Where each range of a spill ends, in bytes. Raises `ValueError` for what no worker wrote."""
    ends = checked(list[Count], root.read_json(spill.ends))
    if len(ends) != ranges or ends != sorted(ends):
        raise ValueError("not the ends of ranges")
    return ends

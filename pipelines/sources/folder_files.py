"""Sorts the files of a folder: images, files beside them, tables of captions, and files that are not read."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import BinaryIO

from pipelines.sources.files import Unreadable, is_no_data, stem_of, suffix
from pipelines.sources.source import IMAGE_SUFFIXES, FileStamp

BESIDE = ("txt", "caption", "json")  # suffixes of files beside an image, the preferred first
FIRST = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "txt"}  # suffixes that version 0.1 read
LIST_OF_RECORDS = re.compile(rb'\s*\[\s*\{.{,5000}?"(image|image_path|file_name|filename|path)"\s*:', re.DOTALL)
COCO = re.compile(rb'\s*\{.*?"(images|annotations)"\s*:\s*\[', re.DOTALL)
HEAD = 1 << 16  # bytes of a JSON that show what it is


@dataclass
class FolderFiles:
    """The files of a folder, in order of their paths."""

    tables: list[FileStamp] = field(default_factory=list)
    images: list[FileStamp] = field(default_factory=list)
    beside: dict[str, dict[str, FileStamp]] = field(default_factory=dict)  # stem -> suffix -> file
    others: list[FileStamp] = field(default_factory=list)  # files that are not read, and texts without an image

    def everything(self) -> list[FileStamp]:
        """All files but tables, in order of their paths."""
        beside = (file for parts in self.beside.values() for file in parts.values())
        return sorted([*self.images, *beside, *self.others])


def sort_files(
    listing: Iterable[FileStamp],
    around: Iterable[FileStamp],
    tables: tuple[str, ...],
    open_file: Callable[[str], BinaryIO],
    is_log: Callable[[str], bool],
) -> FolderFiles:
    """`listing`: the files that the source names; `around`: all in their folders, for the files beside an image.

    `tables`: the suffixes of tables. `open_file`: opens a file, to see what a JSON is. `is_log`: whether a table beside
    a folder of its name says what was downloaded into the folder.
    """
    listing, sorted_files = list(listing), FolderFiles()
    folders = {file.path.rpartition("/")[0] for file in listing}
    stems = {stem_of(file.path) for file in listing if suffix(file.path) in IMAGE_SUFFIXES}
    for file in {*listing, *around}:
        if stem_of(file.path) in stems and suffix(file.path) in BESIDE:
            sorted_files.beside.setdefault(stem_of(file.path), {})[suffix(file.path)] = file
    for file in listing:
        kind = suffix(file.path)
        stem = stem_of(file.path)
        if kind in IMAGE_SUFFIXES:
            sorted_files.images.append(file)
        elif kind in BESIDE and stem in stems:
            continue
        elif kind in tables:
            if not (stem in folders and is_log(file.path)):
                sorted_files.tables.append(file)
        elif kind == "json" and _is_table(file.path, open_file):
            sorted_files.tables.append(file)
        elif not is_no_data(file.path):
            sorted_files.others.append(file)
    return sorted_files


def is_of_first_version(path: str) -> bool:
    """Whether version 0.1 read a file, so that it is a part of the stamps that it gave to folders."""
    return path.rpartition(".")[2].lower() in FIRST


def _is_table(path: str, open_file: Callable[[str], BinaryIO]) -> bool:
    """Whether a JSON is a list of records that name images, or has captions of COCO."""
    try:
        with open_file(path) as file:
            head = file.read(HEAD)
            if not COCO.match(head):
                return bool(LIST_OF_RECORDS.match(head))
            while b'"caption"' not in head:
                more = file.read(1 << 22)
                if not more:
                    return False
                head = head[-16:] + more
            return True
    except Unreadable:
        return False

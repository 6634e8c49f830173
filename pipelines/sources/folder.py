"""A folder of images with texts and JSON beside them, or of tables (Parquet, CSV, …) of captions that name images.

Where a folder has both, an image that no table names is a row of its own if it has a text beside it. A file that is
neither, and belongs to no image, is a row with a reason.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipelines.engine.commit import digest
from pipelines.sources.cells import BadCell, named, text_of
from pipelines.sources.files import TooLarge, Unreadable, find, stem_of, suffix
from pipelines.sources.folder_files import FolderFiles, is_of_first_version, sort_files
from pipelines.sources.opening import read_file
from pipelines.sources.sidecars import described
from pipelines.sources.source import IMAGE_SUFFIXES, LONGEST_TEXT, FileStamp
from pipelines.sources.tables import IMAGE_COLUMNS, TABLES, TEXT_COLUMNS, Tables, rest
from schemas.arrow import Row
from schemas.config.sources import FolderConfig
from schemas.errors import UserError

ALL = "."  # the name of the one source file that all images count as which no table names

LOG = {"key", "status", "url", "error_message"}  # columns of img2dataset's logs


class Folder(Tables[FolderConfig]):
    usual = {"image_column": IMAGE_COLUMNS, "text_column": TEXT_COLUMNS}

    def files(self) -> list[FileStamp]:
        self.check_images()
        listing, there = self.listing, self._without_named()
        if not there.tables and not there.images:
            raise self.nothing("images and no caption tables")
        rows = [*there.images, *there.others]
        if there.tables:
            beside = (file for parts in there.beside.values() for file in parts.values())
            return [FileStamp(ALL, digest(sorted([*rows, *beside])))] * bool(rows) + there.tables
        first = [file for file in listing if is_of_first_version(file.path)]
        more = [file for file in there.everything() if file not in {*first}]
        return [FileStamp(ALL, digest([first, more] if more else first))]

    def count(self, file: str) -> int | None:
        return sum(1 for _ in self._images(read=False)) if file == ALL else super().count(file)

    def check(self, file: str) -> None:
        if file != ALL:
            super().check(file)

    def rows(self, file: str) -> Iterator[Row]:
        return self._images() if file == ALL else super().rows(file)

    # Images

    def _sorted(self) -> FolderFiles:
        """The files that the path names, and the files beside the images among them."""
        listing = self.listing
        if self.base == self._path or not any(suffix(file.path) in IMAGE_SUFFIXES for file in listing):
            around = listing
        else:
            around = self.stamps(find(self.fs, self.base))
        if len(listing) == 1 and self.base != self._path and suffix(listing[0].path) == "json":
            return FolderFiles(tables=listing)  # it was named, whatever it holds
        return sort_files(listing, around, TABLES, self.open, self._is_log)

    def _is_log(self, table: str) -> bool:
        """Whether a table is img2dataset's log of what it downloaded into the folder beside it."""
        with suppress(Unreadable):
            schema = self.schema(table)
            return schema is not None and LOG.issubset(schema.names)
        return False

    def _without_named(self) -> FolderFiles:
        """The files of the folder. Of the images only those that are rows of their own: where there are tables, those
        that no table names, and that have a text beside them."""
        there = self._sorted()
        if not there.tables:
            return there
        images = [file for file in there.images if stem_of(file.path) in there.beside]
        left = self._named_by_none(images, there.tables)
        stems = {stem_of(file.path) for file in left}
        beside = {stem: parts for stem, parts in there.beside.items() if stem in stems}
        return replace(there, images=left, beside=beside)

    def notes(self) -> list[str]:
        notes, there = [*self.column_notes()], self._sorted()
        if not there.tables or getattr(self.config, "images", None):
            return notes
        images = [file for file in there.images if stem_of(file.path) not in there.beside]
        if not (left := self._named_by_none(images, there.tables)):
            return notes
        count = f"{len(left):,} images are" if len(left) > 1 else "1 image is"
        return [*notes, f"{count} in no caption table and without a text: not read; the first is {left[0].path}"]

    def _named_by_none(self, images: list[FileStamp], tables: list[FileStamp]) -> list[FileStamp]:
        """The images that no table names."""
        left = {file.path for file in images}
        for table in tables if left else ():
            with suppress(Unreadable, UserError, pa.ArrowException):  # its own rows say what is wrong with it
                left.difference_update(self._named_by(table.path))
        return [file for file in images if file.path in left]

    def _named_by(self, table: str) -> Iterator[str]:
        """The files that a table names."""
        if self.layout(table):
            return  # it holds its images
        column = self.columns(table, {"image_column": IMAGE_COLUMNS})[0]
        records = (record for record in self.records(table, [column]) if isinstance(record, dict))
        yield from self._resolved((record.get(column) for record in records), table)

    def _resolved(self, cells: Iterator[Any], table: str) -> Iterator[str]:
        for cell in cells:
            with suppress(ValueError):
                yield self.resolve(text_of(cell), table)

    def _images(self, read: bool = True) -> Iterator[Row]:
        """The rows of images that no table names, and of files that are not read. `read`: whether texts are read."""
        there = self._without_named()
        others = {file.path for file in there.others}
        for path, stamp in sorted([*there.images, *there.others]):
            row = {"names": (path,), "file": path}
            if path in others:
                yield row | _unread(path)
                continue
            size = stamp.partition("-")[0]
            if size.isdigit() and not self.is_local:  # known without another request
                row["size"] = int(size)
            if read:
                row |= self._beside(there.beside.get(stem_of(path), {}), path)
            yield row

    def _beside(self, parts: dict[str, FileStamp], path: str) -> Row:
        """The columns from the files beside an image."""
        text, said = parts.get("txt") or parts.get("caption"), parts.get("json")
        first = text or said
        if first is None:
            return {"text": None}
        try:
            data = [self._read(file.path) if file else None for file in (text, said)]
        except TooLarge as error:
            return {"reason": "text_too_long", "detail": f"beside {path}: {error}"}
        except Unreadable as error:
            return {"reason": "unreadable_file", "detail": str(error)}
        row = described(data[0], data[1], self.config, first.path)
        return row if said else {name: row[name] for name in row if name not in ("url", "extra")}

    def _read(self, path: str) -> bytes:
        try:
            return read_file(self.fs, f"{self.base}/{path}", path, LONGEST_TEXT)
        except FileNotFoundError:
            raise Unreadable(f"{path}: does not exist: a broken link") from None

    # Tables

    def rows_of(self, record: Row, file: str, columns: list[str]) -> Iterator[Row]:
        image, text = columns
        row: Row = {"extra": rest(record, image, text)}
        written = named(record.get(image))
        names = (written,)
        try:
            row["file"] = self.resolve(text_of(record.get(image)), file)
            if row["file"].endswith(f"/{written}"):  # from the table's own folder: other tables may name the same
                names = (row["file"],)
        except BadCell as error:
            row |= {"reason": "bad_text", "detail": f"{file}: {image} {error}"}
        except ValueError as error:
            row |= {"reason": "no_image", "detail": f"{image} {error}"}
        yield from self.captioned(row, names, record.get(text), file, text)


def _unread(path: str) -> Row:
    """Why a file of a folder is not read as an image."""
    if suffix(path) in ("txt", "caption", "json"):
        return {"reason": "no_image", "detail": f"{path} does not belong to an image"}
    hint = '; kind = "webdataset" reads tars' if suffix(path) == "tar" else ""
    return {"reason": "not_read", "detail": f"{path} is not an image, text or table that is read here{hint}"}


SOURCE = Folder

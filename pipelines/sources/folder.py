"""A folder of images with .txt beside them, or of captions in Parquet, CSV or JSONL that name images under it."""

import csv
import io
from collections.abc import Iterator
from itertools import islice
from math import ceil
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.commit import digest
from pipelines.sources.source import IMAGE_SUFFIXES, Source, SourceFile, object_of, suffix
from schemas.arrow import Row
from schemas.config import UserError

TABLES = ("parquet", "csv", "jsonl")
IMAGE_COLUMNS = ("image", "image_path", "file_name", "filename", "path")
TEXT_COLUMNS = ("text", "caption", "TEXT")
ALL = "."  # the name of a folder of images as a source file

csv.field_size_limit(1 << 30)


class Folder(Source):
    def files(self) -> list[SourceFile]:
        tables = self.find(TABLES)
        if tables:
            return tables
        images = self.find((*IMAGE_SUFFIXES, "txt"))
        if not any(suffix(file.path) in IMAGE_SUFFIXES for file in images):
            raise UserError(f"source.path: no images and no caption tables under {self.config.path}")
        return [SourceFile(ALL, digest(images))]

    def buckets(self, file: str) -> int:
        return max(1, ceil(self._count(file) / self.config.rows_per_partition))

    def _count(self, file: str) -> int:
        if file == ALL:
            return len(self.find(IMAGE_SUFFIXES))
        if suffix(file) == "parquet":
            with self.fs.open(f"{self.base}/{file}", "rb") as raw:
                return pq.ParquetFile(raw).metadata.num_rows
        return sum(1 for _ in self._records(file))

    def check(self, file: str) -> None:
        if file != ALL:
            self._columns(file)

    def rows(self, file: str) -> Iterator[Row]:
        return self._images() if file == ALL else self._captions(file)

    def _images(self) -> Iterator[Row]:
        paths = [file.path for file in self.find((*IMAGE_SUFFIXES, "txt"))]
        texts = {path.rsplit(".", 1)[0]: path for path in paths if suffix(path) == "txt"}
        for path in paths:
            if suffix(path) == "txt":
                continue
            beside = texts.get(path.rsplit(".", 1)[0])
            text = self.fs.cat_file(f"{self.base}/{beside}").decode("utf-8", "replace") if beside else None
            yield {"names": (path,), "file": path, "text": text}

    def _captions(self, file: str) -> Iterator[Row]:
        image, text = self._columns(file)
        for record in self._records(file):
            path, caption = (None if value is None else str(value) for value in (record.get(image), record.get(text)))
            extra = {name: value for name, value in record.items() if name not in (image, text)}
            row = {"names": (str(path), str(caption)), "file": path, "text": caption, "extra": extra}
            if not path or path.startswith("/") or ".." in path.split("/"):
                row |= {"file": None, "reason": "no_image", "detail": f"{image} is {path!r}"}
            yield row

    def _columns(self, file: str) -> tuple[str, str]:
        """The columns of images and of captions: those that are configured, or the first of the usual ones."""
        try:
            there = list(dict.fromkeys(name for record in islice(self._records(file), 100) for name in record))
        except (pa.ArrowException, csv.Error) as error:
            raise UserError(f"source.path: {file} cannot be read: {str(error).splitlines()[0]}") from None
        found = []
        for field, usual in (("image_column", IMAGE_COLUMNS), ("text_column", TEXT_COLUMNS)):
            named = getattr(self.config, field)
            column = next((name for name in ((named,) if named else usual) if name in there), None)
            if column is None and there:
                wanted = f"no column {named!r}" if named else f"none of the columns {', '.join(usual)}"
                raise UserError(f"source.{field}: {file} has {wanted}; it has {', '.join(there)}")
            found.append(column)
        return found[0], found[1]

    def _records(self, file: str) -> Iterator[dict[str, Any]]:
        """The lines of a table, each read by itself: what one says never depends on the others."""
        with self.fs.open(f"{self.base}/{file}", "rb") as raw:
            if suffix(file) == "parquet":
                for batch in pq.ParquetFile(raw).iter_batches(10_000, use_threads=False):
                    yield from batch.to_pylist()
            elif suffix(file) == "csv":
                lines = io.TextIOWrapper(raw, "utf-8-sig", "replace", newline="")
                for record in csv.DictReader(lines, restkey="more"):
                    yield {name: value or None for name, value in record.items()}
            else:
                yield from (object_of(line.strip().decode("utf-8", "replace")) for line in raw if line.strip())

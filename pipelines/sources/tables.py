"""Tables of records: Parquet, CSV, TSV, JSON lines or a JSON list; each record is read by itself."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from math import ceil
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.engine.commit import key_of
from pipelines.sources.cells import BadCell, choose, named, plain, text_of, texts_of
from pipelines.sources.coco import listed
from pipelines.sources.columnar import open_parquet, parquet_records
from pipelines.sources.files import suffix
from pipelines.sources.lines import DELIMITERS, Lost, csv_records, json_records, read_json, with_lost
from pipelines.sources.source import Source
from schemas.arrow import Row
from schemas.errors import UserError

TABLES = ("parquet", "csv", "tsv", "jsonl")
IMAGE_COLUMNS = ("image", "image_path", "file_name", "filename", "path")
TEXT_COLUMNS = ("text", "caption", "TEXT")
URL_COLUMNS = ("url", "URL", "image_url")

Record = dict[str, Any]
Usual = Mapping[str, tuple[str, ...]]  # field of the configuration -> the usual names of its column


class Tables(Source):
    """A source whose files are tables."""

    usual: ClassVar[Usual] = {}

    def buckets(self, file: str) -> int:
        return max(1, ceil(self.count(file) / self.config.rows_per_partition))

    def count(self, file: str) -> int:
        """The number of records of a table."""
        if suffix(file) != "parquet":
            return self._counts[file] if file in self._counts else self._read_all(file)
        with self.parquet(file) as table:
            return table.metadata.num_rows

    def check(self, file: str) -> None:
        columns = self.columns(file, self.usual)
        if suffix(file) != "parquet":
            self._read_all(file)
        elif columns:
            with self.parquet(file) as table:
                self._check_kinds(file, table.schema_arrow)

    def rows(self, file: str) -> Iterator[Row]:
        columns = self.columns(file, self.usual)
        for number, record in enumerate(self.records(file)):
            if isinstance(record, Lost):
                yield self.lost(record, file, number)
            else:
                yield from self.rows_of(record, file, columns)

    def lost(self, record: Lost, file: str, number: int) -> Row:
        """The row of a record that cannot be read."""
        return {"names": (file, "/", str(number)), "reason": record.reason, "detail": record.detail}

    def rows_of(self, record: Record, file: str, columns: list[str]) -> Iterator[Row]:
        """The rows of one record. `columns`: those of `usual`, in its order."""
        raise NotImplementedError

    # Columns

    def columns(self, file: str, usual: Usual) -> list[str]:
        """For each field of the configuration the column that it names, or the first of the usual columns.

        Raises `UserError` if the table has no such column, or two of them, and `Unreadable`.
        """
        if suffix(file) == "parquet":
            with self.parquet(file) as table:
                present = table.schema_arrow.names
        else:
            found = (record for record in islice(self.records(file), 100) if isinstance(record, dict))
            present = list(dict.fromkeys(name for record in found for name in record))
        columns = []
        for field, names in usual.items():
            configured = getattr(self.config, field, None)
            column = next((name for name in ((configured,) if configured else names) if name in present), None)
            if column is None and present:
                missing = f"no column {configured!r}" if configured else f"none of the columns {', '.join(names)}"
                raise UserError(f"source.{field}: {file} has {missing}; it has {', '.join(present)}")
            if present.count(column) > 1:
                raise UserError(f"source.{field}: {file} has two columns {column!r}; rename one")
            columns.append(column)
        return columns

    def _check_kinds(self, file: str, schema: pa.Schema) -> None:
        """Raises `UserError` for a column of lists of captions, if nothing says which caption to take."""
        if "text_column" not in self.usual:
            return
        (column,) = self.columns(file, {"text_column": self.usual["text_column"]})
        kind = schema.field(column).type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            self._how(file, column)

    def _how(self, file: str, column: str) -> str:
        """Which captions of a list are taken. Raises `UserError` if nothing says so."""
        if self.config.captions:
            return self.config.captions
        raise UserError(
            f"source.captions: {file} has lists in the column {column!r}; "
            'write captions = "first", "longest", "random" or "all"'
        )

    # Records

    def records(self, file: str) -> Iterator[Record | Lost]:
        """The records of a table; none depends on the other records. Raises `Unreadable`, and `UserError` for texts of
        an encoding that is not configured."""
        kind, encoding = suffix(file), getattr(self.config, "encoding", None)
        if kind == "parquet":
            with self.parquet(file) as table:
                yield from parquet_records(table, file)
            return
        with self.open(file) as raw:
            if kind in DELIMITERS:
                yield from csv_records(raw, file, encoding, DELIMITERS[kind])
            elif kind == "json":
                yield from with_lost(listed(read_json(raw, file, encoding), file), file, encoding)
            else:
                yield from json_records(raw, file, encoding)

    @contextmanager
    def parquet(self, file: str) -> Iterator[pq.ParquetFile]:
        """A Parquet file. Raises `Unreadable`."""
        with self.open(file) as raw:
            yield open_parquet(raw, file)

    @cached_property
    def _counts(self) -> dict[str, int]:
        return {}

    def _read_all(self, file: str) -> int:
        """The number of records of a table of text, all of which are read once: no other way shows that a worker will
        not meet what the user has to decide. Raises `UserError`."""
        captions = {name: names for name, names in self.usual.items() if name == "text_column"}
        (column,) = self.columns(file, captions) or [None]
        count = 0
        for record in self.records(file):
            count += 1
            if column and isinstance(record, dict) and isinstance(record.get(column), list):
                self._how(file, column)
        self._counts[file] = count
        return count

    # Captions

    def captioned(self, row: Row, names: tuple[str, ...], cell: Any, file: str, column: str) -> Iterator[Row]:
        """A row with the caption in a cell; of a list, with the one that `source.captions` asks for, or a row each."""
        try:
            if not isinstance(cell, list | tuple):
                text = text_of(cell)
                yield row | {"names": (*names, str(text)), "text": text}
                return
            texts = texts_of(cell)
        except BadCell as error:
            bad = {} if row.get("reason") else {"reason": "bad_text", "detail": f"{file}: {column} {error}"}
            yield row | {"names": (*names, named(cell))} | bad
            return
        how = self._how(file, column)
        if how == "all" and texts:
            yield from (row | {"names": (*names, text), "text": text} for text in texts)
        else:
            every = (*names, *(texts or ["None"]))
            yield row | {"names": every, "text": choose(texts, how, self.config.seed, key_of(*every))}


def rest(record: Record, *without: str) -> Record:
    """A record for `extra`, without some columns."""
    return {name: plain(value) for name, value in record.items() if name not in without}

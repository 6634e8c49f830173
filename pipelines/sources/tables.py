"""Tables of records: Parquet, CSV, TSV, JSON lines or a JSON list; each record is read by itself."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from itertools import islice
from typing import Any, ClassVar

import pyarrow as pa

from pipelines.engine.commit import key_of
from pipelines.sources import embedded
from pipelines.sources.cells import BadCell, choose, named, plain, text_of, texts_of
from pipelines.sources.coco import listed
from pipelines.sources.columnar import arrow_records, is_list, open_parquet, parquet_records, schema_of
from pipelines.sources.csv_lines import DELIMITERS, csv_records
from pipelines.sources.embedded import COLUMNS, Layout, layout_of
from pipelines.sources.features import class_names, classes_of
from pipelines.sources.files import Unreadable, suffix
from pipelines.sources.lines import Lost, json_records, read_json, with_lost
from pipelines.sources.source import LARGEST, AnyFiles, FileSource
from schemas.arrow import Row
from schemas.errors import UserError

TABLES = ("parquet", "csv", "tsv", "jsonl")
IMAGE_COLUMNS = ("image", "image_path", "file_name", "filename", "path")
TEXT_COLUMNS = ("text", "caption", "TEXT")
URL_COLUMNS = ("url", "URL", "image_url")

Record = dict[str, Any]
Usual = Mapping[str, tuple[str, ...]]  # field of the configuration -> the usual names of its column


class Tables(FileSource[AnyFiles]):
    """A source whose files are tables."""

    usual: ClassVar[Usual] = {}

    def count(self, file: str) -> int | None:
        """The number of records of a table; None for one that holds its images, which is read once, in its order."""
        if self.layout(file):
            return None
        if suffix(file) != "parquet":
            return self._counts[file] if file in self._counts else self._read_all(file)
        with self.open(file) as raw:
            return open_parquet(raw, file).metadata.num_rows

    def check(self, file: str) -> None:
        if layout := self.layout(file):
            if layout.task() == "caption" and layout.columns["text_column"]:
                self._check_kind(file, layout.columns["text_column"])
            return
        columns = self.columns(file, self.usual)
        if suffix(file) != "parquet":
            self._read_all(file)
        elif columns and "text_column" in self.usual:
            (column,) = self.columns(file, {"text_column": self.usual["text_column"]})
            self._check_kind(file, column)

    def reads_all(self, file: str) -> bool:
        return suffix(file) in ("csv", "tsv", "jsonl", "json")

    def rows(self, file: str) -> Iterator[Row]:
        layout = self.layout(file)
        columns = [] if layout else self.columns(file, self.usual)
        classes = {name: feature for name, feature in classes_of(self.schema(file)).items() if name in columns}
        for number, record in enumerate(self.records(file)):
            if isinstance(record, Lost):
                yield self.lost(record, file, number)
            elif layout:
                yield from embedded.rows_of(self, record, file, number, layout, self.captioned)
            else:
                named_classes = {name: class_names(record.get(name), feature) for name, feature in classes.items()}
                yield from self.rows_of(record | named_classes, file, columns)

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
        present, columns = self._names(file), []
        for field, names in usual.items():
            configured = getattr(self.config, field, None)
            column = next((name for name in ((configured,) if configured else names) if name in present), None)
            if column is None and present:
                missing = f"no column {configured!r}" if configured else f"none of the columns {', '.join(names)}"
                hint = "" if configured else f'; write {field} = "…" with one of these'
                raise UserError(f"source.{field}: {file} has {missing}; it has {', '.join(present)}{hint}")
            column = column or configured or names[0]  # of a table without columns, which has no records
            if present.count(column) > 1:
                raise UserError(f"source.{field}: {file} has two columns {column!r}; rename one")
            columns.append(column)
        return columns

    def _names(self, file: str) -> list[str]:
        """The names of a table's columns; of a table of text, those of its first records."""
        if schema := self.schema(file):
            return schema.names
        found = (record for record in islice(self.records(file), 100) if isinstance(record, dict))
        return list(dict.fromkeys(name for record in found for name in record))

    def notes(self) -> list[str]:
        return [*super().notes(), *self.column_notes()]

    def column_notes(self) -> Iterator[str]:
        """Which of several columns with usual names is read of the first table, and what it says nothing of."""
        tables = [file.path for file in self.files() if suffix(file.path) in (*TABLES, "arrow", "json")][:1]
        with suppress(Unreadable, UserError):  # a run says what is wrong
            for file in tables:
                layout = self.layout(file)
                usual = COLUMNS if layout else self.usual
                used = layout.columns if layout else dict(zip(usual, self.columns(file, usual), strict=True))
                names = [name for name in self._names(file) if not (layout and name in layout.others)]
                for field, column in used.items():
                    others = [name for name in usual[field] if name in names and name != column]
                    if column and others and not getattr(self.config, field, None):
                        yield f"{field} is {column!r} in {file}, before {', '.join(map(repr, others))}"
                if layout and layout.task() == "question" and self.config.kind == "huggingface":
                    yield f"{file} asks questions without answers; answer_column or text_column names what is meant"
                if layout and layout.task() == "caption" and not layout.columns["text_column"]:
                    yield f"{file} has no column of captions with a usual name; text_column names it"

    def schema(self, file: str) -> pa.Schema | None:
        """The schema of a Parquet or Arrow file; None for tables of text. Raises `Unreadable`."""
        if suffix(file) not in ("parquet", "arrow"):
            return None
        if file not in self._schemas:
            with self.open(file) as raw:
                self._schemas[file] = schema_of(raw, file)
        return self._schemas[file]

    @cached_property
    def _schemas(self) -> dict[str, pa.Schema]:
        return {}

    def layout(self, file: str) -> Layout | None:
        """The layout of a table that holds its images; None for a table that names image files.

        Raises `UserError`, and `Unreadable`.
        """
        schema = self.schema(file)
        if file not in self._layouts:
            first = partial(self._first, file)
            self._layouts[file] = layout_of(schema, self.config, file, first) if schema else None
        layout = self._layouts[file]
        named = next((name for name in self.usual.get("image_column", ()) if schema and name in schema.names), None)
        if layout and named and named not in layout.others and not getattr(self.config, "image_column", None):
            return None
        return layout

    @cached_property
    def _layouts(self) -> dict[str, Layout | None]:
        return {}

    def _first(self, file: str, column: str) -> Any:
        """The first value of a column that is not null."""
        cells = (record[column] for _, record in self._numbered(file, [column]) if isinstance(record, dict))
        return next((cell for cell in cells if cell is not None), None)

    def _check_kind(self, file: str, column: str) -> None:
        """Raises `UserError` for a column of lists of captions, if nothing says which caption to take."""
        schema = self.schema(file)
        if schema and is_list(schema.field(column).type):
            self._how(file, column)

    def _how(self, file: str, column: str | None) -> str:
        """Which captions of a list are taken. Raises `UserError` if nothing says so."""
        if how := getattr(self.config, "captions", None):
            return how
        raise UserError(
            f"source.captions: {file} has lists in the column {column!r}; "
            'write captions = "first", "longest", "random" or "all"'
        )

    # Records

    def records(self, file: str, columns: Sequence[str] | None = None) -> Iterator[Record | Lost]:
        """The records of a table; none depends on the other records. `columns`: those that are needed.

        Raises `Unreadable`, and `UserError` for texts of an encoding that is not configured.
        """
        kind, encoding = suffix(file), getattr(self.config, "encoding", None)
        if kind in ("parquet", "arrow"):
            yield from (record for _, record in self._numbered(file, columns))
            return
        with self.open(file) as raw:
            if kind in DELIMITERS:
                delimiter = getattr(self.config, "delimiter", None) or DELIMITERS[kind]
                yield from csv_records(raw, file, encoding, delimiter)
            elif kind == "json":
                yield from with_lost(listed(read_json(raw, file, encoding), file), file, encoding)
            else:
                yield from json_records(raw, file, encoding)

    def _numbered(
        self, file: str, columns: Sequence[str] | None = None, wanted: Collection[int] | None = None
    ) -> Iterator[tuple[int, Record | Lost]]:
        """The records of a Parquet or Arrow file with their numbers: of Parquet only those row groups that hold wanted
        ones. Raises `Unreadable`."""
        with self.open(file) as raw:
            if suffix(file) == "arrow":
                yield from enumerate(arrow_records(raw, file, columns))
                return
            table, start = open_parquet(raw, file), 0
            for group in range(table.num_row_groups):
                end = start + table.groups[group].rows
                if wanted is None or any(start <= number < end for number in wanted):
                    yield from enumerate(parquet_records(table, file, columns, [group]), start)
                start = end

    # Images that are in a table

    def load(self, row: Row, limit: int = LARGEST) -> bytes:
        if row["member"] is None:
            return super().load(row, limit)
        _, data = next(self.loads([row], limit))
        if isinstance(data, Exception):
            raise data
        return data

    def loads(self, rows: Iterable[Row], limit: int = LARGEST) -> Iterator[tuple[Row, bytes | Exception]]:
        by_file: dict[str, dict[int, list[Row]]] = {}
        for row in rows:
            if row["member"] is not None:
                by_file.setdefault(row["file"], {}).setdefault(row["byte_offset"], []).append(row)
        for file, by_number in by_file.items():
            columns = sorted({row["member"].rpartition("/")[0] for some in by_number.values() for row in some})
            try:
                for number, record in self._numbered(file, columns, by_number):
                    for row in by_number.pop(number, ()):
                        yield row, embedded.bytes_of(record, row, limit)
                error: Exception = EOFError(f"{file} has fewer rows")
            except (Unreadable, FileNotFoundError, pa.ArrowException) as stopped:
                error = stopped
            yield from ((row, error) for some in by_number.values() for row in some)

    @cached_property
    def _counts(self) -> dict[str, int]:
        return {}

    def _read_all(self, file: str) -> int:
        """The number of records of a table of text. Reads all of them once, so that no worker can meet a question
        that the user has to decide. Raises `UserError`."""
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

    def captioned(
        self, row: Row, names: tuple[str, ...], cell: Any, file: str, column: str | None, by_text: bool = True
    ) -> Iterator[Row]:
        """A row with the caption in a cell; of a list, with the one that `source.captions` asks for, or a row each.

        `by_text`: whether the text is part of the row's name.
        """
        try:
            if not isinstance(cell, list | tuple):
                text = text_of(cell)
                yield row | {"names": (*names, str(text)) if by_text else names, "text": text}
                return
            texts = texts_of(cell)
        except BadCell as error:
            bad = {} if row.get("reason") else {"reason": "bad_text", "detail": f"{file}: {column} {error}"}
            yield row | {"names": (*names, named(cell)) if by_text else names} | bad
            return
        how = self._how(file, column)
        if how == "all" and texts:
            for number, text in enumerate(texts):
                yield row | {"names": (*names, text if by_text else str(number)), "text": text}
        else:
            every = (*names, *(texts or ["None"])) if by_text else names
            yield row | {"names": every, "text": choose(texts, how, getattr(self.config, "seed", 0), key_of(*every))}


def rest(record: Record, *without: str) -> Record:
    """A record for `extra`, without some columns."""
    return {name: plain(value) for name, value in record.items() if name not in without}

"""Parquet files that a stranger may have written: bounded in memory, checked against declared types."""

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.parquet_pages import Chunk, Group, Pages, footer_size, read_footer, read_pages

MOST = 1 << 30  # bytes of a file's rows in memory
BATCH = 128 << 20  # bytes in memory of rows that are read at once
ROWS = 10_000  # that are read at once
WIDTH = 8  # bytes of a value in memory, at most, if it is not a text
FOOTER = 1 << 20  # bytes of a footer that Arrow may read first: in memory it can take 200 times as many
PLAIN, DELTA_LENGTHS, DELTA_TEXTS = 0, 6, 7  # encodings


class ParquetTable(pq.ParquetFile):
    """A Parquet file, and what it says of its parts.

    Numbers of a column chunk are taken from `groups`: Arrow's own objects of them can end the process.
    """

    def __init__(self, raw: BinaryIO, **options: Any):
        """Raises `ArrowInvalid`, and Arrow's other errors, for damage."""
        self.raw = raw
        self._read = read_footer(raw) if footer_size(raw) > FOOTER else None
        raw.seek(0)
        super().__init__(raw, page_checksum_verification=True, **options)

    @cached_property
    def groups(self) -> list[Group]:
        """The row groups, each with a chunk for each column of the schema. Raises `ArrowInvalid` for damage."""
        groups = read_footer(self.raw) if self._read is None else self._read
        if any(len(group.chunks) != len(self.schema) for group in groups):
            raise pa.ArrowInvalid("has a damaged footer: a row group has other columns than the schema")
        return groups

    def pages(self, group: Group, columns: Collection[str] | None = None) -> Iterator[tuple[Chunk, Pages]]:
        """The columns of a row group, or some of them, with what their pages are in memory."""
        for chunk in group.chunks:
            if columns is None or chunk.path.split(".")[0] in columns:
                yield chunk, read_pages(self.raw, chunk)

    @cached_property
    def deltas(self) -> frozenset[str]:
        """The paths of columns of texts that are written as what differs from the text before, at least in part."""
        chunks = (chunk for group in self.groups for chunk in group.chunks)
        return frozenset(chunk.path for chunk in chunks if chunk.encodings & {DELTA_LENGTHS, DELTA_TEXTS})

    def texts(self) -> list[str]:
        """The paths of columns of texts and bytes that Arrow can read as dictionaries, which hold equal texts once."""
        columns = [self.schema.column(number) for number in range(len(self.schema))]
        return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"
                and column.logical_type.type != "DECIMAL" and column.path not in self.deltas]  # fmt: skip


def checked_table(
    file: ParquetTable, columns: Sequence[str] | None = None, schema: pa.Schema | None = None,
    optional: Collection[str] = (), groups: Sequence[int] | None = None,
) -> pa.Table:
    """The rows of a file, or of some row groups. `schema`: the columns that the file has, but for some that are
    `optional`, with their types.

    Raises `ValueError` for rows of more than `MOST` bytes and for other columns, and Arrow's own errors for damage.
    """
    table = _read_bounded(file, columns, range(file.num_row_groups) if groups is None else groups)
    wanted = set(columns or ()) if schema is None else {*(columns or schema.names)} - {*optional}
    if missing := wanted - set(table.column_names):
        raise ValueError(f"has no column {', '.join(sorted(missing))}")
    for field in schema or ():
        if field.name in table.column_names and (wrong := misfit(table[field.name].combine_chunks(), field)):
            raise ValueError(f"column {field.name}: {wrong}")
    if schema is None:
        return table
    nullable = {field.name: field.nullable for field in schema}  # else it could not be joined with other tables
    fields = [field.with_nullable(nullable.get(field.name, field.nullable)) for field in table.schema]
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields, table.schema.metadata))


def misfit(values: pa.Array, field: pa.Field) -> str | None:
    """Why values are not those of a field: their type, or a null where it has none; None if they are."""
    if values.null_count and not field.nullable:
        return "a value is missing"
    if pa.types.is_list(field.type) and pa.types.is_list(values.type):
        return misfit(values.flatten(), field.type.value_field)
    if pa.types.is_struct(field.type) and pa.types.is_struct(values.type):
        names = [inner.name for inner in values.type]
        inside = values.drop_null()
        for inner in field.type:
            if names.count(inner.name) != 1:
                return f"has no {inner.name}"
            if wrong := misfit(pc.call_function("struct_field", [inside], pc.StructFieldOptions(inner.name)), inner):
                return f"{inner.name}: {wrong}"
        return None
    return None if values.type == field.type else f"is {values.type}, not {field.type}"


def _read_bounded(file: ParquetTable, columns: Sequence[str] | None, groups: Sequence[int]) -> pa.Table:
    """The rows of an untrusted file: a few KB can expand to rows that fill the memory."""
    # One thread: Arrow's pool, once used, aborts about one in ten short-lived processes at their end (25.0).
    options: dict[str, Any] = {"columns": list(columns) if columns else None, "use_threads": False}
    plain, once = file.schema_arrow, file.texts()
    if len(names := plain.names) != len({*names}):
        raise ValueError(f"has two columns {next(name for name in names if names.count(name) > 1)!r}")
    whole, rows_at_once = _needs(file, [file.groups[number] for number in groups], columns and {*columns}, {*once})
    if whole <= BATCH:
        return file.read_row_groups([*groups], **options)
    file = ParquetTable(file.raw, read_dictionary=once)
    batches, size = [], 0
    # Arrow reads dictionaries within lists only of one row group.
    for batch in chain.from_iterable(file.iter_batches(rows_at_once, row_groups=[n], **options) for n in groups):
        batch.validate(full=True)
        size += sum(map(_size, batch.columns))
        if size > MOST:
            raise ValueError(f"its rows have more than {MOST:,} bytes")
        batches.append(batch)
    if not batches:
        raise ValueError(f"has none of the {file.metadata.num_rows:,} rows that it claims")
    wanted = pa.schema([plain.field(name) for name in batches[0].schema.names])
    return pa.Table.from_batches([batch.cast(wanted) for batch in batches])


def _needs(
    file: ParquetTable, groups: Sequence[Group], columns: Collection[str] | None, once: Collection[str]
) -> tuple[int, int]:
    """The most bytes that the rows of row groups have in memory, and how many rows can be read at once. `once`: paths
    of columns that can be read so that equal texts are in memory once. Raises `ValueError` for too many bytes."""
    fixed = {column.path for column in map(file.schema.column, range(len(file.schema)))
             if "BYTE_ARRAY" not in column.physical_type}  # fmt: skip
    whole, least, row = 0, 0, 1
    for group in groups:
        of_a_row = 0
        for chunk, pages in file.pages(group, columns):
            nested = "." in chunk.path
            count = max(chunk.values, pages.values if nested else group.rows)  # Arrow takes room for what is claimed
            lean = most = pages.unpacked + WIDTH * count
            if chunk.path not in fixed and not pages.encodings <= {PLAIN, DELTA_LENGTHS}:
                most = max(lean, count * pages.largest)
            whole += most
            least += most if nested and chunk.path not in once else lean
            of_a_row += pages.largest if most > lean and chunk.path not in once else 0
        row = max(row, of_a_row)
    if least > MOST:
        raise ValueError(f"its rows have more than {MOST:,} bytes")
    return whole, max(1, min(ROWS, BATCH // row))


def _size(values: pa.Array) -> int:
    """The bytes of values when each has its own text."""
    if pa.types.is_dictionary(values.type):
        lengths = pc.call_function("binary_length", [values.dictionary])
        total = pc.call_function("sum", [pc.call_function("take", [lengths, values.indices])]).as_py()
        return (total or 0) + 4 * len(values)
    if pa.types.is_struct(values.type):
        return sum(map(_size, values.flatten())) if len(values.type) else 0
    if pa.types.is_list(values.type):
        return _size(values.flatten()) + 4 * len(values)
    return values.nbytes

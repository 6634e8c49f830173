"""Parquet and Arrow files as records, in batches of bounded size.

Each cell is read by itself: a value that Python cannot hold becomes `Unread`. Rows from a damaged page on, to the end
of its row group, become `Lost`; other row groups are read. Text columns are read as dictionaries, so that a text that
many rows share is in memory once.
"""

import mmap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from math import gcd
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.sources.arrow_claims import claims
from pipelines.sources.cells import Unread
from pipelines.sources.files import Unreadable
from pipelines.sources.lines import Lost
from schemas.parquet import DELTA_LENGTHS, PLAIN, ParquetTable
from schemas.parquet_pages import COLUMNS

BATCH_BYTES, BATCH_ROWS = 64 << 20, 10_000
MAX_BYTES = 1 << 28  # of one cell
MAX_VALUES = 100_000_000  # of a column in one row group
FREE_VALUES, VALUES_A_BYTE = 10_000_000, 100  # of lists in one row group
MAX_ELEMENTS = 100_000  # of a list
MAX_INSIDE = 1_000_000  # values inside one cell, at all of its levels; an empty list takes 70 bytes of memory
UNPACKED, RATIO = 1 << 28, 1_000  # bytes of a column in one row group, and how often those that are stored
FREE_ROWS, ROWS_A_BYTE = 100_000, 20  # of a file, or for each of its bytes; equal rows need next to no bytes

Record = dict[str, Any]


def is_damage(error: Exception) -> bool:
    """Whether Arrow complains of the bytes of a file. Errors of a disk or a network have a number."""
    return isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)


# Parquet


def open_parquet(raw: BinaryIO, file: str) -> ParquetTable:
    """A Parquet file, called `file`, whose footer does not claim more than it can hold. Raises `Unreadable`."""
    size = raw.seek(0, 2)
    try:
        table = ParquetTable(raw)
        table = ParquetTable(raw, metadata=table.metadata, read_dictionary=table.texts())
    except Exception as error:
        if is_damage(error) or isinstance(error, ValueError | TypeError | KeyError | RecursionError):
            raise Unreadable(f"{file}: {_one_line(error)}") from None
        raise
    if table.metadata.num_rows > max(FREE_ROWS, size * ROWS_A_BYTE):
        raise Unreadable(f"{file}: claims {table.metadata.num_rows} rows in {size} bytes")
    for column in (chunk for group in table.groups for chunk in group.chunks):
        if column.values > MAX_VALUES:
            raise Unreadable(f"{file}: {column.path} claims {column.values} values in {size} bytes")
        if column.unpacked > max(UNPACKED, RATIO * column.stored):
            packed = f"{column.stored} bytes, which become {column.unpacked}"
            raise Unreadable(f"{file}: {column.path} has {packed}")
    return table


def parquet_records(
    table: ParquetTable, file: str, columns: Sequence[str] | None = None, groups: Iterable[int] | None = None
) -> Iterator[Record | Lost]:
    """The records of a Parquet file, or of some of its row groups, with all columns or some."""
    for group in range(table.num_row_groups) if groups is None else groups:
        yield from _group(table, file, columns, group)


def _group(table: ParquetTable, file: str, columns: Sequence[str] | None, group: int) -> Iterator[Record | Lost]:
    rows = table.groups[group].rows
    read, size, done = partial(_batches, table, group, columns), _batch_rows(table, group, columns), 0
    try:
        for batch in read(size):
            yield from records(batch)
            done += batch.num_rows
        damage = "ends early"
    except Exception as error:
        if not is_damage(error):
            raise
        damage = _one_line(error)
    if done == rows:
        return
    names = columns or list(dict.fromkeys(path.split(".")[0] for path in _paths(table)))
    readable = {name: _readable(table, name, group, rows, size) for name in names}
    column = min(readable, key=readable.__getitem__)
    end, seen = max(readable[column], done), 0
    if end > done:  # rows before the damage, in the batch that holds it
        step = gcd(end, done)
        for batch in read(step):
            if seen >= done:
                yield from records(batch)
            seen += step
            if seen >= end:
                break
    for number in range(end, rows):
        yield Lost("damaged", f"{file}, row group {group}, row {number}: column {column}: {damage}")


def _batches(table: ParquetTable, group: int, columns: Sequence[str] | None, size: int) -> Iterator[pa.RecordBatch]:
    """The batches of a row group. Raises an error of Arrow for damage, also for damaged dictionaries, which Arrow
    itself does not detect, and for pages that take more memory than the footer says."""
    _check_pages(table, group, columns)
    for batch in table.iter_batches(size, row_groups=[group], columns=columns, use_threads=False):
        for column in batch.columns:
            if pa.types.is_dictionary(column.type):
                ends = pc.call_function("min_max", [column.indices]).as_py()
                if ends["max"] is not None and not 0 <= ends["min"] <= ends["max"] < len(column.dictionary):
                    raise pa.ArrowInvalid("a text is named that its page does not have")
        yield batch


def _check_pages(table: ParquetTable, group: int, columns: Sequence[str] | None) -> None:
    """Raises an error of Arrow for pages that become more than UNPACKED bytes, and more than their footer says, and for
    lists that a few bytes claim to be long."""
    claimed = found = 0
    for chunk, pages in table.pages(table.groups[group], columns):
        claimed, found = claimed + chunk.unpacked, found + pages.unpacked
        if pages.values > max(FREE_VALUES, VALUES_A_BYTE * chunk.stored) and "." in chunk.path:
            raise pa.ArrowInvalid(f"{chunk.path} claims {pages.values} values in {chunk.stored} bytes")
    if found > max(UNPACKED, claimed):
        raise pa.ArrowInvalid(f"pages become {found} bytes; the footer says {claimed}")


def _readable(table: ParquetTable, column: str, group: int, rows: int, size: int) -> int:
    """How many rows at the beginning of a row group can be read of a column."""
    read, low = partial(_batches, table, group, [column]), 0
    try:
        for batch in read(size):
            low += batch.num_rows
    except Exception as error:
        if not is_damage(error):
            raise
    high = min(low + size, rows) + 1
    while low < rows and high - low > 1:
        middle = (low + high) // 2
        try:
            whole = next(read(middle)).num_rows == middle
        except Exception as error:
            if not is_damage(error) and not isinstance(error, StopIteration):
                raise
            whole = False
        low, high = (middle, high) if whole else (low, middle)
    return low


def _paths(table: pq.ParquetFile) -> list[str]:
    return [table.schema.column(number).path for number in range(len(table.schema))]


def _batch_rows(table: ParquetTable, group: int, columns: Sequence[str] | None) -> int:
    """How many rows of a row group make a batch of BATCH_BYTES."""
    parts, schema = table.groups[group], table.schema
    width = parts.size // max(parts.rows, 1)
    width += sum(max(schema.column(number).length, 0) for number in range(len(schema)))  # of fixed-length bytes
    for chunk, pages in table.pages(parts, columns) if table.deltas else ():
        if chunk.path in table.deltas and not pages.encodings <= {PLAIN, DELTA_LENGTHS}:
            width += pages.largest  # a text may be what the one before it is
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(width, 1)))


# Arrow


def arrow_records(raw: BinaryIO, file: str, columns: Sequence[str] | None = None) -> Iterator[Record]:
    """The records of an Arrow file or stream, as `Dataset.save_to_disk` writes it. Raises `Unreadable`."""
    _check_claims(raw, file)
    try:
        reader = _arrow_reader(raw)
        is_file = isinstance(reader, pa.RecordBatchFileReader)
        numbers = range(reader.num_record_batches) if is_file else ()
        for batch in (reader.get_batch(number) for number in numbers) if is_file else reader:
            batch.validate(full=True)  # Arrow itself trusts the offsets in a file
            yield from records(batch.select(list(columns)) if columns else batch)
    except Exception as error:
        if is_damage(error) or isinstance(error, ValueError):
            raise Unreadable(f"{file}: {_one_line(error)}") from None
        raise


def _check_claims(raw: BinaryIO, file: str) -> None:
    """Raises `Unreadable` for an Arrow file that becomes far more rows or bytes than it can hold."""
    size, rows = raw.seek(0, 2), 0
    for claim in claims(raw):
        rows += claim.rows
        if not 0 <= rows <= max(FREE_ROWS, size * ROWS_A_BYTE) or claim.size > max(UNPACKED, RATIO * size):
            raise Unreadable(f"{file}: claims {rows} rows, and a batch of {claim.size} bytes, in {size} bytes")
    raw.seek(0)


def _arrow_reader(raw: BinaryIO) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
    """Raises `ValueError` for as many columns as would keep a run busy, and Arrow's own errors for damage."""
    is_file = raw.read(6) == b"ARROW1"
    raw.seek(0)
    source: Any = raw
    with suppress(OSError, ValueError):  # a local file is not copied into memory, however large its batches are
        source = pa.BufferReader(mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ))
    reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
    if len(reader.schema) > COLUMNS:
        raise ValueError(f"has {len(reader.schema):,} columns; at most {COLUMNS:,} are read")
    return reader


def schema_of(raw: BinaryIO, file: str) -> pa.Schema:
    """The schema of a Parquet or Arrow file. Raises `Unreadable`."""
    if file.endswith(".arrow"):
        try:
            return _arrow_reader(raw).schema
        except Exception as error:
            if is_damage(error) or isinstance(error, ValueError):
                raise Unreadable(f"{file}: {_one_line(error)}") from None
            raise
    return open_parquet(raw, file).schema_arrow


# Records


def records(batch: pa.RecordBatch) -> Iterator[Record]:
    """The records of a batch. Cells that have no value in Python are `Unread`."""
    names = distinct(batch.schema.names)
    for cells in zip(*map(_cells, batch.columns), strict=True) if names else ():
        yield dict(zip(names, cells, strict=True))


def distinct(names: Sequence[str]) -> list[str]:
    """Names of columns of which no two are equal: a second `a` is `a 3` if it is the third column."""
    made: dict[str, None] = {}
    given = {*names}
    for number, name in enumerate(names, 1):
        if name in made:
            name = f"{name or 'column'} {number}"
            while name in given or name in made:
                name += "'"
        made[name] = None
    return [*made]


def _cells(column: pa.Array) -> Iterable[Any]:
    """The cells of a column; large ones only one after another."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _of_dictionary(column)
    if pa.types.is_nested(kind) and not _is_valid(column):
        return [_cell(column, n) if _is_valid(column.slice(n, 1)) else Unread("is damaged") for n in range(len(column))]
    if pa.types.is_nested(kind) and _inside(column) > MAX_INSIDE:
        return (_bounded_cell(column, number) for number in range(len(column)))
    if pa.types.is_nested(kind) or _is_bytes(kind):
        return (_cell(column, number) for number in range(len(column)))
    try:
        return column.to_pylist()
    except Exception:  # dates beyond year 9999, unknown time zones, …: Python raises many kinds of errors
        return [_cell(column, number) for number in range(len(column))]


def _is_valid(column: pa.Array) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowException:
        return False
    return True


def _of_dictionary(column: pa.DictionaryArray) -> Iterator[Any]:
    """The cells of a column of few values; equal ones are one object in memory."""
    values: dict[int, Any] = {}
    if column.dictionary.nbytes < BATCH_BYTES:
        with suppress(ValueError, OverflowError):  # one of them cannot be read: each by itself
            values = dict(enumerate(column.dictionary.to_pylist()))
    for index in column.indices.to_pylist():
        if index is None:
            yield None
            continue
        if index not in values:
            values[index] = _cell(column.dictionary, index)
        yield values[index]


def _inside(column: pa.Array) -> int:
    """The number of values in lists and objects of a column, at all levels."""
    kind, inner = column.type, []
    if is_list(kind) or pa.types.is_struct(kind):
        inner = column.flatten() if pa.types.is_struct(kind) else [column.flatten()]
    elif pa.types.is_map(kind):
        start, end = column.offsets[0].as_py(), column.offsets[-1].as_py()
        inner = [column.keys[start:end], column.items[start:end]]
    elif pa.types.is_union(kind):
        inner = [column.field(number) for number in range(kind.num_fields)]
    return sum(len(values) + _inside(values) for values in inner)


def _bounded_cell(column: pa.Array, number: int) -> Any:
    size = _inside(column.slice(number, 1))
    if size > MAX_INSIDE:
        return Unread(f"has {size} values; {MAX_INSIDE} are the most")
    return _cell(column, number)


def _cell(column: pa.Array, number: int) -> Any:
    if _is_bytes(column.type) and (size := _length(column, number)) > MAX_BYTES:
        return Unread(f"has {size} bytes; {MAX_BYTES} are the most")
    value = column[number]
    try:
        if is_list(column.type):
            length = len(value) if value.is_valid else 0
            if length > MAX_ELEMENTS:
                return Unread(f"is a list of {length}; {MAX_ELEMENTS} are the most")
        return value.as_py()
    except Exception as error:
        return Unread(f"is a value of the type {column.type} that cannot be read: {_one_line(error)}", _text(value))


def is_list(kind: pa.DataType) -> bool:
    """Whether the values of a type are lists, of any length or of one."""
    return any(is_kind(kind) for is_kind in (
        pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view,
        pa.types.is_large_list_view,
    ))  # fmt: skip


def is_text(kind: pa.DataType) -> bool:
    """Whether the values of a type are texts, or bytes that may be texts."""
    return _is_bytes(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (
        pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_string,
        pa.types.is_large_string,
    ))  # fmt: skip


def _length(column: pa.Array, number: int) -> int:
    return column[number].as_buffer().size if column[number].is_valid else 0


def _text(value: pa.Scalar) -> str | None:
    """A value as Arrow writes it, where it can."""
    kind = value.type
    try:
        if pa.types.is_timestamp(kind) and kind.tz:
            value = value.cast(pa.timestamp(kind.unit))
        text = value.cast(pa.string()).as_py()
    except Exception:
        return None
    return None if text is None or text.startswith("<value") else text


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

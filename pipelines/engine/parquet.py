"""Rows as Parquet files with fixed settings: equal rows give equal bytes."""

import io
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.engine.conditional import Unread
from pipelines.engine.root import Corrupt, Root
from schemas.arrow import Row, to_table
from schemas.parquet import ParquetTable, checked_table

FOOTER_SIZE = 65_536  # bytes at the end of a file, which Arrow reads first
FOOTER = b"shardmill"  # the key in the footer under which a file says what it was made from
ONE_BY_ONE = "DELTA_LENGTH_BYTE_ARRAY"  # strings end to end, without a dictionary


def parquet_bytes(rows: Sequence[Row], schema: pa.Schema, footer: str | None = None) -> bytes:
    """A whole Parquet file. Raises `TypeError` for a row that does not fit the schema."""
    return table_bytes(to_table(rows, schema), footer)


def table_bytes(table: pa.Table, footer: str | None = None) -> bytes:
    """A whole Parquet file of a table that has nulls only where its schema allows them."""
    encodings = {field.name: ONE_BY_ONE for field in table.schema if _seldom_repeats(table[field.name])}
    repeating = [path for field in table.schema if field.name not in encodings for path in _leaves(field)]
    settings: dict[str, Any] = {
        "compression": "zstd", "store_schema": False, "write_page_checksum": True,
        "use_dictionary": repeating, "column_encoding": encodings or None,
    }  # fmt: skip
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema, **settings) as writer:
        writer.write_table(table, row_group_size=100_000)
        if footer is not None:
            writer.add_key_value_metadata({FOOTER: footer})
    return buffer.getvalue()


def _seldom_repeats(column: pa.ChunkedArray) -> bool:
    """Whether most of these strings or bytes differ, so that a dictionary would not pay. For keys and digests it would
    be the larger part of the file, and of the time to read it."""
    is_long = pa.types.is_string(column.type) or pa.types.is_binary(column.type)
    return is_long and 2 * pc.call_function("count_distinct", [column]).as_py() > len(column)


def _leaves(field: pa.Field, within: str = "") -> Iterator[str]:
    """The paths of a field's columns in a Parquet file."""
    path = f"{within}{field.name}"
    if pa.types.is_struct(field.type):
        for inner in field.type:
            yield from _leaves(inner, f"{path}.")
    elif pa.types.is_list(field.type):
        yield from _leaves(field.type.value_field, f"{path}.list.")
    else:
        yield path


@contextmanager
def opened(root: Root, name: str) -> Iterator[ParquetTable]:
    """A Parquet file under a root; only the parts of a remote file that are read are fetched.

    Raises `FileNotFoundError`, and `Corrupt` if Arrow cannot read it, when it is opened or later.
    """
    with _opened(name, lambda: root.open_at_once(name)) as file:
        yield file


def read_metadata(root: Root, name: str) -> pq.FileMetaData:
    """What the footer of a Parquet file says. Raises `FileNotFoundError` and `Corrupt`."""
    try:
        with _opened(name, lambda: root.open_at_once(name, last=FOOTER_SIZE)) as file:
            return file.metadata
    except Unread:  # a footer that is larger
        with opened(root, name) as file:
            return file.metadata


@contextmanager
def opened_bytes(data: bytes, name: str) -> Iterator[ParquetTable]:
    """A Parquet file that was read. Raises `Corrupt` as `opened` does."""
    with _opened(name, lambda: io.BytesIO(data)) as file:
        yield file


@contextmanager
def _opened(name: str, open_file: Callable[[], BinaryIO]) -> Iterator[ParquetTable]:
    try:
        with open_file() as raw, ParquetTable(raw) as file:
            yield file
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise  # an error of the system; Arrow raises plain OSErrors without a number
        raise Corrupt(f"{name}: cannot be read: {' '.join(str(error).split())}") from None


def read_rows(
    root: Root,
    name: str,
    columns: Sequence[str] | None = None,
    schema: pa.Schema | None = None,
    optional: Collection[str] = (),
) -> list[Row]:
    """The rows of a file; none if it is absent. `schema`: the columns that the file has, but for some that are
    `optional`, with their types; a file whose columns are others is damaged. Raises `Corrupt`."""
    try:
        with opened(root, name) as file, values_of(name):
            return checked_table(file, columns, schema, optional).to_pylist()
    except FileNotFoundError:
        return []


def read_table(root: Root, name: str, schema: pa.Schema) -> pa.Table:
    """The rows of a file as a table; none if it is absent. Columns of the schema that the file lacks are null.

    Raises `Corrupt`.
    """
    try:
        with opened(root, name) as file, values_of(name):
            table = checked_table(file, schema=schema, optional=schema.names)
    except FileNotFoundError:
        return schema.empty_table()
    columns = [table[f.name] if f.name in table.column_names else pa.nulls(len(table), f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


@contextmanager
def values_of(name: str) -> Iterator[None]:
    """Raises `Corrupt`, which names the file, for values that it should not have."""
    try:
        yield
    except pa.ArrowException:
        raise
    except (ValueError, OverflowError) as error:  # also of a date that Python cannot hold
        raise Corrupt(f"{name}: {error}") from None

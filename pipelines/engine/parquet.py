"""Rows as Parquet files with fixed settings: equal rows give equal bytes."""

import io
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.engine.root import Corrupt, Root
from schemas.arrow import Row, to_table

FOOTER = b"shardmill"  # the key in the footer under which a file says what it was made from
MOST = 1 << 30  # bytes of a file's rows in memory
BATCH = 128 << 20  # bytes in memory of rows that are read at once
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
    """Whether most of these strings differ, so that a dictionary would not pay. For keys and digests it would be the
    larger part of the file, and of the time to read it."""
    return pa.types.is_string(column.type) and 2 * pc.call_function("count_distinct", [column]).as_py() > len(column)


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
def opened(root: Root, name: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file under a root; only the parts of a remote file that are read are fetched.

    Raises `FileNotFoundError`, and `Corrupt` if Arrow cannot read it, when it is opened or later.
    """
    try:
        root.check_file(name)
        if root.is_local:
            with pq.ParquetFile(root.path(name), page_checksum_verification=True) as file:
                yield file
        else:
            with (
                root.fs.open(root.path(name), "rb") as raw,
                pq.ParquetFile(raw, page_checksum_verification=True) as file,
            ):
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
        with opened(root, name) as file:
            table = _read_bounded(file, name, columns)
            wanted = set(columns or ()) if schema is None else {*(columns or schema.names)} - {*optional}
            if missing := wanted - set(table.column_names):
                raise Corrupt(f"{name}: has no column {', '.join(sorted(missing))}")
            for field in schema or ():
                if field.name in table.column_names and (wrong := misfit(table[field.name].combine_chunks(), field)):
                    raise Corrupt(f"{name}: column {field.name}: {wrong}")
            return table.to_pylist()
    except FileNotFoundError:
        return []


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


def _read_bounded(file: pq.ParquetFile, name: str, columns: Sequence[str] | None) -> pa.Table:
    """The rows of an untrusted file: a few KB can stand for rows that fill the memory.

    No value is larger than the column chunk that holds it: so that bounds a batch. Raises `Corrupt` for rows of more
    than `MOST` bytes.
    """
    metadata = file.metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(n).total_uncompressed_size for group in groups for n in range(group.num_columns)]
    largest = max(1, *chunks, 1)
    # One thread: Arrow's pool, once used, aborts about one in ten short-lived processes at their end (25.0).
    names = list(columns) if columns else None
    if metadata.num_rows * largest <= BATCH:
        return file.read(columns=names, use_threads=False)
    batches, size = [], 0
    for batch in file.iter_batches(max(1, min(10_000, BATCH // largest)), columns=names, use_threads=False):
        size += batch.nbytes
        if size > MOST:
            raise Corrupt(f"{name}: its rows have more than {MOST:,} bytes")
        batches.append(batch)
    if not batches:
        raise Corrupt(f"{name}: has none of the {metadata.num_rows:,} rows that it claims")
    return pa.Table.from_batches(batches)

"""Parquet files of a corpus that a stranger may have written: bounded in memory, held against declared types."""

from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MOST = 1 << 30  # bytes of a file's rows in memory
BATCH = 128 << 20  # bytes in memory of rows that are read at once


def checked_table(
    file: pq.ParquetFile, columns: Sequence[str] | None = None, schema: pa.Schema | None = None,
    optional: Collection[str] = (),
) -> pa.Table:
    """The rows of a file. `schema`: the columns that the file has, but for some that are `optional`, with their types.

    Raises `ValueError` for rows of more than `MOST` bytes and for other columns, and Arrow's own errors for damage.
    """
    table = _read_bounded(file, columns)
    wanted = set(columns or ()) if schema is None else {*(columns or schema.names)} - {*optional}
    if missing := wanted - set(table.column_names):
        raise ValueError(f"has no column {', '.join(sorted(missing))}")
    for field in schema or ():
        if field.name in table.column_names and (wrong := misfit(table[field.name].combine_chunks(), field)):
            raise ValueError(f"column {field.name}: {wrong}")
    return table


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


def _read_bounded(file: pq.ParquetFile, columns: Sequence[str] | None) -> pa.Table:
    """The rows of an untrusted file: a few KB can stand for rows that fill the memory.

    No value is larger than the column chunk that holds it: so that bounds a batch.
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
            raise ValueError(f"its rows have more than {MOST:,} bytes")
        batches.append(batch)
    if not batches:
        raise ValueError(f"has none of the {metadata.num_rows:,} rows that it claims")
    return pa.Table.from_batches(batches)

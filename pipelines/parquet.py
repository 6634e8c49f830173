"""Rows as Parquet files with fixed settings: equal rows give equal bytes."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.root import Root
from schemas.arrow import Row, to_table

FOOTER = b"shardmill"  # the footer's key under which a file says what it was made from


def parquet_bytes(rows: Sequence[Row], schema: pa.Schema, footer: str | None = None) -> bytes:
    """A whole Parquet file. Raises `TypeError` for a row that does not fit the schema."""
    table, buffer = to_table(rows, schema), io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table, row_group_size=100_000)
        if footer is not None:
            writer.add_key_value_metadata({FOOTER: footer})
    return buffer.getvalue()


@contextmanager
def opened(root: Root, name: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file under a root; of a remote one only what is asked for is fetched. Raises `FileNotFoundError`."""
    if root.is_local:
        with pq.ParquetFile(root.path(name)) as file:
            yield file
    else:
        with root.fs.open(root.path(name), "rb") as raw, pq.ParquetFile(raw) as file:
            yield file


def read_rows(root: Root, name: str, columns: Sequence[str] | None = None) -> list[Row]:
    """The rows of a file; none if it is absent."""
    try:
        with opened(root, name) as file:
            # One thread: Arrow's pool, once used, aborts about one in ten short-lived processes at their end (25.0).
            return file.read(columns=list(columns) if columns else None, use_threads=False).to_pylist()
    except FileNotFoundError:
        return []

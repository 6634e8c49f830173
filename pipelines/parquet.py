"""Rows as Parquet files with fixed settings: equal rows give equal bytes."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.root import Root
from schemas.arrow import Row, to_table

FOOTER = b"shardmill"  # the footer's key under which a file says what it was made from


class Corrupt(Exception):
    """Bytes under the root are not what was committed."""


def parquet_bytes(rows: Sequence[Row], schema: pa.Schema, footer: str | None = None) -> bytes:
    """A whole Parquet file. Raises `TypeError` for a row that does not fit the schema."""
    table, buffer = to_table(rows, schema), io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd", store_schema=False, write_page_checksum=True) as writer:
        writer.write_table(table, row_group_size=100_000)
        if footer is not None:
            writer.add_key_value_metadata({FOOTER: footer})
    return buffer.getvalue()


@contextmanager
def opened(root: Root, name: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file under a root; of a remote one only what is asked for is fetched.

    Raises `FileNotFoundError`, and `Corrupt` for what Arrow cannot make sense of, here or while it is read.
    """
    try:
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
            raise  # the system's; Arrow's own are plain and have no number
        raise Corrupt(f"{name}: cannot be read: {' '.join(str(error).split())}") from None


def read_rows(root: Root, name: str, columns: Sequence[str] | None = None) -> list[Row]:
    """The rows of a file; none if it is absent. Raises `Corrupt`."""
    try:
        with opened(root, name) as file:
            # One thread: Arrow's pool, once used, aborts about one in ten short-lived processes at their end (25.0).
            table = file.read(columns=list(columns) if columns else None, use_threads=False)
            if missing := set(columns or ()) - set(table.column_names):
                raise Corrupt(f"{name}: has no column {', '.join(sorted(missing))}")
            return table.to_pylist()
    except FileNotFoundError:
        return []

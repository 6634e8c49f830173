"""Writes the answers of queries to files (`shardmill sql --output`), and converts them for CSV."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipelines.catalog.catalog import answer_to
from pipelines.engine.root import Root, new_file
from schemas.errors import UserError

FORMS = (".parquet", ".csv", ".jsonl")


def write_answer(root: Root, sql: str, path: Path, read: Sequence[str | Path] = ()) -> int:
    """Writes the answer to a question as Parquet, CSV or JSON lines, as the file's name says; returns its rows.

    The file appears whole or not at all. Raises `UserError`.
    """
    if path.suffix not in FORMS:
        raise UserError(f"--output: {path}: unknown form {path.suffix!r}; choose from {', '.join(FORMS)}")
    if root.is_local and path.resolve().is_relative_to(Path(root.path("")).resolve()):
        raise UserError(f"--output: {path}: is inside the corpus; choose another folder")
    temporary, rows = path.with_name(f".{path.name}.tmp-{Path(tempfile.mktemp()).name}"), 0
    try:
        with new_file(temporary) as file, answer_to(root, sql, read) as answer, _writer(path, file, answer) as write:
            for batch in answer:
                rows += batch.num_rows
                write(batch)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"--output: {path}: cannot be written: {error.strerror or error}") from None
    return rows


@contextmanager
def _writer(path: Path, file, answer: pa.RecordBatchReader) -> Iterator:
    """A function that appends a batch to a file of the form that its name says."""
    if path.suffix == ".parquet":
        with pq.ParquetWriter(file, answer.schema, compression="zstd") as writer:
            yield writer.write_batch
    elif path.suffix == ".csv":
        schema = flat(answer.schema.empty_table()).schema
        with pyarrow.csv.CSVWriter(file, schema) as writer:
            yield lambda batch: writer.write_table(flat(pa.Table.from_batches([batch])))
    else:
        yield lambda batch: file.writelines(line.encode() + b"\n" for line in as_json(batch))


def as_json(rows: pa.RecordBatch | pa.Table) -> Iterator[str]:
    """Each row as a line of JSON."""
    return (json.dumps(row, ensure_ascii=False, default=str) for row in rows.to_pylist())


def flat(table: pa.Table) -> pa.Table:
    """A table as CSV can hold it: lists, structures, bytes and intervals as JSON."""
    return pa.Table.from_arrays([_flat(column) for column in table.columns], table.column_names)


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    kind = column.type
    if not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_interval(kind)):
        return column
    values = column.to_pylist()
    texts = (None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in values)
    return pa.array(texts, pa.string())

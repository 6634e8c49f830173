"""Tables of records: Parquet, CSV or JSON lines; each record is read by itself."""

import csv
import io
from collections.abc import Iterator
from itertools import islice
from math import ceil
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.source import Source, object_of, suffix
from schemas.errors import UserError

TABLES = ("parquet", "csv", "jsonl")
IMAGE_COLUMNS = ("image", "image_path", "file_name", "filename", "path")
TEXT_COLUMNS = ("text", "caption", "TEXT")
URL_COLUMNS = ("url", "URL", "image_url")

csv.field_size_limit(1 << 30)


class Tables(Source):
    """A source whose files are tables."""

    def buckets(self, file: str) -> int:
        return max(1, ceil(self.count(file) / self.config.rows_per_partition))

    def count(self, file: str) -> int:
        """The number of records of a table."""
        if suffix(file) == "parquet":
            with self.fs.open(f"{self.base}/{file}", "rb") as raw:
                return pq.ParquetFile(raw).metadata.num_rows
        return sum(1 for _ in self.records(file))

    def columns(self, file: str, usual: dict[str, tuple[str, ...]]) -> list[str]:
        """For each field of the configuration the column that it names, or the first of the usual columns.

        Raises `UserError` if the table has no such column.
        """
        try:
            present = list(dict.fromkeys(name for record in islice(self.records(file), 100) for name in record))
        except (pa.ArrowException, csv.Error) as error:
            raise UserError(f"source.path: {file} cannot be read: {str(error).splitlines()[0]}") from None
        columns = []
        for field, names in usual.items():
            configured = getattr(self.config, field)
            column = next((name for name in ((configured,) if configured else names) if name in present), None)
            if column is None and present:
                missing = f"no column {configured!r}" if configured else f"none of the columns {', '.join(names)}"
                raise UserError(f"source.{field}: {file} has {missing}; it has {', '.join(present)}")
            columns.append(column)
        return columns

    def records(self, file: str) -> Iterator[dict[str, Any]]:
        """The records of a table; none depends on the other records."""
        with self.fs.open(f"{self.base}/{file}", "rb") as raw:
            if suffix(file) == "parquet":
                for batch in pq.ParquetFile(raw).iter_batches(10_000, use_threads=False):
                    yield from batch.to_pylist()
            elif suffix(file) == "csv":
                lines = io.TextIOWrapper(raw, "utf-8-sig", "replace", newline="")
                for record in csv.DictReader(lines, restkey="more"):
                    yield {name: value or None for name, value in record.items()}
            else:
                yield from (object_of(line.strip().decode("utf-8", "replace")) for line in raw if line.strip())


def text_of(value: Any) -> str | None:
    """A cell as text; None for null and for NaN, which pandas writes for missing values."""
    return None if value is None or value != value else str(value)


def is_inside(path: str | None) -> bool:
    """Whether a relative path stays in its folder."""
    return bool(path) and not path.startswith("/") and ".." not in path.split("/")

"""Tables of a few columns."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write(path: Path, **options) -> Path:
    """A table of columns, in the format that the name says."""
    columns = options.pop("columns")
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path, **options)
    else:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path

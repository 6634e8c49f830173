"""Costly rows of a partition that is not finished yet: stored in chunks beside it, in case the run is killed.

Chunks and the old partition are one cache, looked up by `made_from`. Chunks are removed once the partition is made.
Those of a stage with a payload also hold the bytes of their rows.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa

from pipelines.engine.commit import old_rows
from pipelines.engine.parquet import parquet_bytes
from pipelines.engine.partition_stage import PartitionStage
from pipelines.engine.root import Root, point, read_at
from schemas.arrow import Row

BYTES = pa.field("bytes", pa.binary())


def chunks_folder(stage: PartitionStage, partition: int) -> str:
    return f"{stage.name}/chunks/{partition:05d}"


def write_chunk(root: Root, stage: PartitionStage, partition: int, rows: Sequence[Row]) -> None:
    """Stores rows; those of a stage with a payload have their bytes, or null, under `bytes`."""
    data = parquet_bytes(rows, stage.schema.append(BYTES) if stage.payload else stage.schema)
    root.write(f"{chunks_folder(stage, partition)}/{hashlib.sha256(data).hexdigest()[:16]}.parquet", data)
    point(f"{stage.name}:chunk")


def read_chunks(root: Root, stage: PartitionStage, partition: int) -> Iterator[Row]:
    """The rows of all chunks. Where a row has bytes, `bytes` is a function that reads them: they wait in a temporary
    file, so that memory holds those of one chunk."""
    names = root.files(folder := chunks_folder(stage, partition)) if stage.chunk_rows else ()
    kept = tempfile.TemporaryFile(dir=root.temporary(stage.name).parent) if names and stage.payload else None
    for name in names:
        for row in old_rows(root, f"{folder}/{name}", stage.info.optional):
            if kept and (data := row.get("bytes")) is not None:
                offset = kept.seek(0, 2)
                kept.write(data)
                kept.flush()
                row["bytes"] = partial(read_at, kept, name, offset, len(data))
            yield row


def drop_chunks(root: Root, stage: PartitionStage, partition: int) -> None:
    if not stage.chunk_rows:
        return
    root.remove_files(chunks_folder(stage, partition))

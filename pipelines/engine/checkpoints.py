"""Costly rows of a partition that is not finished yet: stored in chunks beside it, in case the run is killed.

Chunks and the old partition are one cache, looked up by `made_from`. Chunks are removed once the partition is made.
"""

import hashlib
from collections.abc import Sequence

from pipelines.engine.commit import old_rows
from pipelines.engine.parquet import parquet_bytes
from pipelines.engine.partition_stage import PartitionStage
from pipelines.engine.root import Root, point
from schemas.arrow import Row


def chunks_folder(stage: PartitionStage, partition: int) -> str:
    return f"{stage.name}/chunks/{partition:05d}"


def write_chunk(root: Root, stage: PartitionStage, partition: int, rows: Sequence[Row]) -> None:
    data = parquet_bytes(rows, stage.schema)
    root.write(f"{chunks_folder(stage, partition)}/{hashlib.sha256(data).hexdigest()[:16]}.parquet", data)
    point(f"{stage.name}:chunk")


def read_chunks(root: Root, stage: PartitionStage, partition: int) -> list[Row]:
    if not stage.chunk_rows:
        return []
    folder = chunks_folder(stage, partition)
    return [row for name in root.files(folder) for row in old_rows(root, f"{folder}/{name}", stage.info.optional)]


def drop_chunks(root: Root, stage: PartitionStage, partition: int) -> None:
    if not stage.chunk_rows:
        return
    folder = chunks_folder(stage, partition)
    for name in root.files(folder):
        root.remove(f"{folder}/{name}")
    root.remove_folder(folder)

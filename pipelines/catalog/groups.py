"""Questions to the catalog about many partitions, asked of a group of them at a time: so the memory that they take does
not grow with the corpus. What the answers are together is gathered in a database on disk.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa

from pipelines.catalog.catalog import connect, stage_files
from pipelines.catalog.whole_files import Listed
from pipelines.engine.commit import Commit
from pipelines.engine.root import Root
from schemas.stage import StageInfo

MOST, MOST_ROWS = 256, 50_000  # partitions of a group, and rows if it is more than one partition
MEMORY = "2GB"  # of the database in which answers are gathered; the rest is on disk


def groups(rows: Mapping[int, Commit], partitions: Iterable[int]) -> Iterator[list[int]]:
    """These partitions in groups, in order. `rows`: their commits, which say how many rows they have."""
    group, count = list[int](), 0
    for partition in sorted(partitions):
        size = rows[partition].rows if partition in rows else 0
        if group and (len(group) == MOST or count + size > MOST_ROWS):
            yield group
            group, count = [], 0
        group.append(partition)
        count += size
    if group:
        yield group


def ask_each(
    root: Root, stages: Sequence[StageInfo], made: Mapping[str, Collection[int]], groups: Iterable[list[int]],
    queries: Sequence[str], **config: str,
) -> Iterator[tuple[list[int], duckdb.DuckDBPyConnection]]:  # fmt: skip
    """For each group a connection to the views that the queries name, over the files of its partitions alone. `made`:
    the partitions that each stage has."""
    listed: Listed = {}
    for group in groups:
        files = {}
        for stage in stages:
            files |= stage_files(root, [stage], [p for p in group if p in made.get(stage.name, ())])
        with connect(root, files, stages, queries, listed, **config) as connection:
            yield group, connection


@contextmanager
def on_disk(memory_limit: str = MEMORY, **config: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database in a temporary file."""
    with (
        TemporaryDirectory(prefix="shardmill-") as folder,
        duckdb.connect(f"{folder}/gathered.duckdb", config={"memory_limit": memory_limit, **config}) as connection,
    ):
        yield connection


def add_answer(gathered: duckdb.DuckDBPyConnection, table: str, answer: pa.Table) -> None:
    """Appends the answer about a group to a table, which the first answer makes."""
    gathered.register("answer", answer)
    gathered.execute(f"CREATE TABLE IF NOT EXISTS {table} AS FROM answer LIMIT 0")
    gathered.execute(f"INSERT INTO {table} FROM answer")
    gathered.unregister("answer")

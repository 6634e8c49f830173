"""`catalog.duckdb`: views over everything under a root, and nothing else; it can be deleted at any time.

Built beside and renamed over, so that an open shell never blocks a run. Its paths are absolute: it works from any
folder, and is built again when the root has moved.
"""

import glob
import json
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch

import duckdb
import pyarrow as pa

from pipelines.commit import file_of
from pipelines.root import Root
from pipelines.rows import stages_of
from schemas.config import UserError
from schemas.views import LEDGER, views

CATALOG = "catalog.duckdb"

Files = str | list[str] | None  # a glob, names, or none


def card_names(root: Root) -> list[str]:
    """The shard sets that are published."""
    names = (name.removesuffix(".json") for name in root.files("shards") if name.endswith(".json"))
    return [name for name in names if "@" not in name]


def files(root: Root) -> dict[str, Files]:
    """Where each view's Parquet files are; None where there are none yet."""
    found = stage_files(root, stages_of(root))
    ledger = {name for run in root.folders("runs") for name in root.files(f"runs/{run}")}
    for name, pattern in zip(LEDGER, ("run", "work-*", "changes-*"), strict=True):
        there = any(fnmatch(n, f"{pattern}.parquet") for n in ledger)
        found[name] = f"{_literally(root, 'runs')}/*/{pattern}.parquet" if there else None
    cards = [json.loads(root.read(f"shards/{name}.json")) for name in card_names(root)]
    found["shards"] = [
        _literally(root, f"shards/{shard['index']}") for card in cards for shard in card["shards"]
    ] or None
    return found


def stage_files(root: Root, stages: Iterable[str], partitions: Sequence[int] | None = None) -> dict[str, Files]:
    """The files of these stages alone, all of them or those of some partitions."""
    if partitions is not None:
        return {stage: [_literally(root, file_of(stage, p)) for p in partitions] for stage in stages}
    there = [stage for stage in stages if any(name[0].isdigit() for name in root.files(stage))]
    return {stage: f"{_literally(root, stage)}/[0-9]*.parquet" for stage in there}


def _literally(root: Root, name: str) -> str:
    """The URL of a file for DuckDB, which takes every path for a pattern."""
    return glob.escape(root.url_of(name))


def connect(root: Root, files: Mapping[str, Files], **config: str) -> duckdb.DuckDBPyConnection:
    """An in-memory database with all the views over some files, for local roots and object stores alike."""
    connection = duckdb.connect(config=config)
    if not root.is_local:
        connection.register_filesystem(root.fs)
    create(connection, files)
    return connection


def create(connection: duckdb.DuckDBPyConnection, files: Mapping[str, Files]) -> None:
    for name, sql in views(files).items():
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS {sql}")


def build_catalog(root: Root) -> None:
    """Writes the catalog of a local root. DuckDB's shell reads no fsspec URL: object stores have `shardmill sql`."""
    if not root.is_local:
        return
    temporary = root.temporary("")
    with duckdb.connect(temporary) as connection:
        create(connection, files(root))
    root.put(temporary, CATALOG)


def refresh_catalog(root: Root) -> None:
    """Builds the catalog again if it is missing or was built where the root was before."""
    if not root.is_local:
        return
    try:
        with duckdb.connect(root.path(CATALOG), read_only=True) as connection:
            (sql,) = connection.execute("SELECT sql FROM duckdb_views() WHERE view_name = 'rows'").fetchone()
        if _literally(root, "rows/") in sql or not root.files("rows"):
            return
    except duckdb.IOException:
        if root.exists(CATALOG):
            return  # another process has it open to write
    build_catalog(root)


def query(root: Root, sql: str) -> pa.Table:
    """The answer to a question. Raises `UserError` with DuckDB's complaint in one line."""
    try:
        with connect(root, files(root)) as connection:
            connection.execute("SET autoinstall_known_extensions = false")
            answer = connection.sql(sql)
            if answer is not None:
                return answer.to_arrow_table()
    except duckdb.Error as error:
        raise UserError(f"sql: {one_line(error)}") from None
    raise UserError("sql: that is no question; the catalog holds views only, ask with SELECT")


def one_line(error: duckdb.Error) -> str:
    """DuckDB's complaint without its drawing of the place, but with what it thinks was meant."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith(("LINE ", "^")))

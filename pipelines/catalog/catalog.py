"""`catalog.duckdb`: views over everything under a root, and nothing else; it can be deleted at any time.

Built beside and renamed over, so that an open shell never blocks a run. Its paths are absolute: it works from any
folder, and is built again when the root has moved.
"""

import glob
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch

import duckdb
import pyarrow as pa

from pipelines.engine.commit import file_of
from pipelines.engine.commit_cache import is_partition
from pipelines.engine.manifest import stages_of
from pipelines.engine.parquet import Corrupt
from pipelines.engine.releases import read_cards
from pipelines.engine.root import Root
from schemas.errors import UserError
from schemas.views import LEDGER, literal, views

CATALOG = "catalog.duckdb"
QUESTIONS = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.COPY}

Files = str | list[str] | None  # a glob, names, or none


def files(root: Root) -> dict[str, Files]:
    """Where each view's Parquet files are; None where there are none yet."""
    found = stage_files(root, stages_of(root))
    ledger = {name for run in root.folders("runs") for name in root.files(f"runs/{run}")}
    for name, pattern in zip(LEDGER, ("run", "work-*", "changes-*", "fetches-*", "calls-*"), strict=True):
        there = any(fnmatch(n, f"{pattern}.parquet") for n in ledger)
        found[name] = f"{_literally(root, 'runs')}/*/{pattern}.parquet" if there else None
    there = root.files("shards")
    indexes = [entry["index"] for card in read_cards(root) for entry in card["shards"] if entry["index"] in there]
    found["shards"] = [_literally(root, f"shards/{index}") for index in indexes] or None
    return found


def stage_files(root: Root, stages: Iterable[str], partitions: Sequence[int] | None = None) -> dict[str, Files]:
    """The files of these stages alone, all of them or those of some partitions."""
    if partitions is not None:
        return {stage: [_literally(root, file_of(stage, p)) for p in partitions] for stage in stages}
    there = [stage for stage in stages if any(map(is_partition, root.files(stage)))]
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
    """Makes all the views. Raises `Corrupt` for a file that DuckDB cannot read."""
    for name, sql in views(files).items():
        try:
            connection.execute(f"CREATE OR REPLACE VIEW {name} AS {sql}")
        except duckdb.Error as error:
            raise Corrupt(f"catalog: {name}: {one_line(error)}; `shardmill verify` says which file") from None


def build_catalog(root: Root) -> None:
    """Writes the catalog of a local root. DuckDB's shell reads no fsspec URL: object stores have `shardmill sql`."""
    if not root.is_local:
        return
    temporary = root.temporary("")
    try:
        with duckdb.connect(temporary) as connection:
            create(connection, files(root))
    except Corrupt:
        temporary.unlink()
        raise
    root.remove(f"{CATALOG}.wal")  # of a shell that writes to the catalog as it was; it would not fit this one
    root.put(temporary, CATALOG)


def refresh_catalog(root: Root) -> None:
    """Builds the catalog again if it is missing or was built where the root was before."""
    if not root.is_local:
        return
    try:
        with duckdb.connect(root.path(CATALOG), read_only=True) as connection:
            (sql,) = connection.execute("SELECT sql FROM duckdb_views() WHERE view_name = 'rows'").fetchone()
        if literal(_literally(root, "rows/"))[:-1] in sql or not root.files("rows"):
            return
    except duckdb.Error:
        pass  # it is damaged, or another process has it open to write, which keeps what it has
    build_catalog(root)


def query(root: Root, sql: str) -> pa.Table:
    """The answer to a question. Raises `UserError` with DuckDB's complaint in one line."""
    try:
        with connect(root, files(root)) as connection:
            connection.execute("SET autoinstall_known_extensions = false")
            asked = connection.extract_statements(sql)
            if len(asked) != 1 or asked[0].type not in QUESTIONS:
                raise UserError("sql: that is no question; the catalog holds views only, ask with one SELECT")
            return connection.sql(asked[0]).to_arrow_table()
    except duckdb.Error as error:
        raise UserError(f"sql: {one_line(error)}") from None


def check_condition(connection: duckdb.DuckDBPyConnection, place: str, condition: str, table: str) -> None:
    """Raises `UserError`, naming the place in the configuration, if this is no condition on a table's columns."""
    if not condition.strip():
        raise UserError(f"{place}: empty; write a condition, or leave it out")
    try:
        duckdb.SQLExpression(condition)  # takes one expression; a statement would be carried out below
        kinds = [str(kind).lower() for kind in connection.sql(f"SELECT ({condition}\n) FROM {table}").types]
    except duckdb.Error as error:
        raise UserError(f"{place}: {one_line(error)}") from None
    if kinds != ["boolean"]:
        raise UserError(f"{place}: {condition!r} is {', '.join(kinds)}; write a condition")


def one_line(error: duckdb.Error) -> str:
    """DuckDB's complaint without its drawing of the place, but with what it thinks was meant."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith(("LINE ", "^")))

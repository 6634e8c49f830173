"""Questions to the catalog: `shardmill sql`. A question reads a corpus, and writes nothing.

DuckDB ensures this: it opens only files under the root, and those that the caller names; its settings are locked;
extensions are not installed. As DuckDB would still write under the root (`WITH x AS (COPY …)` counts as a SELECT), the
plan of a question is looked at first.
"""

import glob
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb

from pipelines.engine.root import Root
from schemas.errors import UserError
from schemas.views import literal

EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?(\([^()]*\)\s*)?", re.IGNORECASE)
WRITES = re.compile(  # in the names of operators that do more than read
    r"COPY|INSERT|DELETE|UPDATE|MERGE|CREATE|ALTER|DROP|ATTACH|DETACH|EXPORT|LOAD|VACUUM|CHECKPOINT|PRAGMA(?!_)|SET$|"
    r"LOGGING|PROFIL|EXTERNAL_RESOURCE|SERIALIZED_SQL|EXECUTE|TRANSACTION|LOGS"
)
READS = {"DUCKDB_LOGS", "DUCKDB_LOG_CONTEXTS"}
ONLY_READ = "sql: only a single SELECT is allowed"
TO_FILE = "; --output FILE writes the answer to a file"


def close_off(connection: duckdb.DuckDBPyConnection, root: Root, read: Sequence[str | Path], spill: str) -> None:
    """Lets a connection open only files under a root, and those in `read`. Data beyond memory goes to `spill`."""
    folder = root.url_of("").rstrip("/") + "/"
    folders = [folder, glob.escape(folder)]  # views name the root as a pattern
    paths = [str(path) if "://" in str(path) else str(Path(path).resolve()) for path in read]
    for setting, value in (
        ("autoinstall_known_extensions", "false"),
        ("autoload_known_extensions", "false"),
        ("temp_directory", literal(spill)),
        ("allowed_directories", f"[{', '.join(map(literal, folders))}]"),
        ("allowed_paths", f"[{', '.join(map(literal, paths))}]"),
        ("enable_external_access", "false"),
        ("lock_configuration", "true"),
    ):
        connection.execute(f"SET {setting} = {value}")


def checked(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """The one statement of a question. Raises `UserError` if it does anything but read."""
    refusal = ONLY_READ + (TO_FILE if re.search(r"\bcopy\b", sql, re.IGNORECASE) else "")
    asked = connection.extract_statements(sql)
    kinds = [statement.type for statement in asked]
    question = sql
    if kinds == [duckdb.StatementType.EXPLAIN] and (prefix := EXPLAIN.match(sql)):  # ANALYZE carries it out
        question = sql[prefix.end() :]
        kinds = [statement.type for statement in connection.extract_statements(question)]
    if kinds != [duckdb.StatementType.SELECT]:
        raise UserError(refusal)
    ((_, text),) = connection.execute(f"EXPLAIN (FORMAT json) {question}").fetchall()
    if any(WRITES.search(name) and name not in READS for node in json.loads(text) for name in _operators(node)):
        raise UserError(refusal)
    return asked[0]


def _operators(node: dict) -> Iterator[str]:
    """The names of the operators of a plan."""
    yield node["name"].strip()
    for child in node.get("children", ()):
        yield from _operators(child)

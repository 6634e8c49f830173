"""`catalog.duckdb`: views over everything under a root, and nothing else; it can be deleted at any time.

It is built under another name and renamed, so that an open shell never blocks a run. Its paths are absolute: it works
from any folder, and is built again when the root has moved.
"""

import glob
import re
import tempfile
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os.path import isfile
from pathlib import Path

import duckdb
import pyarrow as pa

from pipelines.catalog.ledger_files import ledger_files
from pipelines.catalog.read_only import checked, close_off
from pipelines.catalog.whole_files import Listed, WholeFiles
from pipelines.engine.alignment import ALIGN
from pipelines.engine.commit import file_of
from pipelines.engine.commit_cache import cached_columns, is_partition
from pipelines.engine.manifest import SourceRange, of_views, stages_of, training_of
from pipelines.engine.parquet import Corrupt
from pipelines.engine.releases import read_cards
from pipelines.engine.root import Root
from schemas.errors import UserError
from schemas.selection import encodes
from schemas.shards import Card, SampleRow
from schemas.stage import StageInfo
from schemas.stages import Stages, with_own
from schemas.trained import EVALUATION, LOG
from schemas.verdicts import MIN_MASS
from schemas.views import Files, literal, quoted, views

CATALOG = "catalog.duckdb"
STORAGE = "v1.0.0"  # of DuckDB's format: the first that later versions read, so that every shell since 1.0 opens it
OF_BOUNDS = SampleRow.__optional_keys__
LISTS_VIEWS = re.compile(r"\b(show|duckdb_\w+|information_schema|pg_\w+|sqlite_\w+)\b", re.IGNORECASE)  # all there are
NO_VIEW = re.compile(r"Catalog Error: Table with name (.+?) does not exist")
UNKNOWN_COLUMN = re.compile(
    r'Binder Error: Referenced column ("[^"]+") not found in FROM clause!(?: Candidate bindings: (.+))?'
)


def files(root: Root, stages: Stages) -> dict[str, Files | None]:
    """The Parquet files of each view; None for a view without files."""
    by_view: dict[str, Files | None] = {**stage_files(root, stages.values()), **ledger_files(root)}
    by_view["shards"] = index_files(root, read_cards(root))
    return by_view | training_files(root)


def training_files(root: Root) -> dict[str, Files | None]:
    """The files of training runs and evaluations that exist, and the root's own alignment."""
    by_view: dict[str, Files | None] = {}
    for view, name in (("training", LOG), ("evaluations", EVALUATION)):
        paths = [glob.escape(path) for path in _trained(root, name)]
        by_view[view] = Files(paths, mixed=True) if paths else None
    by_view["alignment"] = Files(_literally(root, ALIGN)) if root.exists(ALIGN) else None
    return by_view


def _trained(root: Root, name: str) -> list[str]:
    """The files of a name in the folders of training runs; a folder that is gone, or cannot be one, has none."""
    return [path for folder in training_of(root) if isfile(path := f"{folder}/{name}")]


def index_files(root: Root, cards: Iterable[Card]) -> Files | None:
    """The indexes of the shards of some cards, as far as they exist."""
    present = root.files("shards")
    cards = [card for card in cards if any(entry["index"] in present for entry in card["shards"])]
    indexes = [entry["index"] for card in cards for entry in card["shards"] if entry["index"] in present]
    return _indexes(root, cards, indexes) if indexes else None


def _indexes(root: Root, cards: Sequence[Card], indexes: Sequence[str]) -> Files:
    """The indexes of shards. Those of sets with bounds have one more column."""
    paths = [_literally(root, f"shards/{index}") for index in indexes]
    return _of_columns(paths, {frozenset() if encodes(card["settings"]) else OF_BOUNDS for card in cards})


def _of_columns(paths: str | Sequence[str], lacking: Collection[frozenset[str]]) -> Files:
    """Files that lack these sets of optional columns."""
    return Files(paths, mixed=True) if len(lacking) != 1 else Files(paths, next(iter(lacking)))


def stage_files(
    root: Root, stages: Iterable[StageInfo], partitions: Sequence[int] | None = None
) -> dict[str, Files | None]:
    """The files of these stages: all of them, or those of some partitions."""
    by_stage = {stage.name: _all_files(root, stage) if partitions is None else _some_files(root, stage, partitions)
                for stage in stages}  # fmt: skip
    return {name: files for name, files in by_stage.items() if files}


def _some_files(root: Root, stage: StageInfo, partitions: Sequence[int]) -> Files | None:
    """The files of some partitions of a stage."""
    paths = [_literally(root, file_of(stage.name, partition)) for partition in partitions]
    return Files(paths, mixed=bool(stage.optional)) if paths else None


def _all_files(root: Root, stage: StageInfo) -> Files | None:
    """All files of a stage. If the cache of commits is up to date, it says which optional columns they have."""
    present = {name: entry for name, entry in root.files(stage.name).items() if is_partition(name)}
    paths = f"{_literally(root, stage.name)}/[0-9]*.parquet"
    if not stage.optional or not present:
        return Files(paths) if present else None
    sets_of_columns = cached_columns(root, stage.name, present)
    return _of_columns(paths, {stage.optional - columns for columns in sets_of_columns or ()})


def _literally(root: Root, name: str) -> str:
    """The URL of a file, escaped for DuckDB, which reads every path as a pattern."""
    return glob.escape(root.url_of(name))


def connect(
    root: Root,
    files: Mapping[str, Files | None],
    stages: Iterable[StageInfo] = (),
    queries: Sequence[str] = (),
    listed: Listed | None = None,
    **config: str,
) -> duckdb.DuckDBPyConnection:
    """An in-memory database with the views over some files, for local roots and object stores alike.

    `stages`: those of the corpus, in order, as far as users' own are among them. `queries`: if given, only
    the views that these name are made. `listed`: folders that were listed for an earlier connection, since which no
    file has changed; those that this one lists are added.
    """  # fmt: skip
    beyond_memory = f"{tempfile.gettempdir()}/shardmill-{uuid.uuid4().hex}"  # DuckDB's default is where it is started
    connection = duckdb.connect(config={"temp_directory": beyond_memory, **config})
    if not root.is_local:
        connection.register_filesystem(WholeFiles(root, listed))
    sources, min_mass = of_views(root)
    create(connection, files, stages, sources, queries, min_mass)
    return connection


def open_catalog(root: Root, queries: Sequence[str] = ()) -> duckdb.DuckDBPyConnection:
    """An in-memory database with the views over all that is under a root: all of them, or those that queries name."""
    stages = stages_of(root)
    return connect(root, files(root, stages), stages.values(), queries)


def create(
    connection: duckdb.DuckDBPyConnection, files: Mapping[str, Files | None], stages: Iterable[StageInfo] = (),
    sources: Sequence[SourceRange] = (), queries: Sequence[str] = (), min_mass: float = MIN_MASS,
) -> None:  # fmt: skip
    """Makes all the views, or only those that `queries` name. `sources`: those that have partitions, if any has a name.

    Raises `Corrupt` for a file that DuckDB cannot read.
    """
    for name, sql in _named(views(files, with_own(stages), sources, min_mass), queries).items():
        try:
            connection.execute(f"CREATE OR REPLACE VIEW {quoted(name)} AS {sql}")
        except duckdb.Error as error:
            raise Corrupt(f"catalog: {name}: {one_line(error)}; `shardmill verify` says which file") from None


def _named(views: dict[str, str], queries: Sequence[str]) -> dict[str, str]:
    """The views that some queries name, with those that these views are made of; all of them if there is no query."""
    if not queries:
        return views
    names, waiting = set(), [*queries]
    while waiting:
        more = views.keys() & {*re.findall(r"\w+", waiting.pop().lower())} - names
        names |= more
        waiting += [views[name] for name in more]
    return {name: sql for name, sql in views.items() if name in names}


def build_catalog(root: Root) -> None:
    """Writes the catalog of a local root. DuckDB's shell reads no fsspec URL: object stores have `shardmill sql`."""
    if not root.is_local:
        return
    temporary = root.temporary("")
    try:
        with duckdb.connect() as connection:
            connection.execute(f"ATTACH {literal(str(temporary))} AS catalog (STORAGE_VERSION {literal(STORAGE)})")
            connection.execute("USE catalog")
            stages = stages_of(root)
            sources, min_mass = of_views(root)
            create(connection, files(root, stages), stages.values(), sources, min_mass=min_mass)
    except Corrupt:
        temporary.unlink()
        raise
    except duckdb.Error as error:
        temporary.unlink(missing_ok=True)
        raise Corrupt(f"{CATALOG}: cannot be written: {one_line(error)}") from None
    root.remove(f"{CATALOG}.wal")  # left by a shell that wrote to the old catalog; it would not fit the new one
    root.put(temporary, CATALOG)


def refresh_catalog(root: Root) -> None:
    """Builds the catalog again if it is missing or was built where the root was before."""
    if not root.is_local:
        return
    try:
        root.check_file(CATALOG)
        with duckdb.connect(root.path(CATALOG), read_only=True) as connection:
            views_of_rows = connection.execute("SELECT sql FROM duckdb_views() WHERE view_name = 'rows'").fetchall()
        here = literal(_literally(root, "rows/"))[:-1]
        if any(here in sql for (sql,) in views_of_rows) or not root.files("rows"):
            return
    except (duckdb.Error, Corrupt):
        pass  # damaged, or open for writing in another process, which keeps the old file
    build_catalog(root)


@contextmanager
def answer_to(root: Root, sql: str, read: Sequence[str | Path] = ()) -> Iterator[pa.RecordBatchReader]:
    """The answer to a question, batch by batch. `read`: files outside the root that it may read.

    Raises `UserError` with DuckDB's message in one line.
    """
    for path in map(str, read):
        if "://" not in path and not Path(path).exists():
            raise UserError(f"sql: --read {path}: does not exist")
    trained = [path for name in (LOG, EVALUATION) for path in _trained(root, name)]
    trained += map(glob.escape, trained[:])  # views name them as patterns
    try:
        with tempfile.TemporaryDirectory(prefix="shardmill-") as spill, ExitStack() as opened:

            def ask(queries: Sequence[str]) -> pa.RecordBatchReader:
                connection = opened.enter_context(open_catalog(root, queries))
                close_off(connection, root, [*read, *trained], spill)
                return connection.sql(checked(connection, sql)).to_arrow_reader()

            try:
                answer = ask(() if LISTS_VIEWS.search(sql) else [sql])
            except duckdb.CatalogException:
                answer = ask(())  # a name that it only computes; or DuckDB suggests one
            yield answer
    except duckdb.PermissionException as error:
        raise UserError(f"sql: {one_line(error)}; a query reads only the corpus, and what --read FILE names") from None
    except (duckdb.Error, OSError) as error:  # Arrow's reader passes DuckDB's errors on as those of the system
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if named := NO_VIEW.match(str(error)):
            is_file = re.search("[./]", named[1])
            known = (
                "to read a file outside the corpus, add --read FILE" if is_file else f"the views: {view_names(root)}"
            )
            raise UserError(f"sql: no view {named[1]}; {known}") from None
        raise UserError(f"sql: {one_line(error)}") from None


def view_names(root: Root) -> str:
    """The names of all views of a root, as a list for people."""
    return ", ".join(sorted(views({}, with_own(stages_of(root).values()))))


def query(root: Root, sql: str, read: Sequence[str | Path] = ()) -> pa.Table:
    """The whole answer to a question, as `answer_to` gives it."""
    with answer_to(root, sql, read) as answer:
        return answer.read_all()


def check_condition(connection: duckdb.DuckDBPyConnection, place: str, condition: str, table: str) -> None:
    """Raises `UserError`, naming the place in the configuration, if this is not a condition on a table's columns."""
    if not condition.strip():
        raise UserError(f"{place}: empty; write a condition, or leave it out")
    try:
        duckdb.SQLExpression(condition)  # takes one expression; a statement would be carried out below
        kinds = [str(kind).lower() for kind in connection.sql(f"SELECT ({condition}\n) FROM {table}").types]
    except duckdb.Error as error:
        raise condition_error(place, error) from None
    if kinds != ["boolean"]:
        raise UserError(f"{place}: {condition!r} is of type {', '.join(kinds)}; write a condition")


def looks_at_one_row(condition: str) -> bool:
    """Whether a condition on a row depends on no others: it has no subquery and no window."""
    with duckdb.connect() as connection:
        ((parsed,),) = connection.execute("SELECT json_serialize_sql($1)", [f"SELECT ({condition}\n)"]).fetchall()
    return not any(f'"class":"{kind}"' in parsed for kind in ("SUBQUERY", "WINDOW"))


def condition_error(place: str, error: duckdb.Error) -> UserError:
    """The message for a condition that fails on some row, with a way to avoid a failing cast."""
    hint = ""
    if "Malformed JSON" in str(error):  # a text that is compared with JSON is read as JSON
        hint = "; write (extra->>'name') = 'text' to compare a field of extra with a text"
    elif isinstance(error, duckdb.ConversionException | duckdb.OutOfRangeException):
        hint = "; write try_cast(… AS …), which gives null where the value does not fit, or try(…)"
    return UserError(f"{place}: {one_line(error)[:500]}{hint}")


def unreadable(error: BaseException) -> str | None:
    """What to say of a corpus that DuckDB cannot read, as a stranger's may be; None for other errors."""
    if not isinstance(error, duckdb.Error) or isinstance(error, duckdb.InternalException):
        return None
    return f"the corpus cannot be read: {one_line(error)}; `shardmill verify` says which file is damaged"


def one_line(error: Exception) -> str:
    """DuckDB's message with its suggestion, but without the lines that show the place."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(line for line in lines if not line.startswith(("LINE ", "^")))
    if named := UNKNOWN_COLUMN.fullmatch(message):
        return f"unknown column {named[1]}" + (f"; similar names: {named[2]}" if named[2] else "")
    return message

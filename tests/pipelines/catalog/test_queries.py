"""A query reads the corpus, and writes nothing but what a flag names."""

from pathlib import Path

import duckdb
import pytest
from support.corpora import say

from pipelines.catalog.catalog import query
from pipelines.catalog.read_only import close_off
from pipelines.engine.parquet import Corrupt
from pipelines.engine.root import Root
from schemas.errors import UserError

pytestmark = pytest.mark.usefixtures("catalogs")


# Questions


@pytest.mark.parametrize(
    "question",
    [
        "", " ", "/* nothing */", ";",
        "drop view rows", "create table t (a int)", "create or replace view rows as select 1", "delete from rows",
        "insert into rows values (1)", "update rows set key = 'x'", "alter view rows rename to r", "vacuum",
        "select 1; select 2", "select 1; drop view rows", "attach 'other.db'", "export database 'out'", "use memory",
        "install httpfs", "load httpfs", "set threads = 1", "begin", "pragma database_list", "checkpoint",
    ],
)  # fmt: skip
def test_what_is_no_question_is_refused_in_one_line(question, small, monkeypatch):
    monkeypatch.chdir(small)
    before = {path: path.read_bytes() for path in small.rglob("*") if path.is_file()}
    said = say("sql", small / "corpus", question)
    assert (said.code, said.out) == (2, "")
    assert said.err == "shardmill: sql: only a single SELECT is allowed\n"
    assert {path: path.read_bytes() for path in small.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("question", "complaint"),
    [
        ("garbage !!", 'Parser Error: syntax error at or near "garbage"'),
        ("select nothing from rows", 'unknown column "nothing"'),
        ("select 1 from row", "sql: no view row; the views: accounting, best, calls, candidates, captions, changes, "),
        ("from (select * from rows join sample using (key))", "sql: no view sample; the views: accounting, "),
        ("from main.imagez", "sql: no view imagez; the views: accounting, "),
        ('from "a b"', "sql: no view a b; the views: accounting, "),
        ("from 'notes.txt'", "no view notes.txt; to read a file outside the corpus, add --read FILE"),
        ("select error('a\nb')", "a b"),
        ("select 'x'::int", "Could not convert string 'x' to INT32"),
        ("select * from rows where key = ?", "Values were not provided"),
        ("from read_parquet('no-such-file.parquet')", "a query reads only the corpus"),
        ("from 'https://example.invalid/a.parquet'", "a query reads only the corpus"),
    ],
)
def test_what_duckdb_says_of_a_question_is_one_line(question, complaint, small):
    with pytest.raises(UserError) as error:
        query(Root(str(small / "corpus")), question)
    assert complaint in str(error.value) and "\n" not in str(error.value)
    said = say("sql", small / "corpus", question)
    assert said.code == 2 and said.err == f"shardmill: {error.value}\n"


# Each writes, and DuckDB takes some of them for a SELECT.
WRITES = [
    "copy (select 1) to '{}'", "copy rows to '{}' (format parquet)", "copy rows from '{}'",
    "with x as (copy (select 1) to '{}') from x", "WITH x AS MATERIALIZED (COPY (FROM rows) TO '{}') FROM x",
    "explain analyze copy (select 1) to '{}'", "explain /* */ analyze copy (select 1) to '{}'",
    "EXPLAIN (ANALYZE, FORMAT json) COPY (SELECT 1) TO '{}'", "explain analyze with x as (copy rows to '{}') from x",
    "from query('copy (select 1) to ''{}'' ')", "from query('with x as (copy (select 1) to ''{}'') from x')",
    "from json_execute_serialized_sql(json_serialize_sql('with x as (copy (select 1) to ''{}'') from x'))",
    "from json_execute_serialized_sql('{{}}'::json)", "attach '{}' as other", "export database '{}'",
    "from enable_logging(storage = 'file', storage_path = '{}')", "call enable_logging(storage_path = '{}')",
    "pragma enable_profiling", "from enable_profiling()", "from checkpoint()", "from force_checkpoint()",
    "from import_database('{}')", "install '{}'", "load '{}'", "set temp_directory = '{}'", "prepare p as select 1",
    "create table t as select 1", "create secret s (type s3)", "use '{}'", "detach memory",
]  # fmt: skip


PLACES = ("corpus/root.json", "corpus/rows/00000.parquet", "corpus/new.parquet", "outside")


@pytest.mark.parametrize("name", ["autoinstall_known_extensions", "autoload_known_extensions"])
def test_a_query_installs_and_loads_no_extension(name, small):
    question = f"select current_setting('{name}') as open"
    assert query(Root(str(small / "corpus")), question).to_pylist() == [{"open": False}]


@pytest.mark.slow
def test_a_query_writes_nothing_anywhere(small, monkeypatch):
    monkeypatch.chdir(small)
    before = {path: path.read_bytes() for path in small.rglob("*") if path.is_file()}
    for number, question in enumerate([*WRITES[:1] * 3, *WRITES]):  # each statement at a place, the first at all places
        said = say("sql", small / "corpus", question.format(small / PLACES[number % 4]))
        assert (said.code, said.out) == (2, ""), question
        assert said.err.startswith("shardmill: sql: ") and said.err.count("\n") == 1, question
    assert {path: path.read_bytes() for path in small.rglob("*") if path.is_file()} == before


def test_copy_is_answered_with_the_flag_that_writes(small):
    said = say("sql", small / "corpus", "copy (select 1) to 'answer.parquet'")
    assert said.err == ("shardmill: sql: only a single SELECT is allowed; --output FILE writes the answer to a file\n")


@pytest.mark.parametrize("name", ["answer.parquet", "answer.csv", "answer.jsonl"])
def test_an_answer_is_written_to_a_file_that_a_flag_names(name, corpus, tmp_path):
    wanted = "select key, text, samples from samples order by key"
    (tmp_path / name).symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("a diary")
    said = say("sql", corpus.url, wanted, "--output", tmp_path / name)
    assert (said.code, said.out) == (0, f"wrote 3 rows to {tmp_path / name}\n")
    copied = duckdb.sql(f"from '{tmp_path / name}'").fetchall()
    assert [row[:2] for row in copied] == [tuple(row.values())[:2] for row in query(corpus, wanted).to_pylist()]
    assert (tmp_path / "precious").read_text() == "a diary" and not (tmp_path / name).is_symlink()
    assert say("sql", corpus.url, "select 1 as n where false", "--output", tmp_path / name).out.startswith("wrote 0")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ("corpus/rows/9.parquet", "is inside the corpus; choose another folder"),
        ("no/such/answer.csv", "cannot be written: No such file or directory"),
        ("answer.xlsx", "unknown form '.xlsx'; choose from .parquet, .csv, .jsonl"),
    ],
)
def test_an_answer_is_not_written_where_it_does_not_belong(output, complaint, corpus, tmp_path):
    said = say("sql", corpus.url, "from rows", "--output", tmp_path / output)
    assert (said.code, said.err) == (2, f"shardmill: --output: {tmp_path / output}: {complaint}\n")


@pytest.mark.slow
def test_a_query_reads_no_file_outside_the_corpus_but_those_a_flag_names(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.csv").write_text("key\nx\n")
    for question in (
        "from 'bad.csv'", f"from read_text('{tmp_path}/bad.csv')", "from glob('/*')", "from read_blob('/etc/hostname')",
        f"from read_csv('{corpus.url}/../bad.csv')", "from read_csv('http://127.0.0.1:9/x.csv')",
    ):  # fmt: skip
        said = say("sql", corpus.url, question, "--csv")
        assert said.code == 2 and said.err.startswith("shardmill: sql: ") and said.err.count("\n") == 1, question
        assert "--read FILE" in said.err, question
    assert say("sql", corpus.url, f"from '{tmp_path}/bad.csv'", "--read", "bad.csv", "--csv").out == '"key"\n"x"\n'
    assert say("sql", corpus.url, "from 'bad.csv'", "--read", "bad.csv", "--csv").out == '"key"\n"x"\n'
    missing = say("sql", corpus.url, "from 'no.csv'", "--read", "no.csv").err.strip()
    assert missing.endswith("--read no.csv: does not exist")
    assert say("sql", corpus.url, f"from read_text('{corpus.url}/root.json')").code == 0


@pytest.mark.slow
def test_a_query_sorts_more_than_fits_in_memory_and_leaves_nothing(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spill"))
    (tmp_path / "spill").mkdir()
    before, connect = {*tmp_path.rglob("*")}, duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda config=(): connect(config={**dict(config), "memory_limit": "60MB"}))
    numbers = "select range::varchar || 'abcdefghijklmnopqrstuvwxyz' as s from range(3000000) order by s desc"
    assert query(corpus, f"select count(*) as n from ({numbers} limit 2500000)").to_pylist() == [{"n": 2500000}]
    assert {*tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("select count(*) as n from query_table('ro' || 'ws')", [{"n": 3}]),  # a name that is computed
        ("select count(*) as n from (show tables) where name in ('rows', 'samples')", [{"n": 2}]),
        ("select count(*) as n from duckdb_views() where view_name = 'samples'", [{"n": 1}]),
        ("select count(*) as n from information_schema.tables where table_name = 'rows'", [{"n": 1}]),
        ("with rows as (select 1 as a) from rows", [{"a": 1}]),
        ("select 1 as a", [{"a": 1}]),
        ('SELECT count(*) AS n FROM "ROWS"', [{"n": 3}]),
        ("select count(*) as n from Samples where reason is null", [{"n": 3}]),
    ],
)
def test_a_question_has_the_views_that_it_asks(question, answer, small):
    """Only those are made that it names, which takes less time; all, where it lists or computes names."""
    assert query(Root(str(small / "corpus")), question).to_pylist() == answer


def test_a_damaged_stage_stops_no_question_to_another(corpus):
    path = Path(corpus.path("images/00000.parquet"))
    path.write_bytes(path.read_bytes()[:100])
    assert query(corpus, "select count(*) as n from rows").to_pylist() == [{"n": 3}]
    with pytest.raises(Corrupt, match="images"):
        query(corpus, "select count(*) as n from samples")


@pytest.mark.parametrize(
    "setting", ["enable_external_access = true", "lock_configuration = false", "allowed_directories = ['/']",
                "autoinstall_known_extensions = true", "autoload_known_extensions = true", "temp_directory = '/tmp'"],
)  # fmt: skip
def test_no_setting_of_a_question_can_be_changed_again(setting, tmp_path):
    """By itself: a question that sets something is refused before it gets there, too."""
    with duckdb.connect() as connection:
        close_off(connection, Root(str(tmp_path)), [], str(tmp_path / "spill"))
        with pytest.raises(duckdb.Error):
            connection.execute(f"SET {setting}")
        with pytest.raises(duckdb.Error, match="locked"):
            connection.execute("SET threads = 1")
        with pytest.raises(duckdb.Error):
            connection.execute("FROM read_text('/etc/hostname')")

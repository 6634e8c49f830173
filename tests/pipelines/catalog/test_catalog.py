"""The catalog: from any folder, after the root moved, while others hold it open; and captions are data everywhere."""

import json
import shutil
import subprocess
import sys
import tarfile
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
import webdataset
from support.corpora import ONE_PROCESS, build, data_files, picture, say, write_tar

from pipelines.build.corpus import open_corpus
from pipelines.catalog.catalog import build_catalog, connect, create, files, query, refresh_catalog
from pipelines.catalog.gates import GateFailed
from pipelines.engine.commit import key_of
from pipelines.engine.manifest import stages_of
from pipelines.engine.parquet import Corrupt
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from schemas.errors import UserError
from schemas.views import literal

pytestmark = pytest.mark.usefixtures("catalogs")

TOML = f"""
root = "corpus"
[source]
kind = "webdataset"
path = "source"
[sets.train]
{ONE_PROCESS}"""

# What strangers write below their pictures.
HOSTILE = {
    "quotes": """it's "quoted" `here` \\ and '' there""",
    "html": "<script>alert('x')</script><img src=x onerror=alert(1)> &amp; &#0;",
    "sql": "'); drop table rows; -- \"; select * from images; /*",
    "markup": "[bold red]not bold[/] [/red] [link=http://example.com]here[/link]",
    "control": "a\x00b\x01c\x07d\x08e\x1b[31mred\x1b[0m\x1b]0;title\x07\x7f\x9b2J",
    "lines": "one\ntwo\r\nthree\u2028four\x0bfive\ttabbed",
    "directions": "\u202eright to left\u202c \ufeff \u200b\u2066",
    "astral": "\U0001f9ff\U0010ffff \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u4e2d\u6587",
    "formats": "%s %d {} {0} {key} $1 ? ?1 :name \\N NULL",
    "csv": '=cmd|" /C calc"!A0,"a","b";\t@sum(1)',
    "million": "long " * 200_000,
    "blank": "   ",
}
BYTES = {name: text.encode() for name, text in HOSTILE.items()}


def hostile_tar(path: Path) -> Path:
    """One sample a hostile caption, the caption in its JSON as well, where escapes can spell half a surrogate pair."""
    path.parent.mkdir(parents=True)
    with webdataset.TarWriter(str(path)) as tar:
        for number, (name, text) in enumerate(HOSTILE.items()):
            said = json.dumps({"said": text, "name": name}).encode()
            tar.write({"__key__": name, "png": picture(number)[0], "txt": BYTES[name], "json": said})
        strange = rb'{"url": "http://\udfff@x.example/\ud800", "said": "\ud83d alone", "n": [NaN, -Infinity, 1e999]}'
        tar.write({"__key__": "strange", "png": picture(90)[0], "txt": b"strange", "json": strange})
    return path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Root:
    """A corpus of hostile captions, with three pictures read."""
    folder = tmp_path_factory.mktemp("hostile")
    hostile_tar(folder / "source/0.tar")
    (folder / "my.toml").write_text(TOML)
    return build(folder / "my.toml")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A folder with a small corpus, to be read only."""
    folder = tmp_path_factory.mktemp("small")
    write_tar(folder / "source/0.tar", range(3))
    (folder / "my.toml").write_text(TOML)
    build(folder / "my.toml")
    return folder


@pytest.fixture
def corpus(small, tmp_path) -> Root:
    """That corpus under `tmp_path`, where it may be changed."""
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    root = open_corpus(tmp_path / "my.toml").root
    build_catalog(root)
    return root


PLAIN = "import duckdb, sys; print(duckdb.connect(sys.argv[1], read_only=True).sql('from accounting').fetchall())"


def plain_duckdb(catalog: Path, cwd: str = "/") -> str:
    """What DuckDB alone, in another process and folder, says of a catalog."""
    command = [sys.executable, "-c", PLAIN, str(catalog)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ALL_THREE = str([(stage, None, 3, None) for stage in ("rows", "images", "selection")])


# Where it can be read


def test_it_can_be_asked_from_another_folder(corpus):
    assert plain_duckdb(Path(corpus.path("catalog.duckdb"))) == ALL_THREE


def test_its_file_is_of_the_storage_version_that_every_duckdb_since_1_0_reads(corpus):
    """Written by 2.0.0 without a wish, it has version 999, which no DuckDB 1.x opens."""
    header = Path(corpus.path("catalog.duckdb")).read_bytes()[8:20]
    assert (header[:4], int.from_bytes(header[4:], "little")) == (b"DUCK", 64)
    names = "select count(*) from duckdb_views() where not internal and database_name = 'catalog'"
    with duckdb.connect(corpus.path("catalog.duckdb"), read_only=True) as connection:
        ((views,),) = connection.sql(names).fetchall()
        assert views >= 24 and connection.sql("from accounting").fetchall()


def test_it_works_after_the_root_moved(corpus, tmp_path):
    moved = tmp_path / "elsewhere/moved"
    moved.parent.mkdir()
    Path(corpus.url).rename(moved)
    said = say("sql", moved, "select count(*) as n from samples", "--csv")
    assert (said.code, said.out) == (0, '"n"\n3\n')
    assert plain_duckdb(moved / "catalog.duckdb") == ALL_THREE


def test_a_root_that_moved_up_its_own_path_is_not_taken_for_the_old_one(tmp_path):
    """/x/a/b -> /a/b: the new path is a part of the old."""
    here = tmp_path / "corpus"
    old = tmp_path.joinpath("old", *here.parts[1:])
    write_tar(tmp_path / "source/0.tar", range(3))
    (tmp_path / "my.toml").write_text(TOML.replace('"corpus"', f'"{old}"'))
    build(tmp_path / "my.toml")
    old.rename(here)
    refresh_catalog(Root(str(here)))
    assert plain_duckdb(here / "catalog.duckdb") == ALL_THREE


@pytest.mark.parametrize("damage", ["missing", "garbage", "empty"])
def test_it_is_built_again_when_it_is_not_there_or_damaged(damage, corpus):
    catalog = Path(corpus.path("catalog.duckdb"))
    catalog.unlink()
    if damage != "missing":
        catalog.write_bytes(b"no database" * 1000 if damage == "garbage" else b"")
    refresh_catalog(corpus)
    assert plain_duckdb(catalog) == ALL_THREE


def test_one_that_cannot_be_built_leaves_nothing_behind(corpus):
    Path(corpus.path("images/00000.parquet")).write_bytes(b"damaged")
    with pytest.raises(Corrupt):
        build_catalog(corpus)
    assert [name for name in corpus.files("", hidden=True) if name.startswith(".")] == []


@pytest.mark.parametrize("name", ["it's [a] corpus", "100%_{}*", "a'; drop view rows --", "übergrößenträger 中"])
def test_a_root_may_have_any_name(name, tmp_path):
    write_tar(tmp_path / "source/0.tar", range(3))
    (tmp_path / "my.toml").write_text(TOML.replace('"corpus"', json.dumps(name)))
    root = build(tmp_path / "my.toml")
    assert query(root, "select count(*) as n from samples where samples[1].task = 'caption'").to_pylist() == [{"n": 3}]
    assert query(root, 'select "set", count(*) as n from shards group by all').to_pylist() == [{"set": "train", "n": 3}]
    assert plain_duckdb(Path(root.path("catalog.duckdb"))) == ALL_THREE
    assert verify_root(root).problems == []


# While others hold it open

HOLD = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
if sys.argv[2] == "write":
    connection.execute("create table mine as select range from range(1000)")  # stands in the write-ahead log
print("open", flush=True)
sys.stdin.readline()
print(connection.execute("select count(*) from rows").fetchone()[0], flush=True)
sys.stdin.readline()
"""


@contextmanager
def held(catalog: Path, how: str):
    """A shell that has the catalog open; calling it asks it how many rows there are."""
    command = [sys.executable, "-c", HOLD, str(catalog), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        try:
            assert shell.stdout.readline() == "open\n"

            def ask() -> int:
                shell.stdin.write("\n")
                shell.stdin.flush()
                return int(shell.stdout.readline())

            yield ask
        finally:
            shell.kill()


@pytest.mark.parametrize("how", ["read", "write"])
def test_a_shell_that_has_it_open_stops_no_run_and_no_reader(how, corpus, tmp_path):
    catalog = Path(corpus.path("catalog.duckdb"))
    with held(catalog, how) as ask:
        write_tar(tmp_path / "source/1.tar", range(3, 5))
        build(tmp_path / "my.toml")
        assert say("sql", corpus.url, "select count(*) as n from rows", "--csv").out == '"n"\n5\n'
        assert "('rows', None, 5, None)" in plain_duckdb(catalog)
        assert ask() == 5  # its views are over the same files
    assert "('rows', None, 5, None)" in plain_duckdb(catalog)  # though the shell was killed


def test_asking_writes_nothing_but_the_catalog(corpus):
    before = data_files(Path(corpus.url))
    say("sql", corpus.url, "from samples")
    say("stats", corpus.url)
    assert data_files(Path(corpus.url)) == before


# Types


def types(connection: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[str, str]]]:
    """view -> its columns with their types."""
    views = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
    return {
        view: [(name, kind) for name, kind, *_ in connection.execute(f'DESCRIBE "{view}"').fetchall()]
        for (view,) in views
    }


@pytest.fixture(scope="module")
def read(tmp_path_factory) -> Path:
    """A folder with a corpus of two pictures that were read."""
    folder = tmp_path_factory.mktemp("read")
    write_tar(folder / "source/0.tar", range(2))
    (folder / "my.toml").write_text(TOML.replace("[sets", "[duplicates]\nnear = -1\n[ocr]\n[sets"))
    build(folder / "my.toml")
    return folder


def test_empty_views_have_the_types_of_filled_ones(read):
    root = open_corpus(read / "my.toml").root
    there = files(root, stages_of(root))
    none = {name for name, found in there.items() if not found}
    assert none == {"fetches", "calls"}, "every other view has files, so that its types come from Parquet"
    with connect(root, there) as filled, duckdb.connect() as empty:
        create(empty, {})
        assert types(empty) == types(filled)
        assert {"rows", "images", "ocr", "selection", "samples", "shards", "accounting", "runs"} <= types(empty).keys()


def test_stages_not_yet_run_are_empty_views(tmp_path):
    write_tar(tmp_path / "source/0.tar", range(2))
    (tmp_path / "my.toml").write_text(TOML.replace("[sets", "[ocr]\n[sets"))
    root = build(tmp_path / "my.toml", until="rows")
    counted = {view: query(root, f"from {view}").num_rows for view in ("rows", "images", "ocr", "shards")}
    assert counted == {"rows": 2, "images": 0, "ocr": 0, "shards": 0}
    assert query(root, "select key, ocr_text, width, samples from samples").num_rows == 2
    assert plain_duckdb(Path(root.path("catalog.duckdb"))) == "[('rows', None, 2, None)]"


def test_a_stage_that_was_taken_out_is_empty_again(read, tmp_path):
    shutil.copytree(read, tmp_path, dirs_exist_ok=True)
    root = open_corpus(tmp_path / "my.toml").root
    assert query(root, "from ocr").num_rows == 2
    (tmp_path / "my.toml").write_text(TOML)
    build(tmp_path / "my.toml")
    assert query(root, "from ocr").num_rows == 0
    assert query(root, "select 1 from samples where ocr_text is not null").num_rows == 0


# Captions are data


def test_hostile_captions_come_through_as_they_are(hostile):
    found = query(hostile, "select extra->>'name' as name, text from rows where text != 'strange'").to_pylist()
    assert {row["name"]: row["text"] for row in found} == HOSTILE
    found = query(hostile, "select extra->>'name' as name, extra->>'said' as said from samples").to_pylist()
    assert {row["name"]: row["said"] for row in found if row["name"]} == HOSTILE


def test_half_surrogates_and_numbers_that_json_has_not_become_what_it_has(hostile):
    (row,) = query(hostile, "select url, host, extra::varchar as extra from samples where text = 'strange'").to_pylist()
    assert row["url"] == "http://\ufffd@x.example/\ufffd" and row["host"] == "x.example"
    assert json.loads(row["extra"]) == {"url": row["url"], "said": "\ufffd alone", "n": [None, None, None]}


def test_hostile_captions_stand_in_the_shards_byte_for_byte(hostile):
    urls = say("urls", hostile.url, "train").out.split()
    samples = {sample["__key__"]: sample for sample in webdataset.WebDataset(urls, shardshuffle=False)}
    expected = {name: text.encode() for name, text in HOSTILE.items() if text.strip()} | {"strange": b"strange"}
    keys = {name: f"{key_of('0.tar', name)}-caption" for name in expected}
    assert {name: samples[key]["txt"] for name, key in keys.items()} == expected
    assert len(samples) == len(expected)
    for name, key in keys.items():
        assert json.loads(samples[key]["json"])["text"] == samples[key]["txt"].decode(), name
    assert verify_root(hostile).problems == []
    (reason,) = query(hostile, "select reason from samples where trim(text) = ''").to_pylist()
    assert reason == {"reason": "no_caption"}


def test_a_terminal_is_shown_no_control_characters_and_no_markup(hostile):
    said = say("sql", hostile.url, "select text, extra from samples where length(text) < 1000")
    assert said.code == 0
    assert not [c for c in said.out if not c.isprintable() and c != "\n"]
    assert r"\x1b[31mred" in said.out
    assert "[bold red]not bold[/]" in said.out
    said = say("sql", hostile.url, "select '[/red]\x1b[31m'")
    assert said.code == 0 and "\x1b" not in said.out


def test_a_terminal_shows_columns_of_hostile_names(hostile):
    assert r"\x1b[31m[/b]" in say("sql", hostile.url, 'select 1 as "\x1b[31m[/b]"').out


def test_a_question_can_hold_any_of_them(hostile):
    for name, text in HOSTILE.items():
        if "\x00" not in text:
            question = f"select extra->>'name' as n from rows where text = {literal(text)}"
            assert query(hostile, question).to_pylist() == [{"n": name}]


def test_gates_see_the_catalog(corpus, tmp_path):
    config = tmp_path / "my.toml"
    config.write_text(TOML + "[gates]\nfew = '(select count(*) from images where width > 10) < 4'\n")
    write_tar(tmp_path / "source/1.tar", range(3, 5))
    with pytest.raises(GateFailed, match="gate few: "):
        build(config)
    assert query(corpus, "select count(*) as n from shards").to_pylist() == [{"n": 3}]
    assert open_corpus(config).root == corpus


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
        ("select nothing from rows", 'Referenced column "nothing" not found'),
        ("select 1 from row", "Table with name row does not exist!"),
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


def test_a_query_sorts_more_than_fits_in_memory_and_leaves_nothing(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spill"))
    (tmp_path / "spill").mkdir()
    before, connect = {*tmp_path.rglob("*")}, duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda config=(): connect(config={**dict(config), "memory_limit": "60MB"}))
    numbers = "select range::varchar || 'abcdefghijklmnopqrstuvwxyz' as s from range(3000000) order by s desc"
    assert query(corpus, f"select count(*) as n from ({numbers} limit 2500000)").to_pylist() == [{"n": 2500000}]
    assert {*tmp_path.rglob("*")} == before


def test_no_control_character_of_a_root_reaches_the_terminal(corpus, tmp_path):
    steering = "\x1b]0;title\x07\x9b2J\u202e\u2066"
    manifest = Path(corpus.path("root.json"))
    settled = json.loads(manifest.read_text())
    own = {"makes": [*settled["makes"], f"a{steering}"], "stages": {f"a{steering}": {"columns": {}, "reasons": []}}}
    for said in (
        say("sql", corpus.url, f"select {steering!r} from nowhere{steering}"),
        say("sql", corpus.url, "select 1", "--output", f"{tmp_path}/a{steering}"),
        say("urls", corpus.url, f"train{steering}"),
        say("stats", f"{tmp_path}/none{steering}"),
        manifest.write_text(json.dumps(settled | own)) and say("stats", corpus.url),
        say("verify", corpus.url),
        manifest.write_text(json.dumps(settled | {"files": [{"path": steering}]})) and say("verify", corpus.url),
    ):
        shown = said.out + said.err
        assert shown and not [c for c in shown if not c.isprintable() and c != "\n"], shown


def test_tars_of_a_corpus_hold_only_plain_files(hostile):
    for path in Path(hostile.url).rglob("*.tar"):
        with tarfile.open(path) as tar:
            assert all(member.isfile() and "/" not in member.name for member in tar)

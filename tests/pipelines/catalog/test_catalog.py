"""The catalog: from any folder, after the root moved, and while others hold it open."""

import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
from support.catalogs import TOML
from support.corpora import build, data_files, say, write_tar
from support.paths import PROJECT

from pipelines.build.corpus import open_corpus
from pipelines.catalog.catalog import build_catalog, connect, create, files, query, refresh_catalog
from pipelines.catalog.gates import GateFailed
from pipelines.engine.alignment import write_alignment
from pipelines.engine.manifest import stages_of
from pipelines.engine.parquet import Corrupt
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from schemas.align import nothing_begun

pytestmark = pytest.mark.usefixtures("catalogs")


PLAIN = "import duckdb, sys; print(duckdb.connect(sys.argv[1], read_only=True).sql('from accounting').fetchall())"


EVERY_VIEW = """
import duckdb, sys
catalog = duckdb.connect(sys.argv[1], read_only=True)
views = [name for name, in catalog.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()]
for view in views:
    catalog.execute(f'SELECT * FROM "{view}"').fetchall()
print(duckdb.__version__, len(views))
"""


def plain_duckdb(catalog: Path, cwd: str = "/") -> str:
    """What DuckDB alone, in another process and folder, says of a catalog."""
    command = [sys.executable, "-c", PLAIN, str(catalog)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ALL_THREE = str([(stage, None, 3, None, True) for stage in ("rows", "images", "selection")])


# Where it can be read


@pytest.mark.slow
def test_it_can_be_asked_from_another_folder(corpus):
    assert plain_duckdb(Path(corpus.path("catalog.duckdb"))) == ALL_THREE


@pytest.mark.slow
def test_its_file_is_of_the_storage_version_that_every_duckdb_since_1_0_reads(corpus):
    """Written by 2.0.0 without a wish, it has version 999, which no DuckDB 1.x opens."""
    header = Path(corpus.path("catalog.duckdb")).read_bytes()[8:20]
    assert (header[:4], int.from_bytes(header[4:], "little")) == (b"DUCK", 64)
    names = "select count(*) from duckdb_views() where not internal and database_name = 'catalog'"
    with duckdb.connect(corpus.path("catalog.duckdb"), read_only=True) as connection:
        ((views,),) = connection.sql(names).fetchall()
        assert views >= 24 and connection.sql("from accounting").fetchall()


@pytest.mark.far
@pytest.mark.parametrize("version", ["1.1.3", "1.4.4", "2.0.0"])
def test_every_view_is_read_by_duckdb_of(version, corpus, tmp_path):
    """From wheels in folders of their own; the other tests read with the pinned one."""
    wheels = tmp_path / "wheels"
    subprocess.run(
        [shutil.which("uv") or Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--no-deps",
         "--python", sys.executable, "--target", wheels, f"duckdb=={version}"], check=True, timeout=300,
    )  # fmt: skip
    command = [sys.executable, "-c", EVERY_VIEW, corpus.path("catalog.duckdb")]
    done = subprocess.run(
        command, cwd="/", env={"PYTHONPATH": str(wheels)}, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    said, views = done.stdout.split()
    assert (said, done.stderr) == (version, "") and int(views) >= 24


def test_it_works_after_the_root_moved(corpus, tmp_path):
    moved = tmp_path / "elsewhere/moved"
    moved.parent.mkdir()
    Path(corpus.url).rename(moved)
    said = say("sql", moved, "select count(*) as n from samples", "--csv")
    assert (said.code, said.out) == (0, '"n"\n3\n')
    assert plain_duckdb(moved / "catalog.duckdb") == ALL_THREE


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("how", ["read", "write"])
def test_a_shell_that_has_it_open_stops_no_run_and_no_reader(how, corpus, tmp_path):
    catalog = Path(corpus.path("catalog.duckdb"))
    with held(catalog, how) as ask:
        write_tar(tmp_path / "source/1.tar", range(3, 5))
        build(tmp_path / "my.toml")
        assert say("sql", corpus.url, "select count(*) as n from rows", "--csv").out == '"n"\n5\n'
        assert "('rows', None, 5, None, True)" in plain_duckdb(catalog)
        assert ask() == 5  # its views are over the same files
    assert "('rows', None, 5, None, True)" in plain_duckdb(catalog)  # though the shell was killed


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
    """A folder with a corpus of two pictures that were read, and with training and an alignment."""
    folder = tmp_path_factory.mktemp("read")
    write_tar(folder / "source/0.tar", range(2))
    pico = PROJECT / "training/pico"
    more = f'[duplicates]\nnear = -1\n[ocr]\n[training]\nfolders = ["{pico}"]\n[sets'
    (folder / "my.toml").write_text(TOML.replace("[sets", more))
    write_alignment(build(folder / "my.toml"), nothing_begun())
    return folder


@pytest.mark.slow
def test_empty_views_have_the_types_of_filled_ones(read):
    root = open_corpus(read / "my.toml").root
    there = files(root, stages_of(root))
    none = {name for name, found in there.items() if not found}
    assert none == {"fetches", "calls", "comparisons"}, "all other views have files, so that types come from Parquet"
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
    assert plain_duckdb(Path(root.path("catalog.duckdb"))) == "[('rows', None, 2, None, True)]"


@pytest.mark.slow
def test_a_stage_that_was_taken_out_is_empty_again(read, tmp_path):
    shutil.copytree(read, tmp_path, dirs_exist_ok=True)
    root = open_corpus(tmp_path / "my.toml").root
    assert query(root, "from ocr").num_rows == 2
    (tmp_path / "my.toml").write_text(TOML)
    build(tmp_path / "my.toml")
    assert query(root, "from ocr").num_rows == 0
    assert query(root, "select 1 from samples where ocr_text is not null").num_rows == 0


@pytest.mark.slow
def test_gates_see_the_catalog(corpus, tmp_path):
    config = tmp_path / "my.toml"
    config.write_text(TOML + "[gates]\nfew = '(select count(*) from images where width > 10) < 4'\n")
    write_tar(tmp_path / "source/1.tar", range(3, 5))
    with pytest.raises(GateFailed, match="gate few: "):
        build(config)
    assert query(corpus, "select count(*) as n from shards").to_pylist() == [{"n": 3}]
    assert open_corpus(config).root == corpus

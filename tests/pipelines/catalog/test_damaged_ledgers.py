"""A damaged file of the ledger stops no run and no question; `verify` names it."""

import json
from pathlib import Path

import pytest
from support.corpora import build, write_tar

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.catalog.stats import corpus_stats
from pipelines.engine.ledger import Ledger, runs
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root

pytestmark = pytest.mark.usefixtures("catalogs")

DAMAGES = {
    "empty": lambda data: b"",
    "torn": lambda data: data[: len(data) // 2],
    "without its last byte": lambda data: data[:-1],
    "its beginning is lost": lambda data: data[-20:],
    "zeros": lambda data: bytes(len(data)),
}


def damage(root: Root, name: str, how: str) -> str:
    (found,) = Path(root.url).glob(name)
    found.write_bytes(DAMAGES[how](found.read_bytes()))
    return str(found.relative_to(root.url))


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGES)
def test_a_ledger_that_is_cut_off_is_left_out_of_the_view(how, corpus, tmp_path):
    name = damage(corpus, "runs/*/run.parquet", how)
    hint = f"{name}: is cut off; the views of the ledger leave it out; remove it"
    assert plan(open_corpus(tmp_path / "my.toml")).hints == [hint]
    assert query(corpus, "select count(*) as n from runs").to_pylist() == [{"n": 0}]
    build(tmp_path / "my.toml")
    write_tar(tmp_path / "source/1.tar", range(3, 5))
    build(tmp_path / "my.toml")
    statuses = query(corpus, "select status from runs").to_pylist()
    assert [row["status"] for row in statuses] and {row["status"] for row in statuses} == {"completed"}
    assert corpus_stats(corpus)[-1][2]
    (problem,) = verify_root(corpus).problems
    assert problem.startswith(f"{name}: cannot be read: ") and problem.endswith("; remove it")
    Path(corpus.path(name)).unlink()
    assert verify_root(corpus).problems == plan(open_corpus(tmp_path / "my.toml")).hints == []


@pytest.mark.slow
@pytest.mark.parametrize("file", ["releases", "distributions", "work-rows", "changes-images"])
def test_any_file_of_the_ledger_may_be_cut_off(file, corpus, tmp_path):
    name = damage(corpus, f"runs/*/{file}.parquet", "torn")
    write_tar(tmp_path / "source/1.tar", range(3, 5))
    build(tmp_path / "my.toml")
    for view in ("runs", "work", "changes", "releases", "growth", "drift"):
        query(corpus, f"from {view}")
    assert [problem.split(": ")[0] for problem in verify_root(corpus).problems] == [name]


def test_the_catalog_follows_new_runs_where_nothing_is_damaged(corpus):
    Ledger.start(corpus, "my.toml", "0").end("completed")
    import duckdb

    with duckdb.connect(corpus.path("catalog.duckdb"), read_only=True) as connection:
        assert connection.sql("select count(*) from runs").fetchall() == [(len(runs(corpus)),)]


NOTES = {
    "torn": b'{"fing',
    "empty": b"",
    "without fields": b"{}",
    "a list": b"[]",
    "a text": b'"work"',
    "no text": b"\xff\xfe",
    "work without fields": b'{"fingerprint": null, "work": {}, "changes": []}',
    "deep": b"[" * 5000,
}


@pytest.mark.slow
@pytest.mark.parametrize("note", NOTES)
def test_a_damaged_note_of_a_dead_run_is_dropped(note, corpus, tmp_path):
    dead = Ledger.start(corpus, "my.toml", "0")
    corpus.write(f"runs/{dead.run}/images/00000.json", NOTES[note])
    assert verify_root(corpus).problems == [
        f"runs/{dead.run}/images/00000.json: is not a note of the ledger; the next run drops it"
    ]
    build(tmp_path / "my.toml")
    assert Ledger(corpus, dead.run).row()["status"] == "died"
    assert verify_root(corpus).problems == []


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"rows": "3"}, {"item": 3}, {"item": None}, {"host": ["a"]}, {"rows": 1 << 70}])
def test_a_note_with_a_value_of_another_type_is_dropped_and_others_stay(change, corpus, tmp_path):
    dead = Ledger.start(corpus, "my.toml", "0")
    fingerprint = open_corpus(tmp_path / "my.toml").commits("images")["images"][0].fingerprint
    dead.record("images", "00000", fingerprint, [], partition=0, rows=3, kept=3, made=3, started=0.0)
    note = json.loads(corpus.read(f"runs/{dead.run}/images/00000.json"))
    odd = note | {"work": note["work"] | change}
    corpus.write(f"runs/{dead.run}/images/00001.json", json.dumps(odd).encode())
    build(tmp_path / "my.toml")
    work = query(corpus, f"select item, rows from work where run = '{dead.run}'").to_pylist()
    assert work == [{"item": "00000", "rows": 3}]


@pytest.mark.slow
@pytest.mark.parametrize("file", ["work-images", "changes-images", "releases"])
def test_a_damaged_file_of_a_dead_run_is_written_anew(file, corpus, tmp_path):
    dead = Ledger.start(corpus, "my.toml", "0")
    commit = open_corpus(tmp_path / "my.toml").commits("images")["images"][0]
    dead.record("images", "00000", commit.fingerprint, [], partition=0, rows=3, kept=3, made=3, started=0.0)
    corpus.write(f"runs/{dead.run}/{file}.parquet", b"PAR1 torn")
    build(tmp_path / "my.toml")
    assert query(corpus, f"select rows from work where run = '{dead.run}'").to_pylist() == [{"rows": 3}]
    left = [problem.split(": ")[0] for problem in verify_root(corpus).problems]
    assert left == ([f"runs/{dead.run}/releases.parquet"] if file == "releases" else [])

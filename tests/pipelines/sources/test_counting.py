"""Large tables of text are counted by workers: what they say is what the driver says, and nothing of it is left."""

from pathlib import Path

import pytest
from support.corpora import build
from support.split_sources import KINDS, rows_of, write_corpus

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import has_work, plan
from pipelines.engine.root import Root
from pipelines.maintain.clean import garbage
from pipelines.maintain.verify import verify_root
from pipelines.stages import row_counts
from pipelines.stages.row_counts import LookInto
from schemas.errors import UserError

TEXTS = [name for name in KINDS if name != "laion"]


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """The files that workers look into."""
    files, look_into = [], LookInto.__call__
    monkeypatch.setattr(
        LookInto, "__call__", lambda self, root, look: (files.append(look.path), look_into(self, root, look))[1]
    )
    return files


@pytest.mark.parametrize("name", KINDS)
def test_workers_count_tables_of_text(name, counted, tmp_path, monkeypatch):
    kind, write, _ = KINDS[name]
    (tmp_path / "source").mkdir()
    write(tmp_path / "source")
    build(write_corpus(tmp_path, kind, "here"), until="rows")
    assert not counted, "the file is small"
    monkeypatch.setattr(row_counts, "SMALL", 0)
    root = build(write_corpus(tmp_path, kind, "there"), until="rows")
    assert len(counted) == (name in TEXTS)
    assert rows_of(tmp_path / "there") == rows_of(tmp_path / "here") != {}
    assert not root.folders(row_counts.COUNTED) and verify_root(root).garbage == []


def test_a_file_that_changed_is_looked_into_by_workers_again(counted, tmp_path, monkeypatch):
    monkeypatch.setattr(row_counts, "SMALL", 0)
    (tmp_path / "source").mkdir()
    KINDS["csv"][1](tmp_path / "source")
    config = write_corpus(tmp_path, "folder", "corpus")
    build(config, until="rows")
    build(config, until="rows")
    assert counted == ["a.csv"]
    with (tmp_path / "source/a.csv").open("a") as file:
        file.write("new.png,new\n")
    build(config, until="rows")
    assert counted == ["a.csv", "a.csv"]


@pytest.mark.parametrize(
    ("kind", "name", "content", "says"),
    [
        ("folder", "a.csv", b"image,caption\na.png,caf\xe9\n", "source.encoding: a.csv, line 2, is not UTF-8"),
        ("folder", "a.jsonl", b'{"image": "a.png", "wrong": "b"}\n', "source.text_column: a.jsonl has none of"),
        ("conversations", "a.jsonl", b'{"conversations": "caf\xe9"}\n', "source.encoding: a.jsonl, line 1, is not"),
    ],
)
def test_what_the_user_has_to_decide_is_said_as_by_the_driver(kind, name, content, says, tmp_path, monkeypatch):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / name).write_bytes(content)
    config, messages = write_corpus(tmp_path, kind, "corpus"), []
    for small in (1 << 20, 0):
        monkeypatch.setattr(row_counts, "SMALL", small)
        with pytest.raises(UserError) as raised:
            build(config, until="rows")
        messages.append(str(raised.value))
    assert messages[0] == messages[1] and says in messages[0]
    (tmp_path / "source" / name).write_bytes(content.replace(b"\xe9", b"e").replace(b"wrong", b"caption"))
    assert rows_of(Path(build(config, until="rows").url)), "what was left of the failed run is no hindrance"


def test_a_run_begins_without_waiting_for_the_count(counted, tmp_path, monkeypatch):
    monkeypatch.setattr(row_counts, "SMALL", 0)
    (tmp_path / "source").mkdir()
    KINDS["csv"][1](tmp_path / "source")
    config = write_corpus(tmp_path, "folder", "corpus")
    with monkeypatch.context() as patched:
        patched.setattr(row_counts, "rows_in", lambda *_: pytest.fail("the file was read"))
        assert has_work(open_corpus(config), "rows")
    assert len(plan(open_corpus(config), "rows").stages[0].todo) == 30, "a plan says how many partitions there will be"
    build(config, until="rows")
    assert not has_work(open_corpus(config), "rows")


def test_counts_of_a_killed_run_are_taken_over_and_can_be_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(row_counts, "SMALL", 0)
    (tmp_path / "source").mkdir()
    KINDS["jsonl"][1](tmp_path / "source")
    config = write_corpus(tmp_path, "folder", "corpus")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(row_counts, "forget_results", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        build(config, until="rows")
    root = Root(str(tmp_path / "corpus"))
    assert len(root.files(row_counts.FOLDER)) >= 1
    assert {*garbage(root)} == {f"{row_counts.FOLDER}/{name}" for name in root.files(row_counts.FOLDER)}
    with monkeypatch.context() as patched:
        patched.setattr(LookInto, "__call__", lambda *_: pytest.fail("counted again"))
        build(config, until="rows")
    assert not root.folders(row_counts.COUNTED)

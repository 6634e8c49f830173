"""Whatever process is killed, and whenever: the next run leaves the files of a run that nobody disturbed."""

import re
import shutil
from dataclasses import replace
from hashlib import sha256
from itertools import cycle
from pathlib import Path
from unittest.mock import patch

import pytest
from support.corpora import ONE_PROCESS, build, data_files, picture, write_tar
from support.kills import (
    DIED,
    ENDED,
    ORDER,
    VANISHED,
    Clean,
    Run,
    finish,
    kill_at,
    kill_at_random,
    pictures,
    points,
    stage_of,
    wait_for,
)

from pipelines.build.corpus import open_corpus
from pipelines.catalog.catalog import query
from pipelines.engine.root import Root
from pipelines.maintain.clean import clean_root
from pipelines.maintain.verify import verify_root

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in Linux's /proc")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Clean:
    """Four pictures in two partitions."""
    folder = tmp_path_factory.mktemp("tiny")
    for n in range(2):
        write_tar(folder / f"source/{n}.tar", range(2 * n, 2 * n + 2))
    return Clean(folder / "clean", folder / "source", max_bytes=10_000_000).make()


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Clean:
    return pictures(tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="module")
def changed(clean, tmp_path_factory) -> Clean:
    """That corpus after two captions, two options and the number of source files have changed."""
    folder = tmp_path_factory.mktemp("changed")
    shutil.copytree(clean.source, folder / "source")
    (folder / "source/3.tar").unlink()
    for n in range(2):
        said = {6 * n + 3: "another"}
        write_tar(folder / f"source/{n}.tar", range(6 * n, 6 * n + 6), lambda n: said.get(n, f"picture {n}"))
    return Clean(folder / "clean", folder / "source", clean.max_bytes + 400, min_confidence=0.97).make(clean)


def test_a_run_killed_again_and_again_ends_as_if_nothing_had_happened(tiny, tmp_path):
    config = tiny.before("rows", tmp_path)
    for point in ("images:payload", "ocr:recorded", "selection:committed", "shards:release"):
        assert point in points()
        kill_at(point, config)
    finish(config)
    assert not any((faults := tiny.faults(config)).values()), faults


TWO_TARS = f"""
root = "corpus"
[source]
kind = "webdataset"
path = "source"
[duplicates]
near = -1
{{exclude}}
[sets.train]
samples_per_shard = 3
{{where}}
{ONE_PROCESS}"""


@pytest.fixture
def two_tars(tmp_path) -> Path:
    """The configuration of a corpus of two tars that was made; two pictures are in both."""
    for n in range(2):
        write_tar(tmp_path / f"source/{n}.tar", range(2 * n, 2 * n + 4))
    (tmp_path / "excluded.txt").write_text("\n".join(sha256(picture(n)[0]).hexdigest() for n in (1, 4)))
    (tmp_path / "my.toml").write_text(TWO_TARS.format(exclude="", where=""))
    build(tmp_path / "my.toml")
    return tmp_path / "my.toml"


class Died(BaseException):
    """A run that ends at a point of a commit, without a process that could be killed."""


def die_at(point: str, config: Path) -> None:
    def die(name: str) -> None:
        if name == point:
            raise Died(name)

    with patch("pipelines.engine.commit_many.point", die), pytest.raises(Died):
        build(config)


@pytest.mark.parametrize("stage", ["rows", "duplicates", "selection"])
def test_what_a_killed_run_began_and_was_then_taken_back_leaves_no_trace(stage, two_tars, tmp_path):
    """Nothing that is left by then says any more that there was a change."""
    before, source = data_files(tmp_path / "corpus"), tmp_path / "source"
    if stage == "rows":
        (source / "0.tar").rename(tmp_path / "0.tar")
        write_tar(source / "0.tar", range(1, 3))
    exclude = 'exclude = ["excluded.txt"]' if stage == "duplicates" else ""
    where = "where = \"text NOT IN ('picture 1', 'picture 4')\"" if stage == "selection" else ""
    two_tars.write_text(TWO_TARS.format(exclude=exclude, where=where))
    die_at(f"{stage}:committed", two_tars)
    assert data_files(tmp_path / "corpus") != before
    if stage == "rows":
        (tmp_path / "0.tar").rename(source / "0.tar")  # the very file, of the same time
    two_tars.write_text(TWO_TARS.format(exclude="", where=""))
    build(two_tars)
    assert data_files(tmp_path / "corpus") == before


def test_a_new_file_that_is_gone_again_after_a_kill_leaves_no_rows(two_tars, tmp_path):
    before, new = data_files(tmp_path / "corpus"), write_tar(tmp_path / "source/2.tar", range(4))
    die_at("rows:committed", two_tars)
    new.unlink()
    build(two_tars)
    after = data_files(tmp_path / "corpus")
    assert {name for name, _ in before.items() ^ after.items()} == {"root.json"}, "its number is never given again"
    assert verify_root(Root(str(tmp_path / "corpus"))).problems == []


def test_what_was_being_written_when_a_run_was_killed_is_garbage(tiny, tmp_path):
    config, corpus = tiny.before("shards", tmp_path), tmp_path / "corpus"
    (run,) = (f"runs/{path.name}" for path in corpus.glob("runs/*"))
    folders = [".", "rows", "rows/split", "images", "ocr/chunks/00000", "selection", "shards", run, f"{run}/shards"]
    for folder in folders:
        (corpus / folder).mkdir(parents=True, exist_ok=True)
        (corpus / folder / ".tmp-0").write_bytes(b"half of a fi")
    halves = {str(path.relative_to(corpus)) for path in corpus.rglob(".tmp-0")}
    root = open_corpus(config).root
    assert set(verify_root(root).garbage) == halves
    assert clean_root(root, grace=0, keep=1) == (len(folders), 12 * len(folders))
    assert not list(corpus.rglob(".tmp-0"))


@pytest.mark.slow
@pytest.mark.parametrize("point", [point for point in points() if point != VANISHED])
def test_killed_at_a_point(clean, tmp_path, point):
    config = clean.before(stage_of(point), tmp_path)
    status = kill_at(point, config)
    finish(config)
    last = query(open_corpus(config).root, "SELECT status FROM runs ORDER BY started DESC LIMIT 2")
    assert last["status"].to_pylist() == ["completed", status]
    assert not any((faults := clean.faults(config)).values()), faults


@pytest.mark.slow
def test_rows_that_were_put_down_in_chunks_are_not_computed_again(clean, tmp_path):
    config = clean.before("ocr", tmp_path)
    kill_at("ocr:chunk", config)
    (chunk,) = (tmp_path / "corpus").glob("ocr/chunks/*/*.parquet")
    finish(config)
    made = query(open_corpus(config).root, "SELECT sum(made)::INT AS made FROM work WHERE stage = 'ocr'")
    assert made["made"].to_pylist() == [11 - 2], "one of the twelve pictures is left out before"
    assert not chunk.exists()


@pytest.mark.slow
def test_killed_at_every_point_of_a_rebuild(clean, changed, tmp_path):
    """Old and new versions of partitions stand side by side most of the time."""
    config = changed.configure(tmp_path)
    shutil.copytree(clean.folder / "corpus", tmp_path / "corpus")
    for point in points():
        kill_at(point, config)
    finish(config)
    assert not any((faults := changed.faults(config)).values()), faults


@pytest.mark.slow
def test_a_rebuild_ends_where_a_build_from_nothing_does(changed, tmp_path):
    """What it knows beyond that: the number of the partition that is gone is never given again."""
    fresh = replace(changed, folder=tmp_path).make()
    assert {name: changed.files[name] for name in fresh.files if name != "root.json"} == {
        name: sha256 for name, sha256 in fresh.files.items() if name != "root.json"
    }
    assert changed.files.keys() == fresh.files.keys()


@pytest.mark.slow
@pytest.mark.parametrize("stage, victim", list(zip(ORDER, cycle(["all", "run", "run", "job", "worker"]))))
def test_killed_at_a_random_moment(clean, tmp_path, stage, victim):
    config, killed = kill_at_random(replace(clean, beam=""), stage, victim, tmp_path)
    finish(config)
    assert not any((faults := clean.faults(config)).values()), (killed, faults)


@pytest.mark.slow
def test_a_worker_that_dies_alone_ends_the_stage_in_one_line(clean, tmp_path):
    config = replace(clean, beam="").before("ocr", tmp_path)
    with Run(config) as run:
        assert wait_for(lambda: list(tmp_path.glob("corpus/runs/*/ocr/*.json")), ENDED)
        assert run.kill("worker") == "worker"
        assert run.wait(ENDED) == 1
        assert run.leaves_nothing()
    assert re.fullmatch(DIED.format("ocr"), run.said.read_text())
    finish(config)
    assert not any((faults := clean.faults(config)).values()), faults

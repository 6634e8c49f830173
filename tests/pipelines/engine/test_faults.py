"""A root that is moved, full or read-only while it is built is one line; `verify` says what is missing afterwards."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.corpora import ONE_PROCESS, build, in_this_process, write_tar
from support.paths import PROJECT

from flows.errors import line_of
from pipelines.build.corpus import open_corpus
from pipelines.build.run import begin, run_stage
from pipelines.engine.lock import hold
from pipelines.engine.root import Corrupt, Root, fault
from pipelines.engine.worker import STOPPED, one_line
from pipelines.maintain.verify import verify_root

TOML = f"""
root = "corpus"
[source]
kind = "webdataset"
path = "source"
[sets.train]
{ONE_PROCESS}"""


@pytest.fixture
def corpus(tmp_path) -> Root:
    write_tar(tmp_path / "source/0.tar", range(3))
    (tmp_path / "my.toml").write_text(TOML)
    return build(tmp_path / "my.toml")


@pytest.mark.slow
def test_an_error_of_a_runner_s_server_is_its_details():
    """gRPC writes a block of lines, of which the last is a bracket."""
    block = (
        "<_InactiveRpcError of RPC that terminated with:\n\tstatus = StatusCode.UNAVAILABLE\n"
        '\tdetails = "failed to connect to all addresses; last error: 127.0.0.1:50000: refused"\n'
        '\tdebug_error_string = "UNKNOWN:Error {grpc_status:14}"\n>'
    )
    assert one_line(RuntimeError(block)) == "failed to connect to all addresses; last error: 127.0.0.1:50000: refused"
    assert one_line(RuntimeError("the second line\nis >")) == "is >"
    assert one_line(RuntimeError("without details\n>")) == ">"


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["rows", "images", "selection", "shards"])
def test_a_folder_that_was_deleted_is_missing(folder, corpus, tmp_path):
    shutil.rmtree(corpus.path(folder))
    problems = verify_root(corpus).problems
    gone = "shards/train.json: is gone; run again" if folder == "shards" else f"{folder}: 1 of 1 partitions missing"
    assert any(problem.startswith(gone) for problem in problems), problems
    build(tmp_path / "my.toml")
    assert verify_root(corpus).problems == []


def test_a_stage_that_was_never_begun_is_not_missing(tmp_path):
    write_tar(tmp_path / "source/0.tar", range(3))
    (tmp_path / "my.toml").write_text(TOML)
    assert verify_root(build(tmp_path / "my.toml", until="rows")).problems == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_takes_no_more_is_one_line_that_names_the_file(number, corpus, tmp_path, monkeypatch):
    """And the run's own end, which cannot be written either, does not hide it."""

    def full(*_):
        raise OSError(number, os.strerror(number), corpus.path("images/00001.parquet"))

    write_tar(tmp_path / "source/1.tar", range(3, 5))
    monkeypatch.setattr("pipelines.engine.root.os.replace", full)
    with in_this_process(), pytest.raises(OSError, match=os.strerror(number)) as error:
        from pipelines.build.run import run

        run(tmp_path / "my.toml")
    line = fault(error.value)
    assert line.startswith(f"{corpus.path('images/00001.parquet')}: {os.strerror(number)}: ") and "\n" not in line
    assert one_line(error.value) == STOPPED + line  # a worker's: trying again does not mend it
    monkeypatch.undo()
    build(tmp_path / "my.toml")
    assert verify_root(corpus).problems == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_root_that_cannot_be_written_now_is_no_mistake_of_the_configuration(number, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(number, os.strerror(number), str(tmp_path / "corpus"))

    monkeypatch.setattr("pipelines.engine.root.Root.create", refused)
    with pytest.raises(OSError, match=os.strerror(number)) as error, hold(Root(str(tmp_path / "corpus"))):
        pass
    code, line = line_of(error.value)
    assert code == 1 and line.startswith(f"{tmp_path}/corpus: {os.strerror(number)}: ")


def test_a_root_that_was_moved_is_not_begun_anew(corpus, tmp_path):
    (tmp_path / "corpus").rename(tmp_path / "elsewhere")
    for name in ("images/00000.parquet", "runs/a/run.parquet", "root.json"):
        with pytest.raises(FileNotFoundError) as error:
            corpus.write(name, b"x")
        assert "was it moved or removed? put it back and run again" in fault(error.value)
    assert not (tmp_path / "corpus").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["rows", "images", "shards", ""])
@pytest.mark.parametrize("gone", ["moved", "removed", "runs removed"])
def test_a_root_that_goes_away_during_a_run_is_one_line(gone, stage, corpus, tmp_path):
    """Before any stage, or after the last one, when the run only has to be ended."""
    write_tar(tmp_path / "source/1.tar", range(3, 5))

    def go() -> None:
        if gone == "moved":
            (tmp_path / "corpus").rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(tmp_path / ("corpus" if gone == "removed" else "corpus/runs"))

    with in_this_process(), pytest.raises((OSError, Corrupt)) as error, begin(open_corpus(tmp_path / "my.toml")) as run:
        for name in run.corpus.stages():
            if name == stage:
                go()
            run_stage(run, name)
        if not stage:
            go()
    code, line = line_of(error.value)
    assert code == 1 and "\n" not in line
    assert "was it moved or removed? put it back and run again" in line
    if gone != "runs removed":
        assert not (tmp_path / "corpus").exists()


def test_a_bug_is_no_fault():
    assert fault(ValueError("x")) is None and fault(OSError("of no number")) is None


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
from pipelines.build.run import run
from support.corpora import in_this_process
from pipelines.engine.root import fault
with in_this_process():
    try:
        run(sys.argv[1])
    except OSError as error:
        print(fault(error))
"""


@pytest.mark.slow
def test_a_real_limit_of_the_system_is_one_line(corpus, tmp_path):
    """Files may have 3,000 bytes: the tar of images does not fit."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 3000
    write_tar(tmp_path / "source/1.tar", range(3, 30))
    env = {**os.environ, "PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "my.toml")], capture_output=True, text=True, env=env, timeout=300
    )
    assert "File too large: files may not be so large here" in done.stdout and done.stdout.count("\n") == 1, done
    build(tmp_path / "my.toml")
    assert verify_root(corpus).problems == []
    assert not [*Path(corpus.url).rglob(".tmp-*")]


def test_what_does_not_fit_leaves_nothing_behind(tmp_path):
    """A file of a full disk fails when it is written, flushed or closed: in each case it is removed."""
    program = """
import resource, sys, pathlib
from pipelines.engine.root import new_file
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
for size in (5, 11, 100_000):
    path = pathlib.Path(sys.argv[1]) / str(size)
    try:
        with new_file(path) as file:
            file.write(bytes(size))
        print(size, "fits")
    except OSError as error:
        print(size, error.strerror)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(PROJECT)})
    assert done.stdout == "5 fits\n11 File too large\n100000 File too large\n", done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["5"]

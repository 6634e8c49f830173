"""The processes that do a run's work: which they are, what is said when one ends, and that none is left behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.engine.root import Root
from pipelines.engine.worker import StageFailed, Stopped, Work
from pipelines.engine.workers import Workers
from schemas.config.model import BeamConfig

TWO = BeamConfig(options=["--direct_running_mode=multi_processing", "--direct_num_workers=2"])


@dataclass(frozen=True)
class Ends:
    """Work that ends its worker, alone or with all others, or raises what is no Unicode."""

    says: str | None = None
    alone: bool = False

    name = "ends"

    def make(self, item: int) -> None:
        if self.says:
            raise ValueError(self.says)
        if self.alone:
            os.kill(os.getpid(), signal.SIGKILL)
        os.killpg(0, signal.SIGKILL)


@dataclass(frozen=True)
class Notes:
    """Work that puts down which process makes an item, with what is imported there and how many threads it has."""

    folder: Path
    at_once: int = 1
    one_process: bool = False
    holds_model: bool = False
    seconds: float = 0.0

    name = "notes"

    def make(self, item: int) -> None:
        print(f"making {item}", flush=True)
        note = {"pid": os.getpid(), "parent": os.getppid(), "beam": "apache_beam" in sys.modules, "at": time.time()}
        (self.folder / f"{item}.json").write_text(json.dumps(note))
        time.sleep(self.seconds)


@dataclass(frozen=True)
class Stops:
    name = "stops"

    def make(self, item: int) -> None:
        raise Stopped("the key is wrong")


def make_all(work: Work, items: list, tmp_path: Path) -> None:
    with Workers(BeamConfig(), Root(str(tmp_path))) as workers:
        workers.make(work, items, "log", lambda: None)


def failure(work: Work, tmp_path: Path) -> str:
    with pytest.raises(StageFailed) as error:
        make_all(work, [1], tmp_path)
    return str(error.value)


def notes(folder: Path) -> list[dict]:
    """What was put down, in the order in which it was; it is removed."""
    found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    for path in folder.glob("*.json"):
        path.unlink()
    return sorted(found, key=lambda note: note["at"])


def is_alive(pid: int) -> bool:
    """Whether a process lives, and is not one that has ended and that nobody has asked for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_end(pids: set[int], seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while (alive := any(map(is_alive, pids))) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive


def test_a_job_that_ends_before_it_has_begun_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    said = failure(Ends(), tmp_path)
    assert said == f"ends: a worker died (exit code 1); the workers' log is {tmp_path}/log"


@pytest.mark.slow
def test_what_is_no_unicode_is_said_all_the_same(tmp_path):
    assert failure(Ends(says="a\udcff.png is bad"), tmp_path).startswith("ends: a\\udcff.png is bad; ")
    assert b"ValueError: a\\udcff.png is bad" in (tmp_path / "log").read_bytes()


@pytest.mark.slow
def test_a_job_that_is_killed_leaves_nothing_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    assert "a worker died (exit code -9)" in failure(Ends(), tmp_path)
    assert [*(tmp_path / "tmp").iterdir()] == []


def test_nothing_to_make_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    make_all(Ends(), [], tmp_path)
    assert not (tmp_path / "log").exists()


@pytest.mark.slow
def test_workers_serve_all_stages_of_a_run_without_beam(tmp_path):
    (made := tmp_path / "made").mkdir()
    with Workers(TWO, Root(str(tmp_path))) as workers:
        workers.make(Notes(made, seconds=0.2), [1], "first.log", lambda: None)
        first = notes(made)
        workers.make(Notes(made, seconds=0.2), [1, 2, 3, 4, 5], "second.log", lambda: None)
        second = notes(made)
        workers.make(Notes(made, at_once=3, one_process=True, seconds=0.2), [1, 2, 3, 4], "third.log", lambda: None)
        third = notes(made)
        job = workers.job.process.pid
    assert len({note["pid"] for note in first}) == 1, "no more workers than items"
    assert len({note["pid"] for note in second}) == 2
    assert {note["pid"] for note in [*first, *third]} < {note["pid"] for note in second}
    assert third[2]["at"] - third[0]["at"] < 0.2 <= third[3]["at"] - third[0]["at"], "three at once"
    assert not any(note["beam"] for note in [*first, *second, *third])
    logs = [(tmp_path / f"{name}.log").read_text() for name in ("first", "second", "third")]
    assert [log.count("making") for log in logs] == [1, 5, 4], "each stage has a log of its own"
    assert all_end({job, *(note[who] for note in second for who in ("pid", "parent"))})


@pytest.mark.slow
def test_a_stage_begins_at_once_when_another_was_there_before(tmp_path):
    (made := tmp_path / "made").mkdir()
    with Workers(TWO, Root(str(tmp_path))) as workers:
        workers.make(Notes(made), [1, 2], "log", lambda: None)
        notes(made)
        took = []
        for _ in range(3):
            began = time.time()
            workers.make(Notes(made), [1, 2], "log", lambda: None)
            took.append(notes(made)[0]["at"] - began)
    assert min(took) < 0.5


@pytest.mark.slow
def test_workers_that_hold_a_model_end_with_their_stage(tmp_path):
    (made := tmp_path / "made").mkdir()
    with Workers(TWO, Root(str(tmp_path))) as workers:
        workers.make(Notes(made, holds_model=True, seconds=0.2), [1, 2], "log", lambda: None)
        holders = notes(made)
        assert all_end({note["pid"] for note in holders})
        workers.make(Notes(made), [1], "log", lambda: None)
        (after,) = notes(made)
    assert after["pid"] not in {note["pid"] for note in holders}
    assert {note["parent"] for note in holders} == {after["parent"]}, "forked from what has imported all"


@pytest.mark.slow
def test_a_killed_worker_ends_the_stage_in_one_line_and_the_next_begins_anew(tmp_path):
    (made := tmp_path / "made").mkdir()
    with Workers(TWO, Root(str(tmp_path))) as workers:
        workers.make(Notes(made, seconds=0.2), [1, 2], "log", lambda: None)
        before = {note[who] for note in notes(made) for who in ("pid", "parent")} | {workers.job.process.pid}
        with pytest.raises(StageFailed) as error:
            workers.make(Ends(alone=True), [1, 2, 3], "log", lambda: None)
        assert str(error.value) == f"ends: a worker died (exit code -9); the workers' log is {tmp_path}/log"
        assert all_end(before)
        with pytest.raises(StageFailed, match=r"^ends: it is bad; the workers' log is "):
            workers.make(Ends(says="it is bad"), [1, 2, 3], "log", lambda: None)
        with pytest.raises(Stopped, match=r"^the key is wrong$"):
            workers.make(Stops(), [1, 2, 3], "log", lambda: None)
        workers.make(Notes(made), [1, 2], "log", lambda: None)
        assert len(notes(made)) == 2


@pytest.mark.slow
def test_the_process_that_workers_are_forked_from_is_one_of_them(tmp_path):
    (made := tmp_path / "made").mkdir()

    def kill() -> None:
        for note in notes(made):
            os.kill(note["parent"], signal.SIGKILL)

    with pytest.raises(StageFailed, match=r"a worker died"), Workers(TWO, Root(str(tmp_path))) as workers:
        workers.make(Notes(made, seconds=60), [1, 2], "log", kill)


@pytest.mark.slow
def test_another_runner_has_workers_of_its_own(tmp_path):
    (made := tmp_path / "made").mkdir()
    beam = BeamConfig(runner="support.elsewhere.Elsewhere", options=[])
    with Workers(beam, Root(str(tmp_path))) as workers:
        for _ in range(2):
            workers.make(Notes(made), [1, 2], "log", lambda: None)
            assert [(note["beam"], note["parent"]) for note in notes(made)] == [(True, os.getpid())] * 2
            assert workers.job is None, "it is left with nothing of a stage"
        with pytest.raises(Stopped, match=r"^the key is wrong$"):
            workers.make(Stops(), [1, 2, 3], "log", lambda: None)


@pytest.mark.parametrize("early", [True, False])
def test_nothing_outlives_the_parent(tmp_path, early):
    """However early it is killed: also while the child imports Beam."""
    (made := tmp_path / "made").mkdir()
    child = os.fork()
    if child == 0:  # this process again, as its classes can be pickled
        try:
            workers = Workers(TWO, Root(str(tmp_path)))
            tell = lambda: (tmp_path / "job").write_text(str(workers.job.process.pid))  # noqa: E731
            workers.make(Notes(made, seconds=60), [1, 2], "log", tell)
        finally:
            os._exit(1)
    until = time.monotonic() + 60
    awaited = tmp_path / "job" if early else made / "2.json"
    while not (awaited.exists() and awaited.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    pids = {int((tmp_path / "job").read_text())}
    if not early:
        pids |= {note[who] for note in notes(made) for who in ("pid", "parent")}
        assert len(pids) == 4
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert all_end(pids)


@dataclass(frozen=True)
class Pays:
    """Work of which the first item stops, while the others are still to put down what they were paid for."""

    folder: Path
    at_once: int = 4
    one_process: bool = True

    name = "pays"

    def make(self, item: int) -> None:
        if item == 0:
            raise Stopped("the budget is spent")
        time.sleep(1)
        (self.folder / f"{item}.json").write_text("paid")


@pytest.mark.slow
def test_what_was_paid_for_is_put_down_before_a_stage_stops(tmp_path):
    with pytest.raises(Stopped, match="the budget is spent"):
        make_all(Pays(tmp_path), [0, 1, 2, 3], tmp_path)
    assert {path.name for path in tmp_path.glob("*.json")} == {"1.json", "2.json", "3.json"}


@dataclass(frozen=True)
class Prints:
    name = "prints"

    def make(self, item: int) -> None:
        print(f"made {item}")


@pytest.mark.slow
def test_what_a_stage_prints_is_in_its_own_log(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with Workers(BeamConfig(), Root(str(tmp_path))) as workers:
        for stage in range(2):
            workers.make(Prints(), [stage], f"log{stage}", lambda: None)
    assert [(tmp_path / f"log{stage}").read_text().count(f"made {stage}") for stage in range(2)] == [1, 1]
    assert "made 0" not in (tmp_path / "log1").read_text()

"""The process that does a stage's work: what it says when it ends too early, and what it leaves behind."""

import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.engine.root import Root
from pipelines.engine.worker import StageFailed, Work
from pipelines.engine.workers import Workers
from schemas.config.model import BeamConfig


@dataclass(frozen=True)
class Ends:
    """Work that ends its worker, and all with it, or raises what is no Unicode."""

    says: str | None = None

    name = "ends"

    def make(self, item: int) -> None:
        if self.says:
            raise ValueError(self.says)
        os.killpg(0, signal.SIGKILL)


def make_all(work: Work, items: list, tmp_path: Path) -> None:
    with Workers(BeamConfig(), Root(str(tmp_path))) as workers:
        workers.make(work, items, "log", lambda: None)


def failure(work: Ends, tmp_path: Path) -> str:
    with pytest.raises(StageFailed) as error:
        make_all(work, [1], tmp_path)
    return str(error.value)


def test_a_job_that_ends_before_it_has_begun_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    said = failure(Ends(), tmp_path)
    assert said == f"ends: a worker died (exit code 1); the workers' log is {tmp_path}/log"


def test_what_is_no_unicode_is_said_all_the_same(tmp_path):
    assert failure(Ends(says="a\udcff.png is bad"), tmp_path).startswith("ends: a\\udcff.png is bad; ")


def test_a_job_that_is_killed_leaves_nothing_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    assert "a worker died (exit code -9)" in failure(Ends(), tmp_path)
    assert [*(tmp_path / "tmp").iterdir()] == []

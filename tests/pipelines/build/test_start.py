"""How a run begins: nothing is started for nothing, and nothing of the folder that it runs in is taken for its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.corpora import ONE_PROCESS, picture
from support.paths import PROJECT

from pipelines.build.run import open_runs, run
from pipelines.engine import workers
from pipelines.reports.report import REPORT

TOML = f"""
root = "corpus"
[source]
kind = "folder"
path = "pictures"
[sets.train]
{ONE_PROCESS}"""


@pytest.fixture
def config(tmp_path, pictures) -> Path:
    for path in pictures.iterdir():
        path.with_suffix(".txt").write_text("a picture")
    (tmp_path / "my.toml").write_text(TOML)
    return tmp_path / "my.toml"


def test_a_run_starts_its_processes_once_and_none_for_nothing(config, monkeypatch):
    started, start = [], workers.Job.start
    monkeypatch.setattr(workers.Job, "start", lambda: started.append(start()) or started[-1])
    assert [stage.made for stage in run(config)] == [1, 1, 1, 1]
    assert len(started) == 1 and started[0].process.poll() is not None
    report, catalog = config.parent / "corpus" / REPORT, config.parent / "corpus/catalog.duckdb"
    before = [path.stat().st_mtime_ns for path in (report, catalog)]
    assert [stage.made for stage in run(config)] == [0, 0, 0, 0]
    assert len(started) == 1 and open_runs == {}
    assert [path.stat().st_mtime_ns for path in (report, catalog)] == before
    report.unlink()
    run(config)
    assert report.exists() and len(started) == 1
    (config.parent / "pictures/4.png").write_bytes(picture(4)[0])
    (config.parent / "pictures/4.txt").write_text("another")
    run(config)
    assert len(started) == 2 and report.stat().st_mtime_ns > before[0]


@pytest.mark.parametrize("words", [["pipelines.build"], pytest.param(["flows.cli", "run"], marks=pytest.mark.slow)])
def test_folders_of_the_same_names_are_not_taken_for_packages(config, words):
    for name in ("pipelines", "schemas", "flows", "training"):
        (config.parent / name).mkdir()
        (config.parent / name / "__init__.py").write_text(f"raise SystemExit('this is no {name}')")
    program = f"import sys; sys.path.pop(0); from {words[0]}{'.__main__' * (len(words) == 1)} import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *words[1:], config.name], cwd=config.parent, capture_output=True, text=True,
        timeout=300, env={**os.environ, "PYTHONPATH": str(PROJECT), "PREFECT_HOME": str(config.parent / "prefect")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    card = json.loads((config.parent / "corpus/shards/train.json").read_text())
    assert card["samples"] == 4

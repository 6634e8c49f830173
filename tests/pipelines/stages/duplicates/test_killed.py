"""A run that was killed among duplicates ends in the bytes of one that was not."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.corpora import build, data_files
from support.duplicates import Pictures, like, noise
from support.paths import PROJECT


class Killed(BaseException):
    pass


def killed_at(times: int) -> Callable[[str], None]:
    """A `point` that ends the run when it has put that many files of the step in place."""
    left = iter(range(times))

    def point(name: str) -> None:
        if name == "duplicates:committed" and next(left, None) is None:
            raise Killed

    return point


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    """A corpus, and its source one night later: new files in old partitions, some that are gone, another distance. So
    of the rows that were kept before, some are near each other now."""
    pictures = Pictures(tmp_path_factory.mktemp("before"))
    pictures.put(
        {f"{seed}.png": noise(seed) for seed in range(12)} | {f"{seed}.jpg": like(seed, 3, 0.04) for seed in range(8)}
    )
    pictures.build("[duplicates]\nnear = -1")
    pictures.put({f"{seed}-{n}.jpg": like(seed, n, 0.07) for seed in range(4, 12) for n in range(1, 3)})
    pictures.take("0.png", "5.png")
    pictures.write()
    return pictures.folder


@pytest.fixture(scope="module")
def clean(before, tmp_path_factory) -> dict[str, str]:
    """The files that a run makes of it which nobody disturbs."""
    pictures = Pictures(Path(shutil.copytree(before, tmp_path_factory.mktemp("clean") / "corpus")))
    said = pictures.build()
    assert sum(row[0] == "near_duplicate" for row in said.values()) > 16
    return data_files(pictures.folder / "corpus")


@pytest.mark.slow
@pytest.mark.parametrize("times", range(7))
def test_a_run_killed_after_any_of_its_commits_ends_in_the_same_bytes(times, before, clean, tmp_path, monkeypatch):
    folder = shutil.copytree(before, tmp_path / "copy")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("pipelines.engine.commit_many.point", killed_at(times))
        build(folder / "my.toml")
    written = [name for name, sha256 in data_files(folder / "corpus").items() if clean.get(name) == sha256]
    assert sum(name.startswith("duplicates/0") for name in written) == times + 1
    build(folder / "my.toml")
    assert data_files(folder / "corpus") == clean


@pytest.mark.slow
def test_a_run_killed_at_each_of_its_commits_ends_in_the_same_bytes(before, clean, tmp_path, monkeypatch):
    folder, kills = shutil.copytree(before, tmp_path / "copy"), 0
    while True:
        with monkeypatch.context() as patch:
            patch.setattr("pipelines.engine.commit_many.point", killed_at(0))
            try:
                build(folder / "my.toml")
                break
            except Killed:
                kills += 1
    assert kills == 7 and data_files(folder / "corpus") == clean


@pytest.mark.slow
def test_a_process_killed_again_and_again_ends_in_the_same_bytes(before, clean, tmp_path):
    folder, codes = shutil.copytree(before, tmp_path / "copy"), []
    for point in ("duplicates:recorded", "duplicates:committed", "duplicates:committed", "duplicates:step", ""):
        codes.append(
            subprocess.run(
                [sys.executable, "-m", "pipelines.build", folder / "my.toml"], cwd=PROJECT, start_new_session=True,
                env=os.environ | {"SHARDMILL_KILL_AT": point}, capture_output=True, timeout=300,
            ).returncode
        )  # fmt: skip
    assert codes == [-signal.SIGKILL] * 4 + [0]
    assert data_files(folder / "corpus") == clean

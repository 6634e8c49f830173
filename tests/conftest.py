"""What tests share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

os.environ["COLUMNS"] = "200"  # tables are as wide as that, whatever the terminal
os.environ["OMP_NUM_THREADS"] = "1"  # pytest-xdist has a process for each core, and threads that wait for a core spin
pytest.register_assert_rewrite("support")  # before its modules are imported
from support.corpora import ONE_PROCESS, picture  # noqa: E402
from support.paths import SHARED  # noqa: E402

TOGETHER = {  # folders whose tests share a corpus or a server
    f"tests/{folder}"
    for folder in ("flows", "pipelines/catalog", "pipelines/maintain/takedown", "pipelines/reports", "training/train")
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`, tests of such a folder run in one process, as others of one file do."""
    from xdist.scheduler import LoadFileScheduling

    class ByFileOrFolder(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            folder = path.rpartition("/")[0]
            return folder if folder in TOGETHER else path

    return ByFileOrFolder(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture
def shared() -> Path:
    """The folder of real data; tests that need it skip where it is not."""
    if not SHARED.exists():
        pytest.skip("the folder of real data is not here")
    return SHARED


@pytest.fixture(scope="module")
def reports() -> Iterator[None]:
    """Runs in this process write the report."""
    with patch("support.corpora.reports", True):
        yield


@pytest.fixture(scope="module")
def catalogs() -> Iterator[None]:
    """Runs in this process write the catalog."""
    with patch("support.corpora.catalogs", True):
        yield


@pytest.fixture
def no_rows_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine adds no rows to a training log."""
    monkeypatch.setattr("training.train.SHOWN", 1e9)


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Path]:
    """Writes `my.toml` with some TOML after the root; stages run in one process unless it says otherwise."""

    def write(toml: str, name: str = "my.toml", root: str = "corpus") -> Path:
        path = tmp_path / name
        path.write_text(f'root = "{root}"\n{toml}\n' + ("" if "[beam]" in toml else ONE_PROCESS))
        return path

    return write


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder with 0.png to 3.png."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(picture(number)[0])
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A small checkpoint, to be read by many tests and written by none."""
    from support.phones import save_tiny  # needs torch

    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")

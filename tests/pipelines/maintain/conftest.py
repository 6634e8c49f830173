"""A small corpus of two tars, to be damaged."""

import shutil
from pathlib import Path

import pytest
from support.corpora import build, write_tar
from support.verification import TOML

from pipelines.engine.root import Root


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A source of two tars and the corpus made of it."""
    folder = tmp_path_factory.mktemp("verify")
    for number in range(2):
        write_tar(folder / f"source/{number}.tar", range(4 * number, 4 * number + 4))
    (folder / "my.toml").write_text(TOML)
    build(folder / "my.toml")
    return folder


@pytest.fixture
def root(built, tmp_path) -> Root:
    """That corpus, to do harm to: a copy, as roots may move."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return Root(str(tmp_path / "corpus"))

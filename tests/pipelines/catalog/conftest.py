"""A small corpus with its catalog."""

import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
from support.catalogs import TOML
from support.corpora import build, write_tar

from pipelines.build.corpus import open_corpus
from pipelines.catalog.catalog import build_catalog
from pipelines.engine.root import Root


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A folder with a small corpus, to be read only."""
    folder = tmp_path_factory.mktemp("small")
    write_tar(folder / "source/0.tar", range(3))
    (folder / "my.toml").write_text(TOML)
    with patch("support.corpora.catalogs", True):
        build(folder / "my.toml")
    return folder


@pytest.fixture
def corpus(small, tmp_path) -> Root:
    """That corpus under `tmp_path`, where it may be changed."""
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    root = open_corpus(tmp_path / "my.toml").root
    build_catalog(root)
    return root

"""A corpus of two tars; all runs of these tests write the report."""

import io
import shutil
import tarfile
from pathlib import Path
from unittest.mock import patch

import pytest
from PIL import Image
from support.corpora import build, write_tar
from support.reports import TOML

from pipelines.build.corpus import open_corpus
from pipelines.engine.root import Root


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """A folder with a corpus of two tars, to be read only; some rows are left out."""
    folder = tmp_path_factory.mktemp("report")
    write_tar(folder / "source/0.tar", range(8))
    write_tar(folder / "source/1.tar", range(8, 16))
    dot = io.BytesIO()
    Image.new("RGB", (5, 5)).save(dot, "PNG")
    with tarfile.open(folder / "source/1.tar", "a") as tar:
        for name, data in (("dot.png", dot.getvalue()), ("dot.txt", b"a dot"), ("alone.txt", b"no image")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (folder / "my.toml").write_text(TOML)
    with patch("support.corpora.reports", True):
        build(folder / "my.toml")
    return folder


@pytest.fixture
def folder(built, tmp_path) -> Path:
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def root(folder) -> Root:
    return open_corpus(folder / "my.toml").root


@pytest.fixture(autouse=True, scope="module")
def with_reports(reports) -> None: ...

"""Ten partitions of pictures, to take some of them down."""

import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
from support.corpora import build, picture
from support.takedown_corpus import COUNT, NOISE, TOML, touched_up, write


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """Ten partitions of six pictures. b03 has the bytes of a00 and another text; e24 looks like it."""
    here = tmp_path_factory.mktemp("takedown")
    names = [f"{'abcde'[n // 12]}{n:02d}" for n in range(COUNT)]
    samples = {name: (picture(n)[0], f"what {name} shows") for n, name in enumerate(names)}
    samples["a00"] = (NOISE, samples["a00"][1])
    samples["b13"] = (samples["a00"][0], "told of b13")
    samples["e50"] = (touched_up(samples["a00"][0]), "told of e50")
    for number in range(10):
        write(here / f"tars/{number}.tar", dict(list(samples.items())[6 * number : 6 * number + 6]))
    (here / "my.toml").write_text(TOML)
    with patch("support.corpora.reports", True):
        build(here / "my.toml")
    return here


@pytest.fixture
def reported():
    """Runs write the report, whose words must be gone, too."""
    with patch("support.corpora.reports", True):
        yield


@pytest.fixture
def here(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path

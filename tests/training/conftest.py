"""A corpus that is trained on, and a run on it that was stopped; a module may have a `folder` of its own."""

import shutil
from pathlib import Path

import pytest
from support.recipes import make, recipe

from training.train import World, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def stopped(folder, tmp_path_factory) -> Path:
    """A run that was stopped after two of four steps."""
    run = tmp_path_factory.mktemp("stopped")
    train(recipe(folder), run, World(), stop=2)
    return run


@pytest.fixture
def run(stopped, tmp_path) -> Path:
    return shutil.copytree(stopped, tmp_path / "run")

"""`training.checkpoint` and `training.tokenizer`: a folder that cannot be written is one line."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from support.full_disk import largest_file
from support.releases import captions, publish
from support.training_runs import program as run_program

import training.checkpoint as checkpoint_program
import training.tokenizer as tokenizer_program


@pytest.fixture(scope="module")
def run(checkpoint, tmp_path_factory) -> Path:
    """A run folder of one checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(checkpoint, folder / "0000001")
    (folder / "0000001" / "state.json").write_text(json.dumps({"stage": "sft", "step": 1, "total": 1, "releases": []}))
    (folder / "latest.json").write_text(json.dumps({"checkpoint": "0000001"}))
    return folder


@pytest.fixture
def refused(monkeypatch, capsys) -> Callable[..., None]:
    """Runs a program, which must end with exit code 2 and one line that names what is given."""

    def check(module: ModuleType, words: Sequence[object], *named: object) -> None:
        code, _, line = run_program(module, monkeypatch, capsys, *words)
        assert code == 2 and line.count("\n") == 1 and all(str(name) in line for name in named), line

    return check


@pytest.mark.parametrize("most", [100, 100_000])
def test_a_full_disk_of_a_checkpoint_is_one_line(run, tmp_path, most, refused):
    with largest_file(most):
        refused(checkpoint_program, [run, tmp_path / "out"], tmp_path / ".out.new")


@pytest.mark.parametrize("most", [10, 1000])
def test_a_full_disk_of_a_tokenizer_is_one_line(tmp_path, most, refused):
    root = publish(tmp_path / "corpus", "train", captions(4), each=10)
    words = (root, "train", tmp_path / "out", "--vocab", 300)
    with largest_file(most):
        refused(tokenizer_program, words, tmp_path / "out", "File too large")


def test_a_folder_that_cannot_be_written_is_one_line(run, tmp_path, refused):
    (file := tmp_path / "file").write_text("mine")
    refused(checkpoint_program, [run, file], f"{file}: ")
    root = publish(tmp_path / "corpus", "train", captions(4), each=10)
    refused(tokenizer_program, [root, "train", file, "--vocab", 300], f"{file}: ")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("out", ["", "0000001"])
def test_a_run_is_not_its_own_output(run, out, refused):
    before = (run / "0000001" / "model.safetensors").read_bytes()
    refused(checkpoint_program, [run, run / out], run / out, "is the run's own folder, or in it")
    assert (run / "0000001" / "model.safetensors").read_bytes() == before

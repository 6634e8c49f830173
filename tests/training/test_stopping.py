"""Ctrl-C and SIGTERM end a run after its step, with a checkpoint; the run goes on to the same bytes."""

import json
import os
import signal
import time

import pytest
from support.recipes import SFT, recipe, toml
from support.training_runs import files, program

from schemas.errors import UserError
from training import train as trainer
from training.checkpoint import latest, read_state
from training.opening import warn_of
from training.tokenizer import Tokenizer
from training.train import World, train
from training.whole_files import filled


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_signal_ends_a_run_after_its_step(number, code, workers, folder, tmp_path, monkeypatch, capsys):
    whole, cut, sums = tmp_path / "whole", tmp_path / "cut", World.sum_gradients
    train(recipe(folder), whole, World())
    seen = []

    def signalled(self, learned):
        seen.append(1)
        if len(seen) == 2:
            os.kill(os.getpid(), number)
        sums(self, learned)

    monkeypatch.setattr(World, "sum_gradients", signalled)
    words, before = (toml(folder, SFT), cut, "--workers", workers), signal.getsignal(number)
    ended, _out, err = program(trainer, monkeypatch, capsys, *words)
    said = "stopped after step 2 of stage sft; run it again: training goes on from the last checkpoint\n"
    assert (ended, err) == (code, said) and read_state(latest(cut))["step"] == 2
    assert signal.getsignal(number) == before
    assert program(trainer, monkeypatch, capsys, *words)[0] == 0
    assert files(cut) == files(whole)


def test_the_second_ctrl_c_ends_a_run_at_once(folder, tmp_path, monkeypatch, capsys):
    def stuck(self, learned):
        monkeypatch.setattr("training.stopping.TWICE", 0.0)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)

    monkeypatch.setattr(World, "sum_gradients", stuck)
    code, _out, err = program(trainer, monkeypatch, capsys, toml(folder, SFT), tmp_path / "run", "--workers", "0")
    assert (code, err) == (130, "interrupted; run it again: training goes on from the last checkpoint\n")


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_is_filled_whole_or_left_as_it_was(exists, tmp_path):
    folder = tmp_path / "model"
    if exists:
        folder.mkdir()
        for name in ("last", "first", "mine"):
            (folder / name).write_text("old")
    with pytest.raises(KeyError), filled(folder, "last", {"first", "last"}) as new:
        new.mkdir()
        (new / "first").write_text("new")
        raise KeyError
    assert folder.exists() == exists and [path.name for path in tmp_path.iterdir()] == ["model"] * exists
    assert {path.read_text() for path in folder.glob("*")} <= {"old"}
    with filled(folder, "last", {"first", "last"}) as new:
        new.mkdir()
        for name in ("first", "last"):
            (new / name).write_text("new")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"first": "new", "last": "new"} | (
        {"mine": "old"} if exists else {}
    )


@pytest.mark.parametrize(("part", "value"), [
    ("normalizer", {"type": "Lowercase"}), ("pre_tokenizer", {"type": "Whitespace"}), ("pre_tokenizer", None),
])  # fmt: skip
def test_a_tokenizer_that_llama_cannot_read_is_warned_of(part, value, folder, tmp_path, capsys):
    warn_of(Tokenizer(folder / "tokenizer"))
    assert capsys.readouterr().out == ""
    said = json.loads((folder / "tokenizer/tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**said, part: value}))
    try:
        tokenizer = Tokenizer(tmp_path)
    except UserError:  # refused earlier
        return
    warn_of(tokenizer)
    out = capsys.readouterr().out
    assert out.startswith("warning: the model can be trained, but not exported: ") and part in out

"""A run goes on as it began: with each key equal to the byte, right by packs, or refused in one line that names it."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from support.paths import PROJECT
from support.releases import RELEASE, captions, publish, small_tokenizer
from support.small_models import TINY

from schemas.errors import UserError
from training.checkpoint import latest
from training.loader import Mixture
from training.recipe import Data, Recipe, TrainingStage
from training.run_lock import LOCK, hold
from training.train import World, train

SHAPE = replace(TINY, language=replace(TINY.language, context=1024))
BEFORE = {"name": "sft", "sets": {"captions": 1.0}, "steps": 4, "batch": 1, "micro": 1, "length": 128, "rate": 1e-3,
          "precision": "float32"}  # fmt: skip

# Another value for every key of a stage
OTHER = {
    "name": "other", "sets": {"captions": 0.5}, "steps": 6, "trains": ["language"], "answers": 0.5, "truth": 0.5,
    "beta": 0.1, "plan": "openbmb", "side": 28, "length": 120, "batch": 2, "micro": 2, "optimizer": "muon",
    "rate": 2e-3, "schedule": "warmup_stable_decay", "warm_up": 0.5, "decay": 0.5, "weight_decay": 0.1,
    "betas": [0.8, 0.9], "clip": 0.5, "precision": "bfloat16", "epochs": 1.5,
    "held_out": {"set": "captions", "every": 1},
}  # fmt: skip
FREE = ("batch", "micro", "held_out")


def changed(key: str, before: dict = BEFORE) -> dict:
    """A stage with another value of a key."""
    other = {**before, key: OTHER[key]}
    return {k: v for k, v in other.items() if k != {"epochs": "steps", "steps": "epochs"}.get(key)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("state")
    small_tokenizer(folder / "tokenizer", ["a picture of something", "another text"])
    (folder / "shape.json").write_text(json.dumps(SHAPE.as_dict()))
    publish(folder / "corpus", "captions", captions(16), 8)
    return folder


def recipe(folder: Path, *stages: dict, **more) -> Recipe:
    return Recipe.model_validate({
        "shape": str(folder / "shape.json"), "tokenizer": str(folder / "tokenizer"),
        "data": {"captions": {"root": str(folder / "corpus"), "set": "captions"}}, "stages": stages or (BEFORE,),
        **more,
    })  # fmt: skip


def checkpoint(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in latest(run).iterdir()}


@pytest.fixture(scope="module")
def stopped(folder, tmp_path_factory) -> Path:
    """A run that was stopped after two of four steps."""
    run = tmp_path_factory.mktemp("stopped")
    train(recipe(folder), run, World(), stop=2)
    return run


def trained(monkeypatch) -> list[tuple[int, int]]:
    """The packs that are read from now on, as (part, number)."""
    packs, pack = [], Mixture.pack
    monkeypatch.setattr(Mixture, "pack", lambda self, *which: packs.append(which) or pack(self, *which))
    return packs


def test_there_is_another_value_for_every_key():
    assert OTHER.keys() == TrainingStage.model_fields.keys()


@pytest.mark.parametrize("key", [key for key in OTHER if key not in FREE])
def test_a_stage_goes_on_with_no_other_value_in_its_middle_or_after_it(key, folder, run):
    other = recipe(folder, changed(key))
    before = checkpoint(run)
    named = rf"stages\.sft\.{'steps' if key == 'epochs' else key}: was .*, the recipe says"
    named = "is in stage sft, which the recipe lacks" if key == "name" else named
    with pytest.raises(UserError, match=named) as error:
        train(other, run, World())
    assert "\n" not in str(error.value) and checkpoint(run) == before
    train(recipe(folder), run, World())
    before = checkpoint(run)
    with pytest.raises(UserError, match=named):
        train(other, run, World())
    last = {**BEFORE, "name": "last"}
    with pytest.raises(UserError, match="has trained sft, in this order" if key == "name" else named):
        train(
            recipe(folder, changed(key), {**last, "name": "sft"} if key == "name" else last),
            run,
            World(),
        )
    assert checkpoint(run) == before


@pytest.mark.slow
@pytest.mark.parametrize(("key", "batches"), [("batch", (2, 3)), ("micro", (1,))])
def test_a_run_goes_on_behind_the_last_pack_with_another_batch(key, batches, folder, run, monkeypatch):
    packs = trained(monkeypatch)
    whole = recipe(folder, {**BEFORE, "steps": 40})
    train(whole, run.with_name("whole"), World())
    order = packs.copy()
    for batch in batches:
        packs.clear()
        subprocess.run(["cp", "-a", run, run.with_name(f"{key}-{batch}")], check=True)
        other = recipe(folder, {**BEFORE, "batch": batch, "micro": 2})
        train(other, run.with_name(f"{key}-{batch}"), World())
        assert packs == order[2 : 2 + 2 * batch]
        assert (
            json.loads((latest(run.with_name(f"{key}-{batch}")) / "state.json").read_text())["packs"] == 2 + 2 * batch
        )


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [{"set": "captions", "every": 1}, {"set": "captions", "packs": 1}, None])
def test_a_run_goes_on_to_the_same_bytes_with_other_held_out_samples(held_out, folder, run):
    """Nothing is learned from them. `state.json` says what the recipe says."""
    train(recipe(folder), run.with_name("whole"), World())
    train(recipe(folder, {**BEFORE, "held_out": held_out}), run, World())
    after, whole = checkpoint(run), checkpoint(run.with_name("whole"))
    assert (
        json.loads(after.pop("state.json"))["stages"][0]["held_out"]
        == recipe(folder, {**BEFORE, "held_out": held_out}).stages[0].model_dump()["held_out"]
    )
    assert after == {name: data for name, data in whole.items() if name != "state.json"}


EPOCHS = {key: value for key, value in BEFORE.items() if key != "steps"} | {"epochs": 1.5}


@pytest.mark.slow
def test_a_stage_of_epochs_trains_their_packs_to_the_byte(folder, tmp_path, monkeypatch):
    """As a stage of so many steps does, also if it is stopped."""
    packs = trained(monkeypatch)
    train(recipe(folder, EPOCHS), tmp_path / "epochs", World())
    read, ends = packs.copy(), len(packs)
    steps = {key: value for key, value in EPOCHS.items() if key != "epochs"} | {"steps": ends}
    train(recipe(folder, steps), tmp_path / "steps", World())
    assert packs == read * 2
    for _ in range(2):
        train(recipe(folder, EPOCHS), tmp_path / "stopped", World(), stop=3)
    train(recipe(folder, EPOCHS), tmp_path / "stopped", World())
    whole = checkpoint(tmp_path / "epochs")
    assert checkpoint(tmp_path / "stopped") == whole
    assert checkpoint(tmp_path / "steps")["model.safetensors"] == whole["model.safetensors"]
    every = set(read)
    assert ends == -(-3 * len(every) // 2) and json.loads(whole["state.json"])["stages"][0]["ends"] == ends
    packs.clear()
    train(recipe(folder, EPOCHS), tmp_path / "epochs", World())
    assert not packs  # it has ended


@pytest.mark.slow
@pytest.mark.parametrize("batch", [2, 3, 5])
def test_a_stage_of_epochs_ends_behind_their_last_pack_with_another_batch(batch, folder, tmp_path, monkeypatch):
    packs = trained(monkeypatch)
    train(recipe(folder, EPOCHS), tmp_path / "whole", World())
    order = packs.copy()
    packs.clear()
    train(recipe(folder, EPOCHS), tmp_path / "run", World(), stop=2)
    other = recipe(folder, {**EPOCHS, "batch": batch})
    for _ in range(2):
        train(other, tmp_path / "run", World())
    assert packs[: len(order)] == order and len(order) <= len(packs) < len(order) + batch


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize(("other", "key"), [({"epochs": 2}, "epochs"), ({"epochs": None, "steps": 4}, "steps")])
def test_a_stage_of_epochs_goes_on_with_no_other_length(other, key, ended, folder, tmp_path):
    train(recipe(folder, EPOCHS), tmp_path / "run", World(), stop=None if ended else 2)
    before = checkpoint(tmp_path / "run")
    where = "has ended" if ended else "is at step 2"
    with pytest.raises(UserError, match=rf"stages\.sft\.{key}: was .*, the recipe says .*, and the stage {where}"):
        train(recipe(folder, {**EPOCHS, **other}), tmp_path / "run", World())
    assert checkpoint(tmp_path / "run") == before


@pytest.mark.slow
def test_an_epoch_trains_every_pack_once_whatever_its_batches_were(folder, tmp_path, monkeypatch):
    packs = trained(monkeypatch)
    steady = {**BEFORE, "schedule": "warmup_stable_decay", "warm_up": 0.0, "decay": 0.0}
    made = recipe(folder, {**steady, "steps": 100})
    train(made, tmp_path, World(), stop=1)
    for stop, batch in ((3, 2), (4, 1), (6, 3)):
        train(recipe(folder, {**steady, "steps": 100, "batch": batch}), tmp_path, World(), stop=stop)
    seen = Counter(packs)
    assert len(packs) == 1 + 4 + 1 + 6 and max(seen.values()) - min(seen.values()) <= 1


@pytest.mark.parametrize("key", ["tokenizer", "theta", "context", "seed", "instructions", "start", "data"])
@pytest.mark.parametrize("ended", [False, True])
def test_what_is_not_of_a_stage_is_compared_too(key, ended, folder, run, tmp_path):
    if ended:
        train(recipe(folder), run, World())
    small_tokenizer(tmp_path / "tokenizer", ["quite another text, and more of it"], 300)
    other = {name: replace(SHAPE, language=replace(SHAPE.language, **{name: value}))
             for name, value in (("theta", 500_000.0), ("context", 512))}  # fmt: skip
    if key in other:
        (tmp_path / "shape.json").write_text(json.dumps(other[key].as_dict()))
    more, said = {
        "tokenizer": ({"tokenizer": str(tmp_path / "tokenizer")}, "tokenizer: .* is not the one that the run was"),
        "theta": ({"shape": str(tmp_path / "shape.json")}, r"shape: language\.theta: was 10000\.0, is now 500000\.0"),
        "context": ({"shape": str(tmp_path / "shape.json")}, r"shape: language\.context: was 1024, is now 512"),
        "seed": ({"seed": 1}, "seed: the run began with 0, the recipe says 1"),
        "instructions": ({"instructions": {"caption": "What is this?"}}, "instructions: the run began with {}"),
        "start": ({"start": {"checkpoint": str(latest(run))}}, "start: the run began with fresh weights"),
        "data": ({}, r"stages\.sft\.data: was {'captions': 'captions'}, the recipe says {'captions': 'more'}"),
    }[key]  # fmt: skip
    made = recipe(folder, BEFORE, {**BEFORE, "name": "second"}, **more)
    if key == "data":
        made = made.model_copy(update={"data": {"captions": Data(root=str(folder / "corpus"), set="more")}})
    before = checkpoint(run)
    with pytest.raises(UserError, match=said):
        train(made, run, World())
    assert checkpoint(run) == before


@pytest.mark.parametrize("ended", [False, True])
def test_a_run_goes_on_with_the_release_by_its_name(ended, folder, run):
    """As the message says to do when a set has moved on. Another release is refused."""
    if ended:
        train(recipe(folder), run, World())
    card = json.loads((folder / "corpus/shards/captions.json").read_text())
    (folder / f"corpus/shards/captions@{RELEASE}.json").write_text(json.dumps(card))
    made = recipe(folder, BEFORE, {**BEFORE, "name": "second"})
    for name in ("captions@other", f"others@{RELEASE}"):
        other = made.model_copy(update={"data": {"captions": Data(root=str(folder / "corpus"), set=name)}})
        with pytest.raises(UserError, match=r"stages\.sft\.data: was .*, the recipe says"):
            train(other, run, World())
    named = made.model_copy(update={"data": {"captions": Data(root=str(folder / "corpus"), set=f"captions@{RELEASE}")}})
    train(named, run, World(), stop=6)
    train(made, run, World())
    assert latest(run).name == "0000008"


def test_the_last_state_says_all_that_decided_the_run(folder, run):
    train(recipe(folder), run, World())
    state = json.loads((latest(run) / "state.json").read_text())
    (stage,) = state["stages"]
    assert (
        TrainingStage.model_validate({k: v for k, v in stage.items() if k in TrainingStage.model_fields})
        == recipe(folder).stages[0]
    )
    assert state.keys() == {"stage", "step", "total", "mixture", "packs", "releases", "seed", "instructions",
                            "tokenizer", "shape", "start", "start_paths", "stages", "tensors"}  # fmt: skip
    assert stage["data"] == {"captions": "captions"} and stage["releases"] == state["releases"]


def test_a_run_of_an_older_version_goes_on(folder, run):
    """Its state says stage, step, total, mixture and releases alone."""
    train(recipe(folder), run.with_name("whole"), World())
    path = latest(run) / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({k: state[k] for k in ("stage", "step", "total", "mixture", "releases")}))
    train(recipe(folder), run, World())
    whole = checkpoint(run.with_name("whole"))
    assert checkpoint(run)["model.safetensors"] == whole["model.safetensors"]


# One trainer at a time


def test_a_second_trainer_is_refused_in_one_line(folder, run):
    with hold(run), pytest.raises(UserError, match=rf"{run}: is being trained by process {os.getpid()} on ") as error:
        train(recipe(folder), run, World())
    assert "\n" not in str(error.value)
    train(recipe(folder), run, World())


@pytest.mark.parametrize("text", ["[1]", "5", "null", "", '{"pid": []}', "[" * 1000, "\xff"])
def test_a_lock_of_strange_words_is_another_process(text, folder, run):
    with hold(run):
        (run / LOCK).write_text(text)
        with pytest.raises(UserError, match="is being trained by another process; wait for it"):
            train(recipe(folder), run, World())


@pytest.mark.parametrize("plant", [os.symlink, os.link])
def test_a_lock_that_is_a_link_is_refused(plant, folder, run, tmp_path):
    (tmp_path / "diary").write_text("ten years")
    (run / LOCK).unlink()
    plant(tmp_path / "diary", run / LOCK)
    with pytest.raises(UserError, match=r"lock\.json: .*remove it"):
        train(recipe(folder), run, World())
    assert (tmp_path / "diary").read_text() == "ten years"


HOLD = """
import sys, time
from pathlib import Path
from training.run_lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_trainer_gives_way(run):
    command = [sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(PROJECT)}) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"process {other.pid} on "), hold(run):
            raise AssertionError("held twice")
        other.kill()
    with hold(run):
        pass

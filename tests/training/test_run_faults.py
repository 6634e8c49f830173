"""What goes wrong with a run is named: a damaged checkpoint, a lock that is gone, samples that cannot be read."""

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.recipes import DPO, SFT, recipe
from support.releases import publish

from schemas.errors import UserError
from training.checkpoint import latest
from training.run_lock import LOCK, hold
from training.run_log import read_tables
from training.train import World, train


def moved(made, root: Path):
    """A recipe with its data elsewhere."""
    data = {name: part.model_copy(update={"root": str(root)}) for name, part in made.data.items()}
    return made.model_copy(update={"data": data})


# Steps that train nothing


def texts(folder: Path, name: str) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]
    said = json.dumps({"conversation": {"turns": turns, "images": []}}).encode()
    publish(folder / "corpus", name, ((f"{n:016x}-conversation", {"json": said}) for n in range(6)), 4)


@pytest.mark.parametrize("trains", [["vision"], ["resampler"], ["vision", "resampler"]])
@pytest.mark.parametrize("sets", [{"texts": 1.0}, {"texts": 1.0, "captions": 1.0}])
def test_samples_without_images_train_no_vision(trains, sets, folder, tmp_path, capsys, monkeypatch):
    """They are refused before the first step; a run that began with them goes on, and says so."""
    texts(folder, "texts")
    stage = {**SFT, "sets": sets, "trains": trains, "steps": 6, "batch": 1}
    made = recipe(folder, stage, sets=("texts", "captions"))
    with pytest.raises(UserError, match=r"stages\.sft\.sets: texts has no image, so (vision|resampler)"):
        train(made, tmp_path, World())
    assert latest(tmp_path) is None
    monkeypatch.setattr("training.opening.check_gives", lambda *_: None)
    train(made, tmp_path, World(), stop=5)
    monkeypatch.undo()
    train(made, tmp_path, World())
    assert latest(tmp_path).name == "0000006"
    assert capsys.readouterr().out.count("trains nothing") >= 1
    train(made, tmp_path, World())  # it has ended, and is read again


# Damaged samples


def damage(corpus: Path, every: bool) -> None:
    for tar in sorted((corpus / "shards").glob("captions*.tar"))[: None if every else 1]:
        tar.chmod(0o644)
        data = tar.read_bytes()
        tar.write_bytes(bytes(byte ^ 1 for byte in data))


def test_a_set_whose_samples_were_damaged_after_planning_is_refused(folder, run, tmp_path):
    made = moved(recipe(folder), shutil.copytree(folder / "corpus", tmp_path / "corpus"))
    damage(tmp_path / "corpus", every=True)
    with pytest.raises(
        UserError, match=r"^captions: has nothing to train on; of 14 samples none .* the first, "
    ) as error:
        train(made, run, World())
    assert "\n" not in str(error.value) and latest(run).name == "0000002"


def test_samples_that_were_damaged_after_planning_are_counted(folder, run, tmp_path, capsys):
    made = moved(recipe(folder), shutil.copytree(folder / "corpus", tmp_path / "corpus"))
    damage(tmp_path / "corpus", every=False)
    train(made, run, World())
    (table,) = read_tables(run)
    assert 0 < table["sets"][0]["left_out"]["damaged"] < 14
    assert f"{table['sets'][0]['left_out']['damaged']} damaged" in capsys.readouterr().out


# A lock that is gone


@pytest.mark.parametrize("how", ["removed", "replaced", "moved", "folder"])
def test_a_trainer_that_lost_its_lock_writes_nothing(how, folder, run, monkeypatch):
    def lose() -> None:
        if how == "folder":
            shutil.rmtree(run)
        elif how == "moved":
            run.rename(run.with_name("old"))
        else:
            (run / LOCK).unlink()
            if how == "replaced":
                (run / LOCK).write_text("{}")

    stepped = []
    step = World.sum_gradients
    monkeypatch.setattr(World, "sum_gradients", lambda *some: stepped or stepped.append(lose()) or step(*some))
    with pytest.raises(UserError, match=r"lock\.json was removed or replaced while") as error:
        train(recipe(folder), run, World())
    assert "\n" not in str(error.value)
    if run.exists():
        assert latest(run).name == "0000002"
    else:
        with hold(run):
            assert os.listdir(run) == [LOCK]


# Damaged checkpoints


def edit_optimizer(run: Path, change) -> None:
    path = latest(run) / "optimizer.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def forget(run: Path, *keys: str) -> None:
    path = latest(run) / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in state.items() if key not in keys}))


@pytest.mark.parametrize("what", ["all", "one", "all of an older version", "nan"])
def test_states_of_an_optimizer_that_are_missing_or_broken_are_refused(what, folder, run):
    def change(tensors: dict) -> None:
        states = [name for name in tensors if name[0].isdigit()]
        if what == "nan":
            tensors[states[-1]].view(-1)[0] = float("nan")
            return
        for name in states if "all" in what else states[:1]:
            del tensors[name]

    edit_optimizer(run, change)
    if "older" in what:
        forget(run, "tensors")
    said = (
        "holds numbers that are not finite" if what == "nan" else r"lacks states of the optimizer: it has \d+.*tensors"
    )
    with pytest.raises(UserError, match=rf"optimizer\.safetensors: .*{said}; restore"):
        train(recipe(folder), run, World())


@pytest.mark.parametrize(("name", "text"), [
    ("latest.json", ""), ("latest.json", "[]"), ("latest.json", '{"checkpoint": "9999999"}'), ("state.json", '{"stage'),
    ("state.json", ""), ("state.json", "[]"), ("state.json", None),
])  # fmt: skip
def test_a_damaged_file_of_a_run_is_named(name, text, folder, run):
    path = run / name if name == "latest.json" else latest(run) / name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError, match=rf"{name}: (is damaged|names 9999999|cannot be read).*; ") as error:
        train(recipe(folder), run, World())
    assert "\n" not in str(error.value)


# Runs of an older version


@pytest.mark.slow
def test_a_run_of_an_older_version_is_guarded_from_then_on(folder, run, capsys):
    forget(run, "packs", "seed", "instructions", "tokenizer", "start", "stages", "tensors")
    later = {**SFT, "name": "later", "steps": 2}
    train(recipe(folder, SFT, later), run, World(), stop=3)
    assert "nothing was compared" in capsys.readouterr().out
    for other, key in (({**SFT, "rate": 2e-3}, "rate"), ({**SFT, "weight_decay": 0.1}, "weight_decay")):
        with pytest.raises(UserError, match=rf"stages\.sft\.{key}: was "):
            train(recipe(folder, other, later), run, World())
    train(recipe(folder, SFT, later), run, World())
    assert "nothing was compared" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"stages\.later\.rate: was "):
        train(recipe(folder, SFT, {**later, "rate": 1.0}), run, World())


@pytest.mark.parametrize("stage", [SFT, {**DPO, "name": "sft"}])
def test_an_older_run_in_its_second_stage_goes_on(stage, folder, tmp_path):
    stages = recipe(folder, {**stage, "steps": 1}, {**SFT, "name": "later", "steps": 2})
    train(stages, tmp_path, World(), stop=2)
    forget(tmp_path, "packs", "seed", "instructions", "tokenizer", "start", "stages", "tensors")
    train(stages, tmp_path, World())
    train(stages, tmp_path, World())
    state = json.loads((latest(tmp_path) / "state.json").read_text())
    assert [entry["name"] for entry in state["stages"]] == ["sft", "later"] and state["total"] == 3

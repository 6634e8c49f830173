"""A run that was stopped goes on bit for bit, and goes on with nothing else."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from support.releases import captions, publish, small_tokenizer
from support.training_runs import PREFERENCE, SHAPE, files, weights

from schemas.errors import UserError
from training.checkpoint import latest, save_run
from training.probe import QUERIES
from training.recipe import Data
from training.train import World, train

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


TWO = (
    {"name": "sight", "steps": 3, "trains": ["vision", "resampler"], "answers": 0, "truth": 1.0, "optimizer": "muon"},
    {"name": "sft", "steps": 3, "truth": 0.5, "schedule": "warmup_stable_decay", "precision": "bfloat16"},
)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(recipe, tmp_path, stop):
    """Within a stage, between two, and in the second: weights, optimizers' states and all."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    train(recipe(*TWO), whole, World())
    train(recipe(*TWO), parts, World(), stop=stop)
    middle = files(parts)
    train(recipe(*TWO), parts, World())
    assert files(parts) == files(whole) != middle


def test_a_checkpoint_removes_what_a_killed_one_left(recipe, tmp_path):
    """Half a checkpoint of another step, and one of which half is removed; nothing of anybody else's."""
    for name in ("0000001.new", "0000000", "notes", "20261121"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    train(recipe({"steps": 2}), tmp_path, World())
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"0000002", "notes", "20261121"}


@pytest.mark.slow
def test_the_log_has_every_step_of_a_checkpoint(recipe, tmp_path, monkeypatch):
    """Killed as it was about to stand: the log holds what led there, and no step twice when it goes on."""
    train(recipe({"steps": 2}, {"steps": 2}), tmp_path, World(), stop=1)

    class Killed(BaseException):
        pass

    def killed(run, name, *more):
        save_run(run, name, *more)
        raise Killed

    monkeypatch.setattr("training.train.save_run", killed)
    with pytest.raises(Killed):
        train(recipe({"steps": 2}, {"steps": 2}), tmp_path, World())
    monkeypatch.undo()
    train(recipe({"steps": 2}, {"steps": 2}), tmp_path, World())
    assert pq.read_table(tmp_path / "log.parquet")["total"].to_pylist() == [1, 2, 4]


def test_who_may_read_the_folder_may_read_the_weights(recipe, tmp_path):
    train(recipe({"steps": 1}), tmp_path, World())
    assert len({path.stat().st_mode for path in latest(tmp_path).iterdir()}) == 1


@pytest.mark.slow
def test_a_run_that_is_done_does_nothing_more(recipe, tmp_path):
    train(recipe(*TWO), tmp_path, World())
    before = files(tmp_path)
    train(recipe(*TWO), tmp_path, World())
    assert files(tmp_path) == before


@pytest.mark.slow
def test_a_run_stops_where_it_is_told_however_often(recipe, tmp_path):
    for _ in range(2):
        train(recipe({"steps": 4}), tmp_path, World(), stop=2)
    assert latest(tmp_path).name == "0000002"


CONSTANT = {"schedule": "warmup_stable_decay", "warm_up": 0.0, "decay": 0.0}


@pytest.mark.slow
def test_a_stage_may_be_lengthened_as_long_as_its_rates_stay(recipe, tmp_path):
    """The bytes are then those of a run that had as many steps from the beginning."""
    train(recipe({"steps": 5, **CONSTANT}), tmp_path / "whole", World())
    train(recipe({"steps": 3, **CONSTANT}), tmp_path / "parts", World(), stop=2)
    train(recipe({"steps": 5, **CONSTANT}), tmp_path / "parts", World())
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert {2, 5} <= {*pq.read_table(tmp_path / "parts/log.parquet")["total"].to_pylist()}  # a slow machine adds rows
    with pytest.raises(UserError, match=r"stages\.stage0\.steps: was 5, the recipe says 7, and the stage has ended"):
        train(recipe({"steps": 7, **CONSTANT}), tmp_path / "parts", World())


def test_a_run_of_another_recipe_is_refused(recipe, tmp_path):
    train(recipe({"name": "first"}), tmp_path, World())
    with pytest.raises(UserError, match="is in stage first, which the recipe lacks; it has other"):
        train(recipe({"name": "other"}), tmp_path, World())


def test_a_run_goes_on_with_no_other_samples(recipe, tmp_path):
    """The release that `[data]` names has moved on."""
    corpus = tmp_path / "corpus"
    publish(corpus, "lessons", captions(8), 4)
    made = recipe({"length": 180})
    made = made.model_copy(update={"data": {"lessons": Data(root=str(corpus), set="lessons")}})
    train(made, tmp_path / "run", World(), stop=1)
    publish(corpus, "lessons", captions(12), 4)
    with pytest.raises(UserError, match="is at step 1 of stage0, with other samples"):
        train(made, tmp_path / "run", World())


@pytest.mark.slow
def test_a_run_begins_where_a_checkpoint_stands(recipe, tmp_path):
    """An aligned model is one that was taught before: DPO begins at log 2, and of what the checkpoint says."""
    (tmp_path / "taught").mkdir(), (tmp_path / "aligned").mkdir()
    train(recipe({"steps": 2}), tmp_path / "taught", World())
    checkpoint = latest(tmp_path / "taught")
    train(
        recipe({**PREFERENCE, "steps": 1, "rate": 1e-12}, start={"checkpoint": str(checkpoint)}),
        tmp_path / "aligned",
        World(),
    )
    for name, weight in weights(tmp_path / "taught").items():
        torch.testing.assert_close(weights(tmp_path / "aligned")[name], weight, rtol=0, atol=1e-9)
    state = json.loads((latest(tmp_path / "aligned") / "state.json").read_text())
    assert [release.partition("@")[0] for release in state["releases"]] == ["lessons", "pairs"]


@pytest.mark.parametrize("first, then", [("muon", "adamw"), ("adamw", "muon")])
def test_a_stage_ends_with_the_optimizer_that_it_began_with(recipe, tmp_path, first, then):
    train(recipe({"optimizer": first}), tmp_path, World(), stop=1)
    with pytest.raises(
        UserError, match=r"stages\.stage0\.optimizer: was \w+, the recipe says \w+, and the stage is at step 1"
    ):
        train(recipe({"optimizer": then}), tmp_path, World())


def test_a_checkpoint_of_another_tokenizer_or_shape_is_refused(recipe, tmp_path):
    train(recipe({"steps": 1}), tmp_path, World())
    checkpoint = latest(tmp_path)
    small_tokenizer(tmp_path / "other", ["another text"], 300)
    (tmp_path / "shape.json").write_text(json.dumps(replace(SHAPE, queries=QUERIES + 1).as_dict()))
    for more, said in (({"tokenizer": str(tmp_path / "other")}, "another tokenizer"),
                       ({"shape": str(tmp_path / "shape.json")}, "another shape")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            train(recipe({}, start={"checkpoint": str(checkpoint)}, **more), tmp_path / said, World())

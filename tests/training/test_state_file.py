"""`state.json` is read by one function: a damaged one is one line everywhere, and what it says is held against."""

import json
import shutil
from pathlib import Path

import pytest
from support.phones import save_tiny
from support.recipes import SFT, recipe
from support.small_models import TINY

from schemas.errors import UserError
from training.begin import begin, start
from training.checkpoint import load_model
from training.run_state import check_goes_on
from training.state_file import check_beside, read_state, state_beside, unfinished
from training.tokenizer import Tokenizer
from training.train import World

RUN = {"stage": "sft", "step": 2, "total": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("state") / "model")


@pytest.mark.parametrize(("text", "said"), [
    ("{", "Expecting"), ("[]", "dict"), ("5", "dict"), ('{"releases": 5}', "releases"), ('{"stages": [5]}', "stages.0"),
    ('{"stages": [{}]}', "stages.0.name"), ('{"step": "2"}', "step"), ("[" * 100_000, "recursion"),
])  # fmt: skip
def test_a_damaged_state_of_a_model_is_one_line(text, said, model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model/state.json").write_text(text)
    made = recipe(tmp_path, start={"checkpoint": str(tmp_path / "model")}, tokenizer=str(model))
    made = made.model_copy(update={"shape": str(model / "shape.json")})
    tokenizer = Tokenizer(model)
    for read in (
        lambda: state_beside(tmp_path / "model"),
        lambda: load_model(tmp_path / "model"),
        lambda: begin(made, start(made, tokenizer, World().device)[0], tokenizer),
    ):
        with pytest.raises(UserError, match=rf"^\S+model/state\.json: cannot be read: .*{said}.*; restore it") as error:
            read()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("change", "said"), [
    ({"step": "2"}, "step"), ({"total": None}, "total"), ({"total": -1}, "total"), ({"packs": 1.5}, "packs"),
    ({"stages": [{"name": "sft"}]}, r"stages\.0"), ({"start": []}, "start"), ({"tensors": "3"}, "tensors"),
])  # fmt: skip
def test_a_state_of_a_run_with_another_type_is_one_line(change, said, tmp_path):
    (tmp_path / "state.json").write_text(json.dumps(RUN | change))
    with pytest.raises(UserError, match=rf"state\.json: cannot be read: {said}"):
        read_state(tmp_path)


@pytest.mark.parametrize("more", [{}, {"seed": (1 << 64) - 1}, {"releases": {"train": "3f2a"}}, {"later": [1, {}]}])
def test_states_of_any_version_are_read(more, tmp_path):
    (tmp_path / "state.json").write_text(json.dumps(RUN | more))
    assert read_state(tmp_path) == state_beside(tmp_path) == RUN | more
    assert state_beside(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(("key", "value"), [("rate", 1e31), ("rate", "fast"), ("betas", [2, 3]), ("plan", "other")])
def test_a_value_out_of_bounds_in_a_state_is_one_line(key, value, folder, run):
    checkpoint = run / "0000002"
    state = json.loads((checkpoint / "state.json").read_text())
    state["stages"][0][key] = value
    with pytest.raises(UserError, match=rf"state\.json: stage sft: {key}.*; restore it") as error:
        check_goes_on(run, checkpoint, state, recipe(folder), Tokenizer(folder / "tokenizer"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("state", "said"), [
    ({}, None), ({"tokenizer": "0" * 64}, "is not the tokenizer that the model was trained with"),
    ({"shape": TINY.as_dict()}, None),
    ({"shape": TINY.as_dict() | {"queries": 99}}, "its shape is not the one .*: queries: was 99"),
    ({"shape": {"language": {"theta": 5e5}}}, r"language\.theta: was 500000\.0"),
])  # fmt: skip
def test_a_model_is_held_against_the_state_beside_it(state, said, model, tmp_path):
    tokenizer = Tokenizer(model)
    (tmp_path / "state.json").write_text(json.dumps(state))
    if said is None:
        assert check_beside(tmp_path, tokenizer, TINY) == state
        return
    with pytest.raises(UserError, match=said):
        check_beside(tmp_path, tokenizer, TINY)


@pytest.mark.parametrize(("state", "said"), [
    ({}, False), (RUN, False), (RUN | {"stages": [{"name": "sft", "steps": 2}]}, False),
    (RUN | {"stages": [{"name": "sft", "steps": 3}]}, True), (RUN | {"stages": [{"name": "sft", "ends": 3}]}, True),
    (RUN | {"stages": [{"name": "other", "steps": 3}]}, False),
])  # fmt: skip
def test_a_stage_that_is_not_finished_is_known(state, said):
    assert bool(unfinished(state)) == said


def test_a_run_says_its_shape(folder, run):
    state = read_state(run / "0000002")
    assert state["shape"] == recipe(folder, SFT).model_shape().as_dict()
    assert check_beside(run / "0000002", Tokenizer(folder / "tokenizer"), recipe(folder).model_shape()) == state

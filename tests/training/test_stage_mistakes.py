"""Mistakes in a stage, its sets and its tokenizer are refused, left out by reason, or warned of."""

import json
import re
import sys
from pathlib import Path

import pytest
from support.recipes import DPO, SFT, make, pair, recipe
from support.releases import captions, publish

from schemas.errors import UserError
from training import tokenizer as tokenizer_program
from training.begin import encoder_of, samples_of, start
from training.checkpoint import latest
from training.dpo import pair_tokens
from training.layout import SampleRejected
from training.progress import Progress
from training.run_state import batches_of, other_samples
from training.samples import SampleEncoder
from training.stage_table import table_of, warnings_of
from training.tokenizer import Tokenizer
from training.train import World, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("mistakes"))


def table(made):
    stage, tokenizer = made.stages[0], Tokenizer(made.tokenizer)
    model, _ = start(made, tokenizer, World().device)
    samples = samples_of(made, stage, tokenizer, model, World())
    releases = [shards.release for shards in samples.shards]
    return table_of(samples, Progress(stage, samples.order.total), releases, 0, model.shape.vision.side)


# Slices


@pytest.mark.parametrize(("side", "refused"), [(980, False), (994, True), (1400, True)])
def test_a_side_beyond_llama_cpps_limit_is_refused(side, refused, folder):
    made = recipe(folder, {**SFT, "side": side})
    encode = lambda: encoder_of(made, made.stages[0], Tokenizer(made.tokenizer), made.model_shape())  # noqa: E731
    if refused:
        with pytest.raises(
            UserError, match=rf"^stages\.sft\.side: {side} pixels .* limit of llama.cpp; .* at most 980"
        ):
            encode()
    else:
        assert encode().slicing.side == side


@pytest.mark.parametrize(("stage", "warned"), [
    ({}, False), ({"side": 56}, False), ({"side": 28}, True), ({"plan": "openbmb"}, True),
    ({"plan": "openbmb", "side": 112}, True),
])  # fmt: skip
def test_slices_that_the_phone_would_not_cut_are_warned_of(stage, warned, folder):
    warnings = [one for one in warnings_of(table(recipe(folder, {**SFT, "length": 256, **stage}))) if "cut" in one]
    assert len(warnings) == warned
    assert not warned or "the phone cuts them by llama.cpp with side = 56" in warnings[0]


# Sets


@pytest.mark.parametrize(("weight", "warned"), [(1.0, False), (0.01, True), (1e-6, True)])
def test_a_set_that_is_hardly_drawn_is_warned_of(weight, warned, folder):
    found = table(recipe(folder, {**SFT, "sets": {"captions": 1.0, "others": weight}}))
    said = [one for one in warnings_of(found) if "the steps train one of its packs at most, or none" in one]
    assert len(said) == warned and all(one.startswith("others: ") for one in said)


@pytest.mark.parametrize(("chosen", "rejected", "equal"), [
    ("A star.", "A star.", True), ("1", "1", True), ("A star.", "A star", False),
])  # fmt: skip
def test_equal_answers_are_left_out(chosen, rejected, equal, folder):
    name, members = pair(1, chosen, rejected)
    encoder = SampleEncoder(Tokenizer(folder / "tokenizer"), 4, 512)
    if equal:
        with pytest.raises(SampleRejected, match=r"^equal_answers: "):
            pair_tokens(encoder, {"__key__": name, **members})
    else:
        assert len(pair_tokens(encoder, {"__key__": name, **members})) == 2


def test_a_set_of_equal_answers_is_refused(folder, tmp_path):
    publish(tmp_path / "corpus", "pairs", (pair(n, "Same.", "Same.") for n in range(3)), 4)
    made = recipe(folder, DPO, sets=("pairs",))
    data = {"pairs": made.data["pairs"].model_copy(update={"root": str(tmp_path / "corpus")})}
    with pytest.raises(UserError, match="has no pair to train on; left out: 3 equal_answers"):
        table(made.model_copy(update={"data": data}))


@pytest.mark.parametrize("role", ["gpt", "human", "Assistant", "tool", ""])
def test_a_conversation_with_an_unknown_role_is_left_out(role, folder):
    turns = [{"role": "user", "content": "Hi"}, {"role": role, "content": "Yes."},
             {"role": "assistant", "content": "So."}]  # fmt: skip
    said = json.dumps({"conversation": {"turns": turns, "images": []}}).encode()
    encoder = SampleEncoder(Tokenizer(folder / "tokenizer"), 4, 512)
    with pytest.raises(SampleRejected, match=rf"^unknown_role: turn 2 is of '{role}'; choose from system, user, assis"):
        encoder.tokens({"__key__": f"{1:016x}-conversation", "json": said})


# Tokenizers


@pytest.mark.parametrize(("dropout", "refused"), [(0.5, True), (0.01, True), (0.0, False), (None, False)])
def test_a_tokenizer_with_dropout_is_refused(dropout, refused, folder, tmp_path):
    said = json.loads((folder / "tokenizer/tokenizer.json").read_text())
    said["model"]["dropout"] = dropout
    (tmp_path / "tokenizer.json").write_text(json.dumps(said))
    if refused:
        with pytest.raises(UserError, match=rf"tokenizer\.json: model\.dropout: {dropout} .*; set it to null"):
            Tokenizer(tmp_path)
    else:
        Tokenizer(tmp_path)


def test_a_tokenizer_names_the_sample_that_it_cannot_read(tmp_path, monkeypatch, capsys):
    bad = (f"{20:016x}-caption", {"txt": b"\xff\xfe bad"})
    publish(tmp_path, "mixed", [*captions(3), bad], 4)
    monkeypatch.setattr(sys, "argv", ["tokenizer", str(tmp_path), "mixed", str(tmp_path / "out"), "--vocab", "300"])
    with pytest.raises(SystemExit, match="2"):
        tokenizer_program.main()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.match(rf"mixed@\w+: {bad[0]}: unreadable_text: ", said), said


def test_a_checkpoint_that_is_not_there_is_named_with_its_key(folder, tmp_path):
    made = recipe(folder, start={"checkpoint": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match=r"^start\.checkpoint: \S+nowhere: is not a checkpoint") as error:
        train(made, tmp_path / "run", World())
    assert str(error.value).count("nowhere") == 1


# A run's state


@pytest.mark.parametrize(("sets", "releases", "said"), [
    (["b", "a"], ["b@1", "a@1"], r"stages\.sft\.sets: the order was a, b, and is now b, a; put it back"),
    (["a", "b"], ["a@1", "b@2"], r'data\.b: was b@1, is now b@2; say set = "b@1"'),
    (["a", "b"], ["a@3", "b@1"], r'data\.a: was a@1, is now a@3; say set = "a@1"'),
    (["a", "b"], ["a@1", "b@1"], "name the release it began with"),
])  # fmt: skip
def test_samples_of_another_order_or_release_are_named(sets, releases, said, folder):
    entry = {"name": "sft", "sets": {"a": 1.0, "b": 1.0}, "releases": ["a@1", "b@1"]}
    (stage,) = recipe(folder).stages
    stage = stage.model_copy(update={"sets": dict.fromkeys(sets, 1.0)})
    error = other_samples(Path("run"), {"step": 2, "stages": [entry]}, stage, releases, {})
    assert re.search(said, str(error)) and "with other samples than those of the recipe now" in str(error)
    assert "name the release" in str(
        other_samples(Path("run"), {"step": 2}, stage, releases, {})
    )  # of an older version


@pytest.mark.parametrize(("was", "step", "batch", "found"), [
    (None, 0, 2, {"1": 2}), ({"batch": 2, "batches": {"1": 2}}, 3, 2, {"1": 2}),
    ({"batch": 2, "batches": {"1": 2}}, 3, 5, {"1": 2, "4": 5}), ({"batch": 2}, 3, 1, {"1": 2, "4": 1}),
    ({"batch": 2, "batches": {"1": 2}}, 0, 3, {"1": 3}),
])  # fmt: skip
def test_a_state_has_every_batch_with_its_first_step(was, step, batch, found, folder):
    (stage,) = recipe(folder, {**SFT, "batch": batch}).stages
    assert batches_of(stage, step, [{"name": "sft", **was}] if was else []) == found


def test_a_state_says_where_its_data_and_its_start_were(folder, tmp_path):
    train(recipe(folder, {**SFT, "steps": 1}), tmp_path / "first", World())
    begin = latest(tmp_path / "first")
    made = recipe(folder, {**SFT, "steps": 3}, start={"checkpoint": str(begin)})
    train(made, tmp_path / "run", World(), stop=2)
    more = recipe(folder, {**SFT, "steps": 3, "batch": 3}, start={"checkpoint": str(begin)})
    train(more, tmp_path / "run", World())
    state = json.loads((latest(tmp_path / "run") / "state.json").read_text())
    assert state["start_paths"] == {"checkpoint": str(begin)}
    assert state["stages"][0]["roots"] == {"captions": str(folder / "corpus")}
    assert state["stages"][0]["batches"] == {"1": 2, "3": 3}

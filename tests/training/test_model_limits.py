"""Limits of a model are held against samples, tokenizers and numbers; what fails is named."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.full_disk import largest_file
from support.paths import PROJECT
from support.releases import captions, drawn, publish, small_tokenizer
from support.small_models import TINY

from schemas.errors import UserError
from training.checkpoint import latest, load_model, save_model
from training.dpo import Pairs
from training.layout import SampleRejected
from training.loader import Mixture, Part
from training.model import VisionLanguageModel
from training.recipe import Recipe, read_recipe
from training.samples import SampleEncoder
from training.tokenizer import Tokenizer
from training.train import World, main, train

SHORT = replace(TINY, language=replace(TINY.language, context=128))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def changed(tokenizer: Tokenizer, folder: Path, change) -> Path:
    """The folder of a tokenizer with other JSON."""
    said = json.loads(tokenizer.json)
    change(said)
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(said))
    return folder


# The context


def conversation(*turns: str) -> dict[str, bytes]:
    roles = ("user", "assistant")
    said = [{"role": roles[number % 2], "content": text} for number, text in enumerate(turns)]
    return {"json": json.dumps({"conversation": {"turns": said, "images": []}}).encode()}


LONG = {
    "caption": {"png": drawn(3), "json": b"{}", "txt": b"word and word " * 200},
    "ocr": {"png": drawn(3), "json": b"{}", "txt": b"1 2 3 4 5 6 7 8 " * 200},
    "conversation": conversation("Why? " * 200, "So."),
}


@pytest.mark.parametrize("task", LONG)
def test_a_sample_above_the_context_is_too_long_however_long_packs_are(task, tokenizer):
    sample = {"__key__": f"{0:016x}-{task}", **LONG[task]}
    assert len(SampleEncoder(tokenizer, 4, 4096).tokens(sample).ids) > 512
    with pytest.raises(SampleRejected, match=r"^too_long: .* of 512$"):
        SampleEncoder(tokenizer, 4, 4096, context=512).tokens(sample)


@pytest.mark.parametrize("context", [2048, 4096])
def test_a_context_that_holds_a_pack_changes_no_plan(context, tokenizer):
    assert SampleEncoder(tokenizer, context=context).settings() == SampleEncoder(tokenizer).settings()


@pytest.mark.slow
def test_training_leaves_out_what_the_model_cannot_take(tokenizer, tmp_path, capsys):
    samples = [
        (f"{0:016x}-caption", LONG["caption"]),
        *((f"{n:016x}-ocr", {**LONG["ocr"], "txt": b"1"}) for n in (1, 2)),
    ]
    publish(tmp_path / "corpus", "mine", samples, 4)
    train(recipe(tmp_path, tokenizer.path.parent, length=4096), tmp_path / "run", World())
    assert "sft  left out: 1 too_long" in capsys.readouterr().out


def recipe(folder: Path, tokenizer: Path, **stage) -> Recipe:
    (folder / "shape.json").write_text(
        json.dumps(replace(SHORT, language=replace(SHORT.language, context=512)).as_dict())
    )
    return Recipe.model_validate({
        "shape": str(folder / "shape.json"), "tokenizer": str(tokenizer),
        "data": {"mine": {"root": str(folder / "corpus"), "set": "mine"}},
        "stages": [{"name": "sft", "sets": {"mine": 1.0}, "steps": 1, "batch": 1, "rate": 1e-3, "precision": "float32",
                    **stage}],
    })  # fmt: skip


# Ids


@pytest.mark.parametrize(("token", "number", "special"), [
    ("<slice>", 900, True), ("<extra>", 900, True), ("a whole phrase", 1000, False),
])  # fmt: skip
def test_an_added_token_with_an_id_of_its_own_is_refused(token, number, special, tokenizer, tmp_path):
    def change(said: dict) -> None:
        said["model"]["vocab"].pop(token, None)
        said["model"]["vocab"] = {word: place for place, word in enumerate(said["model"]["vocab"])}
        added = [one for one in said["added_tokens"] if one["content"] != token]
        for one in added:
            one["id"] = said["model"]["vocab"][one["content"]]
        said["added_tokens"] = [*added, {**added[0], "content": token, "id": number, "special": special}]

    path = changed(tokenizer, tmp_path, change)
    with pytest.raises(UserError, match=rf"added_tokens: {token} has the id {number}, but is taken as ") as error:
        Tokenizer(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", [TINY.language.vocab, TINY.language.vocab + 60, 100_000])
def test_an_id_without_an_embedding_is_refused_however_few_tokens_there_are(number, tokenizer, tmp_path):
    def change(said: dict) -> None:
        said["model"]["vocab"] = {
            word: number if place == len(tokenizer) - 1 else place for word, place in said["model"]["vocab"].items()
        }

    other = Tokenizer(changed(tokenizer, tmp_path, change))
    assert len(other) == len(tokenizer) < TINY.language.vocab
    said = rf"{len(tokenizer)} tokens with ids up to {number}; the shape has room for {TINY.language.vocab}$"
    with pytest.raises(UserError, match=said):
        train(recipe(tmp_path, tmp_path), tmp_path / "run", World())
    save_model(tmp_path / "model", VisionLanguageModel(TINY), other)
    with pytest.raises(UserError, match=rf"ids up to {number}; the shape has room"):
        load_model(tmp_path / "model")


# Numbers


@pytest.mark.parametrize(("name", "value", "option"), [
    ("language.model.embed_tokens.weight", 1e5, "--quant F32"), ("resampler.query", -7e4, "--mmproj f32"),
    ("language.model.norm.weight", 65_520.0, "--quant F32"), ("vision.post_layernorm.bias", 2e5, "--mmproj f32"),
])  # fmt: skip
def test_a_weight_that_float16_cannot_hold_is_refused(name, value, option, tokenizer, tmp_path):
    model = VisionLanguageModel(TINY)
    with torch.no_grad():
        model.get_parameter(name).flatten()[1] = value
    with pytest.raises(UserError, match=rf"^{name}: has {abs(value):g}, and float16 holds at most 65504; .* {option}$"):
        save_model(tmp_path, model, tokenizer, torch.float16)
    assert not [*tmp_path.iterdir()]
    save_model(tmp_path, model, tokenizer)
    assert load_file(tmp_path / "model.safetensors")[name].flatten()[1] == value


def test_the_largest_number_of_float16_is_held(tokenizer, tmp_path):
    model = VisionLanguageModel(TINY)
    with torch.no_grad():
        model.resampler.query[0, 0] = 65_504.0
    save_model(tmp_path, model, tokenizer, torch.float16)
    assert load_file(tmp_path / "model.safetensors")["resampler.query"][0, 0] == 65_504.0


# Faults are named


@pytest.mark.parametrize("name", ["captions", "conversation", "OCR"])
def test_an_instruction_of_no_task_is_refused(name, tmp_path):
    (tmp_path / "r.toml").write_text(
        'shape = "pico"\ntokenizer = "t"\ndata.mine = { root = "c", set = "mine" }\n'
        '[[stages]]\nname = "sft"\nsets = { mine = 1.0 }\nsteps = 1\nrate = 1e-3\n'
        f'[instructions]\n{name} = "Say it."\n'
    )
    with pytest.raises(UserError, match=rf"instructions\.{name}: .* choose from caption, ocr, reconstruct$"):
        read_recipe(tmp_path / "r.toml")


def test_a_set_that_gives_nothing_is_refused_beside_one_that_gives(tokenizer, tmp_path):
    publish(tmp_path, "good", captions(4), 4)
    publish(tmp_path, "bad", [(f"{0:016x}-poem", {"txt": b"x"}), (f"{1:016x}-caption", LONG["caption"])], 4)
    with pytest.raises(UserError, match=r"^bad: has nothing .*; left out of 2 samples: 1 too_long, 1 unknown_task; "):
        Mixture([Part(str(tmp_path), "good"), Part(str(tmp_path), "bad")], SampleEncoder(tokenizer, 4, 512))


PAIR = {"question": "Why?", "chosen": "So.", "rejected": "No."}


@pytest.mark.parametrize(("pair", "reason"), [
    (None, "1 unreadable_text; the first, .*: json: holds no pair"),
    ({**PAIR, "chosen": 5}, "1 unreadable_text; the first, .* is not a string"),
    ({**PAIR, "rejected": "word " * 400}, r"1 too_long; the first, .* of 128"),
    ({**PAIR, "chosen": "  "}, "1 no_answer; the first, "),
])  # fmt: skip
def test_why_there_is_no_pair_is_said(pair, reason, tokenizer, tmp_path):
    publish(tmp_path, "pairs", [(f"{0:016x}-pair", {"json": json.dumps({"pair": pair} if pair else {}).encode()})], 4)
    with pytest.raises(UserError, match=rf"^pairs: has no pair to train on; left out: {reason}"):
        Pairs([Part(str(tmp_path), "pairs")], SampleEncoder(tokenizer, 4, 128))


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """`python -m …`."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip


def test_a_tokenizer_learns_from_pairs(tmp_path):
    texts = {**PAIR, "question": "Whatsoever? " * 20}
    publish(tmp_path, "pairs", [(f"{0:016x}-pair", {"json": json.dumps({"pair": texts}).encode()})], 4)
    done = run("training.tokenizer", tmp_path, "pairs", tmp_path / "out", "--vocab", "300")
    assert done.returncode == 0, done.stderr
    assert len(Tokenizer(tmp_path / "out").encode("Whatsoever")) == 1


def test_a_tokenizer_refuses_a_set_without_texts(tmp_path):
    publish(tmp_path, "bare", [(f"{0:016x}-caption", {"png": drawn(1)}), (f"{1:016x}-ocr", {"txt": b" \n"})], 4)
    done = run("training.tokenizer", tmp_path, "bare", tmp_path / "out")
    assert (done.returncode, done.stderr) == (2, f"{tmp_path}: the set bare has no texts; choose another\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_costs_no_checkpoint(tokenizer, tmp_path, monkeypatch, capsys):
    """The disk is as full as a limit of the length of files makes it."""
    publish(tmp_path / "corpus", "mine", captions(8), 4)
    begun = recipe(tmp_path, tokenizer.path.parent, steps=2)
    train(begun, tmp_path / "run", World(), stop=1)
    monkeypatch.setattr("training.train.read_recipe", lambda path: begun)
    monkeypatch.setattr(sys, "argv", ["train", "r.toml", str(tmp_path / "run"), "--workers", "0"])
    capsys.readouterr()
    with largest_file(60_000), pytest.raises(SystemExit, match="2"):
        main()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "model.safetensors: cannot be written" in said
    assert latest(tmp_path / "run").name == "0000001"
    main()
    assert latest(tmp_path / "run").name == "0000002"

"""A step is what plain PyTorch would do, and weights that are broken replace no checkpoint."""

import json
import os
import re
import subprocess
import sys
from random import Random

import fsspec
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.releases import captions, encoded, publish
from support.training_runs import files, plain_weights, weights

from pipelines.sources.scenes import draw
from schemas.errors import UserError
from schemas.scenes.lessons import conversation
from schemas.scenes.scene import imagine
from schemas.training import TRAINING
from training.begin import samples_of, start
from training.checkpoint import latest
from training.layout import IGNORED
from training.learner import make_optimizers
from training.recipe import Data, Recipe
from training.train import World, train

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def plain_step(recipe: Recipe, stage_at: int = 0) -> dict[str, torch.Tensor]:
    """The weights after the first step as plain PyTorch would make it: sample by sample, transformers' own loss."""
    stage, world = recipe.stages[stage_at], World()
    torch.manual_seed(recipe.seed)
    from training.tokenizer import Tokenizer

    tokenizer = Tokenizer(recipe.tokenizer)
    model, _ = start(recipe, tokenizer, world.device)
    model.attend_by("sdpa")
    mixture = samples_of(recipe, stage, tokenizer, model, world)
    places = [mixture.order[number] for number in range(stage.batch)]
    rows = [row for place in places for row in mixture.planned[place.set][place.pack]]
    read = [mixture._read(0, row) for row in rows]
    count = sum(int((tokens.labels != IGNORED).sum()) for tokens, _ in read)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in model.named_parameters() if decays(n, p)], "weight_decay": stage.weight_decay},
            {"params": [p for n, p in model.named_parameters() if not decays(n, p)], "weight_decay": 0.0},
        ],
        lr=stage.rate_at(0), betas=stage.betas,
    )  # fmt: skip
    for tokens, views in read:
        ids = torch.from_numpy(tokens.ids).long()[None]
        from training.pixels import patches

        seen = torch.cat([
            model.see(torch.from_numpy(patches(view)), torch.tensor([[view.shape[0] // 14, view.shape[1] // 14]]))
            for view in views
        ])  # fmt: skip
        embedded = model.embed(ids, seen, ids == tokenizer.marks.query)
        labels = torch.from_numpy(tokens.labels).long()[None]
        learned = int((labels != IGNORED).sum())
        (model.language(inputs_embeds=embedded, labels=labels).loss * learned / count).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), stage.clip)
    optimizer.step()
    return dict(model.named_parameters())


def decays(name: str, parameter: torch.Tensor) -> bool:
    outside = ("position_embedding", "embed_tokens", "resampler.query")
    return parameter.ndim == 2 and not any(one in name for one in outside)


@pytest.mark.slow
@pytest.mark.parametrize("micro", [3, 1])
def test_a_step_is_that_of_plain_pytorch(recipe, tmp_path, micro):
    """Packed, in micro-batches, masked: the gradients are those of samples trained one by one, and AdamW takes them.

    The weights alone would not show it on every processor: AdamW's first step divides each gradient by its own size,
    so that one near zero may move its weight either way.
    """
    one = recipe({"steps": 2, "batch": 3, "micro": micro, "weight_decay": 0.1, "warm_up": 0.0})
    train(one, tmp_path, World(), stop=1)
    expected, before, (stage,) = plain_step(one), plain_weights(one), one.stages
    found, state = weights(tmp_path), load_file(next(tmp_path.glob("*/optimizer.safetensors")))
    for name, weight in expected.items():
        gradient = state[f"0/exp_avg/{name}"] / (1 - stage.betas[0])
        largest = float(weight.grad.abs().max())  # gradients of biases of keys are zero but for rounding
        torch.testing.assert_close(gradient, weight.grad, rtol=1e-3, atol=1e-4 * largest + 1e-6, msg=name)
        decayed = before[name] * (1 - stage.rate_at(0) * stage.weight_decay * decays(name, weight))
        stepped = decayed - stage.rate_at(0) * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(found[name], stepped, rtol=0, atol=1e-6, msg=name)
    moved = torch.cat([(found[name] - before[name]).abs().flatten() for name in expected])
    assert moved.median() > 5e-4  # AdamW's first step is about the rate, whatever the gradient


def test_only_what_a_stage_trains_moves(recipe, tmp_path):
    one = recipe({"trains": ["resampler"]})
    train(one, tmp_path, World())
    before, after = plain_weights(one), weights(tmp_path)
    moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"resampler"}


def test_what_is_not_trained_is_said(recipe, tmp_path, capsys):
    """Whoever sees no more than the log must know that half of the samples were too long."""
    train(recipe({"length": 180, "steps": 1}), tmp_path, World())
    assert re.search(r"^stage0  left out: \d+ too_long$", capsys.readouterr().out, re.M)


def test_what_a_recipe_cannot_have_is_said_before_it_begins(recipe, tmp_path):
    world = World()
    world.ranks, world.first = 3, lambda line: line  # no others are there
    with pytest.raises(UserError, match=r"stages.stage1.batch: 2 packs a step for 3 processes; give each one at least"):
        train(recipe({"batch": 3}, {"batch": 2}), tmp_path, world)
    with pytest.raises(UserError, match="side: 60 pixels are not a whole number of patches; choose a multiple of 14"):
        train(recipe({"side": 60}), tmp_path, World())


def test_samples_without_truth_are_named_where_it_is_to_be_learned(recipe, tmp_path):
    with pytest.raises(UserError, match="-caption: its json lacks extra"):
        publish(tmp_path, "captions", captions(4), 4)
        made = recipe({"sets": {"captions": 1.0}, "truth": 1.0})
        data = {"captions": Data(root=str(tmp_path), set="captions")}
        train(made.model_copy(update={"data": data}), tmp_path / "run", World())


@pytest.mark.parametrize("stage", [{"truth": 1.0, "answers": 0}, {"truth": 1.0}, {}])
def test_a_pack_of_which_nothing_can_be_read_is_passed_over(recipe, tmp_path, capsys, stage):
    """Two scenes, one with half of its picture: alone in its micro-batch it has neither tokens nor views."""

    def scenes():
        for number in range(2):
            scene = imagine(Random(number))
            picture = encoded(draw(scene, Random(number), 56), "PNG")
            said = {"turns": conversation(scene, Random(number), 2), "images": ["<image>"]}
            document = {"conversation": said, "extra": {"scene": scene}}
            cut = picture[: -900 * number] if number else picture
            yield f"{number:016x}-conversation", {"png": cut, "json": json.dumps(document).encode()}

    publish(tmp_path, "lessons", scenes(), 2)
    made = recipe({"batch": 2, "micro": 1, "length": 256, **stage})
    data = {"lessons": Data(root=str(tmp_path), set="lessons")}
    train(made.model_copy(update={"data": data}), tmp_path / "run", World())
    assert capsys.readouterr().out.count("unreadable_image: ") == 2
    assert all(bool(weight.isfinite().all()) for weight in weights(tmp_path / "run").values())


@pytest.mark.slow
def test_weights_that_are_no_numbers_replace_no_checkpoint(recipe, tmp_path):
    train(recipe({"steps": 3}), tmp_path, World(), stop=1)
    before = files(tmp_path)
    world = World()
    world.sum_gradients = lambda learned: learned[3].grad.fill_(float("nan"))
    with pytest.raises(UserError, match=(
        r"stages\.stage0: the gradient of \S+ is not finite at step 2; the weights before it are finite; "
        r"choose a rate below 0\.001; the last good checkpoint is \S+/0000001$"
    )):  # fmt: skip
        train(recipe({"steps": 3}), tmp_path, world)
    assert files(tmp_path) == before
    with pytest.raises(UserError, match=r"stages\.stage0: the \S+.* is not finite at step \d; .* no checkpoint was "):
        train(recipe({"steps": 9, "rate": 1e30}), tmp_path / "new", World())
    assert latest(tmp_path / "new") is None


def test_weights_that_the_last_step_broke_replace_no_checkpoint(recipe, tmp_path, monkeypatch):
    """Its loss and its gradients are finite."""
    train(recipe({"steps": 1}), tmp_path, World())
    before = files(tmp_path)
    optimizers = make_optimizers

    def breaking(*args):
        made = optimizers(*args)
        weight = made[0].param_groups[0]["params"][0]
        made[0].register_step_post_hook(lambda *_: weight.data.view(-1)[:1].fill_(float("inf")))
        return made

    monkeypatch.setattr("training.train.make_optimizers", breaking)
    with pytest.raises(
        UserError, match=r"stages\.stage1: \S+ is not finite after step 1; .* checkpoint is .*/0000001$"
    ):
        train(recipe({"steps": 1}, {"steps": 1}), tmp_path, World())
    assert files(tmp_path) == before


def test_weights_that_came_in_as_no_numbers_are_named(recipe, tmp_path):
    train(recipe({"steps": 2}), tmp_path, World(), stop=1)
    path = latest(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    tensors["resampler.query"][0] = float("inf")
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"resampler\.query holds numbers that are not finite; choose another"):
        train(recipe({"steps": 2}), tmp_path, World())


def test_shards_may_lie_in_an_object_store(recipe, folder, tmp_path):
    """Their packs are then planned into the run's folder; what is learned is the same."""
    there = fsspec.filesystem("memory")
    there.put(str(folder / "corpus" / "shards"), "/store/shards", recursive=True)
    one = recipe({"steps": 1})
    data = {"lessons": Data(root="memory://store", set="lessons")}
    for name, made in (("near", one), ("far", one.model_copy(update={"data": data}))):
        train(made, tmp_path / name, World())
    assert files(tmp_path / "near")["model.safetensors"] == files(tmp_path / "far")["model.safetensors"]
    assert list((tmp_path / "far" / "packs").rglob("*.arrows"))
    assert not (tmp_path / "near" / "packs").exists()


@pytest.mark.slow
def test_it_learns(recipe, tmp_path):
    """Twelve conversations over and over: both losses fall."""
    train(
        recipe({"steps": 12, "batch": 2, "micro": 2, "truth": 0.1, "optimizer": "muon", "rate": 3e-3}),
        tmp_path,
        World(),
    )
    log = pq.read_table(tmp_path / "log.parquet")
    assert log.schema.equals(TRAINING)
    short = recipe({"steps": 1, "batch": 2, "micro": 2, "truth": 0.1})
    (tmp_path / "short").mkdir()
    train(short, tmp_path / "short", World())
    first, last = pq.read_table(tmp_path / "short/log.parquet").to_pylist()[0], log.to_pylist()[-1]
    assert last["loss"] < 0.75 * first["loss"] and last["truth_loss"] < 0.8 * first["truth_loss"]
    assert 0 < last["fill"] <= 1 and last["total"] == 12 and last["tokens"] > 0
    assert (tmp_path / "chart.svg").read_text().count("<polyline") == 4  # two losses, rate and norm


@pytest.mark.slow
def test_two_processes_do_what_one_does(folder, tmp_path):
    """With torchrun: the same packs, the same mean over all that is learned; in steps without an image, too."""
    words = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "A star."}]
    said = json.dumps({"conversation": {"turns": words, "images": []}}).encode()
    publish(tmp_path, "words", ((f"{number:016x}-conversation", {"json": said}) for number in range(9)), 9)
    (folder / "ranks.toml").write_text(f"""
shape = "shape.json"
tokenizer = "tokenizer"
[data.lessons]
root = "{folder}/corpus"
set = "lessons"
[data.words]
root = "{tmp_path}"
set = "words"
[[stages]]
name = "sft"
sets = {{ lessons = 1.0 }}
truth = 0.5
steps = 3
batch = 5
micro = 2
length = 768
rate = 1e-3
precision = "float32"
[[stages]]
name = "mixed"
sets = {{ lessons = 0.5, words = 6.0 }}
steps = 6
batch = 2
length = 768
rate = 1e-3
weight_decay = 0.1
precision = "float32"
""")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    for ranks in ("1", "2"):
        command = [*torchrun, ranks, "-m", "training.train", str(folder / "ranks.toml"), str(tmp_path / ranks)]
        done = subprocess.run([*command, "--workers", "0"], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=2e-4, msg=name)


# Schedules and recipes


def test_the_rate_warms_up_and_falls_as_the_schedule_says(recipe):
    cosine, stable = recipe(
        {"steps": 100, "warm_up": 0.1, "rate": 1.0},
        {"steps": 100, "warm_up": 0.1, "rate": 1.0, "schedule": "warmup_stable_decay", "decay": 0.2},
    ).stages
    assert [round(cosine.rate_at(step), 3) for step in (0, 9, 10, 55, 99)] == [0.091, 0.909, 1.0, 0.5, 0.0]
    assert [round(stable.rate_at(step), 3) for step in (0, 9, 10, 80, 90, 99)] == [0.091, 0.909, 1.0, 1.0, 0.5, 0.05]


def test_every_matrix_of_a_hidden_layer_is_muons_and_all_else_adamws(recipe):
    one = recipe({"optimizer": "muon", "truth": 1.0})
    from training.tokenizer import Tokenizer

    model, probe = start(one, Tokenizer(one.tokenizer), World().device)
    muon, adamw = make_optimizers(one.stages[0], model, probe)
    names = {id(p): name for name, p in [*model.named_parameters(), *probe.named_parameters("probe")]}
    matrices, others = ([names[id(p)] for g in o.param_groups for p in g["params"]] for o in (muon, adamw))
    assert not set(matrices) & set(others) and len(matrices) + len(others) == len(names)
    assert all(name.endswith(".weight") for name in matrices) and len(matrices) == 2 * 6 + 6 + 2 * 7
    outer = {"language.model.embed_tokens.weight", "vision.embeddings.position_embedding.weight", "resampler.query"}
    assert outer | {"probe.text.weight"} <= set(others)

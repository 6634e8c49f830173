"""Training: a step is what plain PyTorch would do, a run that was stopped goes on bit for bit, DPO is its formula."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import fsspec
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.paths import PROJECT
from support.releases import captions, encoded, flip, publish, small_tokenizer
from support.small_models import TINY

from pipelines.sources.scenes import draw
from schemas.errors import UserError
from schemas.scenes.lessons import conversation
from schemas.scenes.scene import imagine
from schemas.training import TRAINING
from training.checkpoint import latest, save_run
from training.dpo import loss_of, margins_of, pair_tokens
from training.layout import IGNORED
from training.probe import QUERIES
from training.recipe import Data, Recipe, read_recipe
from training.train import World, make_optimizers, samples_of, start, train

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
SHAPE = replace(TINY, queries=QUERIES, language=replace(TINY.language, context=1024))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tokenizer, a shape, a set of conversations about scenes, and one of pairs."""
    folder = tmp_path_factory.mktemp("training")
    scenes = [imagine(Random(number)) for number in range(12)]
    pictures = [encoded(draw(scene, Random(number), 56), "PNG") for number, scene in enumerate(scenes)]
    turns = [conversation(scene, Random(number), 2) for number, scene in enumerate(scenes)]
    small_tokenizer(folder / "tokenizer", [turn["content"] for one in turns for turn in one])
    (folder / "shape.json").write_text(json.dumps(SHAPE.as_dict()))

    def lessons():
        for number, (scene, picture, said) in enumerate(zip(scenes, pictures, turns, strict=False)):
            document = {"conversation": {"turns": said, "images": ["<image>"]}, "extra": {"scene": scene}}
            yield f"{number:016x}-conversation", {"png": picture, "json": json.dumps(document).encode()}

    def pairs():
        for number, picture in enumerate(pictures[:6]):
            pair = {
                "question": "What is there?",
                "chosen": f"A star {number}.",
                "rejected": "Two red circles at the top.",
            }
            yield f"{number:016x}-pair", {"png": picture, "json": json.dumps({"pair": pair}).encode()}

    publish(folder / "corpus", "lessons", lessons(), each=5)
    publish(folder / "corpus", "pairs", pairs(), each=5)
    return folder


@pytest.fixture
def recipe(folder):
    return partial(recipe_of, folder)


def recipe_of(folder: Path, *stages: dict, **more) -> Recipe:
    """Stages with what they need besides what is given."""
    usual = {"sets": {"lessons": 1.0}, "steps": 2, "batch": 2, "micro": 2, "length": 768, "rate": 1e-3}
    made = [{"name": f"stage{n}", "precision": "float32", **usual, **stage} for n, stage in enumerate(stages)]
    data = {name: {"root": str(folder / "corpus"), "set": name} for name in ("lessons", "pairs")}
    return Recipe.model_validate({
        "shape": str(folder / "shape.json"), "tokenizer": str(folder / "tokenizer"), "data": data, "stages": made,
        **more,
    })  # fmt: skip


def weights(run: Path) -> dict[str, torch.Tensor]:
    (one,) = (path for path in run.iterdir() if (path / "model.safetensors").exists())
    return load_file(one / "model.safetensors")


def files(run: Path) -> dict[str, bytes]:
    """All of the last checkpoint."""
    (one,) = (path for path in run.iterdir() if (path / "model.safetensors").exists())
    return {path.name: path.read_bytes() for path in one.iterdir()}


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


def plain_weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    from training.tokenizer import Tokenizer

    torch.manual_seed(recipe.seed)
    model, _ = start(recipe, Tokenizer(recipe.tokenizer), World().device)
    return {name: one.detach().clone() for name, one in model.named_parameters()}


TWO = (
    {"name": "sight", "steps": 3, "trains": ["vision", "resampler"], "answers": 0, "truth": 1.0, "optimizer": "muon"},
    {"name": "sft", "steps": 3, "truth": 0.5, "schedule": "warmup_stable_decay", "precision": "bfloat16"},
)


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


def test_a_run_that_is_done_does_nothing_more(recipe, tmp_path):
    train(recipe(*TWO), tmp_path, World())
    before = files(tmp_path)
    train(recipe(*TWO), tmp_path, World())
    assert files(tmp_path) == before


def test_a_run_stops_where_it_is_told_however_often(recipe, tmp_path):
    for _ in range(2):
        train(recipe({"steps": 4}), tmp_path, World(), stop=2)
    assert latest(tmp_path).name == "0000002"


CONSTANT = {"schedule": "warmup_stable_decay", "warm_up": 0.0, "decay": 0.0}


def test_a_stage_may_be_lengthened_as_long_as_its_rates_stay(recipe, tmp_path):
    """The bytes are then those of a run that had as many steps from the beginning."""
    train(recipe({"steps": 5, **CONSTANT}), tmp_path / "whole", World())
    train(recipe({"steps": 3, **CONSTANT}), tmp_path / "parts", World(), stop=2)
    train(recipe({"steps": 5, **CONSTANT}), tmp_path / "parts", World())
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert {2, 5} <= {*pq.read_table(tmp_path / "parts/log.parquet")["total"].to_pylist()}  # a slow machine adds rows
    with pytest.raises(UserError, match=r"stages\.stage0\.steps: was 5, the recipe says 7, and the stage has ended"):
        train(recipe({"steps": 7, **CONSTANT}), tmp_path / "parts", World())


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
    world.ranks = 3
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


def test_it_learns(recipe, tmp_path):
    """Twelve conversations over and over: both losses fall."""
    train(
        recipe({"steps": 25, "batch": 4, "micro": 4, "truth": 0.1, "optimizer": "muon", "rate": 3e-3}),
        tmp_path,
        World(),
    )
    log = pq.read_table(tmp_path / "log.parquet")
    assert log.schema.equals(TRAINING)
    short = recipe({"steps": 1, "batch": 4, "micro": 4, "truth": 0.1})
    (tmp_path / "short").mkdir()
    train(short, tmp_path / "short", World())
    first, last = pq.read_table(tmp_path / "short/log.parquet").to_pylist()[0], log.to_pylist()[-1]
    assert last["loss"] < 0.75 * first["loss"] and last["truth_loss"] < 0.8 * first["truth_loss"]
    assert 0 < last["fill"] <= 1 and last["total"] == 25 and last["tokens"] > 0
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


RECIPE = """
shape = "pico"
tokenizer = "tokenizer"
[data.lessons]
root = "corpus"
set = "lessons"
[[stages]]
name = "sft"
sets = { lessons = 1.0 }
steps = 10
rate = 1e-3
"""


@pytest.mark.parametrize(
    "before, after, said",
    [
        ("steps = 10", "steps = 0", "stages.0.steps: input should be greater than 0"),
        ("steps = 10", "", "stages.0: has no length; give steps or epochs"),
        ("steps = 10", "steps = 10\nepochs = 1", "stages.0: has both steps and epochs; give one of them"),
        ("steps = 10", "epochs = 0", "stages.0.epochs: input should be greater than 0"),
        ("steps = 10", "epochs = inf", "stages.0.epochs: input should be a finite number"),
        ("rate = 1e-3", "rate = 1e-3\nheld_out = { set = \"other\" }", "stages.sft.held_out.set: no data other; add"),
        ("rate = 1e-3", "rate = 1e-3\nheld_out = { sets = \"lessons\" }", "stages.0.held_out.set: field required"),
        ("rate = 1e-3", "rate = 1e-3\npatience = 3", "stages.0.patience: extra inputs"),
        ("{ lessons = 1.0 }", "{ captions = 1.0 }", "stages.sft.sets: no data captions; add [data.captions]"),
        ("rate = 1e-3", "rate = 1e-3\nanswers = 0", "stages.sft: learns nothing"),
        ("rate = 1e-3", "rate = 1e-3\nbeta = 0.1\ntruth = 0.5", "stages.sft: beta is for answers alone"),
        ("rate = 1e-3", "rate = 1e-3\ntrains = []", "stages.0.trains: tuple should have at least 1 item"),
        ("rate = 1e-3", "rate = 1e-3\nbetas = [0.9, 1.0]", "stages.0.betas.1: input should be less than 1"),
        ("{ lessons = 1.0 }", "{}", "stages.0.sets: dictionary should have at least 1 item"),
        ("{ lessons = 1.0 }", "{ lessons = 0.0 }", "stages.0.sets.lessons: input should be greater than 0"),
        ("{ lessons = 1.0 }", "{ lessons = inf }", "stages.0.sets.lessons: input should be a finite number"),
        ("[[stages]]", "[[stages]", "not valid TOML"),
        ('set = "lessons"', "", "data.lessons.set: field required"),
        ("[[stages]]", '[start]\ncheckpoint = "a"\nvision = "b"\n[[stages]]', "start: checkpoint and vision: either"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_said_in_one_line(tmp_path, before, after, said):
    (tmp_path / "my.toml").write_text(RECIPE.replace(before, after, 1))
    with pytest.raises(UserError) as refused:
        read_recipe(tmp_path / "my.toml")
    assert str(refused.value).startswith(f"{tmp_path}/my.toml: {said}") and "\n" not in str(refused.value)


def test_paths_of_a_recipe_are_beside_it(tmp_path):
    (tmp_path / "my.toml").write_text(RECIPE)
    recipe = read_recipe(tmp_path / "my.toml")
    assert recipe.tokenizer == str(tmp_path / "tokenizer") and recipe.data["lessons"].root == str(tmp_path / "corpus")
    assert recipe.model_shape().language.width == 256


@pytest.mark.parametrize("path", sorted(PROJECT.glob("training/recipes/*.toml")), ids=lambda p: p.name)
def test_the_projects_own_recipes_can_be_read(path):
    assert read_recipe(path).model_shape()


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


# DPO


def test_the_loss_of_pairs_is_that_of_the_paper():
    """Direct preference optimisation, equation 7, written out with probabilities instead of logarithms."""
    torch.manual_seed(0)
    policy, reference = (-20 * torch.rand(2, 7, dtype=torch.float64) for _ in range(2))
    found = loss_of(margins_of(policy, reference, beta=0.1))
    for n in range(7):
        chosen, rejected = policy[:, n].exp() / reference[:, n].exp()
        ratio = (chosen / rejected) ** 0.1
        torch.testing.assert_close(found[n], -torch.log(ratio / (1 + ratio)))
    even = loss_of(margins_of(reference, reference, 0.1))
    torch.testing.assert_close(even, torch.full((7,), 2.0).double().log())


PREFERENCE = {"name": "dpo", "sets": {"pairs": 1.0}, "beta": 0.1, "steps": 4, "batch": 3, "micro": 3}


def test_dpo_begins_at_log_2_and_makes_the_chosen_likelier(recipe, tmp_path):
    (tmp_path / "one").mkdir(), (tmp_path / "more").mkdir()
    train(recipe({**PREFERENCE, "steps": 1}), tmp_path / "one", World())
    (first,) = pq.read_table(tmp_path / "one/log.parquet").to_pylist()
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3)
    train(recipe({**PREFERENCE, "steps": 12, "warm_up": 0.0}), tmp_path / "more", World())
    last = pq.read_table(tmp_path / "more/log.parquet").to_pylist()[-1]
    assert last["loss"] < 0.6


def test_references_are_computed_once_and_of_the_start_of_the_stage(recipe, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    train(recipe(PREFERENCE), whole, World())
    train(recipe(PREFERENCE), parts, World(), stop=2)
    (file,) = parts.glob("references-dpo-*.json")
    before = json.loads(file.read_text())
    assert len(before) == 6 and all(len(one) == 2 for one in before.values())
    monkeypatch.setattr("training.dpo.log_probabilities", None)
    train(recipe(PREFERENCE), parts, World())
    assert files(parts) == files(whole)
    assert json.loads(file.read_text()) == before


def test_references_that_are_gone_are_not_made_of_a_model_that_has_moved(recipe, tmp_path):
    train(recipe(PREFERENCE), tmp_path, World(), stop=2)
    (file,) = tmp_path.glob("references-dpo-*.json")
    file.unlink()
    with pytest.raises(UserError, match="is gone, and cannot be made again"):
        train(recipe(PREFERENCE), tmp_path, World())


def test_references_of_a_stage_that_begins_anew_are_those_of_its_start(recipe, tmp_path):
    """They were made, then the stage before was lengthened: what stands in the file is of another model."""
    for name, first in (("short", 1), ("long", 2)):
        (tmp_path / name).mkdir()
        train(recipe({"steps": first}, {**PREFERENCE, "steps": 1}), tmp_path / name, World())
    (stale,), (right,) = ((tmp_path / name).glob("references-dpo-*.json") for name in ("short", "long"))
    again = tmp_path / "again"
    again.mkdir()
    (again / stale.name).write_text(stale.read_text())
    train(recipe({"steps": 2}, {**PREFERENCE, "steps": 1}), again, World())
    assert (again / stale.name).read_text() == right.read_text() != stale.read_text()
    assert files(again) == files(tmp_path / "long")


def published_pairs(folder: Path, name: str, *pairs: tuple[str, str, bytes]) -> None:
    publish(folder, name, (
        (f"{number:016x}-pair", {"png": picture, "json": json.dumps({"pair": {
            "question": "What is there?", "chosen": chosen, "rejected": rejected}}).encode()})
        for number, (chosen, rejected, picture) in enumerate(pairs)
    ), each=2)  # fmt: skip


def pairs_of(recipe: Recipe):
    from training.tokenizer import Tokenizer

    model, _ = start(recipe, tokenizer := Tokenizer(recipe.tokenizer), World().device)
    return samples_of(recipe, recipe.stages[0], tokenizer, model, World())


def with_pairs(recipe, folder: Path, *sets: str, **stage) -> Recipe:
    made = recipe({**PREFERENCE, "sets": dict.fromkeys(sets, 1.0), **stage})
    return made.model_copy(update={"data": {name: Data(root=str(folder), set=name) for name in sets}})


def test_what_an_answer_calls_an_image_is_text(recipe, tmp_path):
    """A response may say `<image>`; the picture stands in the question all the same, once."""
    picture = encoded(draw(imagine(Random(0)), Random(0), 56), "PNG")
    published_pairs(tmp_path, "said", ("A star.", "An <image> and an <image>.", picture))
    pairs = pairs_of(with_pairs(recipe, tmp_path, "said"))
    batch = pairs.batch([(0, 0)])
    chosen, rejected = (batch.ids == pairs.encoder.tokenizer.marks.query).sum(1).tolist()
    assert chosen == rejected == QUERIES
    learned = batch.ids[1][batch.labels[1] != IGNORED].tolist()
    assert pairs.encoder.tokenizer.decode(learned) == "An <image> and an <image>."


def test_pairs_that_cannot_be_read_are_left_out(recipe, tmp_path, capsys):
    """One is damaged, of one half the picture is missing: the others train as if these did not count."""
    picture = [encoded(draw(imagine(Random(number)), Random(number), 56), "PNG") for number in range(4)]
    good = [(f"A star {number}.", "Two circles.", picture[number]) for number in range(4)]
    published_pairs(tmp_path, "hurt", good[0], good[1], ("A moon.", "No.", picture[2][:-900]), good[3])
    (tar, _) = sorted((tmp_path / "shards").glob("hurt-*.tar"))
    flip(tar, tar.read_bytes().index(b"A star 1."))
    still = with_pairs(recipe, tmp_path, "hurt", steps=3, batch=2, micro=1, rate=1e-9)
    train(still, tmp_path / "run", World())
    (file,) = (tmp_path / "run").glob("references-dpo-*.json")
    assert [name.partition("/")[2][15] for name in json.loads(file.read_text())] == ["0", "3"]
    (row,) = pq.read_table(tmp_path / "run/log.parquet").to_pylist()
    assert row["loss"] == pytest.approx(0.6931, abs=1e-3)  # the mean of those that were read
    said = capsys.readouterr().out
    assert "dpo  left out: 1 damaged\n" in said
    assert f"dpo  {2:016x}-pair of hurt-000001-" in said and "unreadable_image: png: " in said


def test_equal_names_of_two_sets_are_two_pairs(recipe, tmp_path):
    """Drawn anew, a response has its old key and another text, and so has the pair."""
    picture = encoded(draw(imagine(Random(0)), Random(0), 56), "PNG")
    published_pairs(tmp_path, "first", ("A star.", "Two circles.", picture))
    published_pairs(tmp_path, "second", ("A moon at the top.", "No.", picture))
    train(with_pairs(recipe, tmp_path, "first", "second", steps=1), tmp_path / "run", World())
    (file,) = (tmp_path / "run").glob("references-dpo-*.json")
    found = json.loads(file.read_text())
    assert len(found) == len(set(map(tuple, found.values()))) == 2


def test_references_are_what_the_model_says_of_each_answer_alone(recipe, tmp_path):
    """By transformers' own loss, an answer at a time, without padding."""
    one = recipe({**PREFERENCE, "steps": 1})
    train(one, tmp_path, World())
    (file,) = tmp_path.glob("references-dpo-*.json")
    found = json.loads(file.read_text())
    torch.manual_seed(one.seed)
    from training.tokenizer import Tokenizer

    tokenizer = Tokenizer(one.tokenizer)
    model, _ = start(one, tokenizer, World().device)
    model.attend_by("sdpa")
    pairs = samples_of(one, one.stages[0], tokenizer, model, World())
    from training.learner import levels

    for number, sample in enumerate(pairs.shards[0]):
        batch = pairs.batch([(0, number)])
        seen = model.see(levels(batch.patches), batch.grids)
        for which, expected in enumerate(found[batch.samples[0][0]]):
            tokens = pair_tokens(pairs.encoder, sample)[which]
            ids, labels = (torch.from_numpy(one).long()[None] for one in (tokens.ids, tokens.labels))
            with torch.no_grad():
                out = model.language(inputs_embeds=model.embed(ids, seen, ids == tokenizer.marks.query), labels=labels)
            assert -float(out.loss) * int((labels != IGNORED).sum()) == pytest.approx(expected, abs=1e-2)


def test_sets_without_pairs_are_refused_beside_one_with_pairs(recipe):
    one = recipe({**PREFERENCE, "sets": {"pairs": 1.0, "lessons": 1.0}})
    from training.tokenizer import Tokenizer

    model, _ = start(one, tokenizer := Tokenizer(one.tokenizer), World().device)
    for sets in ({"pairs": 1.0, "lessons": 1.0}, {"lessons": 1.0}):
        with pytest.raises(UserError, match=r"^lessons: has no pair to train on; left out: 12 unreadable_text; "):
            samples_of(one, one.stages[0].model_copy(update={"sets": sets}), tokenizer, model, World())

"""Held-out losses are those of plain PyTorch, the same on any ranks, and leave training as it is; margins of pairs."""

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import torch
from support.paths import PROJECT
from support.recipes import DPO, SFT, make, recipe, toml

from schemas.errors import UserError
from training.begin import samples_of, start
from training.checkpoint import latest, load_model
from training.layout import IGNORED
from training.learner import levels
from training.pixels import raw_patches
from training.tokenizer import Tokenizer
from training.train import World, train

HELD_OUT = {"held_out": {"set": "others", "every": 2, "packs": 3}}


pytestmark = pytest.mark.usefixtures("no_rows_between")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("held"))


def rows(run) -> list[dict]:
    return pq.read_table(run / "log.parquet").to_pylist()


def files(run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in latest(run).iterdir() if path.suffix == ".safetensors"}


@pytest.mark.slow
def test_they_are_measured_before_the_first_step_every_so_many_and_after_the_last(folder, tmp_path, capsys):
    train(recipe(folder, {**SFT, **HELD_OUT, "steps": 5}), tmp_path, World())
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [0, 2, 4, 5]
    assert all(row["held_out_loss"] > 0 and row["held_out_truth_loss"] is None for row in found)
    assert found[0]["loss"] is None and found[0]["tokens"] == 0 and all(row["loss"] for row in found[1:])
    assert found[-1]["held_out_loss"] < found[0]["held_out_loss"]
    said = capsys.readouterr().out
    assert "sft 0/5  held out loss " in said and "sft 5/5  loss " in said


def test_the_loss_is_that_of_transformers_over_all_its_tokens(folder, tmp_path):
    """Sample by sample, of the packs that the seed draws."""
    made = recipe(folder, {**SFT, **HELD_OUT, "steps": 1})
    train(made, tmp_path, World())
    model, tokenizer = load_model(latest(tmp_path))
    stage = made.stages[0].model_copy(update={"sets": {"others": 1.0}})
    samples = samples_of(made, stage, tokenizer, model, World())
    total = count = 0
    for number in range(3):
        for row in samples.planned[0][samples.order[number].pack]:
            tokens, views = samples._read(0, row)
            ids, labels = (torch.from_numpy(values).long()[None] for values in (tokens.ids, tokens.labels))
            grids = [torch.tensor([[view.shape[0] // 14, view.shape[1] // 14]]) for view in views]
            patches = [levels(torch.from_numpy(raw_patches(view))) for view in views]
            seen = torch.cat([model.see(*view) for view in zip(patches, grids, strict=False)])
            learned = int((labels != IGNORED).sum())
            with torch.no_grad():
                embedded = model.embed(ids, seen, ids == tokenizer.marks.query)
                total += float(model.language(inputs_embeds=embedded, labels=labels).loss) * learned
            count += learned
    assert rows(tmp_path)[-1]["held_out_loss"] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [SFT, {**SFT, "precision": "bfloat16", "optimizer": "muon"}, DPO])
def test_training_is_the_same_to_the_byte_with_and_without_them(stage, folder, tmp_path):
    held_out = {"held_out": {"set": "other-pairs" if "beta" in stage else "others", "every": 1}}
    for name, more in (("without", {}), ("with", held_out)):
        train(recipe(folder, {**stage, **more}), tmp_path / name, World())
    assert files(tmp_path / "with") == files(tmp_path / "without")
    again = recipe(folder, {**stage, **held_out})
    train(again, tmp_path / "stopped", World(), stop=2)
    train(again, tmp_path / "stopped", World())
    assert files(tmp_path / "stopped") == files(tmp_path / "with")
    whole, parts = (
        {row["step"]: row["held_out_loss"] for row in rows(tmp_path / name)} for name in ("with", "stopped")
    )
    assert parts == whole  # to the bit, however the run was cut


@pytest.mark.slow
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_no_step_is_measured_twice_where_a_run_goes_on(cut, folder, tmp_path):
    made = recipe(folder, {**SFT, **HELD_OUT, "steps": 2}, {**DPO, "steps": 2, "held_out": {"set": "other-pairs"}})
    train(made, tmp_path, World(), stop=1 + cut)
    train(made, tmp_path, World())
    found = [(row["stage"], row["step"]) for row in rows(tmp_path)]
    assert len(found) == len({*found}) and {("sft", 0), ("sft", 2), ("dpo", 0), ("dpo", 2)} <= {*found}


@pytest.mark.slow
def test_pairs_have_margins_and_are_won(folder, tmp_path, capsys):
    train(
        recipe(folder, {**DPO, "steps": 8, "warm_up": 0.0, "batch": 6, "held_out": {"set": "other-pairs", "every": 4}}),
        tmp_path,
        World(),
    )
    first, *_, last = rows(tmp_path)
    assert first["held_out_loss"] == pytest.approx(0.6931, abs=1e-4) and abs(first["held_out_margin"]) < 1e-4
    assert last["margin"] > 0.01 and last["held_out_margin"] > 0.01 and last["won"] == last["held_out_won"] == 1.0
    expected = torch.nn.functional.softplus(torch.tensor(-last["held_out_margin"]))  # equal margins, nearly
    assert last["held_out_loss"] == pytest.approx(float(expected), abs=0.02)
    assert "  won 100%  " in capsys.readouterr().out


def test_only_pairs_have_margins(folder, tmp_path):
    train(recipe(folder, {**SFT, **HELD_OUT}), tmp_path, World())
    assert all(row[name] is None for row in rows(tmp_path) for name in ("margin", "won", "held_out_margin"))


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [{"set": "pairs", "packs": 2}, {"set": "other-pairs", "packs": 1}])
def test_held_out_pairs_do_not_change_in_the_middle(held_out, folder, tmp_path):
    """Their references are those of the stage's start, which is gone."""
    train(recipe(folder, {**DPO, "held_out": {"set": "other-pairs", "packs": 2}}), tmp_path, World(), stop=2)
    before = files(tmp_path)
    with pytest.raises(
        UserError, match=r"^stages\.dpo\.held_out: is another than the stage began with, .*leave it out"
    ):
        train(recipe(folder, {**DPO, "held_out": held_out}), tmp_path, World())
    assert files(tmp_path) == before
    train(recipe(folder, DPO), tmp_path, World())  # without it


def test_a_stage_of_pairs_may_train_the_language_model_alone_for_an_epoch(folder, tmp_path):
    stage = {key: value for key, value in DPO.items() if key != "steps"}
    made = recipe(folder, {**stage, "epochs": 1, "trains": ["language"]})
    train(made, tmp_path, World())
    assert latest(tmp_path).name == "0000003"  # six pairs, two a step
    torch.manual_seed(made.seed)
    fresh, _ = start(made, Tokenizer(made.tokenizer), World().device)
    model, _ = load_model(latest(tmp_path))
    same = {name.partition(".")[0] for name, weight in model.named_parameters()
            if torch.equal(weight, fresh.get_parameter(name))}  # fmt: skip
    assert {"vision", "resampler"} <= same
    assert not torch.equal(model.language.lm_head.weight, fresh.language.lm_head.weight)


@pytest.mark.slow
def test_two_ranks_measure_what_one_does(folder, tmp_path):
    """To the bit, before anything is trained; later as near as the weights are."""
    path = toml(
        folder,
        {**SFT, "steps": 2, **HELD_OUT},
        {**DPO, "steps": 2, "held_out": {"set": "other-pairs", "every": 1, "packs": 3}},
    )
    found = {}
    for ranks in ("1", "2"):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
        command += ["-m", "training.train", str(path), str(tmp_path / ranks), "--workers", "0"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(PROJECT)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        found[ranks] = rows(tmp_path / ranks)
        assert done.stdout.count("sft 0/2  held out loss") == 1
    one, two = found["1"], found["2"]
    assert one[0]["held_out_loss"] == two[0]["held_out_loss"]
    for a, b in zip(one, two, strict=True):
        assert (a["stage"], a["step"]) == (b["stage"], b["step"])
        for name in ("held_out_loss", "held_out_margin", "loss", "margin"):
            if a[name] is not None:
                assert b[name] == pytest.approx(a[name], abs=2e-3)
    tables = [json.loads((tmp_path / ranks / "log.jsonl").read_text().splitlines()[0]) for ranks in ("1", "2")]
    assert tables[0] == tables[1]

"""How a run ends: what fails is blamed, in one line, and what is said of a run that has nothing left to train."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.full_disk import largest_file
from support.recipes import DPO, SFT, make, recipe, toml
from support.training_runs import program

from schemas.errors import UserError
from training import checkpoint, look, opening, pack_plan, tokenizer
from training import train as trainer
from training.checkpoint import latest
from training.recipe import checked
from training.run_log import read_log
from training.train import World, train

# What is blamed


def test_public_weights_that_are_not_finite_are_refused(folder, stopped, tmp_path):
    weights = load_file(latest(stopped) / "model.safetensors")
    language = {name.removeprefix("language."): weight for name, weight in weights.items() if "language." in name}
    language["model.norm.weight"][0] = float("nan")
    save_file(language, tmp_path / "model.safetensors")
    made = recipe(folder, start={"language": str(tmp_path)})
    with pytest.raises(UserError, match=r"language\.model\.norm\.weight|model\.norm"):
        train(made, tmp_path / "run", World())


@pytest.mark.parametrize("key", ["answers", "truth", "beta", "weight_decay", "rate"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_setting_that_is_not_finite_is_refused(key, value, folder):
    given = recipe(folder, DPO if key == "beta" else SFT).model_dump(exclude_none=True)
    given["stages"][0][key] = value
    with pytest.raises(UserError, match=rf"stages\.0\.{key}: "):
        checked(given, "r.toml")


def test_a_weight_decay_that_breaks_weights_is_blamed_after_its_step(folder, tmp_path):
    with pytest.raises(UserError, match=r"is not finite after step 1; .* or a weight_decay below 1e\+10"):
        train(recipe(folder, {**SFT, "rate": 1e30, "weight_decay": 1e10, "warm_up": 0.0}), tmp_path, World())


@pytest.mark.parametrize("after", [0, 2])
def test_a_rate_is_blamed_only_if_a_step_was_made(after, folder, run, tmp_path):
    world = World()
    world.sum_gradients = lambda learned: learned[3].grad.fill_(float("nan"))
    said = r"choose a rate below 0\.001" if after else "as they came in: no step .*; choose other weights or samples"
    with pytest.raises(UserError, match=rf"at step {after + 1}; the weights before it are finite.*{said}"):
        train(recipe(folder), run if after else tmp_path / "new", world)


def test_the_first_rank_that_knows_names_the_fault_and_the_others_say_nothing(monkeypatch):
    world = World()
    assert world.first("a") == "a" and world.first(None) is None
    monkeypatch.setattr(world, "ranks", 3)
    monkeypatch.setattr(torch.distributed, "all_gather_object", lambda texts, mine: texts.__setitem__(
        slice(None), [None, "of rank 1", "of rank 2"]))  # fmt: skip
    assert world.first(None) == "of rank 1"
    with pytest.raises(UserError, match="of rank 1"):
        world.fail("of rank 1")
    world.rank = 1
    with pytest.raises(SystemExit, match="2"):
        world.fail("of rank 1")


# A full disk


@pytest.mark.parametrize("size", [0, 500, 2000, 60_000])
def test_a_full_disk_is_one_line_of_a_checkpoint(size, stopped, tmp_path, monkeypatch, capsys):
    with largest_file(size):
        code, _out, err = program(checkpoint, monkeypatch, capsys, stopped, tmp_path / "out")
    assert code == 2 and err.count("\n") == 1 and str(tmp_path) in err and "large" in err, err


@pytest.mark.parametrize("size", [0, 200, 2000])
def test_a_full_disk_is_one_line_of_a_tokenizer(size, folder, tmp_path, monkeypatch, capsys):
    with largest_file(size):
        code, _out, err = program(
            tokenizer, monkeypatch, capsys, folder / "corpus", "captions", tmp_path / "out", "--vocab", "300"
        )
    assert code == 2 and err.count("\n") == 1 and ".json: File too large" in err, err


@pytest.mark.parametrize("size", [5, 2000, 60_000])
def test_a_full_disk_is_one_line_of_a_run_that_names_the_file(size, folder, run, monkeypatch, capsys):
    path = toml(folder, SFT)
    with largest_file(size):
        code, _out, err = program(trainer, monkeypatch, capsys, path, run, "--workers", "0")
    assert code == 2 and err.count("\n") == 1 and str(run) in err, err
    assert latest(run).name == "0000002"


@pytest.mark.parametrize(("module", "words"), [
    (pack_plan, ["corpus", "captions", "--tokenizer", "tokenizer", "--length", "99", "--workers", "0"]),
    (look, ["recipe.toml", "-n", "1", "--out", "page.html"]), (trainer, ["recipe.toml", "new", "--workers", "0"]),
])  # fmt: skip
def test_a_full_disk_names_the_file_of_a_plan_or_a_page(module, words, tmp_path, monkeypatch, capsys):
    toml(make(tmp_path), SFT)
    monkeypatch.chdir(tmp_path)
    with largest_file(100):
        code, _out, err = program(module, monkeypatch, capsys, *words)
    assert code == 2 and err.count("\n") == 1 and re.match(r"\S+\.(arrows|html): File too large", err), err


# What cannot be read, and is not needed


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no table at all"])
def test_a_run_goes_on_without_a_log_that_can_be_read(data, folder, run, capsys):
    (run / "log.parquet").write_bytes(data)
    train(recipe(folder), run, World())
    assert "log.parquet: cannot be read and is begun again" in capsys.readouterr().out
    assert [row["step"] for row in read_log(run)] == [4]


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '{"a', "{}"])
def test_damaged_references_are_named(text, folder, tmp_path):
    train(recipe(folder, {**DPO, "batch": 3}), tmp_path, World(), stop=2)
    (file,) = tmp_path.glob("references-*.json")
    file.write_text(text)
    with pytest.raises(UserError, match=rf"{file.name}: (is damaged|lacks pairs@\S+), and cannot be made again"):
        train(recipe(folder, {**DPO, "batch": 3}), tmp_path, World())


# What is said


def test_a_run_with_nothing_left_to_train_says_so(folder, run, capsys):
    train(recipe(folder), run, World(), stop=1)
    assert "has done 2 steps; --stop 1 trains no more" in capsys.readouterr().out
    train(recipe(folder), run, World())
    capsys.readouterr()
    train(recipe(folder), run, World())
    assert "has done all 4 steps of its stages; nothing is left to train" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "said"), [
    (["--stop", "0"], "0 is below 1"), (["--stop", "-3"], "-3 is below 1"), (["--threads", "-1"], "-1 is below 0"),
    (["--workers", "-1"], "-1 is below 0"),
])  # fmt: skip
def test_options_out_of_range_are_refused(words, said, folder, run, monkeypatch, capsys):
    code, _out, err = program(trainer, monkeypatch, capsys, toml(folder, SFT), run, *words)
    assert code == 2 and said in err


def test_ctrl_c_before_the_first_step_is_one_line(folder, run, monkeypatch, capsys):
    def interrupted(*some):
        raise KeyboardInterrupt

    monkeypatch.setattr(opening, "samples_of", interrupted)
    code, _out, err = program(trainer, monkeypatch, capsys, toml(folder, SFT), run, "--workers", "0")
    assert (code, err) == (130, "interrupted; run it again: training goes on from the last checkpoint\n")


def test_the_model_of_a_stage_that_is_not_finished_is_warned_of(folder, run, tmp_path, monkeypatch, capsys):
    code, out, _err = program(checkpoint, monkeypatch, capsys, run, tmp_path / "half")
    assert code == 0 and "after step 2 of 4 of stage sft" in out and "warning: stage sft is not finished" in out
    train(recipe(folder), run, World())
    code, out, _err = program(checkpoint, monkeypatch, capsys, run, tmp_path / "whole")
    assert code == 0 and "after step 4 of 4 of stage sft" in out and "warning" not in out


@pytest.mark.parametrize("out", ["run", "run/0000002", "run/model", "file"])
def test_a_model_is_not_written_into_its_run_or_a_file(out, run, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    code, _, err = program(checkpoint, monkeypatch, capsys, run, tmp_path / out)
    assert code == 2 and err.count("\n") == 1 and err.startswith(str(tmp_path / out)), err


def test_a_file_is_not_a_run(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: is not a folder; name another"):
        train(recipe(folder), tmp_path / "file", World())


def test_look_writes_no_page_over_a_folder(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for out in (".", str(tmp_path)):
        code, _, err = program(look, monkeypatch, capsys, toml(folder, SFT), "--out", out)
        assert code == 2 and err == f"--out: {out} is a folder; name a file\n"


@pytest.mark.parametrize(("key", "value"), [("seed", 1 << 64), ("seed", -(1 << 64))])
def test_a_seed_that_torch_cannot_take_is_refused(key, value, folder):
    given = json.loads(recipe(folder).model_dump_json(exclude_none=True)) | {key: value}
    with pytest.raises(UserError, match=f"{key}: "):
        checked(given, "r.toml")

"""No program writes into a folder of another kind, or removes what is not its own."""

import json
import shutil
from pathlib import Path

import pytest
from support.phones import save_tiny
from support.recipes import SFT, recipe
from support.training_runs import program

from schemas.errors import UserError
from training import checkpoint, tokenizer
from training.align import round_recipe, train_round
from training.checkpoint import latest, write_model
from training.places import CORPUS, EXPORT, MODEL, RUN, TOKENIZER, check_place
from training.serve import open_model
from training.state_file import read_state
from training.train import World, train
from training.whole_files import filled

FOLDERS = {
    CORPUS: ["shards/a.json"], RUN: ["latest.json"], MODEL: ["model.safetensors", "shape.json", "tokenizer.json"],
    TOKENIZER: ["tokenizer.json"], EXPORT: ["model-F16.gguf"],
}  # fmt: skip


def filled_with(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize("there", FOLDERS)
def test_a_folder_of_another_kind_is_not_written_into(kind, there, tmp_path):
    folder = filled_with(tmp_path / "folder", FOLDERS[there])
    if kind == there:
        check_place(folder, kind)
        return
    with pytest.raises(UserError, match=rf"folder: is the folder of {there}, and {kind} would be written into it"):
        check_place(folder, kind)


@pytest.mark.parametrize("names", [[], ["notes.txt"], ["recipe.toml", "2024010/thesis.txt"]])
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_with_other_files_is_written_into(kind, names, tmp_path):
    check_place(filled_with(tmp_path, names), kind)


@pytest.mark.parametrize("name", ["chart.svg", "log.parquet", "log.jsonl"])
def test_a_file_of_the_user_that_a_run_would_write_over_is_named(name, tmp_path):
    with pytest.raises(UserError, match=rf"holds {name}, which is of no run"):
        check_place(filled_with(tmp_path, [name]), RUN)
    check_place(filled_with(tmp_path, ["lock.json"]), RUN)  # a run without a checkpoint yet


def test_a_run_that_exists_goes_on_whatever_else_is_there(tmp_path):
    check_place(filled_with(tmp_path, ["latest.json", "tokenizer.json", "model.safetensors"]), RUN)


def test_a_run_leaves_what_is_not_its_own(folder, tmp_path):
    run = filled_with(tmp_path, ["2024010/thesis.txt", "loss.svg", "1234567.new/mine", "empty/note"])
    train(recipe(folder, {**SFT, "steps": 1}), run, World())
    assert all((run / name).exists() for name in ("2024010/thesis.txt", "loss.svg", "1234567.new/mine", "empty/note"))
    assert latest(run).name == "0000001"


@pytest.mark.parametrize("name", ["corpus", "tokenizer"])
def test_a_run_does_not_begin_in_a_folder_of_something_else(name, folder):
    before = sorted(path.name for path in (folder / name).iterdir())
    with pytest.raises(UserError, match=f"{name}: is the folder of a {name}"):
        train(recipe(folder), folder / name, World())
    assert sorted(path.name for path in (folder / name).iterdir()) == before


@pytest.mark.parametrize(
    "there", [["model.new/thesis.txt"], ["model.new/model.safetensors"], [".model.new/thesis.txt"]]
)
def test_a_folder_beside_a_model_is_not_removed(there, run, tmp_path):
    filled_with(tmp_path, there)
    if there[0].startswith("."):
        with pytest.raises(UserError, match=r"\.model\.new: holds other files"):
            write_model(run, tmp_path / "model")
    else:
        write_model(run, tmp_path / "model")
    assert (tmp_path / there[0]).exists()


def test_a_model_is_written_into_the_folder_one_is_in(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, out, _ = program(checkpoint, monkeypatch, capsys, run, ".")
    assert code == 0 and "1,304,768 weights" in out and Path("model.safetensors").exists()
    assert read_state(Path(".")) == read_state(latest(run))


def test_a_tokenizer_is_not_written_into_a_model(folder, tmp_path, monkeypatch, capsys):
    model = filled_with(tmp_path / "model", FOLDERS[MODEL])
    words = folder / "corpus", "captions", model, "--vocab", 300
    code, _, err = program(tokenizer, monkeypatch, capsys, *words)
    assert code == 2 and err.count("\n") == 1 and "is the folder of a model" in err
    assert (model / "tokenizer.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["latest.json", "model-F16.gguf", "shards/a.json"])
def test_a_model_replaces_nothing_else(name, run, tmp_path):
    filled_with(tmp_path / "out", [name])
    with pytest.raises(UserError, match="out: is the folder of a"):
        write_model(run, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name.partition("/")[0]]


def test_a_folder_of_both_kinds_is_not_served(tmp_path):
    model = save_tiny(tmp_path / "model")
    (model / "model-F16.gguf").write_text("")
    with pytest.raises(UserError, match=r"holds model\.safetensors and GGUF files"):
        open_model(model)


@pytest.mark.parametrize(("run", "out", "said"), [
    ("run", "policy", "is the policy"), ("run", "run", "run's own folder"), ("run", "run/out", "run's own folder"),
    ("policy", "out", "folder of a model"), ("run", "corpus", "folder of a corpus"),
])  # fmt: skip
def test_a_round_is_refused_before_it_is_trained(run, out, said, tmp_path):
    policy = save_tiny(tmp_path / "policy")
    filled_with(tmp_path / "corpus", ["shards/a.json"])
    with pytest.raises(UserError, match=said):
        train_round(round_recipe(policy, "corpus", "round_1"), tmp_path / run, tmp_path / out, World())


@pytest.mark.parametrize("name", ["model", "./", "a.b"])
def test_a_folder_that_is_filled_may_have_any_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with filled(Path(name), "last", {"last"}) as new:
        new.mkdir()
        (new / "last").write_text("x")
    assert (tmp_path / name / "last").read_text() == "x"


# The last checkpoint


def whole(run: Path, *names: str) -> None:
    for name in names:
        shutil.copytree(latest(run), run / name, dirs_exist_ok=True)


def test_without_latest_json_the_one_checkpoint_is_taken(folder, run, capsys):
    (run / "latest.json").unlink()
    train(recipe(folder), run, World(), stop=1)
    assert "latest.json: is missing; the run goes on from 0000002" in capsys.readouterr().out
    assert (run / "0000002/state.json").exists()


@pytest.mark.parametrize("more", [["0000001"], ["0000001", "0000003"]])
def test_without_latest_json_several_checkpoints_are_named(more, folder, run):
    whole(run, *more)
    (run / "latest.json").unlink()
    with pytest.raises(UserError, match=r"latest\.json: is missing, and there is .*0000002.*; write \{") as error:
        train(recipe(folder), run, World())
    assert all(name in str(error.value) and (run / name).exists() for name in more)


def test_a_model_is_read_again_if_its_checkpoint_is_replaced_meanwhile(run, tmp_path, monkeypatch):
    read = checkpoint.load_model

    def replaced(folder):
        monkeypatch.setattr(checkpoint, "load_model", read)
        folder.rename(folder.with_name("0000003"))
        (run / "latest.json").write_text(json.dumps({"checkpoint": "0000003"}))
        return read(folder)

    monkeypatch.setattr(checkpoint, "load_model", replaced)
    assert write_model(run, tmp_path / "out")["step"] == 2 and (tmp_path / "out/model.safetensors").exists()

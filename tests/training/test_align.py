"""A round of an alignment: a checkpoint and pairs in, a checkpoint out, the same wherever it was killed."""

import pytest
from support.phones import save_tiny
from support.recipes import pair
from support.releases import RELEASE, publish

from schemas.errors import UserError
from training.align import DPO, round_recipe, train_round
from training.checkpoint import MODEL, latest, load_model
from training.state_file import read_state, state_beside
from training.train import World, train

STAGE = '[[stages]]\nname = "dpo"\nsets = { pairs = 1.0 }\nbeta = 0.1\nsteps = 3\nbatch = 2\nrate = 1e-2\n'


@pytest.fixture
def round_1(tmp_path):
    """A policy, and pairs of it."""
    publish(tmp_path / "corpus", "round_1", (pair(n, f"A star {n}.", "Two circles.") for n in range(6)), 4)
    publish(tmp_path / "corpus", "round_2", (pair(9 + n, f"A moon {n}.", "Two squares.") for n in range(6)), 4)
    (tmp_path / "recipe.toml").write_text(STAGE + 'precision = "float32"\n')
    return save_tiny(tmp_path / "policy")


@pytest.mark.slow
def test_a_round_that_is_killed_ends_with_the_same_bytes(tmp_path, round_1, no_rows_between):
    recipe = round_recipe(round_1, str(tmp_path / "corpus"), "round_1", tmp_path / "recipe.toml")
    for name, stop in (("clean", None), ("killed", 2)):
        if stop:
            train(recipe, tmp_path / name / "run", World(), stop=stop)
        train_round(recipe, tmp_path / name / "run", tmp_path / name / "out", World())
    clean, killed = ((tmp_path / name / "out" / MODEL).read_bytes() for name in ("clean", "killed"))
    assert clean == killed != (round_1 / MODEL).read_bytes()
    model, _ = load_model(tmp_path / "clean/out")
    assert model.shape == load_model(round_1)[0].shape
    state = state_beside(tmp_path / "clean/out")
    assert state["releases"] == [f"round_1@{RELEASE}"] and state["shape"] == model.shape.as_dict()
    assert state == read_state(latest(tmp_path / "clean/run"))
    again = tmp_path / "clean/out/mine"
    again.write_text("")
    train_round(recipe, tmp_path / "clean/run", tmp_path / "clean/out", World())
    assert again.exists() and (tmp_path / "clean/out" / MODEL).read_bytes() == clean, "other files there stay"


def test_the_folder_of_another_round_is_refused(tmp_path, round_1, no_rows_between):
    place = tmp_path / "run", tmp_path / "out", World()
    train_round(round_recipe(round_1, str(tmp_path / "corpus"), "round_1", tmp_path / "recipe.toml"), *place)
    with pytest.raises(UserError, match="begin another run"):
        train_round(round_recipe(round_1, str(tmp_path / "corpus"), "round_2", tmp_path / "recipe.toml"), *place)


def test_without_a_recipe_one_epoch_of_the_language_part_is_trained(tmp_path, round_1):
    recipe = round_recipe(round_1, "corpus", "round_1")
    (stage,) = recipe.stages
    assert (stage.epochs, stage.trains, stage.beta, stage.batch) == (1, ("language",), 0.1, 8)
    assert stage.model_dump(include=DPO.keys()) == DPO | {"trains": ("language",)}
    assert recipe.start.checkpoint == recipe.tokenizer == str(round_1)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[[stages", "recipe.toml: cannot be read"),
        ('[[stages]]\nname = "dpo"\nsets = { pears = 1.0 }\nsteps = 1\nrate = 1.0\n', "no data pears; add"),
        ("stages = []", "recipe.toml: stages: "),
    ],
)
def test_a_wrong_recipe_is_one_line(tmp_path, round_1, text, line):
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(UserError, match=r"^[^\n]*$") as said:
        round_recipe(round_1, "corpus", "round_1", tmp_path / "recipe.toml")
    assert line in str(said.value)

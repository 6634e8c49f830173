"""Recipes: whatever is wrong in one is named in one line."""

import pytest
from support.paths import PROJECT

from schemas.errors import UserError
from training.recipe import read_recipe

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


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
        ("steps = 10", "", "stages.0: has no end; write steps or epochs"),
        ("steps = 10", "steps = 10\nepochs = 1", "stages.0: has both steps and epochs; give one of them"),
        ("steps = 10", "epochs = 0", "stages.0.epochs: input should be greater than 0"),
        ("steps = 10", "epochs = inf", "stages.0.epochs: input should be a finite number"),
        ("rate = 1e-3", 'rate = 1e-3\nheld_out = { set = "other" }', "stages.sft.held_out.set: no data other; add"),
        (
            "rate = 1e-3",
            'rate = 1e-3\nheld_out = { sets = "lessons" }',
            "stages.0.held_out.sets: unknown; did you mean `set`?",
        ),
        ("rate = 1e-3", "rate = 1e-3\npatience = 3", "stages.0.patience: unknown; known here: answers, "),
        ("steps = 10", "stepps = 10", "stages.0.stepps: unknown; did you mean `steps`?"),
        ("tokenizer =", "tokeniser =", "tokeniser: unknown; did you mean `tokenizer`?"),
        ("[data.lessons]", "[data.lessons]\nsplit = 1", "data.lessons.split: unknown; known here: root, set"),
        (
            "[[stages]]",
            "[start]\ncheckpoints = 'a'\n[[stages]]",
            "start.checkpoints: unknown; did you mean `checkpoint`?",
        ),
        ("steps = 10", "steps = 'ten'", "stages.0.steps: write a whole number, not 'ten'"),
        ("{ lessons = 1.0 }", '{ lessons = "half" }', "stages.0.sets.lessons: write a number, not 'half'"),
        ("{ lessons = 1.0 }", "{ captions = 1.0 }", "stages.sft.sets: no data captions; add [data.captions]"),
        ("rate = 1e-3", "rate = 1e-3\nanswers = 0", "stages.sft: learns nothing"),
        ("rate = 1e-3", "rate = 1e-3\nbeta = 0.1\ntruth = 0.5", "stages.sft: beta is for answers alone"),
        ("rate = 1e-3", "rate = 1e-3\ntrains = []", "stages.0.trains: tuple should have at least 1 item"),
        ("rate = 1e-3", "rate = 1e-3\nbetas = [0.9, 1.0]", "stages.0.betas.1: input should be less than 1"),
        ("{ lessons = 1.0 }", "{}", "stages.0.sets: dictionary should have at least 1 item"),
        ("{ lessons = 1.0 }", "{ lessons = 0.0 }", "stages.0.sets.lessons: input should be greater than 0"),
        ("{ lessons = 1.0 }", "{ lessons = inf }", "stages.0.sets.lessons: input should be a finite number"),
        ("[[stages]]", "[[stages]", "not valid TOML"),
        ("steps = 10", f"steps = {'1' * 5000}", "not valid TOML: a whole number has at most 64 bits"),
        ("steps = 10", f"steps = 0x{'f' * 5000}", "not valid TOML: stages.1.steps: a whole number has at most 64 bits"),
        ("steps = 10", f"steps = {'[' * 5000}", "not valid TOML: has more than 50 levels"),
        ('set = "lessons"', "", "data.lessons.set: missing; add it"),
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


@pytest.mark.parametrize("toml", ['root = "corpus"\n[source]\nkind = "folder"', '[source]\nkind = "scenes"'])
def test_a_configuration_of_a_corpus_is_not_a_recipe(toml, tmp_path):
    (tmp_path / "my.toml").write_text(toml)
    with pytest.raises(UserError, match=r"my.toml: is a configuration of a corpus; name a recipe of training"):
        read_recipe(tmp_path / "my.toml")

"""All stages of a run are opened before the first is trained: a mistake in the last one is said at once, and once."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from support.recipes import DPO, SFT, recipe, talk
from support.releases import captions, publish

from schemas.errors import UserError
from training.begin import check_instructions
from training.checkpoint import latest
from training.dpo import references
from training.held_out import overlap
from training.loader import Part
from training.opening import open_run
from training.recipe import checked
from training.run_state import other_samples
from training.shards import Shards
from training.stage_table import warnings_of
from training.tokenizer import Tokenizer, marks_in
from training.train import World, train

LATER = {**SFT, "name": "two", "steps": 1}


def moved(made, name: str, **change):
    """A recipe with another root or set of some data."""
    return made.model_copy(update={"data": made.data | {name: made.data[name].model_copy(update=change)}})


@pytest.mark.parametrize(("stage", "said"), [
    ({**LATER, "sets": {"talks": 1.0}}, "talks: has nothing to train on"),
    ({**LATER, "side": 994}, r"stages\.two\.side: 994 pixels"),
    ({**LATER, "side": 57}, "side: 57 pixels are not a whole number of patches"),
    ({**LATER, "truth": 1.0}, r"stages\.two\.truth: captions: \S+-caption: its json lacks extra\.scene"),
    ({**LATER, "held_out": {"set": "pairs"}}, r"stages\.two\.held_out: pairs: has nothing to train on"),
    ({**LATER, "sets": {"pairs": 1.0}}, "pairs: has nothing .*: 6 unknown_task.*are pairs: give the stage a beta"),
    ({**DPO, "name": "two", "sets": {"captions": 1.0}}, "captions: has no pair .*take its beta away"),
    ({**LATER, "sets": {"missing": 1.0}}, r"data\.missing: .*unknown shard set 'missing'; published: "),
])  # fmt: skip
def test_a_mistake_in_a_later_stage_is_found_before_the_first(stage, said, folder, tmp_path):
    made = recipe(folder, SFT, stage, sets=("captions", "talks", "pairs", "missing"))
    with pytest.raises(UserError, match=said) as error:
        train(made, tmp_path / "run", World())
    assert "\n" not in str(error.value) and latest(tmp_path / "run") is None


@pytest.mark.parametrize("root", ["http://127.0.0.1:9/corpus", "http://127.0.0.1:9"])
def test_a_root_that_cannot_be_reached_is_named(root):
    with pytest.raises(UserError, match=rf"^data\.mine\.root: {re.escape(root)}: cannot be read: "):
        Part(root, "train", 1.0, "data.mine").opened()


def test_a_refusal_is_said_by_one_rank(monkeypatch):
    world = World()
    assert world.together(lambda: 5) == 5
    monkeypatch.setattr(world, "ranks", 2)
    monkeypatch.setattr(
        torch.distributed, "all_gather_object", lambda texts, mine: texts.__setitem__(slice(None), [None, mine])
    )

    def refuse():
        raise UserError("no")

    with pytest.raises(UserError, match=r"^no$"):
        world.together(refuse)
    world.rank = 1
    with pytest.raises(SystemExit, match="2"):
        world.together(refuse)


# Held-out samples


def test_a_held_out_set_that_was_published_anew_is_named(folder, tmp_path):
    root = shutil.copytree(folder / "corpus", tmp_path / "corpus")
    made = recipe(folder, {**SFT, "held_out": {"set": "others", "packs": 1}})
    made = moved(moved(made, "captions", root=str(root)), "others", root=str(root))
    train(made, tmp_path / "run", World(), stop=1)
    (one,) = open_run(made, tmp_path / "run", World()).stages
    assert one.table["held_out_release"] == one.entry["held_out_release"] == "others@3f2a9c81d04e" and one.said is None
    card = json.loads((root / "shards/others.json").read_text())
    (root / "shards/others.json").write_text(json.dumps({**card, "release": "aaaaaaaaaaaa"}))
    (one,) = open_run(made, tmp_path / "run", World()).stages
    assert one.table["held_out_release"] == "others@aaaaaaaaaaaa"
    assert one.said.startswith("held_out: was others@3f2a9c81d04e, is now others@aaaaaaaaaaaa: losses before and after")


@pytest.mark.parametrize(("changed", "both"), [(0, 16), (8, 16), (16, 16)])
def test_held_out_samples_are_found_by_key_beside_equal_shards(changed, both, tmp_path):
    every = list(captions(16))
    other = [(key, {**members, "txt": b"other"}) for key, members in every[:changed]] + every[changed:]
    publish(tmp_path, "a", every, 8)
    publish(tmp_path, "b", other, 8)
    assert overlap([Shards(str(tmp_path), "b")], [Shards(str(tmp_path), "a")]) == both


# Sets


def test_a_set_under_two_names_is_warned_of(folder, tmp_path):
    made = recipe(folder, {**SFT, "sets": {"captions": 1.0, "others": 1.0}})
    for set_of_others, warned in (("others", False), ("captions", True)):
        (one,) = open_run(moved(made, "others", set=set_of_others), tmp_path, World()).stages
        said = [line for line in warnings_of(one.table) if "others: is the same set as captions" in line]
        assert len(said) == warned


@pytest.mark.parametrize(("root", "release", "said"), [
    ("now", "captions@bbb", r"data\.captions\.root: was before, is now now, with captions@bbb and not"),
    ("before", "captions@bbb", r'data\.captions: was captions@aaa, is now captions@bbb; say set = "captions@aaa"'),
    ("now", "captions@aaa", r"data\.captions\.root: was before, is now now; put it back"),
])  # fmt: skip
def test_samples_of_another_root_or_release_name_what_to_put_back(root, release, said, folder):
    entry = {"name": "sft", "sets": {"captions": 1.0}, "roots": {"captions": "before"}, "releases": ["captions@aaa"]}
    state = {"stage": "sft", "step": 2, "stages": [entry]}
    (stage,) = recipe(folder).stages
    assert re.search(said, str(other_samples(Path("run"), state, stage, [release], {"captions": root})))


# Values


@pytest.mark.parametrize(("key", "value"), [("answers", 1e38), ("answers", 1e300), ("truth", 1e11), ("beta", 1e300)])
def test_a_weight_of_a_loss_beyond_float32_is_refused(key, value, folder):
    given = recipe(folder, DPO if key == "beta" else SFT).model_dump(exclude_none=True)
    given["stages"][0][key] = value
    with pytest.raises(UserError, match=rf"stages\.0\.{key}: "):
        checked(given, "r.toml")


@pytest.mark.parametrize("values", ["[NaN, 0]", "[0, Infinity]", "[0]", "5"])
def test_references_that_are_not_finite_are_damaged(values, tmp_path):
    (tmp_path / "r.json").write_text(f'{{"pairs@x/1-pair": {values}}}')
    with pytest.raises(UserError, match=r"r\.json: is damaged"):
        references(tmp_path / "r.json", None, None, 1, begins=False)


# Instructions


@pytest.mark.parametrize("mark", ["<image>", "</slice>", "<|im_end|>", "<image_07>"])
def test_an_instruction_that_spells_a_mark_is_refused(mark, folder):
    tokenizer = Tokenizer(folder / "tokenizer")
    with pytest.raises(UserError, match=rf"^instructions\.caption: holds {re.escape(mark)}, which is plain text"):
        check_instructions(recipe(folder, instructions={"caption": f"{mark}\nDescribe it."}), tokenizer)
    check_instructions(recipe(folder, instructions={"caption": "Describe the image <b>."}), tokenizer)
    assert marks_in(f"a {mark} b") == [mark]


def test_a_set_of_talks_gives_images(folder, tmp_path):
    publish(tmp_path / "corpus", "talks", map(talk, range(3)), 4)
    made = recipe(folder, {**SFT, "sets": {"talks": 1.0}, "length": 1024, "trains": ["resampler"]})
    (one,) = open_run(moved(made, "talks", root=str(tmp_path / "corpus")), tmp_path / "run", World()).stages
    assert one.samples.has_images(0)

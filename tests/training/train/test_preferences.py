"""Preference optimization: the loss is its formula, and references are those of the start of a stage."""

import json
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest
import torch
from support.releases import encoded, flip, publish
from support.training_runs import PREFERENCE, files

from pipelines.sources.scenes import draw
from schemas.errors import UserError
from schemas.scenes.scene import imagine
from training.begin import samples_of, start
from training.dpo import loss_of, margins_of, pair_tokens
from training.layout import IGNORED
from training.probe import QUERIES
from training.recipe import Data, Recipe
from training.train import World, train

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


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


@pytest.mark.slow
def test_dpo_begins_at_log_2_and_makes_the_chosen_likelier(recipe, tmp_path):
    (tmp_path / "one").mkdir(), (tmp_path / "more").mkdir()
    train(recipe({**PREFERENCE, "steps": 1}), tmp_path / "one", World())
    (first,) = pq.read_table(tmp_path / "one/log.parquet").to_pylist()
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3)
    train(recipe({**PREFERENCE, "steps": 12, "warm_up": 0.0}), tmp_path / "more", World())
    last = pq.read_table(tmp_path / "more/log.parquet").to_pylist()[-1]
    assert last["loss"] < 0.6


@pytest.mark.slow
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


@pytest.mark.slow
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

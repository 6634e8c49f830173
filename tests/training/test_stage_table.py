"""A stage says what it trains: sets, packs, tokens, epochs, what is left out, and what is likely a mistake."""

import json

import numpy as np
import pytest
from support.recipes import DPO, SFT, make, pair, recipe
from support.releases import captions, publish

from schemas.errors import UserError
from training.begin import samples_of, start
from training.layout import IGNORED
from training.loader import Mixture
from training.progress import Progress
from training.run_log import read_tables
from training.stage_table import COUNTED, lengths_of, lines_of, table_of, warnings_of
from training.tokenizer import Tokenizer
from training.train import World, train

pytestmark = pytest.mark.usefixtures("no_rows_between")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("table"))


def table(made, number=0, both=0):
    stage, tokenizer = made.stages[number], Tokenizer(made.tokenizer)
    model, _ = start(made, tokenizer, World().device)
    samples = samples_of(made, stage, tokenizer, model, World())
    releases = [shards.release for shards in samples.shards]
    return samples, table_of(samples, Progress(stage, samples.order.total), releases, both)


def test_a_table_counts_what_the_packs_hold(folder):
    samples, found = table(recipe(folder, {**SFT, "sets": {"captions": 1.0, "others": 0.5}}))
    packs = [[samples.pack(part, number) for number in range(len(samples.planned[part]))] for part in (0, 1)]
    for row, of_set, weight, samples_in in zip(found["sets"], packs, (1.0, 0.5), (16, 9), strict=False):
        assert row["packs"] == len(of_set) and row["weight"] == weight and row["samples"] == samples_in
        assert row["tokens"] == sum(int((pack.documents >= 0).sum()) for pack in of_set)
        assert row["learned"] == sum(int((pack.labels != IGNORED).sum()) for pack in of_set) > 0
        assert sum(row["left_out"].values()) + sum(len(pack.samples) for pack in of_set) == row["samples"]
        assert not row["about"]
    assert found["packs"] == 4 * 2 and found["steps"] == 4
    epoch = found["sets"][0]["packs"] + found["sets"][1]["packs"] / 2
    assert found["epochs"] == pytest.approx(8 / epoch, abs=1e-6)
    assert found["tokens"] == pytest.approx(
        found["epochs"] * sum(row["tokens"] * row["weight"] for row in found["sets"]), abs=1
    )


def test_a_table_of_a_large_set_reads_few_packs(folder, monkeypatch):
    """What is planned is not read again: the tokens that are learned are taken from some of the packs."""
    made = recipe(folder, {**SFT, "sets": {"captions": 1.0}, "length": 128})
    samples, exact = table(made)
    read = []
    tokens = Mixture._tokens
    monkeypatch.setattr(Mixture, "_tokens", lambda self, part, row: read.append(row) or tokens(self, part, row))
    monkeypatch.setattr("training.stage_table.COUNTED", 2)
    _, about = table(made)
    assert len(read) == sum(len(samples.planned[0][number]) for number in (0, len(samples.planned[0]) // 2))
    (about,), (exact,) = about["sets"], exact["sets"]
    assert about["about"] and abs(about["learned"] - exact["learned"]) < exact["learned"] / 2
    assert {**about, "learned": 0, "about": 0} == {**exact, "learned": 0, "about": 0} and COUNTED >= 32


def test_a_stage_without_answers_learns_no_tokens(folder):
    _, found = table(recipe(folder, {**SFT, "answers": 0, "truth": 1.0}))
    assert found["learned"] == found["sets"][0]["learned"] == 0 < found["tokens"]


@pytest.mark.slow
def test_the_table_is_printed_and_logged(folder, tmp_path, capsys):
    made = recipe(folder, {**SFT, "length": 90}, {**DPO, "steps": 1})
    train(made, tmp_path, World(), stop=1)
    said = capsys.readouterr().out
    (head,) = (line for line in said.splitlines() if "  set " in line)
    assert " ".join(head.split()) == "sft set weight samples left out packs tokens learned epochs"
    assert "sft  left out: " in said and "too long for any pack, of at most 90 tokens: " in said
    assert "sft  4 steps of 2 packs: 8 packs, " in said
    train(made, tmp_path, World())
    first, dpo = read_tables(tmp_path)
    assert (first["stage"], dpo["stage"], dpo["unit"], dpo["packs"]) == ("sft", "dpo", "pairs", 2)
    assert first["sets"][0]["left_out"]["too_long"] > 0 and first["length"] == 90
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["stage", "step", "step", "stage", "step"], lines
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 4, 1]


def test_epochs_of_a_stage_are_what_its_steps_mean_also_where_it_goes_on(folder):
    made = recipe(folder, {**SFT, "steps": None, "epochs": 1.5})
    samples, found = table(made)
    packs = len(samples.planned[0])
    assert found["steps"] == -(-3 * packs // 4) and found["packs"] == 2 * found["steps"]
    assert found["epochs"] == pytest.approx(found["packs"] / packs, abs=1e-6) and found["epochs"] >= 1.5
    on = Progress(made.stages[0].model_copy(update={"batch": 1}), samples.order.total, step=1, trained=2)
    assert on.ends == 1 + (-(-3 * packs // 2) - 2)


@pytest.mark.slow
def test_a_held_out_set_that_is_trained_on_is_warned_of(folder, tmp_path, capsys):
    held_out = {"held_out": {"set": "captions", "packs": 1}, "steps": 1}
    for number, (trained, both) in enumerate(((["captions"], 16), (["others"], 0), (["others", "captions"], 16))):
        made = recipe(folder, {**SFT, **held_out, "sets": dict.fromkeys(trained, 1.0)})
        train(made, tmp_path / str(number), World())
        (found,) = read_tables(tmp_path / str(number))
        assert found["held_out_trained"] == both and found["held_out"] == "captions"
        assert ("warning: held_out: 16 samples of captions are trained on too" in capsys.readouterr().out) == (both > 0)


def test_some_samples_that_two_sets_share_are_found_by_their_keys(folder, tmp_path):
    publish(folder / "corpus", "mixed", [*captions(3), *((f"{70 + n:016x}-ocr", m) for n, (_, m) in
            enumerate(captions(3)))], 4)  # fmt: skip
    made = recipe(folder, {**SFT, "steps": 1, "held_out": {"set": "mixed"}}, sets=("captions", "mixed"))
    train(made, tmp_path, World())
    assert read_tables(tmp_path)[0]["held_out_trained"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(("chosen", "rejected", "word"), [
    ("A star " * 4, "No.", "longer"), ("No.", "A star " * 4, "shorter"), ("A star.", "A star?", None),
])  # fmt: skip
def test_pairs_that_teach_length_are_warned_of(chosen, rejected, word, folder, tmp_path, capsys):
    publish(tmp_path / "corpus", "pairs", (pair(n, f"{chosen} {n}", f"{rejected} {n}") for n in range(24)), 8)
    made = recipe(folder, {**DPO, "steps": 1}, sets=("pairs",))
    made = made.model_copy(update={"data": {"pairs": made.data["pairs"].model_copy(
        update={"root": str(tmp_path / "corpus")})}})  # fmt: skip
    train(made, tmp_path / "run", World())
    said = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    if word is None:
        assert not said
    else:
        assert len(said) == 1 and f"the chosen answer is the {word} one in 100% of 24 pairs (above 67%;" in said[0]


@pytest.mark.parametrize(("longer", "pairs", "warned"), [(66, 100, False), (67, 100, True), (19, 19, False)])
def test_the_bound_of_pairs_that_teach_length(longer, pairs, warned, folder):
    _, found = table(recipe(folder, DPO))
    rows = np.array([[9, 5]] * longer + [[5, 9]] * (pairs - longer))
    assert bool([*warnings_of({**found, "lengths": lengths_of(rows)})]) == warned


def test_a_held_out_set_that_gives_nothing_is_refused(folder, tmp_path):
    publish(tmp_path / "corpus", "empty", [(f"{0:016x}-poem", {"txt": b"x"})], 4)
    made = recipe(folder, {**SFT, "held_out": {"set": "empty"}}, sets=("captions", "empty"))
    data = {**made.data, "empty": made.data["empty"].model_copy(update={"root": str(tmp_path / "corpus")})}
    with pytest.raises(UserError, match=r"stages\.sft\.held_out: empty: has nothing to train on; left out of 1"):
        train(made.model_copy(update={"data": data}), tmp_path / "run", World())


def test_every_line_of_a_table_begins_with_the_stage(folder):
    _, found = table(recipe(folder, DPO), both=3)
    lines = [*lines_of({**found, "held_out": "pairs", "held_out_trained": 3})]
    assert len(lines) >= 4 and all(line.startswith("dpo  ") and "\n" not in line for line in lines)
    assert all(len(line) < 200 for line in lines)

"""From instructions to pairs by way of a server: what is asked, and what is asked again."""

import os
from collections import Counter
from itertools import pairwise

import pytest
from support.corpora import build, data_files, picture
from support.preference_runs import QUESTIONS, check_accounting, kinds, rows, write

from pipelines.build.corpus import open_corpus
from pipelines.build.estimate import estimate
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.maintain.verify import verify_root


@pytest.mark.slow
def test_instructions_become_pairs_and_every_row_is_there(configured, instructions, server):
    root = build(configured(("labeler", "other")))
    check_accounting(root)
    responses, claims, verdicts = (rows(root, stage) for stage in ("responses", "claims", "verdicts"))
    assert len(responses) == 5 * 4
    assert Counter(row["draw"] for row in responses) == {0: 5, 1: 5, 2: 5, 3: 5}
    assert len({row["text"] for row in responses}) == 20, "a seed a draw"
    for row in claims:
        text = next(one["text"] for one in responses if one["key"] == row["key"])
        assert " ".join(claim["claim"] for claim in row["claims"]) == text
        assert all(claim["question"].startswith("Is it true that there is a ") for claim in row["claims"])
    assert len(verdicts) == 2 * sum(len(row["claims"]) for row in claims)
    assert all(0 < row["p_yes"] < 1 and row["p_yes"] + row["p_no"] == pytest.approx(0.98) for row in verdicts)
    by_labeler = [[row["p_yes"] for row in verdicts if row["labeler"] == name] for name in ("labeler", "other")]
    assert by_labeler[0] == by_labeler[1], "the server answers both alike; each has its rows"
    assert query(root, "select count(*) as n from preferences").to_pylist()[0]["n"] > 0


@pytest.mark.slow
def test_equal_questions_about_one_image_are_asked_once_and_count_for_each_claim(configured, instructions, server):
    root = build(configured())
    verdicts, images = rows(root, "verdicts"), {row["key"]: row["image"] for row in rows(root, "instructions")}
    claims = {row["key"]: row["claims"] for row in rows(root, "claims")}
    of = [(images[row["instruction"]], claims[row["response"]][row["number"]]["question"]) for row in verdicts]
    assert len(set(of)) < len(of), "some claims are made twice"
    assert kinds(server.asked())["verdicts"] == len(set(of))
    said = {}
    for asked, row in zip(of, verdicts, strict=True):
        assert said.setdefault(asked, row["p_yes"]) == row["p_yes"]


@pytest.mark.slow
def test_requests_about_one_image_stand_together(configured, instructions, server):
    build(configured(endpoint="concurrency = 1"))
    images = [one["image"] for one in server.asked() if one["image"] and "yes or no" in one["text"]]
    changes = sum(one != other for one, other in pairwise(images))
    assert changes == len(set(images)) - 1


@pytest.mark.slow
def test_the_same_answers_make_the_same_bytes(configured, instructions, server, tmp_path):
    build(configured())
    first = data_files(tmp_path / "corpus")
    server.does(fail=[{"how": how, "share": 0.2, "times": 1} for how in ("429", "500", "reset", "half-json")])
    root = build(configured(endpoint="concurrency = 3").rename(tmp_path / "again.toml"))
    assert data_files(tmp_path / "corpus") == first
    os.rename(tmp_path / "corpus", tmp_path / "before")
    build(tmp_path / "again.toml")
    assert data_files(tmp_path / "corpus") == first, "whatever had to be asked twice, and in whatever order"
    assert root.url == str(tmp_path / "corpus")


@pytest.mark.slow
def test_what_it_costs_is_in_the_ledger_and_what_it_will_cost_in_the_plan(configured, instructions, server):
    server.does(fail=[{"how": "500", "share": 0.3, "times": 1}])
    config = configured()
    root = build(config)
    asked = kinds(server.asked())
    cost = {row["stage"]: row for row in query(root, "from cost").to_pylist()}
    assert {stage: row["calls"] for stage, row in cost.items()} == {
        "responses": asked["responses"], "claims": asked["facts"] + asked["questions"], "verdicts": asked["verdicts"],
    }  # fmt: skip
    assert cost["responses"]["answers"] == 20 < cost["responses"]["calls"]
    kept = query(root, "select count(*) as n from pairs where reason is null").to_pylist()[0]["n"]
    for row in cost.values():
        assert row["calls_a_pair"] == round(row["calls"] / kept, 1)
        assert row["tokens_in"] > 0 and row["seconds"] > 0
    assert estimate(open_corpus(config), plan(open_corpus(config)).stages) == []
    other = open_corpus(configured(("another",)))
    (verdicts,) = estimate(other, plan(other).stages)
    spent = cost["verdicts"]["tokens_in"] + cost["verdicts"]["tokens_out"]
    assert verdicts[:4] == ("verdicts", ("another",), cost["verdicts"]["calls"], spent)
    assert verdicts.each == "1 for each different question about an image"


# What a change asks for


@pytest.mark.slow
def test_nothing_is_asked_twice(configured, instructions, server):
    build(configured())
    before = len(server.asked())
    build(configured())
    assert len(server.asked()) == before


@pytest.mark.slow
def test_a_changed_claim_prompt_asks_nothing_of_responses(configured, instructions, server, tmp_path):
    build(configured())
    before = len(server.asked())
    (tmp_path / "facts.txt").write_text("List the facts.\n\nQuestion: {question}\nAnswer: {response}\n")
    config = configured(claims='endpoint = "divider"\nfacts_prompt = "facts.txt"')
    waiting = {step.stage: [why for why, _ in step.reasons()] for step in plan(open_corpus(config)).stages}
    assert waiting["responses"] == []
    assert waiting["claims"][0].startswith("facts ")
    build(config)
    asked = kinds(server.asked()[before:])
    assert asked == {"facts": 20, "questions": 20}, "the claims came out the same, so no verdict is asked for"


@pytest.mark.slow
def test_a_changed_labeler_asks_only_for_verdicts_and_another_one_only_for_its_own(configured, instructions, server):
    build(configured(("labeler",)))
    once, before = kinds(server.asked())["verdicts"], len(server.asked())
    build(configured(("another",)))
    assert kinds(server.asked()[before:]) == {"verdicts": once}
    before = len(server.asked())
    build(configured(("another", "third")))
    assert kinds(server.asked()[before:]) == {"verdicts": once}


@pytest.mark.slow
def test_an_added_image_asks_only_for_itself(configured, instructions, server):
    build(configured())
    before, first = len(server.asked()), kinds(server.asked())
    (instructions / "9.png").write_bytes(picture(9)[0])
    write(instructions, [*((number, QUESTIONS[0]) for number in range(4)), (0, QUESTIONS[1]), (9, QUESTIONS[0])])
    root = build(configured())
    new = server.asked()[before:]
    assert kinds(new)["responses"] == 4
    assert kinds(new)["facts"] == 4
    assert len({one["image"] for one in new if one["image"]}) == 1
    assert first["responses"] == 20
    check_accounting(root)


@pytest.mark.slow
def test_more_draws_ask_only_for_those_that_are_new(configured, instructions, server):
    build(configured(draws=4))
    before = len(server.asked())
    root = build(configured(draws=5))
    assert kinds(server.asked()[before:])["responses"] == 5
    assert len(rows(root, "responses")) == 25


@pytest.mark.slow
def test_stored_answers_are_read_anew_by_a_new_version_and_none_is_paid_again(
    configured, instructions, server, monkeypatch
):
    """As they were kept by the version before: thoughts, marks and chatter in the text."""
    from pipelines.stages.responses import Respond

    def as_before(raw: str, cut: bool) -> dict:
        wrapped = f"<think>\n- look\n</think>\n{raw.strip()}<|im_end|>" if len(raw) % 2 else raw.strip()
        return {"text": wrapped, "raw": None, "cut": cut}

    config = configured(draws=3)
    monkeypatch.setattr(Respond, "version", Respond.version - 1)
    monkeypatch.setattr("pipelines.stages.responses.read_response", as_before)
    root = build(config, "responses")
    before, asked = rows(root, "responses"), server.count()
    assert any("<think>" in row["text"] for row in before) and asked
    monkeypatch.undo()
    build(config, "responses")
    after = rows(root, "responses")
    assert server.count() == asked
    assert [row["text"] for row in after] == [
        row["text"].removeprefix("<think>\n- look\n</think>\n").removesuffix("<|im_end|>") for row in before
    ]
    assert [row["raw"] for row in after] == [row["text"] if "<" in row["text"] else None for row in before]
    build(config)
    assert verify_root(root).problems == []

"""Rules divide English responses; those in other languages go to the endpoint, or are left out."""

import pytest
from support.corpora import build
from support.preference_runs import QUESTIONS, check_accounting, kinds, rows, write

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from schemas.errors import UserError

GERMAN = "Was zeigt das Bild? Antworte auf Deutsch."


@pytest.fixture
def two_languages(instructions):
    """Three pictures that are asked about in English, and one in German."""
    write(instructions, [(number, QUESTIONS[0]) for number in range(3)] + [(3, GERMAN)])
    return instructions


def is_german(row: dict) -> bool:
    return "dem Bild" in row["text"]


@pytest.mark.slow
def test_english_responses_are_divided_by_rules_and_others_by_the_endpoint(two_languages, configured, server):
    config = configured(claims='endpoint = "divider"\nby_rules = ["en"]')
    root = build(config)
    german = {row["key"] for row in rows(root, "responses") if is_german(row)}
    texts = {row["text"] for row in rows(root, "responses") if is_german(row)}
    assert len(german) == 4 and kinds(server.asked())["facts"] == len(texts)
    for row in rows(root, "claims"):
        assert row["reason"] is None and row["claims"] and (row["raw"] is not None) == (row["key"] in german)
    check_accounting(root)
    assert plan(open_corpus(config)).work() == 0


@pytest.mark.slow
def test_without_an_endpoint_others_are_left_out_by_name(two_languages, configured):
    root = build(configured(claims='by_rules = ["en"]'))
    german = {row["key"] for row in rows(root, "responses") if is_german(row)}
    told = {row["key"]: (row["reason"], row["detail"]) for row in rows(root, "claims")}
    assert {told[key] for key in german} == {("other_language", "de")}
    assert {told[key] for key in told.keys() - german} == {(None, None)}


@pytest.mark.slow
def test_without_the_setting_no_language_is_told(two_languages, configured):
    root = build(configured(claims=""))
    assert "other_language" not in {row["reason"] for row in rows(root, "claims")}
    assert "not_divided" in {row["reason"] for row in rows(root, "claims")}


def test_a_language_that_the_rules_do_not_know_is_refused(two_languages, configured):
    with pytest.raises(UserError, match=r"claims\.by_rules"):
        open_corpus(configured(claims='by_rules = ["de"]'))

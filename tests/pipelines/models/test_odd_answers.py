"""Answers that no model gives, and a server may: JSON of any depth, and candidates that are no probabilities."""

from types import SimpleNamespace

import pytest

from pipelines.models.answers import first_token, likeliest, probability, read_list
from pipelines.models.endpoints import CallFailed


def candidates(*top: tuple) -> list[tuple[str, float]]:
    found = [SimpleNamespace(token=token, logprob=logprob) for token, logprob in top]
    return first_token(SimpleNamespace(content=[SimpleNamespace(top_logprobs=found)]))


@pytest.mark.parametrize("levels", [100, 900, 100_000])
@pytest.mark.parametrize("form", ["{}", '{{"claims": {}}}', "```json\n{}\n```"])
def test_a_list_of_many_levels_is_none(form, levels):
    assert read_list(form.format("[" * levels + "]" * levels), "claims") is None


ODD = {
    "one token twenty times": [("yes", -0.1)] * 20,
    "spellings that are all certain": [("yes", 0.0), ("Yes", 0.0), ("no", 0.0)],
    "two halves and more": [("yes", -0.6), ("no", -0.6), ("maybe", -1.5)],
    "no number": [("yes", float("nan"))],
    "a number as text": [("yes", "-0.1")],
    "above 0": [("yes", 5)],
    "no token": [(None, -1.0)],
    "a token of bytes": [(b"yes", -1.0)],
    "a token that is a list": [(["yes"], -1.0)],
}


@pytest.mark.parametrize("kind", ODD)
def test_candidates_that_are_no_probabilities_are_no_answer(kind):
    with pytest.raises(CallFailed) as failed:
        candidates(*ODD[kind])
    assert failed.value.reason == "bad_answer"


@pytest.mark.parametrize("never", [float("-inf"), -1e308, -(10**400)])
def test_what_never_comes_has_the_probability_0(never):
    top = candidates(("yes", never), ("no", -0.01))
    assert probability(top, "yes") == 0 and probability(top, "no") == pytest.approx(0.99, abs=0.01)
    assert likeliest(top).startswith("'no' 0.99")


def test_rounding_is_no_fault():
    assert len(candidates(("yes", 0.0), ("no", -4.0), ("Yes", -4.0))) == 3

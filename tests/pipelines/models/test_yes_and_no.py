"""All spellings of yes and no count, and nothing else does."""

import math

import pytest

from pipelines.models.answers import probability

SPELLED = [
    "yes",
    "Yes",
    "YES",
    " yes",
    "▁Yes",
    "Ġyes",
    "Yes.",
    "yes,",
    '"Yes"',
    "**Yes",
    "(yes)",
    "Yes!",
    "Ｙｅｓ",
    "\nYes",
    "yes:",
]
OTHERS = ["yesterday", "ye", "y", "yes sir", "oui", "", " ", "1", "eyes", "no"]


@pytest.mark.parametrize("token", SPELLED)
def test_a_spelling_of_yes_counts(token):
    assert probability([(token, math.log(0.3)), ("The", -1.0)], "yes") == pytest.approx(0.3)


@pytest.mark.parametrize("token", OTHERS)
def test_what_is_no_spelling_of_yes_does_not_count(token):
    assert probability([(token, math.log(0.3))], "yes") is None


def test_spellings_are_added_up():
    top = [("YES", math.log(0.6)), ("No", math.log(0.2)), (" yes", math.log(0.1)), ("no.", math.log(0.05))]
    assert probability(top, "yes") == pytest.approx(0.7) and probability(top, "no") == pytest.approx(0.25)

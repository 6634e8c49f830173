"""A claim that denies what its question asks for is told from one that its question asks for."""

import pytest

from pipelines.text_rules.denial import denies

DENIED = [
    ("There is no cup.", "Is there a cup?"),
    ("The sign isn't red.", "Is the sign red?"),
    ("The man does not wear a hat.", "Does the man wear a hat?"),
    ("Nobody is on the beach.", "Is anybody on the beach?"),
    ("There is no text.", "Is there any text?"),
    ("The street is without cars.", "Are there cars in the street?"),
]
ALIKE = [
    ("There is a cup.", "Is there a cup?"),
    ("There is no cup.", "Is there no cup?"),
    ("The sign is not red.", "Is the sign not red?"),
    ('The sign says "NO PARKING".', 'Does the sign say "NO PARKING"?'),
    ("A note lies on the table.", "Does a note lie on the table?"),
    ("Nobody is there.", "Is nobody there?"),
    ('The sign says "NO".', "Does the sign say something?"),
]


@pytest.mark.parametrize(("claim", "question"), DENIED)
def test_a_question_without_the_denial_of_its_claim(claim, question):
    assert denies({"claim": claim, "question": question})


@pytest.mark.parametrize(("claim", "question"), ALIKE)
def test_a_question_like_its_claim(claim, question):
    assert not denies({"claim": claim, "question": question})

"""Plain sentences become claims that need no other sentence, and questions that a labeler answers with yes or no."""

import random

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.text_rules.divider import divide, sentences
from schemas.scenes.claims import answer, check
from schemas.scenes.reader import parse
from schemas.scenes.scene import caption, imagine, questions

SAID = [
    # Lists
    ("A red circle and two blue squares are on the left.", [
        ("A red circle is on the left.", "Is a red circle on the left?"),
        ("Two blue squares are on the left.", "Are two blue squares on the left?")]),
    ("There is a red circle and two blue squares.", [
        ("There is a red circle.", "Is there a red circle?"),
        ("There are two blue squares.", "Are there two blue squares?")]),
    ("Apples, oranges and bananas lie in a basket.", [
        ("Apples lie in a basket.", "Do apples lie in a basket?"),
        ("Oranges lie in a basket.", "Do oranges lie in a basket?"),
        ("Bananas lie in a basket.", "Do bananas lie in a basket?")]),
    ("The room has two windows, a desk with a lamp and no chairs.", [
        ("The room has two windows.", "Does the room have two windows?"),
        ("The room has a desk with a lamp.", "Does the room have a desk with a lamp?"),
        ("The room has no chairs.", "Does the room have no chairs?")]),
    ("A woman and her dog run along the beach.", [
        ("A woman runs along the beach.", "Does a woman run along the beach?"),
        ("Her dog runs along the beach.", "Does her dog run along the beach?")]),
    ("The plate contains rice, beans and a slice of bread.", [
        ("The plate contains rice.", "Does the plate contain rice?"),
        ("The plate contains beans.", "Does the plate contain beans?"),
        ("The plate contains a slice of bread.", "Does the plate contain a slice of bread?")]),
    # What is no list
    ("The house is between a tree and a lake.", [
        ("The house is between a tree and a lake.", "Is the house between a tree and a lake?")]),
    ("A man and a woman are standing next to each other.", [
        ("A man and a woman are standing next to each other.", "Are a man and a woman standing next to each other?")]),
    ("There is a black and white dog.", [("There is a black and white dog.", "Is there a black and white dog?")]),
    ("The flag is red and white.", [("The flag is red and white.", "Is the flag red and white?")]),
    ("The two signs read \"OPEN\" and \"CLOSED\".", [
        ("The two signs read \"OPEN\" and \"CLOSED\".", "Do the two signs read \"OPEN\" and \"CLOSED\"?")]),
    ("The two cats, one black and one white, are sleeping.", [
        ("The two cats, one black and one white, are sleeping.",
         "Are the two cats, one black and one white, sleeping?")]),
    ("There are two bears, one on the left and one on the right.", [
        ("There are two bears, one on the left and one on the right.",
         "Are there two bears, one on the left and one on the right?")]),
    ("A large, old wooden table.", [("There is a large, old wooden table.", "Is there a large, old wooden table?")]),
    # Clauses
    ("The dog is brown and a cat sleeps on the sofa.", [
        ("The dog is brown.", "Is the dog brown?"), ("A cat sleeps on the sofa.", "Does a cat sleep on the sofa?")]),
    ("A man holds an umbrella and wears a blue coat.", [
        ("A man holds an umbrella.", "Does a man hold an umbrella?"),
        ("A man wears a blue coat.", "Does a man wear a blue coat?")]),
    ("The children sat on the bench and ate ice cream.", [
        ("The children sat on the bench.", "Did the children sit on the bench?"),
        ("The children ate ice cream.", "Did the children eat ice cream?")]),
    ("On the left is a star, and on the right are two hearts.", [
        ("A star is on the left.", "Is a star on the left?"),
        ("Two hearts are on the right.", "Are two hearts on the right?")]),
    ("The bus is red and parked on the street.", [
        ("The bus is red.", "Is the bus red?"),
        ("The bus is parked on the street.", "Is the bus parked on the street?")]),
    ("The street is lined with trees, but the shops are closed.", [
        ("The street is lined with trees.", "Is the street lined with trees?"),
        ("The shops are closed.", "Are the shops closed?")]),
    ("There were many people at the market and nobody was wearing a mask.", [
        ("There were many people at the market.", "Were there many people at the market?"),
        ("Nobody was wearing a mask.", "Was nobody wearing a mask?")]),
    # Negation, tense, plurals, helping verbs
    ("There are no people in the picture.", [
        ("There are no people in the picture.", "Are there no people in the picture?")]),
    ("The sign isn't red.", [("The sign is not red.", "Is the sign not red?")]),
    ("The sign doesn't say \"STOP. NOW\".", [
        ("The sign does not say \"STOP. NOW\".", "Does the sign not say \"STOP. NOW\"?")]),
    ("There are not three shapes.", [("There are not three shapes.", "Are there not three shapes?")]),
    ("The man has been waiting.", [("The man has been waiting.", "Has the man been waiting?")]),
    ("The bus can be seen on the right.", [
        ("The bus can be seen on the right.", "Can the bus be seen on the right?")]),
    ("The fruit stands are full of apples.", [
        ("The fruit stands are full of apples.", "Are the fruit stands full of apples?")]),
    ("A dog watches the birds.", [("A dog watches the birds.", "Does a dog watch the birds?")]),
    ("The man who is wearing a hat carries a ladder.", [
        ("The man who is wearing a hat carries a ladder.", "Does the man who is wearing a hat carry a ladder?")]),
    ("A clock that shows 3:45 hangs on the wall.", [
        ("A clock that shows 3:45 hangs on the wall.", "Does a clock that shows 3:45 hang on the wall?")]),
    # What only leads to a claim
    ("The image shows a cat sitting on a mat, a bowl and three mice.", [
        ("There is a cat sitting on a mat.", "Is there a cat sitting on a mat?"),
        ("There is a bowl.", "Is there a bowl?"), ("There are three mice.", "Are there three mice?")]),
    ("You can see mountains in the distance.", [
        ("There are mountains in the distance.", "Are there mountains in the distance?")]),
    ("In the background, a man is walking a dog.", [
        ("A man is walking a dog in the background.", "Is a man walking a dog in the background?")]),
    ("There appears to be a cat.", [("There is a cat.", "Is there a cat?")]),
    ("Additionally, the cat seems to have a collar.", [
        ("The cat has a collar.", "Does the cat have a collar?")]),
    ("A photo of a train.", [("There is a train.", "Is there a train?")]),
    ("- A dog\n- The sky is blue.", [
        ("There is a dog.", "Is there a dog?"), ("The sky is blue.", "Is the sky blue?")]),
    # Words of taste fall out of a claim
    ("A very lovely red car is parked in front of a beautiful house.", [
        ("A red car is parked in front of a house.", "Is a red car parked in front of a house?")]),
    # One thing that a pronoun can mean
    ("There is a red ball. It is on the table.", [
        ("There is a red ball.", "Is there a red ball?"),
        ("The red ball is on the table.", "Is the red ball on the table?")]),
    ("Two dogs play in the park. They are brown.", [
        ("Two dogs play in the park.", "Do two dogs play in the park?"),
        ("The two dogs are brown.", "Are the two dogs brown?")]),
    ("There is a small house in the hills. Its roof is red.", [
        ("There is a small house in the hills.", "Is there a small house in the hills?"),
        ("The small house's roof is red.", "Is the small house's roof red?")]),
    ("The woman's hair is long, and she is wearing glasses.", [
        ("The woman's hair is long.", "Is the woman's hair long?"),
        ("The woman is wearing glasses.", "Is the woman wearing glasses?")]),
    ("A man plays a guitar, and several people are watching him.", [
        ("A man plays a guitar.", "Does a man play a guitar?"),
        ("Several people are watching the man.", "Are several people watching the man?")]),
    # Once is enough
    ("There is a dog. A dog.", [("There is a dog.", "Is there a dog?")]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "claims"), SAID, ids=[text for text, _ in SAID])
def test_a_sentence_is_divided_into_claims_and_their_questions(text, claims):
    found = divide(text)
    assert [(claim["claim"], claim["question"]) for claim in found.claims] == claims
    assert (found.opinions, found.undivided) == ([], [])


@pytest.mark.parametrize(
    "sentence",
    [
        "The scene is peaceful and very beautiful.", "Overall, the image conveys a sense of calm.", "What a day!",
        "Perhaps the man is waiting for the bus.", "Would you like to know more?", "The dog might be asleep.",
        "Please note the colours.", "The mood is sombre.", "It suggests a long journey.",
    ],
)  # fmt: skip
def test_opinions_and_guesses_claim_nothing(sentence):
    found = divide(f"There is a dog. {sentence}")
    assert (len(found.claims), found.opinions, found.undivided) == (1, [sentence], [])


@pytest.mark.parametrize(
    "sentence",
    [
        "It is red.", "One is red.", "The other is larger.", "If it rains, the street gets wet.", "It is raining.",
        "The dog or the cat is black.", "Its roof is red.", "Neither of the men is tall.", "Wow.", "She smiles.",
        "This is.", "Running fast.", "There is one on the left.",
    ],
)  # fmt: skip
def test_what_needs_another_sentence_or_is_none_is_named(sentence):
    found = divide(sentence)
    assert (found.claims, found.opinions, found.undivided) == ([], [], [sentence])


@pytest.mark.parametrize(
    "before",
    ["There is a cat and a dog.", "Perhaps there is a dog.", "The dog or the cat is black.", "There are two dogs."],
)
def test_a_pronoun_that_can_mean_more_or_nothing_is_not_guessed(before):
    assert divide(f"There is a mouse. {before} It is grey.").undivided[-1] == "It is grey."


def test_she_is_no_thing_and_it_is_no_person():
    assert divide("There is a table. She is old.").undivided == ["She is old."]
    assert divide("There is a woman. It is old.").undivided == ["It is old."]


# Held against the grammar of scenes, whose claims and truth are known


@pytest.fixture(scope="module")
def captions() -> list[tuple[dict, str]]:
    draws = random.Random(5)
    return [(scene, caption(scene, draws)) for scene in (imagine(draws) for _ in range(300))]


def test_every_caption_of_a_scene_is_divided_to_the_end(captions):
    assert [divide(text).undivided + divide(text).opinions for _, text in captions] == [[]] * len(captions)


def test_the_parts_of_a_caption_claim_what_the_whole_does(captions):
    """But where two predicates of one thing stand together: "small and in the centre" is then said of two."""
    joined = 0
    for _, text in captions:
        parts = [claim for one in divide(text).claims for claim in parse(one["claim"])[0]]
        whole = parse(text)[0]
        if {said(claim) for claim in parts} != {said(claim) for claim in whole}:
            joined += 1
            assert any(f" and {word} the " in text for word in ("in", "at", "on"))
            assert sum(len(claim.be) for claim in parts) == sum(len(claim.be) for claim in whole)
    assert joined < len(captions) / 10


def said(claim) -> tuple:
    """A claim without the words in which it is made."""
    return tuple(repr(value) for name, value in vars(claim).items() if name != "text")


def test_a_question_asks_for_the_claim_that_it_stands_beside(captions):
    asked = 0
    for scene, text in captions:
        for one in divide(text).claims:
            checked = check(one["claim"], scene)
            assert answer(one["question"], scene) == (not checked.false), one
            asked += 1
    assert asked > 2 * len(captions)


def test_statements_about_scenes_become_the_questions_that_they_answer():
    """Of what scenes are asked: each statement is one claim, and its question is answered with yes iff it is true."""
    draws = random.Random(1)
    for scene in (imagine(draws) for _ in range(40)):
        for one in questions(scene):
            found = divide(one.statement)
            assert (len(found.claims), found.undivided) == (1, []), one.statement
            assert answer(found.claims[0]["question"], scene) is True, found.claims


# Anything at all


@given(st.text(st.sampled_from("aB .,!?\"'“”\n-1;:()éÅ") | st.characters(), max_size=200))
@settings(max_examples=300)
def test_any_text_is_divided_without_a_fault(text):
    accounted_for(text)


WORDS = (
    'the a two dogs dog is are not and , . or it they her one there on left red has holds that who "SIGN" no between'
    " very lovely my running building in"
)


@given(st.lists(st.sampled_from(sorted({*WORDS.split()})), max_size=30))
@settings(max_examples=500, deadline=None)
def test_any_row_of_words_is_divided_without_a_fault(words):
    accounted_for(" ".join(words))


def accounted_for(text: str) -> None:
    """Each sentence alone is claims, an opinion or undivided."""
    for sentence in sentences(text):
        found = divide(sentence)
        assert bool(found.claims) + bool(found.opinions) + bool(found.undivided) == 1, sentence
        assert all(claim["claim"].endswith(".") and claim["question"].endswith("?") for claim in found.claims)


def test_the_web_at_large_is_mostly_undivided_and_never_a_fault(shared):
    texts = pq.read_table(shared / "laion/laion400m-url-text-10000.parquet", columns=["TEXT"])["TEXT"].to_pylist()
    for text in texts[:3000]:
        accounted_for(text or "")


def test_a_text_that_goes_round_in_circles_takes_no_time():
    found = divide("and a dog is on a mat " * 2000 + '"' * 5000)
    assert (found.claims, len(found.undivided)) == ([], 1)

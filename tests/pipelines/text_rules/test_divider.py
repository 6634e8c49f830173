"""Plain sentences become claims that need no other sentence, and questions that a labeler answers with yes or no."""

import random
import re
import time

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.text_rules.denial import denies
from pipelines.text_rules.divider import divide
from pipelines.text_rules.sentences import sentences
from schemas.scenes.claims import answer, check
from schemas.scenes.scene import caption, imagine, questions

SAID = [
    # Lists
    ("A red circle and two blue squares are on the left.", [
        ("There is a red circle.", "Is there a red circle?"),
        ("There is a red circle on the left.", "Is there a red circle on the left?"),
        ("There are blue squares.", "Are there blue squares?"),
        ("There are two blue squares on the left.", "Are there two blue squares on the left?")]),
    ("There is a red circle and two blue squares.", [
        ("There is a red circle.", "Is there a red circle?"),
        ("There are two blue squares.", "Are there two blue squares?")]),
    ("Apples, oranges and bananas lie in a basket.", [
        ("There are apples.", "Are there apples?"),
        ("There are apples that lie in a basket.", "Are there apples that lie in a basket?"),
        ("There are oranges.", "Are there oranges?"),
        ("There are oranges that lie in a basket.", "Are there oranges that lie in a basket?"),
        ("There are bananas.", "Are there bananas?"),
        ("There are bananas that lie in a basket.", "Are there bananas that lie in a basket?")]),
    ("The room has two windows, a desk with a lamp and no chairs.", [
        ("The room has two windows.", "Does the room have two windows?"),
        ("The room has a desk with a lamp.", "Does the room have a desk with a lamp?"),
        ("The room has no chairs.", "Does the room have any chairs?")]),
    ("A woman and her dog run along the beach.", [
        ("There is a woman.", "Is there a woman?"),
        ("There is a woman who runs along the beach.", "Is there a woman who runs along the beach?"),
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
    ('The two signs read "OPEN" and "CLOSED".', [
        ('The two signs read "OPEN" and "CLOSED".', 'Do the two signs read "OPEN" and "CLOSED"?')]),
    ("The two cats, one black and one white, are sleeping.", [
        ("The two cats, one black and one white, are sleeping.",
         "Are the two cats, one black and one white, sleeping?")]),
    ("There are two bears, one on the left and one on the right.", [
        ("There are two bears, one on the left and one on the right.",
         "Are there two bears, one on the left and one on the right?")]),
    ("A large, old wooden table.", [
        ("There is an old wooden table.", "Is there an old wooden table?"),
        ("There is a large old wooden table.", "Is there a large old wooden table?")]),
    # Clauses
    ("The dog is brown and a cat sleeps on the sofa.", [
        ("The dog is brown.", "Is the dog brown?"),
        ("There is a cat.", "Is there a cat?"),
        ("There is a cat that sleeps on the sofa.", "Is there a cat that sleeps on the sofa?")]),
    ("A man holds an umbrella and wears a blue coat.", [
        ("There is a man.", "Is there a man?"),
        ("There is a man who holds an umbrella.", "Is there a man who holds an umbrella?"),
        ("There is a man who wears a blue coat.", "Is there a man who wears a blue coat?")]),
    ("The children sat on the bench and ate ice cream.", [
        ("The children sat on the bench.", "Did the children sit on the bench?"),
        ("The children ate ice cream.", "Did the children eat ice cream?")]),
    ("On the left is a star, and on the right are two hearts.", [
        ("There is a star.", "Is there a star?"),
        ("There is a star on the left.", "Is there a star on the left?"),
        ("There are hearts.", "Are there hearts?"),
        ("There are two hearts on the right.", "Are there two hearts on the right?")]),
    ("The bus is red and parked on the street.", [
        ("The bus is red.", "Is the bus red?"),
        ("The bus is parked on the street.", "Is the bus parked on the street?")]),
    ("The street is lined with trees, but the shops are closed.", [
        ("The street is lined with trees.", "Is the street lined with trees?"),
        ("The shops are closed.", "Are the shops closed?")]),
    ("There were many people at the market and nobody was wearing a mask.", [
        ("There were people.", "Were there people?"),
        ("There were many people at the market.", "Were there many people at the market?"),
        ("Nobody was wearing a mask.", "Was anybody wearing a mask?")]),
    # Negation, tense, plurals, helping verbs
    ("There are no people in the picture.", [
        ("There are no people in the picture.", "Are there any people in the picture?")]),
    ("The sign isn't red.", [("The sign is not red.", "Is the sign red?")]),
    ("The sign doesn't say \"STOP. NOW\".", [
        ('The sign does not say "STOP. NOW".', 'Does the sign say "STOP. NOW"?')]),
    ("There are not three shapes.", [("There are not three shapes.", "Are there three shapes?")]),
    ("The man has been waiting.", [("The man has been waiting.", "Has the man been waiting?")]),
    ("The bus can be seen on the right.", [("The bus is on the right.", "Is the bus on the right?")]),
    ("The fruit stands are full of apples.", [
        ("The fruit stands are full of apples.", "Are the fruit stands full of apples?")]),
    ("A dog watches the birds.", [
        ("There is a dog.", "Is there a dog?"),
        ("There is a dog that watches the birds.", "Is there a dog that watches the birds?")]),
    ("The man who is wearing a hat carries a ladder.", [
        ("The man who is wearing a hat carries a ladder.", "Does the man who is wearing a hat carry a ladder?")]),
    ("A clock that shows 3:45 hangs on the wall.", [
        ("There is a clock.", "Is there a clock?"),
        ("There is a clock that shows 3:45.", "Is there a clock that shows 3:45?"),
        ("There is a clock that hangs on the wall.", "Is there a clock that hangs on the wall?")]),
    # What only leads to a claim
    ("The image shows a cat sitting on a mat, a bowl and three mice.", [
        ("There is a cat.", "Is there a cat?"),
        ("There is a cat sitting on a mat.", "Is there a cat sitting on a mat?"),
        ("There is a bowl.", "Is there a bowl?"),
        ("There are three mice.", "Are there three mice?")]),
    ("You can see mountains in the distance.", [
        ("There are mountains.", "Are there mountains?"),
        ("There are mountains in the distance.", "Are there mountains in the distance?")]),
    ("In the background, a man is walking a dog.", [
        ("There is a man.", "Is there a man?"),
        ("There is a man walking a dog in the background.", "Is there a man walking a dog in the background?")]),
    ("There appears to be a cat.", [("There is a cat.", "Is there a cat?")]),
    ("Additionally, the cat seems to have a collar.", [("The cat has a collar.", "Does the cat have a collar?")]),
    ("A photo of a train.", [("There is a train.", "Is there a train?")]),
    ("- A dog\n- The sky is blue.", [
        ("There is a dog.", "Is there a dog?"),
        ("The sky is blue.", "Is the sky blue?")]),
    # Words of taste fall out of a claim
    ("A very lovely red car is parked in front of a beautiful house.", [
        ("There is a red car.", "Is there a red car?"),
        ("There is a red car parked in front of a house.", "Is there a red car parked in front of a house?")]),
    # One thing that a pronoun can mean
    ("There is a red ball. It is on the table.", [
        ("There is a red ball.", "Is there a red ball?"),
        ("The red ball is on the table.", "Is the red ball on the table?")]),
    ("Two dogs play in the park. They are brown.", [
        ("There are dogs.", "Are there dogs?"),
        ("There are two dogs that play in the park.", "Are there two dogs that play in the park?"),
        ("The two dogs are brown.", "Are the two dogs brown?")]),
    ("There is a small house in the hills. Its roof is red.", [
        ("There is a house.", "Is there a house?"),
        ("There is a small house.", "Is there a small house?"),
        ("There is a house in the hills.", "Is there a house in the hills?"),
        ("The house's roof is red.", "Is the house's roof red?")]),
    ("The woman's hair is long, and she is wearing glasses.", [
        ("The woman's hair is long.", "Is the woman's hair long?"),
        ("The woman is wearing glasses.", "Is the woman wearing glasses?")]),
    ("A man plays a guitar, and several people are watching him.", [
        ("There is a man.", "Is there a man?"),
        ("There is a man who plays a guitar.", "Is there a man who plays a guitar?"),
        ("There are people.", "Are there people?"),
        ("There are several people watching the man.", "Are there several people watching the man?")]),
    # Once is enough
    ("There is a dog. A dog.", [("There is a dog.", "Is there a dog?")]),
    # Single facts
    ("A large green circle on the left on a beige background.", [
        ("There is a green circle.", "Is there a green circle?"),
        ("There is a large green circle.", "Is there a large green circle?"),
        ("There is a green circle on the left.", "Is there a green circle on the left?"),
        ("The background is beige.", "Is the background beige?")]),
    ("A big red star and the words NO PARKING on a plain background.", [
        ("There is a red star.", "Is there a red star?"),
        ("There is a big red star.", "Is there a big red star?"),
        ('The text says "NO PARKING".', 'Does the text say "NO PARKING"?'),
        ("The background is plain.", "Is the background plain?")]),
    ('A sign saying "OPEN" at the top.', [
        ("There is a sign.", "Is there a sign?"),
        ("There is a sign at the top.", "Is there a sign at the top?"),
        ('There is a sign that says "OPEN".', 'Is there a sign that says "OPEN"?')]),
    ('The red letters at the bottom read "EXIT".', [
        ('The text says "EXIT".', 'Does the text say "EXIT"?'),
        ("The text is red.", "Is the text red?"),
        ("The text is at the bottom.", "Is the text at the bottom?")]),
    ('"TAXI" is written at the top.', [('"TAXI" is written at the top.', 'Is "TAXI" written at the top?')]),
    ("The image shows a pair of large red crosses and three hearts.", [
        ("There are red crosses.", "Are there red crosses?"),
        ("There are two large red crosses.", "Are there two large red crosses?"),
        ("There are three hearts.", "Are there three hearts?")]),
    ("A pair of scissors is on a table.", [
        ("There is a pair of scissors.", "Is there a pair of scissors?"),
        ("There is a pair of scissors on a table.", "Is there a pair of scissors on a table?")]),
    ("A woman in a red coat is holding an umbrella and looking to the left.", [
        ("There is a woman.", "Is there a woman?"),
        ("There is a woman in a red coat.", "Is there a woman in a red coat?"),
        ("There is a woman holding an umbrella.", "Is there a woman holding an umbrella?"),
        ("There is a woman looking to the left.", "Is there a woman looking to the left?")]),
    ("A man with a dog on a leash.", [
        ("There is a man.", "Is there a man?"),
        ("There is a man with a dog on a leash.", "Is there a man with a dog on a leash?")]),
    ("Two small boats on the left and a slice of bread in the top right corner.", [
        ("There are boats.", "Are there boats?"),
        ("There are two small boats on the left.", "Are there two small boats on the left?"),
        ("There is a slice of bread.", "Is there a slice of bread?"),
        ("There is a slice of bread in the top right corner.", "Is there a slice of bread in the top right corner?")]),
    # A question asks for what a claim denies
    ("There is no heart in the picture.", [
        ("There is no heart in the picture.", "Is there a heart in the picture?")]),
    ("No cars are on the road.", [("No cars are on the road.", "Are any cars on the road?")]),
    ("The man doesn't wear a hat.", [("The man does not wear a hat.", "Does the man wear a hat?")]),
    ("The sign is not red and large.", [("The sign is not red and large.", "Is the sign red and large?")]),
    ('The sign does not say "NO PARKING".', [
        ('The sign does not say "NO PARKING".', 'Does the sign say "NO PARKING"?')]),
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


def test_each_part_of_a_true_caption_is_true_and_a_false_one_has_a_false_part(captions):
    false = 0
    for (scene, text), (other, _) in zip(captions, captions[1:] + captions[:1], strict=True):
        parts = [claim["claim"] for claim in divide(text).claims]
        for part in parts:
            checked = check(part, scene)
            assert checked.true and not checked.false + checked.unparsed, part
        if check(text, other).false:
            false += 1
            assert any(check(part, other).false for part in parts), text
    assert false > len(captions) / 2


def test_a_claim_is_a_single_fact(captions):
    """At most one thing is said of an object beside its colour and shape, or of the text, or of the background."""
    sizes = {"large", "big", "small", "little", "tiny"}
    for _, text in captions:
        for one in divide(text).claims:
            claim = re.sub('"[^"]*"', "", one["claim"])
            said = [bool(sizes & {*re.findall(r"\w+", claim)}), bool(re.search(r" (in|at|on) the ", claim))]
            counted = re.search(r"are (two|three|four|2|3|4)\b", claim)
            assert sum(said) <= 1 or counted or claim.startswith("The "), one
            assert "background" not in claim or claim.startswith("The background is"), one


def test_a_question_asks_for_the_claim_that_it_stands_beside_or_for_what_that_denies(captions):
    asked, denied = 0, 0
    for scene, text in captions:
        for one in divide(text).claims:
            assert answer(one["question"], scene) == (not denies(one)), one
            asked, denied = asked + 1, denied + denies(one)
    assert asked > 4 * len(captions) and denied > 20


def test_statements_about_scenes_become_the_questions_that_they_answer():
    """Of what scenes are asked: each statement is divided to the end, and its questions are answered as it says."""
    draws = random.Random(1)
    for scene in (imagine(draws) for _ in range(40)):
        for one in questions(scene):
            found = divide(one.statement)
            assert found.claims and not found.undivided, one.statement
            for claim in found.claims:
                assert answer(claim["question"], scene) == (not denies(claim)), claim


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


LONG = {
    "blank lines": "\n", "lines of blanks": " \n\t", "judgements": "a nice ", "more": "beautiful, very lovely ",
    "degrees": "very ", "bullets": "- ", "numbers": "1. ", "quotes": '"', "one letter": "a", "marks": "**",
}  # fmt: skip


@pytest.mark.parametrize("kind", LONG)
def test_a_long_text_takes_time_of_its_length(kind):
    """A server may send more than it was asked for."""
    long = LONG[kind] * (30_000 // len(LONG[kind]))
    began = time.process_time()
    divide(long)
    divide(f"A cup is on the table. {long}x")
    assert time.process_time() - began < 5

"""Which captions are weak, and which rewritten ones are taken."""

import re
import time

import pytest
from support.paths import PROJECT

from pipelines.models.prompts import filled, packaged
from pipelines.text_rules.caption_rules import length_of, read_answer, weakness
from schemas.captions import ANSWERS, CAPTION_VERDICTS, CaptionsConfig

CONFIG = CaptionsConfig(endpoint="writer")
MANY_WORDS = " ".join(f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(200))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (None, "no_text"),
        ("  ", "no_text"),
        ("★ ★ ★ !!", "no_text"),
        ("IMG_1234.JPG", "file_name"),
        ("7672-eco-cotton-culottes-87-lfs.jpg", "file_name"),
        ("DSC 00123", "file_name"),
        ("photo (12)", "file_name"),
        ("0.32893747091293335", "file_name"),
        ("Billiard table Stock Image", "boilerplate"),
        ("https://cache.example.com/media/gallery/entrance.jpg Entrance", "boilerplate"),
        ("Click here to enlarge image", "boilerplate"),
        ("Dolphin Heart necklace", "too_short"),
        ("白い猫", "too_short"),
        ("Danny Stowell &amp; Kate Moore at UK Open", "mixed_script"),
        ("Cover H\ufffdrbuch von Lewis Carroll", "mixed_script"),
        ("red КAФE sign and KAФE door", "mixed_script"),
        ("Top Yellow Top Yellow Stradivarius Yellow Stradivarius Top", "repeated"),
        ("curtain designs beautiful curtain, bedroom curtain, window curtain", "repeated"),
        ("bug, butterfly, insect, nature, icon", "not_fluent"),
        ("Womens Red Shoes Size 8 New Nike Running Trainers Black Sole", "not_fluent"),
        ("Zid | Full Songs | Arijit Singh | Sunidhi Chauhan", "not_fluent"),
        ("MEGA SALE CHEAP SHOES TODAY", "not_fluent"),
        ("Photography lenses are on the table.", "good"),
        ("7 personal finance tips every small business owner needs", "good"),
        ("Red Square is a city square in Moscow, Russia.", "good"),
        ("一只白色的猫坐在窗台上", "good"),
        ("Кошка сидит на окне и смотрит на улицу", "good"),
    ],
)
def test_a_caption_has_one_verdict(text, verdict):
    assert weakness(text, CONFIG) == verdict


@pytest.mark.parametrize("word", ["a.", "a-", "1x", "image ", "(", "漢"])
def test_a_long_text_takes_as_long_as_it_is(word):
    def seconds(letters: int) -> float:
        began = time.process_time()
        weakness((word * letters)[:letters], CONFIG)
        return time.process_time() - began

    assert seconds(40_000) < 10 * seconds(5_000) + 1, "64 times as long if each letter is held against all others"


def test_every_verdict_and_every_answer_is_declared_and_documented():

    here = PROJECT / "pipelines/text_rules"
    said = re.findall(r'return "([a-z_]+)"|else "([a-z_]+)"|or "([a-z_]+)"', (here / "caption_rules.py").read_text())
    words = {word for found in said for word in found if word}
    assert words <= {*CAPTION_VERDICTS, *ANSWERS}
    assert {*CAPTION_VERDICTS} <= words
    assert {*ANSWERS} - {"filtered", "http_4xx", "says_key", "thinking"} <= words  # said by others


def test_letters_without_spaces_are_half_a_word_each():
    assert length_of("two words") == 2
    assert length_of("白い猫が") == 2
    assert length_of("in 2017, or so") == 4


def answer(text: str, original: str = "dog bench park photo", cut: bool = False) -> str:
    return read_answer(text, filled(packaged("caption"), text=original), original, cut, CONFIG)["answer"]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Question: What is seen?\nAnswer: A dog lies on a bench in a park.", "taken"),
        ("**Question:** What is seen?\n\n**Answer:** A dog lies on a bench in a park.", "taken"),
        ("question: what is seen? answer: a dog lies on a bench.", "taken"),
        ("A dog lies on a bench in a park.", "no_form"),
        ("I'm sorry, I cannot see any picture.", "refusal"),
        ("Question: What is seen?\nAnswer:", "empty_answer"),
        ("Question: What is seen?\nAnswer: …", "empty_answer"),
        ("Question: What is seen?\nAnswer: As an AI language model, I cannot see it.", "refusal"),
        ("Question: What?\nAnswer: It was written for machines and visitors of that page, and more.", "echo"),
        ("Question: What?\nAnswer: The alt text speaks of a dog.", "echo"),
        ("Question: What?\nAnswer: " + "a dog on a bench " * 5, "loops"),
        ("Question: What?\nAnswer: " + MANY_WORDS, "too_long"),
        ("Question: 有什么？\nAnswer: 一只狗躺在公园的长椅上。", "wrong_script"),
    ],
)  # fmt: skip
def test_an_answer_is_taken_or_has_a_word_that_says_why_not(text, verdict):
    assert answer(text) == verdict


def test_what_is_taken_is_one_line_without_its_form():
    formed = " Question: What\n is it?\nAnswer: A dog\n  on a bench.  "
    said = read_answer(formed, packaged("caption"), "dog", False, CONFIG)
    assert said == {"question": "What is it?", "rewritten": "A dog on a bench.", "answer": "taken"}


def test_a_prompt_that_asks_for_no_form_is_answered_by_the_caption():
    prompt = "Rewrite this alt text so that it describes the image: {text}"
    said = read_answer(" A dog\n lies on a bench. ", prompt, "dog", False, CONFIG)
    assert said == {"question": None, "rewritten": "A dog lies on a bench.", "answer": "taken"}
    assert read_answer("I cannot see any picture.", prompt, "dog", False, CONFIG)["answer"] == "refusal"


def test_an_answer_that_ends_where_its_tokens_do_is_not_taken():
    assert answer("Question: What is seen?\nAnswer: A dog lies on a bench in", cut=True) == "too_long"


def test_a_caption_in_another_script_may_stay_in_it():
    assert answer("Question: что это?\nAnswer: Собака лежит на скамейке.", original="собака скамейка парк") == "taken"


def test_what_is_filled_in_may_hold_braces():
    assert filled("say {text} and {form}", text="{form} {text}", form="x") == "say {form} {text} and x"

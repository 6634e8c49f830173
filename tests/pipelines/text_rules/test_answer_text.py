"""An answer is taken without its thoughts, marks, chatter and further turns; what it says is never changed."""

import random
import time

import pytest

from pipelines.models.answers import likeliest, probability, read_list
from pipelines.stages.claims import read_claims
from pipelines.stages.responses import read_response
from pipelines.text_rules.answer_text import cleaned, loops, without_marks
from pipelines.text_rules.caption_rules import read_answer
from schemas.captions import CaptionsConfig

TEXT = "A red house stands in a garden."
WRAPPED = [
    "<think>\nOkay, the user wants a caption.\n- look at the car\n</think>\n\n{}", "Okay, it is simple.\n</think>\n{}",
    "<think></think>{}", "<THINKING>a</THINKING>\n{}", "[THINK]a[/THINK]{}", "<think>a</think><think>b</think> {}",
    "<|channel|>analysis<|message|>They want one.<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
    "◁think▷a◁/think▷{}", "{}<|im_end|>", "{}</s>", "<s> {} </s>", 
    "{}<|eot_id|><|start_header_id|>user<|end_header_id|>More?",
    "<|im_start|>assistant\n{}<|im_end|>\n<|im_start|>user\nWhat else?", "{}<end_of_turn>\n<start_of_turn>user\nWhy?",
    "<|start_header_id|>assistant<|end_header_id|>\n\n{}", "{}<|endoftext|>Next document.", "[INST] {} [/INST]",
]  # fmt: skip
CHATTY = [
    "{} Let me know if you would like any changes!", "{}\n\nI hope this helps!",
    "Sure! Here is the rewritten sentence: {}",
    "Certainly! Here's a caption for the picture:\n\n{}", "Here is the description: {}", "Sure! {}",
    "{} Please let me know if you need anything else. I hope this helps!", "{}\n\n(Note: I left out the address.)",
    "{}\n\nWould you like me to change it?",
    "{} If you'd like any other words, say so!", "{} Feel free to ask if you have any questions.",
    "{}\nQuestion: What season is it?\nAnswer: It is summer.", "{} Question: What season is it? Answer: It is summer.",
    "{}\n\nUser: and the sky?\nAssistant: It is blue.", "{}\nQuestion：什么季节？", "Answer: {}", "Assistant: {}",
    "{}\n**Question:** What season is it?",
]  # fmt: skip
KEPT = [
    TEXT, "The sign says \"Question: who?\" in red.", "A man thinks: think twice.", "The label reads: Note: keep dry.",
    "Here is a red house. It stands in a garden.", "Sure enough, it rains.", "A box of </b> tags, 3 < 5 and 7 > 6.",
    "There is a house.\n\n- It is red.\n- It is old.", "The poster says LET ME KNOW.", "Hope is written on the wall.",
    "Someone wrote: hahaha, no no no!", "A row of 1111111111111111 and ----------------.", "你好。一座红色的房子。",
    "It is a screenshot of a chat. The user asks: who is it?", "If you look closely, there are two cups.",
    "The figure shows $x_1, x_2, x_3, x_4, x_5$.",
]  # fmt: skip
LOOPING = [
    "It says nonononono", "A sign: hahahahahahaha", "aaaaaaaaaaaaaaaaa", "The car is red. " * 6,
    "red, blue, red, blue, red, blue, red, blue, red, blue, red, blue,", "There is " + "a very " * 20,
    "A dog. " + "The dog is on the left of the cat. " * 5,
]  # fmt: skip


@pytest.mark.parametrize("form", WRAPPED)
def test_thoughts_and_marks_are_no_part_of_an_answer(form):
    assert without_marks(form.format(TEXT)) == cleaned(form.format(TEXT)) == (TEXT, None)


@pytest.mark.parametrize("form", CHATTY)
def test_chatter_and_further_turns_are_not_either(form):
    assert cleaned(form.format(TEXT)) == (TEXT, None)


@pytest.mark.parametrize("text", KEPT)
def test_what_is_said_stays(text):
    assert cleaned(text) == (text, None)


@pytest.mark.parametrize(
    "text", ["<think>", "<think>It is", f"<think>a</think>{TEXT}<think>b", "<|channel|>analysis<|message|>a"]
)
def test_thoughts_without_an_end_are_no_answer(text):
    assert cleaned(text).fault == "thinking"
    assert read_response(text, True).reason == "thinking"
    assert read_claims([text], False).reason == "thinking"
    assert read_answer(text, "say it: {text}", TEXT, False, CAPTIONS)["answer"] == "thinking"


@pytest.mark.parametrize("text", LOOPING)
def test_what_comes_again_and_again_is_a_loop(text):
    assert loops(text) and cleaned(text).fault == "loops"
    assert read_response(text, True).reason == "loops"
    assert read_answer(f"Question: a?\nAnswer: {text}", FORM, TEXT, False, CAPTIONS)["answer"] in ("loops", "too_long")


# In the stages

CAPTIONS, FORM = CaptionsConfig(endpoint="m"), "Write two lines:\nQuestion: …\nAnswer: …\n\nAlt text: {text}"
ANSWERED = [
    "Question: What is shown?\nAnswer: {}", "Question：What is shown?\nAnswer：{}",
    "**Question:** What?\n**Answer:** {}",
    "Question: What is shown?\nAnswer: {}\n\nLet me know if you would like any changes!",
    "Question: a?\nAnswer: {}<|im_end|>", "Question: a?\nAnswer: {} Let me know if you would like any changes!",
    "Question: a?\nAnswer: {}\nThis keeps every fact.",
    "Question: a?\nAnswer: {}\nQuestion: What season is it?\nAnswer: It is summer.",
    "Question: a?\nAnswer: {} Question: What season is it? Answer: It is summer.",
    "<think>a</think>Question: a?\nAnswer: {}", 
    "Sure! Here is the question and its answer:\n\nQuestion: a?\nAnswer: {}",
]  # fmt: skip


@pytest.mark.parametrize("form", ANSWERED)
def test_a_caption_is_the_line_of_the_answer_alone(form):
    read = read_answer(form.format(TEXT), FORM, "red house garden", False, CAPTIONS)
    assert (read["rewritten"], read["answer"]) == (TEXT, "taken")


@pytest.mark.parametrize("form", WRAPPED + CHATTY[:10])
def test_a_prompt_of_ones_own_takes_the_whole_answer_cleaned(form):
    read = read_answer(form.format(TEXT), "Say it well: {text}", "red house garden", False, CAPTIONS)
    assert (read["rewritten"], read["answer"]) == (TEXT, "taken")


def test_an_answer_of_two_lines_is_one_sentence_still():
    read = read_answer("Question: a?\nAnswer: A red house\nstands in a garden.\nIt is so.", FORM, None, False, CAPTIONS)
    assert read["rewritten"] == TEXT


def test_a_response_keeps_what_came_if_that_is_not_what_it_says():
    assert read_response(f" {TEXT}\n", False) == {"text": TEXT, "raw": None, "cut": False}
    raw = f"<think>a</think>{TEXT}"
    cut = read_response(raw, True)
    assert (cut.reason, cut.kept) == ("cut", {"text": TEXT, "raw": raw, "cut": True})
    empty = read_response("<think>a</think>\n", False)
    assert (empty.reason, empty.kept["raw"]) == ("empty_answer", "<think>a</think>\n")


def test_bullets_in_thoughts_are_no_claims():
    facts = "<think>\n- check the colours\n- count the cups\n</think>\n- The cup is red.\n- The cup is small."
    read = read_claims([facts, "- Is the cup red?\n- Is the cup small?"], False)
    assert [claim["claim"] for claim in read["claims"]] == ["The cup is red.", "The cup is small."]
    assert read_list('Here are the facts:\n```json\n{"facts": ["A.", "B."]}\n```\nLet me know!', "facts") == [
        "A.",
        "B.",
    ]


def test_all_spellings_of_yes_count():
    top = [
        ("YES", -0.02),
        ("No", -4.5),
        (" yes", -5.5),
        ("**Yes", -6.0),
        ("▁no", -7.0),
        ("Yesterday", -8.0),
        ("NO.", -9.0),
    ]
    assert round(probability(top, "yes"), 4) == 0.9868 and round(probability(top, "no"), 4) == 0.0121
    assert probability([("The", -0.1)], "yes") is None
    assert likeliest([("No", -7.6), ("The", -0.02)]) == "'The' 0.98, 'No' 0.0005"


# Whatever comes


def fuzzed(draws: random.Random) -> str:
    """Pieces of answers in any order."""
    pieces = [*WRAPPED, *CHATTY, *KEPT, *LOOPING, *ANSWERED, "<think>", "</think>", "Question:", "Answer：", "\n\n",
              "```json\n", "```", '{"facts": [', "- ", "<|im_end|>", "<|", "|>", "\ud83d\ude00", "\x00",
              "：", "**", "1. "]  # fmt: skip
    text = "".join(draws.choice(pieces).replace("{}", draws.choice(KEPT)) for _ in range(draws.randrange(1, 8)))
    for _ in range(draws.randrange(4)):
        at = draws.randrange(len(text) + 1)
        text = text[:at] + draws.choice(["", "<", ">", "|", "\n", ":", "．"]) + text[at + draws.randrange(3) :]
    return text


def checked(count: int, seed: int) -> None:
    draws = random.Random(seed)
    for _ in range(count):
        text = fuzzed(draws)
        said = cleaned(text)
        assert (said.fault in (None, "thinking", "loops") and said.text in text) or "<" in text or "[" in text, text
        if not said.fault:
            assert "<think>" not in said.text and "<|im_end|>" not in said.text
            assert cleaned(said.text).text in said.text
        for prompt in (FORM, "Say it: {text}"):
            assert read_answer(text, prompt, draws.choice(KEPT), draws.random() < 0.2, CAPTIONS)["answer"]
        (
            read_response(text, False),
            read_claims([text, draws.choice(ANSWERED)], draws.random() < 0.2),
            read_list(text, "facts"),
        )


def test_no_answer_is_an_error():
    checked(1_500, 0)


@pytest.mark.slow
@pytest.mark.far
def test_no_answer_is_an_error_for_minutes():
    """By hand: minutes of random inputs. `make test` has 1,500 of these answers."""
    began, seed = time.monotonic(), 1
    while time.monotonic() - began < 120:
        checked(2_000, seed)
        seed += 1


@pytest.mark.parametrize(
    "piece",
    ["<think>", "</think>", "\n", "Question:", "<|", "<|a", " ", "Sure! ", "nono", "a ", '."', "- a\n", "```json\n"],
)
def test_a_long_answer_takes_time_of_its_length(piece):
    text = piece * (200_000 // len(piece))
    began = time.process_time()
    cleaned(text), read_answer(text, "Say it: {text}", None, False, CAPTIONS), read_list(text, "facts")
    assert time.process_time() - began < 10

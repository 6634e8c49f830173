"""Marks of images in texts: which ones are found, and what is left of a text without them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.marks import MARK, has_mark, is_image, named_pictures, without_marks

MARKS = [
    "<image>", "</image>", "<image_00>", "<image_1>", "<image-2>", "<image0>", "<img>", "</img>", "<video>",
    "<video_3>",
    "<slice>", "</slice>", "<image_id>", "<|image|>", "<|image_1|>", "<|image_pad|>", "<|vision_start|>", "<|video|>",
    "<|begin_of_image|>", "<image_soft_token>", "<start_of_image>", "<end_of_image>", "<image_placeholder>", "[IMG]",
    "[IMG_END]", "<ImageHere>", "<IMG_CONTEXT>", "<im_patch>",
]  # fmt: skip
PLAIN = [
    "", "An image.", "a < b > c", "<b>image</b>", "<img src='a.png'>", "<ImageView>", "[image]", "<imagery>",
    "< image >",
    "<|im_start|>", "List<Image>", "a\n\n  b ",
]  # fmt: skip


@pytest.mark.parametrize("mark", MARKS)
def test_marks_of_the_known_models_are_found_and_taken_out(mark):
    assert has_mark(f"a {mark} b")
    for asked in (
        f"{mark}\nWhat is this?",
        f"What is this?\n{mark}",
        f"{mark} What is this?",
        f" {mark}{mark}What is this?{mark} ",
    ):
        assert without_marks(asked) == "What is this?"
    assert without_marks(f"One.\n{mark}\nTwo.") == "One.\nTwo."
    assert without_marks(f"What does {mark} show?") == f"What does {mark.strip('<>|[]/')} show?"
    assert without_marks(mark) == ""


@pytest.mark.parametrize("text", PLAIN)
def test_other_texts_stay_as_they_are(text):
    assert not has_mark(text)
    assert without_marks(text) == text


@given(
    st.lists(st.sampled_from([*MARKS, "<", ">", "|", "[", "]", "/", "_", "image", "IMG", "\n", " ", "é"]), max_size=12)
)
def test_nothing_that_is_left_is_a_mark(pieces):
    text = without_marks("".join(pieces))
    assert not MARK.search(text)
    assert without_marks(text) == text


@pytest.mark.parametrize("text", ["<<image>>", "<im<image>age>", "<<<image>image>image>", "<|<image>image|>"])
def test_a_mark_that_appears_when_another_is_taken_out_is_taken_out_too(text):
    assert not has_mark(without_marks(f"a {text} b"))


@pytest.mark.parametrize(
    "text", [" " * 200_000, "<" * 50_000 + "image" + ">" * 50_000, "<image>" * 30_000 + "x", "<image> a " * 30_000]
)
def test_long_texts_take_no_time(text):
    started = time.perf_counter()
    assert not has_mark(without_marks(text))
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("<image>\nWhat?", ["<image>"]), ("<image><image>", ["<image>", "<image>"]),
        ("What is <image_00>?", ["<image_00>"]),
        ("<|vision_start|><|image_pad|><|vision_end|>What?", ["<|vision_start|>"]),
        ("(<image>./</image>)", ["<image>"]),
        ("<img><IMG_CONTEXT><IMG_CONTEXT></img>\nWhat?", ["<img>"]), ("Picture 1: <img>a.jpg</img>\nWhat?", ["<img>"]),
        ("<|begin_of_image|><|image|><|end_of_image|>", ["<|begin_of_image|>"]),
        ("<start_of_image>", ["<start_of_image>"]),
        ("a </image> b", []), ("the <img> tag", []), ("`<image>`", []), ("```\n<image>\n```", []), ("no mark", []),
        ("one\n<video>\ntwo", ["<video>"]), ("<img> is a tag", ["<img>"]),
    ],
)  # fmt: skip
def test_pictures_that_a_text_names(text, named):
    assert named_pictures(text) == named


def test_videos_are_no_images():
    assert is_image("<image>") and is_image("<|image_1|>") and not is_image("<|video_pad|>") and not is_image("<video>")

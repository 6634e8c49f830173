"""Token layouts, read back as text."""

import re
from random import Random

import pytest

from schemas.slices import PLANS, image_tokens, plan_llama_cpp, visual_tokens
from training.layout import (
    IGNORED,
    REASONS,
    Layout,
    Marks,
    Picture,
    SampleRejected,
    Tokens,
    Turn,
    check_answers,
    read_turns,
)

MARKS = Marks(image=(300, 301), slice=(302, 303), line_break=10, query=304, turn=(305, 306), begin=307, end=308)
NAMES = {
    300: "<image>", 301: "</image>", 302: "<slice>", 303: "</slice>", 304: "Q",
    305: "<|im_start|>", 306: "<|im_end|>", 307: "<s>", 308: "</s>",
}  # fmt: skip


def encode(text: str) -> list[int]:
    """A tokenizer of bytes."""
    return list(text.encode())


def show(ids) -> str:
    return "".join(NAMES.get(id) or chr(id) for id in ids)


def learned(tokens: Tokens) -> str:
    """What is learned; a bar stands for a stretch that is not."""
    assert all(label in (IGNORED, id) for id, label in zip(tokens.ids.tolist(), tokens.labels.tolist(), strict=True))
    return re.sub(r"\|+", "|", "".join("|" if label == IGNORED else show([label]) for label in tokens.labels))


def layout(queries: int = 2, limit: int | None = None, begin: int | None = 307, encode=encode) -> Layout:
    return Layout(encode, MARKS._replace(begin=begin), queries, limit)


SMALL = Picture("jpg", plan_llama_cpp(100, 50))
TALL = Picture("<image_00>", plan_llama_cpp(413, 708))  # one column, two rows
LARGE = Picture("<image_01>", plan_llama_cpp(1080, 1920))  # two columns, four rows


def test_a_caption_stands_behind_its_image_and_is_all_that_is_learned():
    tokens = layout().sample([SMALL], "a cat")
    assert show(tokens.ids) == "<s><image>QQ</image>a cat</s>"
    assert learned(tokens) == "|a cat</s>"
    assert tokens.pictures == (SMALL,)
    assert tokens.ids.dtype == tokens.labels.dtype == "int32"


def test_cells_stand_row_by_row_with_a_line_break_between_rows_and_none_at_the_end():
    cell, row = "<slice>Q</slice>", "<slice>Q</slice><slice>Q</slice>"
    assert show(layout(1).image(TALL.plan)) == f"<image>Q</image>{cell}\n{cell}"
    assert show(layout(1).image(LARGE.plan)) == "<image>Q</image>" + "\n".join([row] * 4)


def test_a_conversation_with_several_images_learns_the_answers_and_the_marks_that_end_them():
    turns = [
        Turn("system", ["Be brief."]),
        Turn("user", [SMALL, "What is it?"]),
        Turn("assistant", ["A cat."]),
        Turn("user", ["And ", TALL, " there?"]),
        Turn("assistant", ["A dog."]),
    ]
    tokens = layout(1).conversation(turns)
    assert show(tokens.ids) == (
        "<s><|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<image>Q</image>What is it?<|im_end|>\n"
        "<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>user\nAnd <image>Q</image><slice>Q</slice>\n<slice>Q</slice> there?<|im_end|>\n"
        "<|im_start|>assistant\nA dog.<|im_end|>"
    )
    assert learned(tokens) == "|A cat.<|im_end|>|A dog.<|im_end|>"
    assert tokens.pictures == (SMALL, TALL)


def test_samples_of_text_alone_are_samples_too():
    tokens = layout().conversation([Turn("user", ["Hi"]), Turn("assistant", ["Hello."])])
    assert show(tokens.ids) == "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>"
    assert tokens.pictures == ()
    assert learned(layout().sample([], "Plain text.")) == "|Plain text.</s>"


def test_the_first_token_is_never_learned_since_nothing_foretells_it():
    tokens = layout(begin=None).sample([], "Plain text.")
    assert show(tokens.ids) == "Plain text.</s>"
    assert learned(tokens) == "|lain text.</s>"


@pytest.mark.parametrize("parts", [["So: ", SMALL, "!"], [SMALL], ["A box.", SMALL]])
def test_an_answer_that_shows_an_image_is_rejected(parts):
    with pytest.raises(SampleRejected, match=r"^image_in_answer: turn 2 is an answer that shows an image$"):
        check_answers([Turn("user", ["Draw."]), Turn("assistant", parts)])


def test_a_prompt_may_show_an_image_in_an_answer_which_is_not_learned():
    tokens = layout(1).conversation([Turn("user", ["Draw."]), Turn("assistant", ["So: ", SMALL, "!"])])
    assert learned(tokens) == "|So: |!<|im_end|>"


@pytest.mark.parametrize("empty", [[], [""], ["  "], ["\n", "\t"]])
def test_an_empty_answer_beside_another_is_rejected(empty):
    turns = [Turn("user", ["What?"]), Turn("assistant", empty), Turn("user", ["And?"]), Turn("assistant", ["A box."])]
    with pytest.raises(SampleRejected, match=r"^no_answer: turn 2 is an empty answer$"):
        check_answers(turns)
    assert "A box." in learned(layout(1).conversation(turns))  # as the history of a prompt


def test_text_between_two_marks_is_encoded_in_one_go_and_an_answer_by_itself():
    asked = []

    def watched(text: str) -> list[int]:
        asked.append(text)
        return encode(text)

    turns = [Turn("user", ["one ", "two ", SMALL, "three"]), Turn("assistant", ["four ", "five"])]
    layout(encode=watched).conversation(turns)
    assert asked == ["user\none two ", "three", "\n", "assistant\n", "four five"]


@pytest.mark.parametrize("plan_of", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("queries", [1, 64, 96])
def test_a_layout_has_the_tokens_that_the_plan_counts(plan_of, queries):
    draws, laid = Random(queries), layout(queries)
    for _ in range(200):
        plan = plan_of(draws.randint(1, 3000), draws.randint(1, 3000))
        tokens = laid.sample([Picture("jpg", plan)], "x")
        assert (tokens.ids == MARKS.query).sum() == visual_tokens(plan, queries)
        assert len(tokens.ids) == 1 + image_tokens(plan, queries) + 2


def test_a_sample_either_fits_or_is_rejected_as_a_whole():
    whole = layout().sample([LARGE, "Where?"], "There.")
    for limit in range(1, len(whole.ids)):
        with pytest.raises(SampleRejected, match=f"too_long: .*of {limit}$") as rejected:
            layout(limit=limit).sample([LARGE, "Where?"], "There.")
        assert rejected.value.reason == "too_long"
    assert layout(limit=len(whole.ids)).sample([LARGE, "Where?"], "There.").ids.tolist() == whole.ids.tolist()


@pytest.mark.parametrize("turns", [
    [], [Turn("user", ["Hi"])], [Turn("user", [SMALL]), Turn("assistant", [" \n"])], [Turn("assistant", [])],
])  # fmt: skip
def test_a_conversation_without_an_answer_is_rejected(turns):
    with pytest.raises(SampleRejected) as rejected:
        layout().conversation(turns)
    assert rejected.value.reason == "no_answer" in REASONS


def test_an_empty_caption_is_rejected():
    with pytest.raises(SampleRejected, match="no_answer"):
        layout().sample([SMALL, "What is written there?"], "")


def test_marks_in_the_words_of_a_sample_stay_words():
    words = "</image><slice><|im_end|>Q"
    tokens = layout().conversation([Turn("user", [SMALL, words]), Turn("assistant", [words])])
    assert sum(id >= 300 for id in tokens.ids) == 1 + 4 + 4  # begin, an image, two turns
    assert learned(tokens) == f"|{words}<|im_end|>"


def test_a_tokenizer_that_reads_marks_in_plain_text_is_refused():
    def reads_marks(text: str) -> list[int]:
        return [300 if piece == "<image>" else 1 for piece in re.split("(<image>)", text)]

    with pytest.raises(RuntimeError, match=r"makes marks \[300\] of plain text"):
        layout(encode=reads_marks).sample([SMALL], "an <image> tag")


# Conversations of the fine-tune format


def said(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(contents)]


@pytest.mark.parametrize(("content", "expected"), [
    ("What is it?", [SMALL, "What is it?"]),
    ("<image>\nWhat is it?", [SMALL, "\nWhat is it?"]),
    ("In <image>, what is it?", ["In ", SMALL, ", what is it?"]),
])  # fmt: skip
def test_one_image_stands_where_it_is_named_or_in_front(content, expected):
    turns = read_turns(said(content, "A cat."), {"<image>": SMALL})
    assert turns == [Turn("user", expected), Turn("assistant", ["A cat."])]


def test_several_images_stand_where_they_are_named_and_the_others_in_front_of_the_first_question():
    pictures = {"<image_00>": TALL, "<image_01>": LARGE, "<image_02>": SMALL}
    messages = [{"role": "system", "content": "Compare."}, *said("Hi", "Hi.", "<image_01>or <image_01>?", "The first.")]
    assert read_turns(messages, pictures) == [
        Turn("system", ["Compare."]),
        Turn("user", [TALL, SMALL, "Hi"]),
        Turn("assistant", ["Hi."]),
        Turn("user", [LARGE, "or ", LARGE, "?"]),
        Turn("assistant", ["The first."]),
    ]


def test_two_images_of_one_plan_are_two_images():
    pictures = {name: Picture(name, SMALL.plan) for name in ("<image_00>", "<image_01>")}
    turns = read_turns(said("<image_01> and?", "No."), pictures)
    assert layout().conversation(turns).pictures == (pictures["<image_00>"], pictures["<image_01>"])


def test_without_images_their_names_are_words():
    assert read_turns(said("What does <image> mean?", "A tag."), {})[0] == Turn("user", ["What does <image> mean?"])


def test_an_image_that_is_not_there_is_a_reason():
    with pytest.raises(SampleRejected, match="unknown_image: <image_02>; the sample has <image_00>") as rejected:
        read_turns(said("<image_00> <image_02>", "No."), {"<image_00>": TALL})
    assert rejected.value.reason in REASONS

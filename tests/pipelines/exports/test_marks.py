"""One image, one mark, in each form; texts of any kind come through, in the order of the shard."""

from pathlib import Path

import pytest
from support.corpora import say
from support.published import caption, image, pair, publish, talk
from support.readers import READERS, Read, rows

from pipelines.engine.root import Root
from pipelines.exports.export import export

A, B, C = (image(number) for number in range(3))
TEXTS = [
    'She said "no" — naïve, 日本語, مرحبا, 🙂.', "Two\nlines\n\n and \ttabs \\ ' \\n",
    "</s> <b>bold</b> a < b > c & {x} %s",
    "x" * 5000,
]  # fmt: skip


def read(samples: list, form: str, folder: Path, *question: str) -> list[Read]:
    """The samples as the reader of a form sees them in an export."""
    root = publish(folder / "root", "all", samples)
    export(root, "all", form, Root(str(folder / "out")), *question)
    return READERS[form](folder / "out")


CONVERSATIONS = [  # turns and images as a source has them, and what readers see
    (  # marked, and not marked
        [("user", "<image>\nWhat is this?"), ("assistant", "A square.")], [("<image>", A)],
        [("user", [0, "What is this?"]), ("assistant", ["A square."])],
    ),
    (
        [("user", "What is this?"), ("assistant", "A square.")], [("<image>", A)],
        [("user", [0, "What is this?"]), ("assistant", ["A square."])],
    ),
    (  # behind the question, inside it, and in a later turn
        [("user", "What is this?\n<image>"), ("assistant", "A square.")], [("<image>", A)],
        [("user", ["What is this?\n", 0]), ("assistant", ["A square."])],
    ),
    (
        [("user", "Is <image_03> like <image_01>?"), ("assistant", "Yes.")], [("<image_01>", A), ("<image_03>", B)],
        [("user", ["Is ", 0, " like ", 1, "?"]), ("assistant", ["Yes."])],
    ),
    (
        [("user", "Hello!"), ("assistant", "Hello!"), ("user", "<image> And this?"), ("assistant", "A square.")],
        [("<image>", A)],
        [("user", ["Hello!"]), ("assistant", ["Hello!"]), ("user", [0, " And this?"]), ("assistant", ["A square."])],
    ),
    (  # several, some of them without a mark
        [("user", "Like <image_01>?"), ("assistant", "Yes.")],
        [("<image_00>", A), ("<image_01>", B), ("<image_02>", C)],
        [("user", [0, 1, "Like ", 2, "?"]), ("assistant", ["Yes."])],
    ),
    ([("user", "Two and two?"), ("assistant", "Four.")], [], [("user", ["Two and two?"]), ("assistant", ["Four."])]),
    (  # marks that are no image's
        [("user", "<image>\nWhat does <video> say of [IMG]?"), ("assistant", "An <image_7> tag, </image>.")],
        [("<image>", A)],
        [("user", [0, "What does video say of IMG?"]), ("assistant", ["An image_7 tag, image."])],
    ),
    (  # an answer names no image
        [("user", "What is this?"), ("assistant", "<image> is it, or <image>.")], [("<image>", A)],
        [("user", [0, "What is this?"]), ("assistant", ["is it, or image."])],
    ),
    (
        [("user", "What is SVG?"), ("assistant", "It has <image> and <video>.")], [],
        [("user", ["What is SVG?"]), ("assistant", ["It has image and video."])],
    ),
    *(
        ([("user", f"<image>\n{text}"), ("assistant", text)], [("<image>", A)],
         [("user", [0, text]), ("assistant", [text])]) for text in TEXTS
    ),
]  # fmt: skip
ORDERED = {"Is <image_03> like <image_01>?": [B, A], "Like <image_01>?": [A, C, B]}  # by their marks


@pytest.mark.parametrize("form", ["huggingface", "trl", "llava", "minicpm-v"])
def test_each_image_of_a_conversation_has_one_mark(tmp_path, form):
    samples = [talk(n, turns, images) for n, (turns, images, _) in enumerate(CONVERSATIONS)]
    seen = read(samples, form, tmp_path)
    wanted = [
        Read(ORDERED.get(turns[0][1], [data for _, data in images]), turns_read)
        for turns, images, turns_read in CONVERSATIONS
    ]
    assert len(seen) == len(wanted)
    for one, other in zip(seen, wanted, strict=True):
        assert one == other


SYSTEM = [("system", "Be brief."), ("user", "<image>\nWhat is this?"), ("assistant", "A square.")]


@pytest.mark.parametrize("form", ["llava", "minicpm-v"])
def test_a_system_s_text_stands_in_front_of_the_question_where_there_is_no_such_role(tmp_path, form):
    several = [("system", "One."), ("user", "Two."), ("user", "Three."), ("assistant", "Four."), ("assistant", "Five.")]
    assert read([talk(0, SYSTEM, [("<image>", A)]), talk(1, several)], form, tmp_path) == [
        Read([A], [("user", ["Be brief.\n\n", 0, "What is this?"]), ("assistant", ["A square."])]),
        Read([], [("user", ["One.\n\nTwo.\n\nThree."]), ("assistant", ["Four.\n\nFive."])]),
    ]


@pytest.mark.parametrize("form", ["huggingface", "trl"])
def test_a_system_s_text_has_its_role_where_there_is_one(tmp_path, form):
    (seen,) = read([talk(0, SYSTEM, [("<image>", A)])], form, tmp_path)
    assert seen.turns[0] == ("system", ["Be brief."])
    assert seen.turns[1] == ("user", [0, "What is this?"])


QUESTIONS = {  # as instructions have them -> as they are exported
    "<image>\nWhat is in the picture?": "What is in the picture?",
    "Describe the picture.\n<image>": "Describe the picture.",
    "What does <image_00> show?": "What does image_00 show?",
    "<|image|><|vision_start|> Why? <video>": "Why?",
    "What is on the left?": "What is on the left?",
    "<<image>image>Is it red?": "<imageimage>Is it red?",
}


@pytest.mark.parametrize("form", ["huggingface", "trl", "llava", "minicpm-v", "rlaif-v"])
def test_marks_in_the_texts_of_pairs_are_no_images(tmp_path, form):
    samples = [pair(question, question, "It is <image>.", "<image> is it.", A) for question in QUESTIONS]
    samples += [pair(text, text, text, text, A) for text in TEXTS]
    wanted = [(question, "It is image.") for question in QUESTIONS.values()] + [(text, text) for text in TEXTS]
    seen = read(samples, form, tmp_path)
    for one, (question, chosen) in zip(seen, wanted, strict=True):
        assert one == Read([A], [("user", [0, question]), ("assistant", [chosen])])


@pytest.mark.parametrize("form", ["trl", "llava", "minicpm-v"])
@pytest.mark.parametrize(
    ("task", "asked"), [("caption", "Describe the image."), ("ocr", "Read the text in the image.")]
)
def test_captions_and_ocr_are_answers_to_a_question(tmp_path, form, task, asked):
    texts = [*TEXTS, "A page with <image> and <slice>."]
    samples = [caption(text, text, A, task) for text in texts]
    plain = [*TEXTS, "A page with image and <slice>.".replace("<slice>", "slice")]
    for folder, question in ((tmp_path / "a", ()), (tmp_path / "b", ("What does it say?",))):
        folder.mkdir()
        seen = read(samples, form, folder, *question)
        wanted = [[("user", [0, *(question or (asked,))]), ("assistant", [text])] for text in plain]
        assert [one.turns for one in seen] == wanted
        assert all(one.images == [A] for one in seen)


MARKED = ["<image>\nA red house.", "An <image> tag, and <video>.", "A house. [IMG]", "A house."]
CHANGED = [  # task, samples, texts that lose a mark in forms of conversations, and in `huggingface`
    ("caption", [caption(text, text, A) for text in MARKED], 3, 0),
    ("ocr", [caption(text, text, A, "ocr") for text in MARKED], 3, 0),
    ("preference", [pair(text, text, f"{text} Yes.", f"{text} No.", A) for text in MARKED], 9, 9),
    ("conversation", [talk(n, turns, images) for n, (turns, images) in enumerate([
        ([("user", "<image> Is <image_7> like <video>?"), ("assistant", "An <image> tag.")], [("<image>", A)]),
        ([("user", "What?"), ("assistant", "A house.")], [("<image>", A)]),
        ([("system", "Say <video>."), ("user", "Two and two?"), ("assistant", "Four.")], []),
    ])], 3, 3),
]  # fmt: skip


@pytest.mark.parametrize("form", ["huggingface", "trl", "llava", "minicpm-v"])
@pytest.mark.parametrize(("task", "samples", "texts", "texts_of_hub"), CHANGED, ids=[task for task, *_ in CHANGED])
def test_texts_that_lose_marks_are_counted(task, samples, texts, texts_of_hub, form, tmp_path):
    root = publish(tmp_path / "root", "all", samples)
    exported = export(root, "all", form, Root(str(tmp_path / "out")))
    wanted = texts_of_hub if form == "huggingface" else texts
    assert exported.tally.unmarked == wanted and exported.tally.samples == len(samples)
    line = f"| texts out of which marks of images were taken | {wanted} |"
    card = (tmp_path / "out/README.md").read_text()
    assert line in card if wanted else "texts out of which" not in card
    assert wanted or {row["text"] for row in rows(tmp_path / "out")} == {*MARKED}
    said = say("export-set", root.url, "all", tmp_path / "again", "--form", form)
    assert (f"{wanted} texts out of which marks of images were taken\n" in said.out) == bool(wanted)


@pytest.mark.parametrize("form", ["trl", "llava", "minicpm-v"])
def test_an_answer_that_is_nothing_but_marks_is_left_out(form, tmp_path):
    samples = [caption(text, text, A) for text in ("<image>", "<image>\n<video>", "[IMG] \u200b", "A house.")]
    root = publish(tmp_path / "root", "all", samples)
    exported = export(root, "all", form, Root(str(tmp_path / "out")))
    assert exported.tally.left_out == {"no_answer": 3} and exported.tally.samples == 1
    assert (
        "| left out: a text or an answer is empty, or nothing but marks of images | 3 |"
        in (tmp_path / "out/README.md").read_text()
    )


@pytest.mark.parametrize("text", ["", " \u00a0", "\u200b"])
def test_empty_texts_of_older_releases_are_left_out(text, tmp_path):
    root = publish(tmp_path / "root", "all", [caption(0, text, A), caption(1, "<image>", A)])
    exported = export(root, "all", "huggingface", Root(str(tmp_path / "out")))
    assert exported.tally.left_out == {"no_answer": 1}
    assert [row["text"] for row in rows(tmp_path / "out")] == ["<image>"]

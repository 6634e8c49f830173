"""What is exported comes back through our own sources, entry for entry: the same images, texts, turns and pairs."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.corpora import ONE_PROCESS, build
from support.published import Packed, caption, image, pair, publish, talk
from support.readers import READERS, Read, rows, turn

from pipelines.catalog.catalog import query
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.payload import read_payload
from pipelines.engine.root import Root
from pipelines.exports.export import export
from pipelines.sources.turns import content_of
from schemas.arrow import Row

TEXTS = [
    'She said "no" — naïve, 日本語, مرحبا, 🙂.', "Two\nlines\n\n and \ttabs \\ ' \\n", "a, b; 'c' | {d} </s> <b>",
    "What does <image_00> show?", "<image>\nIs it?", "An <|image_pad|> and [IMG] and `<image>`.", "x" * 3000,
    "None", "3",
]  # fmt: skip


def picture(*of: int) -> bytes:
    return image(sum(100 * n + 7 for n in of))


def talks() -> list[Packed]:
    """Conversations about one image, several, or none, in the ways in which sources of any age hold them."""
    hello = [("user", "Hello."), ("assistant", "Hi.")]
    said = [
        ([("user", "<image>\nWhat is this?"), ("assistant", "A square.")], 1, "<image>"),
        ([("user", "What is this?"), ("assistant", "A square.")], 1, "<image>"),
        ([("user", "What is <image> here?"), ("assistant", "A square.")], 1, "<image>"),
        ([("user", "Is <image_00> like <image_01>?"), ("assistant", "Yes.")], 2, None),
        ([("user", "Is <image_01> like (<image_00>)?"), ("assistant", "Yes.")], 2, None),
        ([("user", "And these?"), ("assistant", "Squares.")], 3, None),
        ([*hello, ("user", "<image_00>\nAnd now?"), ("assistant", "Yes.")], 1, None),
        ([("system", "Be brief."), *hello], 0, None),
        ([("system", "Be\nbrief."), ("user", "<image>\nWhat?"), ("assistant", "It."), *hello], 1, "<image>"),
        *(([("user", text.replace("<image>\n", "")), ("assistant", text)], 1, "<image>") for text in TEXTS),
        (hello, 0, None),
    ]  # fmt: skip
    return [
        talk("long " * 100 + str(n), turns, [(mark or f"<image_{m:02d}>", picture(n, m)) for m in range(count)])
        for n, (turns, count, mark) in enumerate(said)
    ]


SAMPLES: dict[str, Callable[[], list[Packed]]] = {
    "conversation": talks,
    "caption": lambda: [caption(n, text, picture(n)) for n, text in enumerate(TEXTS)],
    "ocr": lambda: [caption(n, text, picture(n), "ocr", "A caption.") for n, text in enumerate(TEXTS)],
    "preference": lambda: [pair(n, t, f"Yes: {t}", f"No: {t}", picture(n)) for n, t in enumerate(TEXTS)],
}
KINDS = {
    "minicpm-v": "conversations", "llava": "conversations", "huggingface": "huggingface", "trl": "huggingface",
    "rlaif-v": "huggingface",
}  # fmt: skip
CASES = [(form, task) for form in KINDS for task in SAMPLES if task == "preference" or form != "rlaif-v"]


@pytest.fixture
def came_back(tmp_path) -> Callable[[str, str], list[Row]]:
    """Exports the samples of a task in a form, and gives the rows of a run over the folder of the export."""

    def back(form: str, task: str) -> list[Row]:
        export(publish(tmp_path / "root", "all", SAMPLES[task]()), "all", form, Root(str(tmp_path / "out")))
        config = tmp_path / "again.toml"
        config.write_text(f'root = "again"\n[source]\nkind = "{KINDS[form]}"\npath = "out"\n{ONE_PROCESS}')
        root = build(config, "images")
        made = query(root, ROWS).to_pylist()
        payloads = {number: commit.payload for number, commit in read_commits(root, "images").items()}
        for row in made:
            assert (row["reason"], row["why"]) == (None, None), row["detail"]
            if row["format"]:
                row["bytes"] = read_payload(root, "images", {**row, "payload": payloads[row["partition"]]})
        return made

    return back


ROWS = """
SELECT r.partition, r.key, r.text, r.conversation, r.part_of, r.part, r.extra, r.reason, coalesce(r.detail, i.detail) AS
       detail, i.reason AS why, i.byte_offset, i.size, i.sha256, i.format
FROM rows r JOIN images i USING (partition, key) ORDER BY r.part"""


def as_read(conversation: str, images: list[bytes]) -> Read:
    """A conversation of a row as readers of exports see it: images in the order in which they stand."""
    said = json.loads(conversation)
    marks, placed, parsed = said["images"], [], []
    for message in said["turns"]:
        parts: list[str | int] = []
        for piece in (
            re.split(f"({'|'.join(map(re.escape, marks))})", message["content"]) if marks else [message["content"]]
        ):
            if piece in marks:
                placed.append(marks.index(piece))
            parts.append(len(placed) - 1 if piece in marks else piece)
        parsed.append(turn(message["role"], parts))
    assert sorted(placed) == [*range(len(images))]  # an export marks each image
    return Read([images[number] for number in placed], parsed)


def conversations(made: list[Row]) -> list[Read]:
    images: dict[str, list[bytes]] = {}
    for row in made:
        if row.get("bytes"):
            images.setdefault(row["part_of"] or row["key"], []).append(row["bytes"])
    return [as_read(row["conversation"], images.get(row["key"], [])) for row in made if not row["part_of"]]


def in_order(entries: list) -> list[str]:
    return sorted(map(repr, entries))


@pytest.mark.parametrize(("form", "task"), CASES)
def test_every_entry_comes_back(came_back, tmp_path, form, task):
    made = came_back(form, task)
    keys = {sample.document["key"] for sample in SAMPLES[task]()}
    if KINDS[form] == "conversations":
        assert {json.loads(row["extra"])["id"] for row in made if not row["part_of"]} == keys
    if form == "huggingface" and task != "preference":
        assert {json.loads(row["extra"])["key"] for row in made if not row["part_of"]} == keys
    if KINDS[form] == "huggingface" and task == "preference":
        got, wanted = [pair_of(row) for row in made], [exported_pair(row) for row in rows(tmp_path / "out")]
    elif form == "huggingface" and task != "conversation":
        got = [(row["text"], row["bytes"]) for row in made]
        wanted = [(sample.text, sample.images[0][1]) for sample in SAMPLES[task]()]
    else:
        got, wanted = conversations(made), READERS[form](tmp_path / "out")
    assert len(got) == len(SAMPLES[task]())
    assert in_order(got) == in_order(wanted)


def task_again(form: str, task: str) -> str:
    """As what the entries of an export come back."""
    if task == "preference" and KINDS[form] == "huggingface":
        return task
    return "caption" if form == "huggingface" and task != "conversation" else "conversation"


@pytest.mark.slow
@pytest.mark.parametrize(("form", "task"), CASES)
def test_an_export_of_what_came_back_is_the_same(tmp_path, form, task):
    again = task_again(form, task)
    pairs = "[responses]\nfrom_source = true\n[pairs]\nlength_balance = false\n" if again == "preference" else ""
    export(publish(tmp_path / "root", "all", SAMPLES[task]()), "all", form, Root(str(tmp_path / "out")))
    config = tmp_path / "again.toml"
    source = f'[source]\nkind = "{KINDS[form]}"\npath = "out"\n'
    config.write_text(f'root = "again"\n{source}{pairs}[sets.all]\ntask = "{again}"\n{ONE_PROCESS}')
    export(build(config), "all", form, Root(str(tmp_path / "second")))
    first, second = (content_in(tmp_path / folder, form, task) for folder in ("out", "second"))
    assert len(first) == len(SAMPLES[task]())
    assert in_order(first) == in_order(second)


def content_in(folder: Path, form: str, task: str) -> list:
    """All that the entries of an export say."""
    if task == "preference" and KINDS[form] == "huggingface":
        return [exported_pair(row) for row in rows(folder)]
    if form == "huggingface" and task != "conversation":
        return [(row["text"], row["image"]["bytes"]) for row in rows(folder)]
    return READERS[form](folder)


def pair_of(row: Row) -> tuple[str | bytes, ...]:
    """A pair of a row: it is what was asked about the image, and the answers that the source brings."""
    (asked,) = json.loads(row["extra"])["instructions"]
    return asked["question"], asked["extra"]["chosen"], asked["extra"]["rejected"], row["bytes"]


def exported_pair(row: Row) -> tuple[str | bytes, ...]:
    if "prompt" in row:
        return *(row[name][0]["content"] for name in ("prompt", "chosen", "rejected")), row["images"][0]["bytes"]
    return row["question"], row["chosen"], row["rejected"], row["image"]["bytes"]


def test_the_notes_and_cards_of_exports_are_no_source_files(came_back):
    made = came_back("minicpm-v", "caption")
    assert len(made) == len(TEXTS)
    assert {row["part_of"] for row in made} == {None}


@pytest.mark.parametrize(
    ("parts", "content"),
    [
        (["<image>", "What?"], "<image>\nWhat?"),
        (["<image>", "<image>", "What?"], "<image>\n<image>\nWhat?"),
        (["<image>", " What?"], "<image> What?"),
        (["Is ", "<image>", " like (", "<image>", ")?"], "Is <image> like (<image>)?"),
        (["One.", "Two."], "One.\nTwo."),
        (["One.", "<image>", "Two."], "One.<image>Two."),
        ([], ""),
    ],
)
def test_the_parts_of_a_turn_become_one_text(parts, content):
    typed = [{"type": "image"} if part == "<image>" else {"type": "text", "text": part} for part in parts]
    assert content_of(typed) == content

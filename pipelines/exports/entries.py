"""A sample of any task as a conversation about its pictures, from which each form is written.

A text in it has no marks: a picture is a separate part, so that each form writes one mark per picture.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipelines.exports.licences import licence_of
from pipelines.exports.samples import Sample
from pipelines.exports.upright import upright
from schemas.arrow import Row
from schemas.marks import named_pictures, without_marks
from schemas.selection import QUESTION, RECONSTRUCT
from schemas.texts import is_empty
from schemas.views import PREFERENCE

MARK = "<image>"
QUESTIONS = {"caption": "Describe the image.", "ocr": "Read the text in the image.", RECONSTRUCT: QUESTION}

REASONS = {
    "image_missing": "a question names an image, but the sample has none",
    "no_question": "the conversation begins with an answer, which this form cannot say",
    "no_answer": "a text or an answer is empty, or nothing but marks of images",
}


LICENCES, OTHERS = 1000, "others"  # number of licences that are counted separately


class LeftOut(Exception):
    """A sample that a form cannot hold. Its message is one of `REASONS`."""


class Picture(NamedTuple):
    name: str  # as a file: <sample>.<ext>
    data: bytes  # upright
    turned: int | None  # the EXIF orientation that was applied; None if the bytes are those of the shard


class Turn(NamedTuple):
    role: str  # system, user or assistant
    parts: tuple[str | int, ...]  # texts, and the numbers of pictures


class Entry(NamedTuple):
    sample: str
    document: Row  # the sample's JSON
    text: str | None  # of a caption or OCR, as in the shard
    pictures: tuple[Picture, ...]  # in the order in which the turns name them
    marks: tuple[str, ...]  # that the source has for them, of conversations
    turns: tuple[Turn, ...]  # of a pair: its question and the chosen answer
    rejected: str | None  # of a pair
    unmarked: int  # texts out of which marks were taken

    @property
    def key(self) -> str:
        return self.document["key"]


@dataclass
class Tally:
    """What an export says of its samples."""

    samples: int = 0
    pictures: int = 0
    turned: int = 0  # pictures
    unmarked: int = 0  # texts out of which marks were taken
    left_out: Counter[str] = field(default_factory=Counter)  # by reason
    licences: Counter[str | None] = field(default_factory=Counter)

    def count(self, entry: Entry) -> None:
        """Counts an entry that is exported."""
        self.samples += 1
        self.pictures += len(entry.pictures)
        self.turned += sum(picture.turned is not None for picture in entry.pictures)
        self.unmarked += entry.unmarked
        licence = licence_of(entry.document)
        if licence not in self.licences and len(self.licences) >= LICENCES:
            licence = OTHERS
        self.licences[licence] += 1

    def changes(self) -> list[tuple[str, int]]:
        """What the samples say otherwise than the shards, and how often; nothing that did not happen."""
        counts = {
            "pictures turned upright as their EXIF says, and encoded again": self.turned,
            "texts out of which marks of images were taken": self.unmarked,
        }
        return [(what, count) for what, count in counts.items() if count]


@dataclass
class Texts:
    """Takes marks out of the texts of a sample, and counts those that it changes."""

    changed: int = 0

    def plain(self, text: str) -> str:
        plain = without_marks(text)
        self.changed += plain != text
        return plain


def entry_of(sample: Sample, task: str, question: str | None) -> Entry:
    """A sample as an entry; `question` is asked about captions and OCR, None if nothing is. Raises `LeftOut`."""
    document: Row = {**sample.document}
    rejected, marks, texts = None, (), Texts()
    pictures = [Picture(name, *upright(data)) for name, data in sample.images.items()]
    if task == "conversation":
        marks = tuple(document["conversation"]["images"])
        turns = _turns(document["conversation"]["turns"], marks, texts)
    elif task == PREFERENCE:
        asked, chosen, rejected = (texts.plain(document["pair"][name]) for name in ("question", "chosen", "rejected"))
        turns = [Turn("user", (asked,)), Turn("assistant", (chosen,))]
    else:  # without a question the text stays as it is
        text = texts.plain(sample.text or "") if question else sample.text or ""
        turns = [Turn("user", (question or "",)), Turn("assistant", (text,))]
    answers = ["".join(map(str, turn.parts)) for turn in turns if turn.role == "assistant"]
    if any(map(is_empty, answers)) or (rejected is not None and is_empty(rejected)):
        raise LeftOut("no_answer")
    turns = _in_front(turns, len(pictures))
    order = [part for turn in turns for part in turn.parts if isinstance(part, int)]
    renumbered: dict[str | int, int] = {old: new for new, old in enumerate(order)}
    return Entry(
        sample.name, document, sample.text, tuple(pictures[number] for number in order),
        tuple(marks[number] for number in order) if marks else (),
        tuple(Turn(turn.role, tuple(renumbered.get(p, p) for p in turn.parts)) for turn in turns), rejected,
        texts.changed,
    )  # fmt: skip


def _turns(turns: Sequence[Mapping[str, str]], marks: Sequence[str], texts: Texts) -> list[Turn]:
    """The turns of a conversation. Pictures are in questions: a mark in an answer is text. Raises `LeftOut` if
    there is no picture, but a question has a mark.
    """
    if not marks and any(named_pictures(turn["content"]) for turn in turns if turn["role"] != "assistant"):
        raise LeftOut("image_missing")
    between = re.compile("|".join(map(re.escape, marks))) if marks else None
    placed, parsed = set(), []
    for turn in turns:
        text, start, parts, changed = turn["content"], 0, [], texts.changed
        for mark in between.finditer(text) if between and turn["role"] != "assistant" else ():
            number = marks.index(mark[0])
            if number not in placed:
                placed.add(number)
                parts += [texts.plain(text[start : mark.start()]), number]
                start = mark.end()
        parts.append(texts.plain(text[start:]))
        texts.changed = min(texts.changed, changed + 1)  # a turn is one text
        parsed.append(Turn(turn["role"], tuple(part for part in parts if part != "")))
    return parsed


def _in_front(turns: Sequence[Turn], pictures: int) -> list[Turn]:
    """Turns in which pictures without a mark come before the text of the user's first turn, each on its line."""
    named = {part for turn in turns for part in turn.parts}
    first = next((number for number, turn in enumerate(turns) if turn.role == "user"), 0)
    front = [part for number in range(pictures) if number not in named for part in (number, "\n")]
    return [
        turn._replace(parts=(*front, *turn.parts)) if number == first else turn for number, turn in enumerate(turns)
    ]


def alternating(turns: Sequence[Turn]) -> list[Turn]:
    """Turns for readers that know only a user and an assistant who take turns. A system's text is put before what
    the user says next, and turns of one role in a row become one, with an empty line between them.

    Raises `LeftOut` for a conversation that begins with an answer.
    """
    joined: list[Turn] = []
    for role, parts in turns:
        role = "user" if role == "system" else role
        if joined and joined[-1].role == role:
            joined[-1] = Turn(role, (*joined[-1].parts, "\n\n", *parts))
        else:
            joined.append(Turn(role, parts))
    if joined[0].role != "user":
        raise LeftOut("no_question")
    return joined


def content(turn: Turn, marks: Sequence[str]) -> str:
    """A turn as one text, with a mark for each picture."""
    return "".join(part if isinstance(part, str) else marks[part] for part in turn.parts)

"""A sample of any task as a conversation about its pictures, from which each form is written.

A text in it has no marks: where a picture stands is a part of its own, so that each form writes one mark a picture.
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
from schemas.views import PREFERENCE

MARK = "<image>"
QUESTIONS = {"caption": "Describe the image.", "ocr": "Read the text in the image."}

REASONS = {
    "image_missing": "a question names an image, but the sample has none",
    "no_question": "the conversation begins with an answer, which this form cannot say",
}


LICENCES, OTHERS = 1000, "others"  # so many are told apart


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
    text: str | None  # of a caption or OCR, as it stands in the shard
    pictures: tuple[Picture, ...]  # in the order in which the turns name them
    marks: tuple[str, ...]  # that the source has for them, of conversations
    turns: tuple[Turn, ...]  # of a pair: its question and the chosen answer
    rejected: str | None  # of a pair

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
        licence = licence_of(entry.document)
        if licence not in self.licences and len(self.licences) >= LICENCES:
            licence = OTHERS
        self.licences[licence] += 1

    def plain(self, text: str) -> str:
        """A text without marks."""
        plain = without_marks(text)
        self.unmarked += plain != text
        return plain


def entry_of(sample: Sample, task: str, question: str | None, tally: Tally) -> Entry:
    """A sample as an entry; `question` is asked about captions and OCR. Raises `LeftOut`."""
    document, rejected, marks = sample.document, None, ()
    pictures = [Picture(name, *upright(data)) for name, data in sample.images.items()]
    if task == "conversation":
        marks = tuple(document["conversation"]["images"])
        turns = _turns(document["conversation"]["turns"], marks, tally)
    elif task == PREFERENCE:
        asked, chosen, rejected = (tally.plain(document["pair"][name]) for name in ("question", "chosen", "rejected"))
        turns = [Turn("user", (asked,)), Turn("assistant", (chosen,))]
    else:
        turns = [Turn("user", (question or "",)), Turn("assistant", (tally.plain(sample.text),))]
    turns = _in_front(turns, len(pictures))
    order = [part for turn in turns for part in turn.parts if isinstance(part, int)]
    renumbered = {old: new for new, old in enumerate(order)}
    return Entry(
        sample.name, document, sample.text, tuple(pictures[number] for number in order),
        tuple(marks[number] for number in order) if marks else (),
        tuple(Turn(turn.role, tuple(renumbered.get(p, p) for p in turn.parts)) for turn in turns), rejected,
    )  # fmt: skip


def _turns(turns: Sequence[Mapping[str, str]], marks: Sequence[str], tally: Tally) -> list[Turn]:
    """The turns of a conversation. Pictures stand in questions: a mark in an answer is a text. Raises `LeftOut` if
    there is no picture, but a question has a mark.
    """
    if not marks and any(named_pictures(turn["content"]) for turn in turns if turn["role"] != "assistant"):
        raise LeftOut("image_missing")
    between = re.compile("|".join(map(re.escape, marks))) if marks else None
    placed, parsed = set(), []
    for turn in turns:
        text, start, parts = turn["content"], 0, []
        for mark in between.finditer(text) if between and turn["role"] != "assistant" else ():
            number = marks.index(mark[0])
            if number not in placed:
                placed.add(number)
                parts += [tally.plain(text[start : mark.start()]), number]
                start = mark.end()
        parts.append(tally.plain(text[start:]))
        parsed.append(Turn(turn["role"], tuple(part for part in parts if part != "")))
    return parsed


def _in_front(turns: Sequence[Turn], pictures: int) -> list[Turn]:
    """Turns in which the pictures that no text names stand in front of the user's first turn, each on its line."""
    named = {part for turn in turns for part in turn.parts}
    first = next((number for number, turn in enumerate(turns) if turn.role == "user"), 0)
    front = [part for number in range(pictures) if number not in named for part in (number, "\n")]
    return [
        turn._replace(parts=(*front, *turn.parts)) if number == first else turn for number, turn in enumerate(turns)
    ]


def alternating(turns: Sequence[Turn]) -> list[Turn]:
    """Turns for readers that know only a user and an assistant who take turns. A system's text stands in front of what
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

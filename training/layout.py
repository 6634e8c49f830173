"""Samples as tokens, laid out as llama.cpp lays them out for MiniCPM-V 2.6 and later (version 3).

    <image>Q…Q</image><slice>Q…Q</slice><slice>Q…Q</slice>
    <slice>Q…Q</slice><slice>Q…Q</slice>

is an image of two by two cells; each Q is a place for one of the embeddings that the resampler makes of a view. Only
answers are learned. A sample that does not fit is rejected as a whole: no sample is ever cut short.

    layout = Layout(tokenizer.encode, marks, queries=64, limit=2048)
    layout.sample([Picture("jpg", plan)], "A red square.")
    layout.conversation(read_turns(messages, {"<image>": Picture("jpg", plan)}))
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from schemas.slices import Plan, image_tokens
from schemas.texts import is_empty

IGNORED = -100  # the label of a token that is not learned, as in torch's cross entropy

ROLES = ("system", "user", "assistant")  # the assistant's turns are answers

REASONS = {
    "too_long": "more tokens than the limit",
    "no_answer": "nothing to learn: the answer is missing or empty",
    "unknown_role": "a turn is not of system, user or assistant",
    "image_in_answer": "an answer shows an image; a model answers with text only",
    "unknown_image": "the text names an image that the sample does not have",
}


class SampleRejected(ValueError):
    """A sample that cannot be trained on: `reason` is a word of `REASONS`, `detail` says what exactly is wrong."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Marks(NamedTuple):
    """The ids of marks, each a single token. Plain text never becomes one of them, except the line break."""

    image: tuple[int, int]  # <image> and </image>, around an overview
    slice: tuple[int, int]  # <slice> and </slice>, around a cell
    line_break: int  # "\n", between the rows of a grid
    query: int  # holds the place of an embedding
    turn: tuple[int, int]  # <|im_start|> and <|im_end|>, around a turn of a conversation
    begin: int | None  # before everything, if the model has such a token
    end: int  # after a sample that is not a conversation


class Picture(NamedTuple):
    name: str  # of the image in its sample
    plan: Plan


Part = str | Picture
Piece = tuple[Part | int, bool]  # text, an image or a mark; and whether it is learned


class Turn(NamedTuple):
    role: str  # "system", "user" or "assistant", whose turns are answers
    parts: Sequence[Part]


class Tokens(NamedTuple):
    """A sample that is laid out. Each label is at the place of its own token; the model shifts them."""

    ids: np.ndarray  # int32 [tokens]
    labels: np.ndarray  # int32 [tokens]: the token's id where it is learned, else IGNORED
    pictures: tuple[Picture, ...]  # in the order of their embeddings in `ids`


@dataclass(frozen=True)
class Layout:
    """How samples become tokens.

    `encode` turns plain text into ids, adds nothing around it, and reads no marks in it: `<image>` in a caption is an
    ordinary word. Text between two marks is encoded in one call, as llama.cpp does; an answer is encoded separately, as
    when it is generated. Raises `SampleRejected`; and `RuntimeError` if `encode` turns plain text into a mark.
    """

    encode: Callable[[str], Sequence[int]]
    marks: Marks
    queries: int  # embeddings a view
    limit: int | None = None  # tokens in a sample

    def sample(self, context: Sequence[Part], answer: str) -> Tokens:
        """Images and text, if any, directly followed by the answer: a caption, or the text in the image."""
        return self._tokens([(part, False) for part in context] + [(answer, True), (self.marks.end, True)])

    def conversation(self, turns: Sequence[Turn]) -> Tokens:
        """Turns in the ChatML form. An answer is learned together with the mark that ends it."""
        start, end = self.marks.turn
        pieces: list[Piece] = []
        for number, (role, parts) in enumerate(turns):
            learn = role == "assistant"
            pieces += [("\n", False)] * (number > 0) + [(start, False), (f"{role}\n", False)]
            pieces += [(part, learn) for part in parts] + [(end, learn)]
        return self._tokens(pieces)

    def image(self, plan: Plan) -> Iterator[int]:
        """The tokens of one image."""
        embeddings = [self.marks.query] * self.queries
        yield from (self.marks.image[0], *embeddings, self.marks.image[1])
        for row in range(plan.rows):
            if row:
                yield self.marks.line_break
            for _ in range(plan.columns):
                yield from (self.marks.slice[0], *embeddings, self.marks.slice[1])

    def _tokens(self, pieces: Sequence[Piece]) -> Tokens:
        if not any(learn and isinstance(piece, str) and not is_empty(piece) for piece, learn in pieces):
            raise SampleRejected("no_answer", "no text to learn")
        pictures = tuple(piece for piece, _ in pieces if isinstance(piece, Picture))
        visual = sum(image_tokens(picture.plan, self.queries) for picture in pictures)
        ids: list[int] = [] if self.marks.begin is None else [self.marks.begin]
        learned = [False] * len(ids)
        for (kind, learn), run in groupby(pieces, key=lambda piece: (type(piece[0]), piece[1])):
            contents = [piece for piece, _ in run]
            if kind is str:
                ids += self._text("".join(part for part in contents if isinstance(part, str)))
            elif kind is Picture:
                ids += (id for part in contents if isinstance(part, Picture) for id in self.image(part.plan))
            else:
                ids += (part for part in contents if isinstance(part, int))
            learned += [learn and kind is not Picture] * (len(ids) - len(learned))
        if self.limit is not None and len(ids) > self.limit:
            raise SampleRejected("too_long", f"{len(ids)} tokens, {visual} of them of images, of {self.limit}")
        learned[0] = False  # no token before it could predict it
        array = np.array(ids, np.int32)
        return Tokens(array, np.where(learned, array, np.int32(IGNORED)), pictures)

    def _text(self, text: str) -> list[int]:
        ids = list(self.encode(text))
        marks = self.marks
        if made := {*marks.image, *marks.slice, marks.query, *marks.turn, marks.begin, marks.end}.intersection(ids):
            raise RuntimeError(f"the tokenizer makes marks {sorted(made)} of plain text; it must not: {text[:80]!r}")
        return ids


def check_answers(turns: Sequence[Turn]) -> None:
    """Raises `SampleRejected` if a role is unknown, or an answer is not a text to learn: empty, or with an image.

    A prompt may have such answers in its history, where they are not learned.
    """
    for number, (role, parts) in enumerate(turns, 1):
        if role not in ROLES:
            raise SampleRejected("unknown_role", f"turn {number} is of {role!r:.60}; choose from {', '.join(ROLES)}")
        if role != "assistant":
            continue
        if any(isinstance(part, Picture) for part in parts):
            raise SampleRejected("image_in_answer", f"turn {number} is an answer that shows an image")
        if not any(isinstance(part, str) and not is_empty(part) for part in parts):
            raise SampleRejected("no_answer", f"turn {number} is an empty answer")


def read_turns(messages: Iterable[Mapping[str, str]], pictures: Mapping[str, Picture]) -> list[Turn]:
    """The `conversations` of MiniCPM-V's fine-tune JSON: `{"role": …, "content": …}`, with `<image>` or `<image_00>`.

    `pictures` are given by these names. Pictures that no text names are put at the start of the user's first turn, in
    order; nothing is put between an image and the text after it, as in llama.cpp. Without pictures, names are text.
    """
    turns = [Turn(message["role"], _parts(message["content"], pictures)) for message in messages]
    named = {part for turn in turns for part in turn.parts if isinstance(part, Picture)}
    first = next((number for number, turn in enumerate(turns) if turn.role == "user"), 0)
    in_front = [picture for picture in pictures.values() if picture not in named]
    if in_front and turns:
        turns[first] = turns[first]._replace(parts=[*in_front, *turns[first].parts])
    return turns


def _parts(content: str, pictures: Mapping[str, Picture]) -> list[Part]:
    if not pictures:
        return [content]
    pieces = re.split(r"(<image(?:_\d+)?>)", content)
    if unknown := [mark for mark in pieces[1::2] if mark not in pictures]:
        raise SampleRejected("unknown_image", f"{unknown[0]}; the sample has {', '.join(pictures)}")
    return [pictures[piece] if number % 2 else piece for number, piece in enumerate(pieces) if piece]

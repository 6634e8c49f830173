"""A sample as the model gets it, in pieces that can be shown: text, marks, views, and what of it is learned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np
from PIL import Image

from schemas.shards import Damaged
from schemas.slices import Plan
from training.dpo import pair_tokens
from training.layout import IGNORED, SampleRejected, Tokens
from training.loader import Lost
from training.recipe import TrainingStage
from training.sample_text import task_of
from training.samples import SampleEncoder
from training.shards import Sample, Shards
from training.shuffle import shuffled
from training.tokenizer import Tokenizer, marks_in

TRIES = 10  # samples that are read for each one that is wanted, where samples are left out


class Piece(NamedTuple):
    """Tokens that belong together."""

    kind: str  # "text", "mark" or "view"
    text: str  # of text, or the name of a mark
    tokens: int
    learned: bool


class Part(NamedTuple):
    """A part of a sample: all of it, or the prompt and the two answers of a pair."""

    title: str  # "", "prompt", "chosen" or "rejected"
    pieces: list[Piece]


class ShownImage(NamedTuple):
    name: str  # of the member
    plan: Plan
    views: list[Image.Image]  # the overview, then the slices row by row


@dataclass(frozen=True)
class Shown:
    """A sample that is trained."""

    name: str  # <key>-<task>
    set: str  # name in [data]
    task: str
    parts: list[Part]
    images: list[ShownImage] = field(default_factory=list)

    @property
    def pieces(self) -> list[Piece]:
        return [piece for part in self.parts for piece in part.pieces]

    def tokens(self, kind: str | None = None, learned: bool | None = None) -> int:
        """Tokens of a kind, that are learned or not; all if nothing is given."""
        return sum(
            piece.tokens for piece in self.pieces
            if kind in (None, piece.kind) and learned in (None, piece.learned)
        )  # fmt: skip


def draw(
    sets: dict[str, Shards], stage: TrainingStage, encoder: SampleEncoder, count: int, seed: int
) -> Iterator[Shown | Lost]:
    """Samples of a stage's sets in turn, drawn by the seed, until `count` are shown; and those left out meanwhile."""
    places = (
        (name, shuffled(number, len(shards), seed, "look", name))
        for number in range(TRIES * count)
        for name, shards in sets.items()
        if number < len(shards)
    )
    for name, number in places:
        if not count:
            return
        sample: Sample | None = None
        try:
            sample = sets[name][number]
            yield show(sample, name, stage, encoder)
            count -= 1
        except (Damaged, SampleRejected) as error:
            yield Lost.of(sample["__key__"] if sample else f"sample {number}", name, error)


def show(sample: Sample, name: str, stage: TrainingStage, encoder: SampleEncoder) -> Shown:
    """A sample of the set `name`. Raises `SampleRejected`, as training does, if it is left out."""
    task, learns = task_of(sample), stage.answers > 0
    if stage.beta:
        chosen, rejected = pair_tokens(encoder, sample)
        begin = int((chosen.labels != IGNORED).argmax())
        parts = [
            Part("prompt", pieces_of(chosen, encoder.tokenizer, learns, end=begin)),
            Part("chosen", pieces_of(chosen, encoder.tokenizer, learns, begin)),
            Part("rejected", pieces_of(rejected, encoder.tokenizer, learns, begin)),
        ]
        tokens = chosen
    else:
        tokens = encoder.tokens(sample)
        parts = [Part("", pieces_of(tokens, encoder.tokenizer, learns))]
    views = iter(encoder.views(sample, tokens))
    images = [
        ShownImage(picture.name, picture.plan, [Image.fromarray(next(views)) for _ in picture.plan.views])
        for picture in tokens.pictures
    ]
    return Shown(sample["__key__"], name, task, parts, images)


def pieces_of(
    tokens: Tokens, tokenizer: Tokenizer, learns: bool = True, begin: int = 0, end: int | None = None
) -> list[Piece]:
    """The tokens from `begin` to `end` in pieces; nothing is learned of them if the stage `learns` no answers."""
    names, query = mark_names(tokenizer), tokenizer.marks.query
    ids, labels = tokens.ids[begin:end], tokens.labels[begin:end]
    learned = (labels != IGNORED) & learns
    kinds = np.where(ids == query, "view", np.where(np.isin(ids, [*names]), "mark", "text"))
    pieces: list[Piece] = []
    for (kind, is_learned, _), run in groupby(
        range(len(ids)), key=lambda at: (kinds[at], bool(learned[at]), at if kinds[at] == "mark" else -1)
    ):
        places = list(run)
        part = ids[places].tolist()
        text = names[part[0]] if kind == "mark" else ""
        text = literal(tokenizer.decode(part), tokenizer) if kind == "text" else text
        pieces.append(Piece(str(kind), text, len(part), is_learned))
    return pieces


def literal(text: str, tokenizer: Tokenizer) -> str:
    """A text with a backslash before each name of a mark that it spells, so that it is not taken for one."""
    for name in {*marks_in(text, tokenizer.names)}:
        text = text.replace(name, f"\\{name}")
    return text


def mark_names(tokenizer: Tokenizer) -> dict[int, str]:
    """The names of marks by id; that of the place of an embedding is not among them."""
    marks, names = tokenizer.marks, tokenizer.names
    pairs: Sequence[tuple[int | None, str | None]] = [
        *zip(marks.image, names.image, strict=False),
        *zip(marks.slice, names.slice, strict=False),
        *zip(marks.turn, names.turn, strict=False),
        (marks.end, names.end),
        (marks.begin, names.begin),
    ]
    return {id: name for id, name in pairs if id is not None and name is not None}

"""Encodes a sample of a shard as tokens and pixels, with a function for each task.

encoder = SampleEncoder(Tokenizer("my-tokenizer"), queries=64, length=2048)
tokens = encoder.tokens(sample)             # a sample of `training.shards`, or of plain webdataset
views = encoder.views(sample, tokens)       # of its images, in the order of their places in `tokens`
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from schemas.errors import UserError
from schemas.selection import QUESTION, RECONSTRUCT
from schemas.slices import PLANS, Plan
from training.layout import REASONS as OF_LAYOUT
from training.layout import Layout, Picture, SampleRejected, Tokens, Turn, check_answers, read_turns
from training.pixels import cut, decode, size_of
from training.sample_text import PAIRS, conversation_of, task_of, text_of
from training.shards import Sample
from training.tokenizer import Tokenizer

IMAGES = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tiff", "avif", "heic", "jxl"}

REASONS = OF_LAYOUT | {
    "equal_answers": "both answers of a pair are the same, so nothing is learned from it",
    "unknown_task": "its task is unknown here",
    "unreadable_text": "a member is not the text or JSON that its task needs",
    "unreadable_image": "an image cannot be decoded",
    "not_sliceable": "the slicing plan does not accept an image of its shape",
    "damaged": "its bytes differ from those that were published",
    "not_as_planned": "its number of tokens differs from the plan",
}


@dataclass(frozen=True)
class Slicing:
    """How images are cut into views, see `schemas.slices`. Raises `UserError` if the side is not in whole patches."""

    plan: str = "llama.cpp"  # or "openbmb"
    side: int = 448  # pixels
    patch: int = 14  # pixels
    cells: int = 9  # at most; llama.cpp has no choice

    def __post_init__(self):
        if self.plan == "llama.cpp" and self.cells != 9:
            raise ValueError("llama.cpp cuts an image into at most 9 cells; only `openbmb` has a choice")
        if self.side % self.patch:
            raise UserError(
                f"side: {self.side} pixels are not a whole number of patches; choose a multiple of {self.patch}"
            )

    @lru_cache(maxsize=10_000)  # noqa: B019 (a value, which lives as long as the process)
    def of(self, width: int, height: int) -> Plan:
        """The plan for an image of this size. Raises `ValueError` for a size that it cannot cut."""
        more = {"cells": self.cells} if self.plan == "openbmb" else {}
        return PLANS[self.plan](width, height, side=self.side, patch=self.patch, **more)


@dataclass(frozen=True)
class SampleEncoder:
    """Turns samples into tokens and pixels; its fields are everything that these depend on.

    `instructions` maps a task to the user's text in its samples, `{"ocr": "What is written there?"}`. For a task
    without one, the text directly follows its image; but samples with corrupted text ask what stood there.
    Conversations have their own texts.
    """

    tokenizer: Tokenizer
    queries: int = 64  # embeddings a view
    length: int = 2048  # tokens a pack
    slicing: Slicing = Slicing()
    instructions: Mapping[str, str] = field(default_factory=dict)
    context: int | None = None  # tokens that the model takes at most; a longer sample is `too_long`

    @property
    def limit(self) -> int:
        """Tokens of a sample, at most."""
        return self.length if self.context is None else min(self.length, self.context)

    def settings(self) -> dict[str, Any]:
        """All settings that the number of a sample's tokens depends on, for JSON."""
        return {
            "tokenizer": self.tokenizer.identity, "queries": self.queries, "length": self.length,
            "slicing": asdict(self.slicing), "instructions": dict(sorted(self.instructions.items())),
        } | ({"limit": self.limit} if self.limit < self.length else {})  # fmt: skip

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.tokenizer.encode, self.tokenizer.marks, self.queries, self.limit)

    def tokens(self, sample: Sample) -> Tokens:
        """A sample laid out, from its texts and the headers of its images. Raises `SampleRejected`, see `REASONS`."""
        task = task_of(sample)
        if task not in TASKS:
            fix = "a stage with beta trains it" if task in PAIRS else f"choose from {', '.join(TASKS)}"
            raise SampleRejected("unknown_task", f"{task!r}; {fix}")
        return TASKS[task](self.layout, sample, self._pictures(sample), self.instructions.get(task, ASKED.get(task)))

    def views(self, sample: Sample, tokens: Tokens) -> list[np.ndarray]:
        """The views of all images, as `training.pixels.cut` makes them. Raises `SampleRejected`."""
        views = []
        for picture in tokens.pictures:
            try:
                views += cut(decode(sample[picture.name]), picture.plan)
            except Exception as error:  # decoders raise errors of any kind
                raise SampleRejected("unreadable_image", f"{picture.name}: {error}") from error
        return views

    def _pictures(self, sample: Sample) -> list[Picture]:
        pictures = []
        for name in images(sample):
            try:
                size = size_of(sample[name])
            except Exception as error:
                raise SampleRejected("unreadable_image", f"{name} starts with {sample[name][:16]!r}") from error
            try:
                pictures.append(Picture(name, self.slicing.of(*size)))
            except ValueError as error:
                raise SampleRejected("not_sliceable", f"{name}: {error}") from error
        return pictures


def images(sample: Sample) -> list[str]:
    """The image members: `jpg`; or `0.jpg`, `1.png`, … by number."""
    names = [name for name in sample if name.rpartition(".")[2] in IMAGES]
    return sorted(names, key=lambda name: [int(part) for part in name.split(".")[:-1] if part.isdigit()])


Recipe = SampleEncoder  # the name in the release before, which its README shows


# A function for each task


def answer(layout: Layout, sample: Sample, pictures: Sequence[Picture], instruction: str | None) -> Tokens:
    """An image with its caption, or with the text in it."""
    text = text_of(sample, "txt")
    if instruction is None:
        return layout.sample(pictures, text)
    return layout.conversation([Turn("user", [*pictures, instruction]), Turn("assistant", [text])])


def conversation(layout: Layout, sample: Sample, pictures: Sequence[Picture], instruction: str | None) -> Tokens:
    """Turns with any number of images, or none; `json` has both: {"turns": [...], "images": [their marks]}."""
    messages = conversation_of(sample)
    marks = messages["images"]
    if len(marks) != len(pictures):
        raise SampleRejected("unknown_image", f"{len(marks)} images are named, the sample has {len(pictures)}")
    turns = read_turns(messages["turns"], dict(zip(marks, pictures, strict=True)))
    check_answers(turns)
    return layout.conversation(turns)


ASKED = {RECONSTRUCT: QUESTION}
TASKS: dict[str, Callable[[Layout, Sample, Sequence[Picture], str | None], Tokens]] = {
    "caption": answer,
    "ocr": answer,
    RECONSTRUCT: answer,
    "conversation": conversation,
}

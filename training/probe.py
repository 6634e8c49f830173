"""What the embeddings of a view should tell of a generated scene: labels for the vision tower's own pretraining.

As SigLIP's tower is trained by captions before it sees a language model, a small one is trained here by what is known
of each picture: 9 embeddings tell what stands in which place, one tells of background and text, and a run of 28 tells
the characters from left to right, aligned by connectionist temporal classification (Graves et al. 2006). The probe is
thrown away afterwards.
"""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from schemas.scenes import COLOURS, GROUNDS, PLACES, SHAPES, SIZES, TEXTURES, WORDS, Scene
from training.layout import IGNORED
from training.shards import Shards

CHARACTERS = tuple(sorted({*"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", *"".join(sum(WORDS.values(), ()))}))
LONGEST = 16  # characters
SLOTS = 28  # embeddings that tell characters
CELL = (len(SHAPES) + 1, len(COLOURS), len(SIZES))  # classes of what stands in a place; the last shape is nothing
GROUND = (len(GROUNDS), len(TEXTURES), 1 + 3, len(COLOURS))  # colour, texture, row of the text or none, its colour
QUERIES = len(PLACES) + 1 + SLOTS  # that the probe looks at, of those of the resampler


class Truth(NamedTuple):
    """Labels of views; IGNORED where there is nothing to tell."""

    cells: Tensor  # int64 [views, 9, 3]
    ground: Tensor  # int64 [views, 4]
    text: Tensor  # int64 [views, LONGEST]: 1 + number in CHARACTERS, 0 behind the end

    def to(self, device: torch.device) -> "Truth":
        return Truth(*(one.to(device) for one in self))


def truth_of(scenes: Sequence[Scene]) -> Truth:
    cells = torch.full((len(scenes), len(PLACES), 3), IGNORED)
    cells[..., 0] = len(SHAPES)
    ground, text = torch.full((len(scenes), 4), IGNORED), torch.zeros(len(scenes), LONGEST, dtype=torch.int64)
    for n, scene in enumerate(scenes):
        for thing in scene["objects"]:
            kinds = (SHAPES.index(thing["shape"]), COLOURS.index(thing["colour"]), SIZES.index(thing["size"]))
            cells[n, PLACES.index(thing["place"])] = torch.tensor(kinds)
        ground[n, 0] = list(GROUNDS).index(scene["ground"]["colour"])
        ground[n, 1] = TEXTURES.index(scene["ground"]["texture"])
        ground[n, 2] = 0
        if printed := scene["printed"]:
            ground[n, 2] = 1 + ("top", "centre", "bottom").index(printed["place"])
            ground[n, 3] = COLOURS.index(printed["colour"])
            codes = [1 + CHARACTERS.index(c) for c in printed["text"] if c != " "][:LONGEST]
            text[n, : len(codes)] = torch.tensor(codes)
    return Truth(cells, ground, text)


class Truths:
    """The truth of samples by name: shards of generated scenes carry it in their JSON, as `extra.scene`."""

    def __init__(self, sets: Iterable[Shards]):
        self.places = {
            name: (shard, number)
            for shards in sets
            for shard in shards.shards
            for number, name in enumerate(shard.index[0].to_pylist())
        }

    def __getitem__(self, names: Iterable[str]) -> Truth:
        """Of these samples. Raises `KeyError` if one has none."""
        found = [self.places[name] for name in names]
        return truth_of([json.loads(shard.sample(number)["json"])["extra"]["scene"] for shard, number in found])


class Probe(nn.Module):
    """Linear readings of the embeddings of views."""

    def __init__(self, width: int):
        super().__init__()
        self.cell = nn.Linear(width, sum(CELL))
        self.ground = nn.Linear(width, sum(GROUND))
        self.text = nn.Linear(width, 1 + len(CHARACTERS))

    def forward(self, seen: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Of [views, queries, width]: float32 logits of each of CELL, of GROUND, and of characters; 0 is none."""
        places = len(PLACES)
        cells, ground = self.cell(seen[:, :places]).float(), self.ground(seen[:, places]).float()
        text = self.text(seen[:, places + 1 : QUERIES]).float()
        return list(cells.split(CELL, -1)), list(ground.split(GROUND, -1)), text

    def loss(self, seen: Tensor, truth: Truth) -> Tensor:
        """The sum over what is told, each the mean over the views; of text the loss a character."""
        cells, ground, text = self(seen)
        told = [(logits, truth.cells[..., n]) for n, logits in enumerate(cells)]
        told += [(logits, truth.ground[..., n]) for n, logits in enumerate(ground)]
        loss = sum(_mean_loss(logits, labels) for logits, labels in told)
        things = torch.where(truth.cells[..., 0] == len(SHAPES), IGNORED, truth.cells[..., 0])
        loss = loss + _mean_loss(cells[0], things)  # shapes are the hardest, and two places in three hold nothing
        written = truth.text[:, 0] > 0
        if not written.any():
            return loss
        lengths = (truth.text[written] > 0).sum(1)
        slots = torch.full_like(lengths, SLOTS)
        ctc = F.ctc_loss(
            text[written].log_softmax(-1).transpose(0, 1), truth.text[written], slots, lengths, reduction="none"
        )
        return loss + (ctc / lengths).mean()


def _mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """0 where there is nothing to tell."""
    losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return losses / (labels != IGNORED).sum().clamp(min=1)

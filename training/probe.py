"""What the embeddings of a view should tell of a generated scene: labels for the vision tower's own pretraining.

As SigLIP's tower is trained by captions before it sees a language model, a small one is trained here by what is known
of each picture: 9 embeddings tell what stands in which place, and which place that is (the resampler's values do not
know; without it no question of left or right was ever learned); one tells of background and text, and a run of 28 tells
the characters from left to right, aligned by connectionist temporal classification (Graves et al. 2006). Before that
each patch tells what stands in its place and, in the row of the text, which characters it shows: that is learned many
times sooner, since a label stands where its pixels do. The probe is thrown away afterwards.
"""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from schemas.errors import UserError
from schemas.scenes.scene import COLOURS, GROUNDS, PLACES, SHAPES, SIZES, TEXTURES, WORDS, Scene
from training.layout import IGNORED
from training.shards import Shards

CHARACTERS = tuple(sorted({*"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", *"".join(sum(WORDS.values(), ()))}))
LONGEST = 16  # characters
SLOTS = 28  # embeddings that tell characters
ACROSS = 252  # steps across a picture, for each of which is known which character stands there
PARTS = 2  # of a patch, side by side, each with its character
CELL = (len(SHAPES) + 1, len(COLOURS), len(SIZES))  # classes of what stands in a place; the last shape is nothing
GROUND = (len(GROUNDS), len(TEXTURES), 1 + 3, len(COLOURS))  # colour, texture, row of the text or none, its colour
ROWS = ("top", "centre", "bottom")  # where texts stand
QUERIES = len(PLACES) + 1 + SLOTS  # that the probe looks at, of those of the resampler


Letters = Sequence[Sequence[tuple[float, float]]]  # of each text, left and right end of each character: shares of width


class Truth(NamedTuple):
    """Labels of views; IGNORED where there is nothing to tell."""

    cells: Tensor  # int64 [views, 9, 3]
    ground: Tensor  # int64 [views, 4]
    text: Tensor  # int64 [views, LONGEST]: 1 + number in CHARACTERS, 0 behind the end
    across: Tensor  # int64 [views, 3, ACROSS]: of each row 1 + number in CHARACTERS, 0 between them

    def to(self, device: torch.device) -> "Truth":
        return Truth(*(one.to(device) for one in self))


def truth_of(scenes: Sequence[Scene], letters: Sequence[Letters | None] = ()) -> Truth:
    """The labels of scenes; with where their characters stand, if that is known."""
    cells = torch.full((len(scenes), len(PLACES), 3), IGNORED)
    cells[..., 0] = len(SHAPES)
    ground, text = torch.full((len(scenes), 4), IGNORED), torch.zeros(len(scenes), LONGEST, dtype=torch.int64)
    across = torch.full((len(scenes), 3, ACROSS), IGNORED)
    for n, scene in enumerate(scenes):
        for thing in scene["objects"]:
            kinds = (SHAPES.index(thing["shape"]), COLOURS.index(thing["colour"]), SIZES.index(thing["size"]))
            cells[n, PLACES.index(thing["place"])] = torch.tensor(kinds)
        ground[n, 0] = list(GROUNDS).index(scene["ground"]["colour"])
        ground[n, 1] = TEXTURES.index(scene["ground"]["texture"])
        ground[n, 2] = 0
        if printed := scene["printed"]:
            texts = [printed, *scene.get("also", ())]
            for one, ends in zip(texts, letters[n] or () if letters else ()):
                row = across[n, ROWS.index(one["place"])].fill_(0)
                for char, (left, right) in zip(one["text"], ends):
                    if char != " ":
                        row[round(left * ACROSS) : round(right * ACROSS)] = 1 + CHARACTERS.index(char)
            if len(texts) > 1:  # which of them is meant cannot be told
                ground[n, 2] = IGNORED
                continue
            ground[n, 2] = 1 + ROWS.index(printed["place"])
            ground[n, 3] = COLOURS.index(printed["colour"])
            codes = [1 + CHARACTERS.index(c) for c in printed["text"] if c != " "][:LONGEST]
            text[n, : len(codes)] = torch.tensor(codes)
    return Truth(cells, ground, text, across)


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
        """Of these samples. Raises `UserError` if one has none."""
        scenes, letters = [], []
        for name in names:
            shard, number = self.places[name]
            extra = json.loads(shard.sample(number)["json"]).get("extra") or {}
            if "scene" not in extra:
                raise UserError(f"{name}: its json has no extra.scene; only generated scenes have a truth to learn")
            scenes.append(extra["scene"])
            letters.append(extra.get("letters"))
        return truth_of(scenes, letters)


class Probe(nn.Module):
    """Linear readings of the embeddings of views, and of the states of their patches."""

    def __init__(self, width: int, vision_width: int):
        super().__init__()
        self.patch = nn.Linear(vision_width, CELL[0] + CELL[1])
        self.part = nn.Linear(vision_width, PARTS * (1 + len(CHARACTERS)))
        self.cell = nn.Linear(width, sum(CELL))
        self.place = nn.Linear(width, len(PLACES))
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
        places = torch.arange(len(PLACES), device=seen.device).expand(len(seen), -1)
        loss = loss + _mean_loss(self.place(seen[:, : len(PLACES)]).float(), places)  # the resampler's values have none
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

    def patch_loss(self, states: Tensor, grids: Tensor, truth: Truth) -> Tensor:
        """The same for what each patch tells: `states` [views, most patches, vision width] of `grids` [views, 2]."""
        rows, columns = grids[:, :1], grids[:, 1:]
        number = torch.arange(states.shape[1], device=states.device)[None]
        row, column, there = number // columns, number % columns, number < rows * columns
        row_of_cells, column_of_cells = (2 * row + 1) * 3 // (2 * rows), (2 * column + 1) * 3 // (2 * columns)
        view, at = there.nonzero(as_tuple=True)
        cells = truth.cells[view, (3 * row_of_cells + column_of_cells)[view, at]]
        shape, colour = self.patch(states[view, at]).float().split(CELL[:2], -1)
        loss = _mean_loss(shape, cells[:, 0]) + _mean_loss(colour, cells[:, 1])

        thirds = (2 * row + 1) * 9 // (2 * rows)
        view, at = (there & (thirds % 3 == 1)).nonzero(as_tuple=True)  # text stands in the middle of its row
        told = self.part(states[view, at]).float().unflatten(-1, (PARTS, -1))
        parts = column[view, at][:, None] * PARTS + torch.arange(PARTS, device=states.device)
        middle = (2 * parts + 1) * ACROSS // (2 * PARTS * columns[view])
        return loss + _mean_loss(told, truth.across[view[:, None], row_of_cells[view, at][:, None], middle])


def _mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """0 where there is nothing to tell."""
    losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return losses / (labels != IGNORED).sum().clamp(min=1)

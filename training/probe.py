"""A probe that predicts a generated scene from the embeddings of a view, to pretrain the vision tower by itself.

SigLIP's tower is trained with captions before it is connected to a language model. A small tower is trained here with
the known content of each picture: 9 embeddings predict the object in each place, and the place itself (the resampler's
values have no positions; without this, questions about left and right were never learned); one predicts the background
and the text's row and colour, and a run of 28 predicts the characters from left to right, aligned by connectionist
temporal classification (Graves et al. 2006). Each patch also predicts the object in its place and, in the row of the
text, the characters that it shows: this is learned many times sooner, since each label is where its pixels are. The
probe is thrown away afterwards.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from schemas.errors import UserError
from schemas.scenes.scene import COLOURS, GROUNDS, PLACES, SHAPES, SIZES, TEXTURES, WORDS, Scene
from schemas.shards import document_of
from training.layout import IGNORED
from training.shards import Sample, Shards

CHARACTERS = tuple(sorted({*"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", *"".join(sum(WORDS.values(), ()))}))
LONGEST = 16  # characters
SLOTS = 28  # embeddings that predict characters
ACROSS = 252  # steps across a picture, each labelled with the character at that place
PARTS = 2  # parts of a patch, side by side, each labelled with its character
CELL = (len(SHAPES) + 1, len(COLOURS), len(SIZES))  # classes of the object in a place; the last shape means no object
GROUND = (len(GROUNDS), len(TEXTURES), 1 + 3, len(COLOURS))  # colour, texture, row of the text or none, its colour
ROWS = ("top", "centre", "bottom")  # where texts stand
QUERIES = len(PLACES) + 1 + SLOTS  # how many of the resampler's embeddings, from the first, the probe reads


# For each text, and each of its characters: left and right end, as shares of the picture's width.
Letters = Sequence[Sequence[tuple[float, float]]]


class Truth(NamedTuple):
    """Labels of views; IGNORED where there is nothing to predict."""

    cells: Tensor  # int64 [views, 9, 3]
    ground: Tensor  # int64 [views, 4]
    text: Tensor  # int64 [views, LONGEST]: 1 + number in CHARACTERS, 0 after the end
    across: Tensor  # int64 [views, 3, ACROSS]: of each row 1 + number in CHARACTERS, 0 between them

    def to(self, device: torch.device) -> "Truth":
        return Truth(*(labels.to(device) for labels in self))


def truth_of(scenes: Sequence[Scene], letters: Sequence[Letters | None] = ()) -> Truth:
    """The labels of scenes, and of their characters' places where `letters` has them."""
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
            for written, ends in zip(texts, letters[n] or () if letters else (), strict=False):
                row = across[n, ROWS.index(written["place"])].fill_(0)
                for char, (left, right) in zip(written["text"], ends, strict=False):
                    if char != " ":
                        row[round(left * ACROSS) : round(right * ACROSS)] = 1 + CHARACTERS.index(char)
            if len(texts) > 1:  # it is undefined which of them to predict
                ground[n, 2] = IGNORED
                continue
            ground[n, 2] = 1 + ROWS.index(printed["place"])
            ground[n, 3] = COLOURS.index(printed["colour"])
            codes = [1 + CHARACTERS.index(c) for c in printed["text"] if c != " "][:LONGEST]
            text[n, : len(codes)] = torch.tensor(codes)
    return Truth(cells, ground, text, across)


def scene_in(sample: Sample) -> dict[str, Any]:
    """The `extra` of a sample, with its `scene`. Raises `UserError` if it has none."""
    try:
        extra = document_of(sample["json"]).get("extra") or {}
        if "scene" in extra:
            return extra
    except (KeyError, ValueError, AttributeError):
        pass
    raise UserError(f"{sample['__key__']}: its json lacks extra.scene; only generated scenes have a truth to learn")


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
        """The truth of these samples. Raises `UserError` if one has none."""
        scenes, letters = [], []
        for name in names:
            shard, number = self.places[name]
            extra = scene_in(shard.sample(number))
            scenes.append(extra["scene"])
            letters.append(extra.get("letters"))
        return truth_of(scenes, letters)


class Probe(nn.Module):
    """Linear predictions from the embeddings of views, and from the states of their patches."""

    def __init__(self, width: int, vision_width: int):
        super().__init__()
        self.patch = nn.Linear(vision_width, CELL[0] + CELL[1])
        self.part = nn.Linear(vision_width, PARTS * (1 + len(CHARACTERS)))
        self.cell = nn.Linear(width, sum(CELL))
        self.place = nn.Linear(width, len(PLACES))
        self.ground = nn.Linear(width, sum(GROUND))
        self.text = nn.Linear(width, 1 + len(CHARACTERS))

    def forward(self, seen: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """From [views, queries, width]: float32 logits of each of CELL, of GROUND, of characters; class 0: nothing."""
        places = len(PLACES)
        cells, ground = self.cell(seen[:, :places]).float(), self.ground(seen[:, places]).float()
        text = self.text(seen[:, places + 1 : QUERIES]).float()
        return list(cells.split(CELL, -1)), list(ground.split(GROUND, -1)), text

    def loss(self, seen: Tensor, truth: Truth) -> Tensor:
        """The sum of all predictions' losses, each a mean over the views; for text, the loss per character."""
        cells, ground, text = self(seen)
        told = [(logits, truth.cells[..., n]) for n, logits in enumerate(cells)]
        told += [(logits, truth.ground[..., n]) for n, logits in enumerate(ground)]
        loss = sum(_mean_loss(logits, labels) for logits, labels in told)
        places = torch.arange(len(PLACES), device=seen.device).expand(len(seen), -1)
        loss = loss + _mean_loss(
            self.place(seen[:, : len(PLACES)]).float(), places
        )  # the resampler's values have no positions
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
        """The same for each patch: `states` are [views, most patches, vision width], `grids` [views, 2]."""
        rows, columns = grids[:, :1], grids[:, 1:]
        number = torch.arange(states.shape[1], device=states.device)[None]
        row, column, present = number // columns, number % columns, number < rows * columns
        row_of_cells, column_of_cells = (2 * row + 1) * 3 // (2 * rows), (2 * column + 1) * 3 // (2 * columns)
        view, place = present.nonzero(as_tuple=True)
        cells = truth.cells[view, (3 * row_of_cells + column_of_cells)[view, place]]
        shape, colour = self.patch(states[view, place]).float().split(CELL[:2], -1)
        loss = _mean_loss(shape, cells[:, 0]) + _mean_loss(colour, cells[:, 1])

        thirds = (2 * row + 1) * 9 // (2 * rows)
        view, place = (present & (thirds % 3 == 1)).nonzero(as_tuple=True)  # text is in the middle of its row
        told = self.part(states[view, place]).float().unflatten(-1, (PARTS, -1))
        parts = column[view, place][:, None] * PARTS + torch.arange(PARTS, device=states.device)
        middle = (2 * parts + 1) * ACROSS // (2 * PARTS * columns[view])
        return loss + _mean_loss(told, truth.across[view[:, None], row_of_cells[view, place][:, None], middle])


def _mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean loss over labels that are not IGNORED; 0 if there are none."""
    losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return losses / (labels != IGNORED).sum().clamp(min=1)

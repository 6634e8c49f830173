"""Preference pairs, and the loss that makes the chosen answer likelier than the rejected one (arXiv 2305.18290).

A sample of a shard set of pairs has its images, and in its JSON `{"pair": {"question", "chosen", "rejected"}}`. What
the frozen start of the stage says of both answers is computed once, ahead.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from schemas.errors import UserError
from schemas.shards import Damaged
from training.layout import IGNORED, Picture, SampleRejected, Tokens, Turn, read_turns
from training.loader import Batch, Lost, Part
from training.packs import PADDING
from training.pixels import raw_patches, size_of
from training.samples import SampleEncoder, images
from training.shards import Sample, Shards
from training.shuffle import Cut, Order

ANSWERS = ("chosen", "rejected")
NOTHING = Tokens(np.empty(0, np.int32), np.empty(0, np.int32), ())


def dpo_loss(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta * margin) of each pair: float32 [pairs].

    Both arguments are [2, pairs]: the log-probabilities of chosen and of rejected answers, summed over their tokens.
    """
    chosen, rejected = policy - reference
    return -F.logsigmoid(beta * (chosen - rejected))


class Pairs(Dataset):
    """Shard sets of pairs, mixed by weight in an order of the seed. An item is the batch of a `Cut`.

    Its first half of rows are the chosen answers, its second the rejected ones of the same pairs, padded to the
    longest; the views of a pair stand there once. Of a pair that cannot be read the place stays empty, and its name.
    Names are `<release>/<sample>`: what has been drawn anew has its old key, and other answers. Raises `UserError` if
    there is no pair to train on.
    """

    strict = False

    def __init__(self, parts: Sequence[Part], recipe: SampleEncoder, seed: int = 0):
        self.recipe, self.lost_pairs = recipe, []
        self.shards = [Shards(part.root, part.set) for part in parts]
        self.found = [self._measure(shards) for shards in self.shards]
        counts = [len(found) for found in self.found]
        if not any(counts):
            raise UserError(f"{', '.join(part.set for part in parts)}: there is no pair to train on")
        self.order = Order(counts, [Fraction(str(part.weight)) for part in parts], seed)

    @property
    def identity(self) -> str:
        """Equal for pairs of equal order and contents."""
        cards = [[shard.entry["sha256"] for shard in shards.shards] for shards in self.shards]
        return sha256(repr([self.order, cards, self.recipe.settings()]).encode()).hexdigest()

    def lost(self) -> list[Lost]:
        """The samples that are no pair, or too long for a pack."""
        return self.lost_pairs

    def __getitem__(self, cut: Cut) -> Batch:
        places = [self.order[number] for number in range(cut.start, cut.stop)]
        found = [(one.set, one.pack) for one in places]
        return self.batch(found, cut.step, cut.last, tuple(one.epoch for one in places))

    def all(self, at_once: int, turn: tuple[int, int] = (0, 1)) -> Iterable[Batch]:
        """Every pair once, in order; of `turn` = (rank, ranks) each its share."""
        numbers = [(part, number) for part, found in enumerate(self.found) for number in range(len(found))]
        numbers = numbers[turn[0] :: turn[1]]
        for start in range(0, len(numbers), at_once):
            yield self.batch(numbers[start : start + at_once])

    def batch(
        self, pairs: Sequence[tuple[int, int]], step: int = 0, last: bool = True, epochs: tuple[int, ...] = ()
    ) -> Batch:
        """Of pairs that were found, (set, number) each."""
        recipe, patch = self.recipe, self.recipe.slicing.patch
        laid_out, views, names, lost = [], [], [], []
        for part, number in pairs:
            shards, (at, name, tar) = self.shards[part], self.found[part][number]
            try:
                sample = shards[at]
                tokens = self._tokens(sample)
                views += recipe.views(sample, tokens[0])
            except (Damaged, SampleRejected) as error:
                lost.append(Lost.of(name, tar, error))
                laid_out.append((NOTHING, NOTHING))
                names.append(())
            else:
                laid_out.append(tokens)
                names.append((f"{shards.release}/{name}",))
        rows = [tokens[which] for which in range(2) for tokens in laid_out]
        longest = max(1, *(len(row.ids) for row in rows))
        ids = np.full((len(rows), longest), recipe.tokenizer.marks.end, np.int64)
        labels = np.full((len(rows), longest), IGNORED, np.int64)
        documents = np.full((len(rows), longest), PADDING, np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row.ids)], labels[number, : len(row.ids)] = row.ids, row.labels
            documents[number, : len(row.ids)] = 0
        patches = np.concatenate(
            [raw_patches(view, patch) for view in views] or [np.empty((0, 3 * patch**2), np.uint8)]
        )
        grids = torch.tensor([(view.shape[0] // patch, view.shape[1] // patch) for view in views], dtype=torch.int64)
        positions = torch.arange(longest).expand(len(rows), -1)
        return Batch(
            step, last, epochs, torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(documents), positions,
            torch.from_numpy(patches), grids.reshape(-1, 2), tuple(names), tuple(lost),
        )  # fmt: skip

    def _measure(self, shards: Shards) -> list[tuple[int, str, str]]:
        """The samples that are pairs, both answers of which fit: number, name, and tar of each."""
        found = []
        tars = [shard.entry["tar"] for shard in shards.shards for _ in range(len(shard))]
        names = (name for shard in shards.shards for name in shard.index[0].to_pylist())
        samples = (sample for shard in shards.shards for sample in shard.each())
        for number, (name, tar, sample) in enumerate(zip(names, tars, samples)):
            try:
                if isinstance(sample, Damaged):
                    raise sample
                self._tokens(sample)
            except (Damaged, SampleRejected) as error:
                self.lost_pairs.append(Lost.of(name, tar, error))
            else:
                found.append((number, name, tar))
        return found

    def _tokens(self, sample: Sample) -> tuple[Tokens, Tokens]:
        try:
            pair = json.loads(sample["json"])["pair"]
            question, answers = pair["question"], [pair[name] for name in ANSWERS]
            if not all(isinstance(said, str) for said in (question, *answers)):
                raise TypeError("question, chosen or rejected is no text")
        except (KeyError, ValueError, TypeError) as error:
            raise SampleRejected("unreadable_text", f"json: no pair: {error!r}") from error
        try:
            pictures = [Picture(name, self.recipe.slicing.of(*size_of(sample[name]))) for name in images(sample)]
        except Exception as error:  # decoders raise whatever they like
            raise SampleRejected("unreadable_image", str(error)) from error
        marks = ["<image>"] if len(pictures) == 1 else [f"<image_{n:02d}>" for n in range(len(pictures))]
        asked = read_turns([{"role": "user", "content": question}], dict(zip(marks, pictures)))
        return tuple(self.recipe.layout.conversation([*asked, Turn("assistant", [said])]) for said in answers)


def log_probabilities(losses: Tensor) -> Tensor:
    """[2, pairs] of a batch of pairs, from the losses of its tokens [2 * pairs, length]."""
    return -losses.sum(1).unflatten(0, (2, -1))


def references(
    file: Path,
    pairs: Pairs,
    losses_of: Callable[[Batch], Tensor],
    at_once: int,
    turn: tuple[int, int] = (0, 1),
    begins: bool = True,
) -> dict[str, tuple[float, float]]:
    """What the start of the stage says of each pair: its name -> log-probabilities of chosen and rejected.

    Computed and put into the file when the stage `begins`, and read from there later, when the model has moved: raises
    `UserError` if it is gone. `losses_of` gives the losses of a batch's tokens; with `turn` = (rank, ranks) each
    computes a share.
    """
    if not begins:
        try:
            return {name: tuple(one) for name, one in json.loads(file.read_text()).items()}
        except FileNotFoundError:
            raise UserError(f"{file}: is gone, and cannot be made again, since the model has moved; bring it back, or "
                            f"begin another run from a checkpoint before this stage") from None  # fmt: skip
    found: dict[str, tuple[float, float]] = {}
    with torch.no_grad():
        for batch in pairs.all(at_once, turn):
            both = log_probabilities(losses_of(batch)).tolist()
            found |= {name: one for names, one in zip(batch.samples, zip(*both)) for name in names}
    if turn[1] > 1:
        shares: list[dict] = [{}] * turn[1]
        torch.distributed.all_gather_object(shares, found)
        found = {name: one for share in shares for name, one in share.items()}
    if turn[0] == 0:
        new = file.with_suffix(".new")
        new.write_text(json.dumps(found))
        new.rename(file)
    return found

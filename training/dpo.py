"""Preference pairs, and the loss that makes the chosen answer likelier than the rejected one (arXiv 2305.18290).

A sample in a shard set of pairs holds its images, and its JSON holds `{"pair": {"question", "chosen", "rejected"}}`.
The reference log-probabilities of both answers, under the model that the stage starts from, are computed once, before
the stage is trained.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from schemas.errors import UserError
from schemas.shards import Damaged
from schemas.training import Counted
from training.layout import IGNORED, Picture, SampleRejected, Tokens, Turn, read_turns
from training.loader import Batch, Batches, Lost, Part
from training.packs import PADDING
from training.pixels import raw_patches, size_of
from training.sample_text import PAIRS, pair_of
from training.samples import SampleEncoder, images
from training.shards import Sample, Shards
from training.shuffle import Cut, Order
from training.whole_files import replace

NOTHING = Tokens(np.empty(0, np.int32), np.empty(0, np.int32), ())


def margins_of(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """By how much each pair prefers its chosen answer, compared with the reference, times beta: float32 [pairs].

    Both arguments are [2, pairs]: the log-probabilities of chosen and of rejected answers, summed over their tokens.
    A pair is won if its margin is above 0.
    """
    chosen, rejected = policy - reference
    return beta * (chosen - rejected)


def loss_of(margins: Tensor) -> Tensor:
    """-log sigmoid of each pair's margin: float32 [pairs]."""
    return -F.logsigmoid(margins)


class Pairs(Batches):
    """Shard sets of pairs, mixed by weight in an order of the seed. An item is the batch of a `Cut`.

    The first half of its rows are the chosen answers, the second half the rejected answers of the same pairs, padded to
    the longest; the views of a pair are stored once. A pair that cannot be read leaves empty rows and no name. Names
    are `<release>/<sample>`, since a pair that is drawn again keeps its key but has other answers. Raises `UserError`
    if there is no pair to train on.
    """

    def __init__(self, parts: Sequence[Part], encoder: SampleEncoder, seed: int = 0):
        self.encoder, self.lost_pairs, self.with_images = encoder, [], set[str]()
        self.shards = [part.opened() for part in parts]
        self.usable, self.lengths = zip(*(self._measure(shards) for shards in self.shards), strict=False)
        counts = [len(usable) for usable in self.usable]
        for part, shards, count in zip(parts, self.shards, counts, strict=True):
            if not count:
                raise UserError(f"{part.set}: has no pair to train on; {self._why(shards)}")
        self.order = Order(counts, [Fraction(str(part.weight)) for part in parts], seed)

    def _why(self, shards: Shards) -> str:
        """Why a set has no usable pair: the reasons of its samples, and the detail of the first."""
        tars = {shard.entry["tar"] for shard in shards.shards}
        lost = [lost for lost in self.lost_pairs if lost.tar in tars]
        reasons = ", ".join(f"{number} {reason}" for reason, number in Counter(one.reason for one in lost).items())
        if not lost:
            return "the set is empty"
        fix = "" if shards.card["task"] in PAIRS else "; a stage with beta takes pairs: take its beta away"
        return f"left out: {reasons}; the first, {lost[0].sample}: {lost[0].detail}{fix}"

    @property
    def identity(self) -> str:
        """A digest, equal if the pairs have the same order and contents."""
        cards = [[shard.entry["sha256"] for shard in shards.shards] for shards in self.shards]
        return sha256(repr([self.order, cards, self.encoder.settings()]).encode()).hexdigest()

    def counted(self, part: int, packs: int) -> Counted:
        """How much there is of a set; all of it is counted, however few `packs` are asked for."""
        lengths = self.lengths[part]
        tars = {shard.entry["tar"] for shard in self.shards[part].shards}
        reasons = Counter(lost.reason for lost in self.lost_pairs if lost.tar in tars)
        return Counted(
            samples=len(self.shards[part]), left_out=dict(sorted(reasons.items())), packs=len(lengths),
            tokens=int(lengths[:, 2].sum()), learned=int(lengths[:, :2].sum()), about=False,
        )  # fmt: skip

    def has_images(self, part: int) -> bool:
        """Whether a pair of a set has an image."""
        return self.shards[part].release in self.with_images

    def lost(self) -> list[Lost]:
        """The samples that hold no pair, or are too long for a pack."""
        return self.lost_pairs

    def __getitem__(self, cut: Cut) -> Batch:
        places = [self.order[number] for number in range(cut.start, cut.stop)]
        pairs = [(place.set, place.pack) for place in places]
        return self.batch(pairs, cut.step, cut.last, tuple(place.epoch for place in places))

    def all(self, at_once: int, turn: tuple[int, int] = (0, 1), most: int | None = None) -> Iterable[Batch]:
        """Every pair once, in order, or the first `most` that are trained; with `turn` = (rank, ranks), this rank's."""
        if most is None:
            numbers = [(part, number) for part, usable in enumerate(self.usable) for number in range(len(usable))]
        else:
            numbers = [(place.set, place.pack) for place in map(self.order.__getitem__, range(most))]
        numbers = numbers[turn[0] :: turn[1]]
        for start in range(0, len(numbers), at_once):
            yield self.batch(numbers[start : start + at_once])

    def batch(
        self, pairs: Sequence[tuple[int, int]], step: int = 0, last: bool = True, epochs: tuple[int, ...] = ()
    ) -> Batch:
        """The batch of some usable pairs, each (set, number)."""
        encoder, patch = self.encoder, self.encoder.slicing.patch
        laid_out, views, names, lost = [], [], [], []
        for part, number in pairs:
            shards, (place, name, tar) = self.shards[part], self.usable[part][number]
            try:
                sample = shards[place]
                tokens = pair_tokens(encoder, sample)
                views += encoder.views(sample, tokens[0])
            except (Damaged, SampleRejected) as error:
                lost.append(Lost.of(name, tar, error))
                laid_out.append((NOTHING, NOTHING))
                names.append(())
            else:
                laid_out.append(tokens)
                names.append((f"{shards.release}/{name}",))
        rows = [tokens[which] for which in range(2) for tokens in laid_out]
        longest = max(1, *(len(row.ids) for row in rows))
        ids = np.full((len(rows), longest), encoder.tokenizer.marks.end, np.int64)
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

    def _measure(self, shards: Shards) -> tuple[list[tuple[int, str, str]], np.ndarray]:
        """The number, name and tar of each sample that holds a pair whose two answers both fit into a pack; and their
        lengths: int64 [pairs, 3], tokens that are learned of chosen and of rejected, and all of both."""
        usable, lengths = [], []
        tars = [shard.entry["tar"] for shard in shards.shards for _ in range(len(shard))]
        names = (name for shard in shards.shards for name in shard.index[0].to_pylist())
        samples = (sample for shard in shards.shards for sample in shard.each())
        for number, (name, tar, sample) in enumerate(zip(names, tars, samples, strict=False)):
            try:
                if isinstance(sample, Damaged):
                    raise sample
                both = pair_tokens(self.encoder, sample)
            except (Damaged, SampleRejected) as error:
                self.lost_pairs.append(Lost.of(name, tar, error))
            else:
                usable.append((number, name, tar))
                self.with_images |= {shards.release} if images(sample) else set()
                lengths.append([*(int((one.labels != IGNORED).sum()) for one in both), sum(len(o.ids) for o in both)])
        return usable, np.array(lengths, np.int64).reshape(-1, 3)


def pair_tokens(encoder: SampleEncoder, sample: Sample) -> tuple[Tokens, Tokens]:
    """The chosen and the rejected answer of a pair, laid out. Raises `SampleRejected`."""
    question, *answers = pair_of(sample)
    try:
        pictures = [Picture(name, encoder.slicing.of(*size_of(sample[name]))) for name in images(sample)]
    except Exception as error:  # decoders raise whatever they like
        raise SampleRejected("unreadable_image", str(error)) from error
    marks = ["<image>"] if len(pictures) == 1 else [f"<image_{n:02d}>" for n in range(len(pictures))]
    prompt = read_turns([{"role": "user", "content": question}], dict(zip(marks, pictures, strict=True)))
    chosen, rejected = (encoder.layout.conversation([*prompt, Turn("assistant", [text])]) for text in answers)
    if np.array_equal(chosen.ids, rejected.ids):
        raise SampleRejected("equal_answers", "the chosen and the rejected answer are the same tokens")
    return chosen, rejected


def log_probabilities(losses: Tensor) -> Tensor:
    """Log-probabilities [2, pairs] of the answers in a batch of pairs, from its tokens' losses [2 * pairs, length]."""
    return -losses.sum(1).unflatten(0, (2, -1))


def references(
    file: Path,
    pairs: Pairs,
    losses_of: Callable[[Batch], Tensor],
    at_once: int,
    turn: tuple[int, int] = (0, 1),
    begins: bool = True,
    most: int | None = None,
) -> dict[str, tuple[float, float]]:
    """Each pair's name -> the log-probabilities of chosen and rejected, under the model that the stage starts from.

    They are computed and written to the file when the stage `begins`. Later the model has changed, so they are read
    from the file; raises `UserError` if it is gone. `losses_of` returns the losses of a batch's tokens. With `turn` =
    (rank, ranks) each rank computes a share; with `most`, only the first pairs that are trained are computed.
    """
    if not begins:
        try:
            read = {name: (chosen, rejected) for name, (chosen, rejected) in json.loads(file.read_text()).items()}
            if not all(math.isfinite(value) for values in read.values() for value in values):
                raise ValueError("is not finite")
            return read
        except FileNotFoundError:
            raise no_references(file, "is gone") from None
        except (ValueError, TypeError, AttributeError):
            raise no_references(file, "is damaged") from None
    by_name: dict[str, tuple[float, float]] = {}
    with torch.no_grad():
        for batch in pairs.all(at_once, turn, most):
            columns = log_probabilities(losses_of(batch)).tolist()
            by_name |= {
                name: values
                for names, values in zip(batch.samples, zip(*columns, strict=False), strict=False)
                for name in names
            }
    if turn[1] > 1:
        shares: list[dict] = [{}] * turn[1]
        torch.distributed.all_gather_object(shares, by_name)
        by_name = {name: values for share in shares for name, values in share.items()}
    if turn[0] == 0:
        replace(file, json.dumps(by_name))
    return by_name


def no_references(file: Path, what: str) -> UserError:
    return UserError(f"{file}: {what}, and cannot be made again, since the model has changed; restore it, or begin "
                     f"another run from a checkpoint before this stage")  # fmt: skip

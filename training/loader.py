"""Shard sets as batches of packed samples, in an order that depends on nothing but a seed.

    mixture = Mixture([Part("my-corpus", "captions"), Part("my-corpus", "ocr", weight=0.5)], encoder, seed=0)
    for batch in load(mixture, batch=32, micro=4, rank=rank, ranks=ranks, start=steps, trained=packs, workers=4):
        loss = model(batch)
        loss.backward()
        if batch.last:
            optimizer.step()
            steps, packs = batch.step + 1, packs + 32      # the state of the loader, for any ranks, workers and batch

A sample that cannot be read is left out: its batch names it, and its place stays empty.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from hashlib import sha256
from math import inf
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from schemas.errors import UserError, one_line
from schemas.shards import Damaged
from schemas.training import Counted
from training.layout import IGNORED, SampleRejected, Tokens
from training.pack_files import Counts, PlannedSample
from training.pack_plan import PlannedSet, plan_set
from training.packs import places
from training.pixels import raw_patches
from training.sample_text import PAIRS
from training.samples import SampleEncoder, images
from training.shards import Sample, Shards
from training.shuffle import Cut, Cuts, Order
from training.stopping import ignore_signals


class Part(NamedTuple):
    """A shard set of a mixture, and how many times an epoch passes through it."""

    root: str
    set: str  # its name, or that of one release, "train@3f2a9c81d04e"
    weight: float = 1.0
    table: str = ""  # the recipe's table that names it, for errors

    def opened(self) -> Shards:
        """Its samples. Raises `UserError`, which names the recipe's table, if it is not published."""
        try:
            return Shards(self.root, self.set)
        except FileNotFoundError as error:
            raise UserError(f"{self.table}: {error}" if self.table else str(error)) from None
        except OSError as error:  # such as of a server that does not answer
            where = f"{self.table}.root" if self.table else "root"
            raise UserError(f"{where}: {self.root}: cannot be read: {one_line(error)}") from None


class Lost(NamedTuple):
    """A sample that is not trained."""

    sample: str  # <key>-<task>
    tar: str  # of its shard
    reason: str  # a word of `training.samples.REASONS`
    detail: str

    @classmethod
    def of(cls, sample: str, tar: str, error: Damaged | SampleRejected) -> "Lost":
        known = (error.reason, error.detail) if isinstance(error, SampleRejected) else ("damaged", str(error))
        return cls(sample, tar, *known)


def left_out(counts: Counts) -> str:
    """A text about the samples of a set that are in no pack, and why."""
    reasons = ", ".join(f"{number} {reason}" for reason, number in counts["reasons"].items())
    return f"left out of {counts['samples']} samples: {reasons or 'none'}"


@dataclass(frozen=True, eq=False)
class Batch:
    """Packs that one rank trains at once.

    Where `ids` is the query mark, the model puts the embeddings of the views, view after view. A place attends to
    places of its own document, see `training.packs.attends`; its label is its own token, and the model shifts labels.
    The input of the vision encoder is `torch.from_numpy(training.pixels.LEVELS)[batch.patches.int()]`.
    """

    step: int
    last: bool  # whether it is the last of its step on this rank
    epochs: tuple[int, ...]  # of each pack
    ids: torch.Tensor  # int64 [packs, length]
    labels: torch.Tensor  # int64 [packs, length]: IGNORED where nothing is learned
    documents: torch.Tensor  # int64 [packs, length]: the number of its sample, PADDING where there is none
    positions: torch.Tensor  # int64 [packs, length], from 0 in each document
    patches: torch.Tensor  # uint8 [patches of all views, 3 * patch * patch], see `training.pixels.raw_patches`
    grids: torch.Tensor  # int64 [views, 2]: rows and columns of patches
    samples: tuple[tuple[str, ...], ...]  # the names in each pack, in order
    lost: tuple[Lost, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        return self._with(torch.Tensor.pin_memory)

    def _with(self, do: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: do(value) for name, value in values.items() if torch.is_tensor(value)})


class Pack(NamedTuple):
    """The samples of one pack, as arrays: tokens as in `Batch`, and the views."""

    ids: np.ndarray
    labels: np.ndarray
    documents: np.ndarray
    positions: np.ndarray
    views: list[np.ndarray]  # uint8 [height, width, 3] each
    samples: tuple[str, ...]
    lost: list[Lost]


class Batches(Dataset):
    """Samples of shard sets. An item is the batch of a `Cut`."""

    strict: bool = False  # whether a sample that cannot be read is an error


class Mixture(Batches):
    """Shard sets mixed by weight; those that are not planned yet are planned. An item is the batch of a `Cut`.

    With `check`, everything that is read is compared with its digest. With `strict`, a damaged sample raises an error
    instead of being left out. `planning` is passed to `training.pack_plan.plan_set`: `cache`, `workers`, `turn` of the
    ranks, `progress`. Raises `UserError` if there is nothing to train on.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        encoder: SampleEncoder,
        seed: int = 0,
        *,
        check: bool = True,
        strict: bool = False,
        **planning: Any,
    ):
        self.parts, self.encoder, self.strict = list(parts), encoder, strict
        for part in self.parts:
            if not 0 < part.weight < inf:
                raise UserError(f"{part.set}: a weight of {part.weight}; give one above 0, or leave the set out")
        self.shards = [part.opened() for part in self.parts]
        self.planned: list[PlannedSet] = [
            plan_set(shards, encoder, strict=strict, **planning) for shards in self.shards
        ]
        for shards in self.shards:  # planning checks digests in any case
            shards.check = check
        packs, weights = [len(planned) for planned in self.planned], [Fraction(str(part.weight)) for part in self.parts]
        for part, planned, shards in zip(self.parts, self.planned, self.shards, strict=True):
            if not planned:
                pairs = planned.counts["reasons"].get("unknown_task") and shards.card["task"] in PAIRS
                fix = "these are pairs: give the stage a beta" if pairs else "take the set out of the stage, or mend it"
                raise UserError(f"{part.set}: has nothing to train on; {left_out(planned.counts)}; {fix}")
        self.order = Order(packs, weights, seed)

    @property
    def counts(self) -> list[Counts]:
        """The numbers of planned and of left-out samples of each part."""
        return [planned.counts for planned in self.planned]

    def counted(self, part: int, packs: int) -> Counted:
        """How much there is of a set; tokens that are learned are counted in at most so many packs, spread over it.

        Samples of these packs that can no longer be read are left out. Raises `UserError` if all of them are.
        """
        planned, counts = self.planned[part], self.counts[part]
        numbers = sorted({number * len(planned) // packs for number in range(packs)})
        read = [row for number in numbers for row in planned[number]]
        lost, learned = Counter[str](counts["reasons"]), 0
        failed: list[Lost] = []
        for row in read:
            try:
                learned += int((self._tokens(part, row)[0].labels != IGNORED).sum())
            except (Damaged, SampleRejected) as error:
                failed.append(Lost.of(row["sample"], row["tar"], error))
        lost.update(one.reason for one in failed)
        if len(failed) == len(read):
            raise UserError(f"{self.parts[part].set}: has nothing to train on; of {len(read)} samples none can be "
                            f"read; the first, {failed[0].sample} of {failed[0].tar}: {failed[0].detail}")  # fmt: skip
        if about := len(numbers) < len(planned):
            learned = round(learned * counts["tokens"] / sum(row["tokens"] for row in read))
        return Counted(
            samples=counts["samples"], left_out=dict(sorted(lost.items())), packs=len(planned), tokens=counts["tokens"],
            learned=learned, about=about,
        )  # fmt: skip

    def has_images(self, part: int) -> bool:
        """Whether a planned sample of a set has an image."""
        rows = (row for pack in self.planned[part] for row in pack)
        return any(images({member["ext"]: b"" for member in row["members"]}) for row in rows)

    def lost(self) -> Iterator[Lost]:
        """The samples that are in no pack."""
        for planned in self.planned:
            for row in planned.lost():
                yield Lost(row["sample"], row["tar"], row["reason"] or "", row["detail"] or "")

    @property
    def identity(self) -> str:
        """A digest, equal for mixtures of the same order and contents; checkpoints store it with their step."""
        seals = [file.seal for planned in self.planned for file in planned.files]
        return sha256(repr([self.order, seals]).encode()).hexdigest()

    def __getitem__(self, cut: Cut) -> Batch:
        chosen = [self.order[number] for number in range(cut.start, cut.stop)]
        packs = [self.pack(place.set, place.pack) for place in chosen]
        ids, labels, documents, positions = (
            torch.from_numpy(np.stack([pack[number] for pack in packs]).astype(np.int64)) for number in range(4)
        )
        views = [view for pack in packs for view in pack.views]
        patch = self.encoder.slicing.patch
        grids = [(view.shape[0] // patch, view.shape[1] // patch) for view in views]
        patches = _empty(sum(rows * columns for rows, columns in grids), 3 * patch * patch)
        for view, rows_of_view in zip(views, patches.split([rows * columns for rows, columns in grids]), strict=True):
            raw_patches(view, patch, out=rows_of_view.numpy())
        return Batch(
            cut.step, cut.last, tuple(place.epoch for place in chosen), ids, labels, documents, positions,
            patches, torch.tensor(grids, dtype=torch.int64).reshape(-1, 2),
            tuple(pack.samples for pack in packs), tuple(lost for pack in packs for lost in pack.lost),
        )  # fmt: skip

    def pack(self, part: int, number: int) -> Pack:
        """One pack of a part, read and decoded."""
        length, tokens, views, samples, lost = self.encoder.length, [], [], [], []
        for row in self.planned[part][number]:
            try:
                sample, pixels = self._read(part, row)
            except (Damaged, SampleRejected) as error:
                lost.append(Lost.of(row["sample"], row["tar"], error))
            else:
                tokens.append(sample)
                views += pixels
                samples.append(row["sample"])
        documents, positions = places([len(sample.ids) for sample in tokens], length)
        ids = np.full(length, self.encoder.tokenizer.marks.end, np.int32)
        labels = np.full(length, IGNORED, np.int32)
        used = sum(len(sample.ids) for sample in tokens)
        if tokens:
            ids[:used] = np.concatenate([sample.ids for sample in tokens])
            labels[:used] = np.concatenate([sample.labels for sample in tokens])
        return Pack(ids, labels, documents, positions, views, tuple(samples), lost)

    def _read(self, part: int, row: PlannedSample) -> tuple[Tokens, list[np.ndarray]]:
        tokens, sample = self._tokens(part, row)
        return tokens, self.encoder.views(sample, tokens)

    def _tokens(self, part: int, row: PlannedSample) -> tuple[Tokens, Sample]:
        sample = self.shards[part].read(row["tar"], row["sample"], row["byte_offset"], row["size"], row["members"])
        tokens = self.encoder.tokens(sample)
        if len(tokens.ids) != row["tokens"]:
            raise SampleRejected("not_as_planned", f"{row['tokens']} tokens were planned, it has {len(tokens.ids)}")
        return tokens, sample


def load(
    mixture: Batches,
    batch: int,
    *,
    micro: int = 1,
    rank: int = 0,
    ranks: int = 1,
    start: int = 0,
    stop: int | None = None,
    trained: int | None = None,
    workers: int = 0,
    pin: bool = False,
) -> Iterator[Batch]:
    """Batches of one rank from step `start` on, endless or up to `stop`, made by `workers` processes.

    `trained` is how many packs the steps before `start` have trained: `start * batch` if not given.

    A step trains `batch` packs on all ranks together, `micro` at a time on each. Raises `ValueError` at once if ranks
    or steps are out of range, and, in a strict mixture, `UserError` at the first sample that cannot be read.
    """
    loader = DataLoader(
        mixture, batch_size=None, sampler=Cuts(batch, micro, rank, ranks, start, stop, trained), num_workers=workers,
        collate_fn=_as_it_is, pin_memory=pin, generator=torch.Generator(), worker_init_fn=ignore_signals,
    )  # fmt: skip
    return _checked(mixture, loader)


def _checked(mixture: Batches, batches: Iterable[Batch]) -> Iterator[Batch]:
    for batch in batches:
        if mixture.strict and batch.lost:
            raise UserError("{1}: {0} cannot be read: {2}: {3}".format(*batch.lost[0]))
        yield batch


def _empty(rows: int, columns: int) -> torch.Tensor:
    """A uint8 tensor to be filled; in a worker it is in shared memory, so that handing it over copies nothing."""
    tensor = torch.empty(0, dtype=torch.uint8)
    if get_worker_info() is not None and rows:
        tensor.set_(tensor.untyped_storage()._new_shared(rows * columns))  # as torch's own default_collate does
        return tensor.reshape(rows, columns)
    return tensor.new_empty(rows, columns)


def _as_it_is(batch: Any) -> Batch:
    return batch

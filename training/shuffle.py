"""The order in which packs are trained: an endless sequence that depends only on the seed.

The sequence is epoch 0, then epoch 1, and so on; a step may cross the end of an epoch, so that no pack is left over. An
epoch passes w times through a set of weight w: with w = 0.25 it has a quarter of the set's packs, and each of the next
three epochs has another quarter. An epoch is shuffled as a whole.

A step of batch b trains the next b packs. Its ranks take consecutive parts of these. So a run that was stopped can
resume from the number of packs that it has trained, on any number of ranks and workers, and with another batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from itertools import count
from math import floor, isqrt
from typing import NamedTuple

ROUNDS = 6


def shuffled(number: int, of: int, *key: int | str) -> int:
    """The element at place `number` of 0 … `of` - 1 shuffled, without computing the others.

    A Feistel network on the smallest square of numbers, walked until it is back in range (Black and Rogaway 2002).
    """
    side = isqrt(of - 1) + 1
    while True:
        left, right = divmod(number, side)
        for turn in range(ROUNDS):
            draw = blake2b(repr((*key, turn, right)).encode(), digest_size=8).digest()
            left, right = right, (left + int.from_bytes(draw)) % side
        number = left * side + right
        if number < of:
            return number


class Place(NamedTuple):
    """The pack at one place of the sequence."""

    epoch: int
    set: int
    pack: int  # of the set


@dataclass(frozen=True)
class Order:
    """The sequence. `packs` and `weights` have a number for each set. Raises `ValueError` if it would be empty."""

    packs: Sequence[int]
    weights: Sequence[Fraction]
    seed: int = 0

    def __post_init__(self):
        if not self.total > 0:
            raise ValueError("no pack to train on")

    @property
    def total(self) -> Fraction:
        """Packs per epoch, on average."""
        return sum((weight * packs for packs, weight in zip(self.packs, self.weights, strict=True)), Fraction(0))

    def before(self, epoch: int) -> list[int]:
        """How many packs of each set come before an epoch."""
        return [floor(epoch * weight * packs) for packs, weight in zip(self.packs, self.weights, strict=True)]

    def epoch_of(self, number: int) -> int:
        epoch = floor(number / self.total)  # or the next few, since each set's share is rounded down
        while sum(self.before(epoch + 1)) <= number:
            epoch += 1
        return epoch

    def __getitem__(self, number: int) -> Place:
        """The pack at a place; places count from 0 without end."""
        epoch = self.epoch_of(number)
        before, after = self.before(epoch), self.before(epoch + 1)
        place = shuffled(number - sum(before), sum(after) - sum(before), self.seed, "epoch", epoch)
        for set_number, (start, end) in enumerate(zip(before, after, strict=True)):
            if place < end - start:
                turn, place = divmod(start + place, self.packs[set_number])
                return Place(
                    epoch,
                    set_number,
                    shuffled(place, self.packs[set_number], self.seed, "set", set_number, turn),
                )
            place -= end - start
        raise AssertionError("an epoch has the packs of its sets")


class Cut(NamedTuple):
    """Packs [start, stop) of the sequence, which one rank trains in one pass."""

    step: int
    start: int
    stop: int
    last: bool  # whether it is the last of its step on this rank


@dataclass(frozen=True)
class Cuts:
    """The packs of one rank, step after step, in passes of at most `micro`; a sampler for torch's `DataLoader`.

    A step has `batch` packs on all ranks together. If `ranks` does not divide it, some ranks have one pack more.
    Raises `ValueError` if a rank would have nothing to do.
    """

    batch: int
    micro: int = 1
    rank: int = 0
    ranks: int = 1
    start: int = 0  # steps that are done
    stop: int | None = None
    trained: int | None = None  # packs of these steps; `start * batch` if not given

    def __post_init__(self):
        if self.start < 0:
            raise ValueError(f"start is {self.start}; it is the number of steps that are done, from 0 on")
        if self.trained is not None and self.trained < 0:
            raise ValueError(f"trained is {self.trained}; it is the number of packs that are trained, from 0 on")
        if not 0 <= self.rank < self.ranks <= self.batch or self.micro < 1:
            raise ValueError(f"rank {self.rank} of {self.ranks} with {self.micro} of {self.batch} packs at once")

    def __iter__(self) -> Iterator[Cut]:
        trained = self.start * self.batch if self.trained is None else self.trained
        for step in count(self.start) if self.stop is None else range(self.start, self.stop):
            done = trained + (step - self.start) * self.batch
            first, end = (done + self.batch * rank // self.ranks for rank in (self.rank, self.rank + 1))
            for start in range(first, end, self.micro):
                yield Cut(step, start, min(start + self.micro, end), start + self.micro >= end)

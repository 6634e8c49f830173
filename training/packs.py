"""Packs samples of different lengths into sequences of one fixed length; none is cut, and none attends to another.

    packs = plan_packs(lengths, 2048)
    for samples in packs:
        documents, positions = places(lengths[samples], 2048)

Restarting position ids does not separate samples: attention has to be masked by document, see `attends`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

import numpy as np

PADDING = -1  # the document of places that are not filled


@dataclass(frozen=True, eq=False)
class Packs:
    """Which samples are packed together: pack p holds `samples[offsets[p]:offsets[p + 1]]`, in that order."""

    samples: np.ndarray  # int64 [samples]: the number of each sample, once
    offsets: np.ndarray  # int64 [packs + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, pack: int) -> np.ndarray:
        pack = range(len(self))[pack]
        return self.samples[self.offsets[pack] : self.offsets[pack + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[pack] for pack in range(len(self)))


def plan_packs(lengths: Sequence[int] | np.ndarray, length: int) -> Packs:
    """Fills one pack after another, each as full as possible; the longest samples come first.

    If that may have made too many packs, a second attempt takes the shortest samples first, which is better where
    lengths are similar. (Minimum bin slack, Gupta and Ho 1999; the first sample is fixed as in Fleszar and Hindi 2002.)
    The same lengths give the same plan. Raises `ValueError` if a sample is empty or longer than `length`.

    The empty end of the last pack is a percent of a shard of 1,000 short samples: plan such shards together.
    """
    lengths = np.asarray(lengths, np.int64)
    if not len(lengths):
        return Packs(np.empty(0, np.int64), np.zeros(1, np.int64))
    if not 0 < lengths.min() <= lengths.max() <= length:
        raise ValueError(f"samples of {lengths.min()} to {lengths.max()} tokens do not fit into packs of {length}")
    counts = sorted(Counter(lengths.tolist()).items())
    kinds = list(_kinds(counts, length))
    if _packs(kinds) > fewest_packs(lengths, length):
        kinds = min(kinds, list(_kinds(counts[::-1], length)), key=_packs)

    numbers = np.argsort(lengths, kind="stable")
    ends = dict(
        zip((size for size, _ in counts), accumulate(count for _, count in counts), strict=True)
    )  # in `numbers`, by size
    samples, packed = [], []
    for kind, times in kinds:
        taken = []
        for size, count in kind.items():
            taken.append(numbers[ends[size] - count * times : ends[size]].reshape(times, count))
            ends[size] -= count * times
        samples.append(np.hstack(taken).ravel())
        packed += [sum(kind.values())] * times
    return Packs(np.concatenate(samples), np.concatenate([[0], np.cumsum(packed)]))


Kind = tuple[dict[int, int], int]  # length -> samples of it in one pack; and how many such packs to make


def _packs(kinds: Iterable[Kind]) -> int:
    return sum(times for _, times in kinds)


def _kinds(counts: Sequence[tuple[int, int]], length: int) -> Iterator[Kind]:
    """Packs for (length, number of samples) pairs; every pack begins with a sample of the last length that is left.

    A kind is repeated as often as there are samples for it, so the work grows with the number of different lengths, and
    hardly with the number of samples.
    """
    sizes, left = (list(column) for column in zip(*counts, strict=True))
    sums = _sums(sizes, left, length)
    for first in reversed(range(len(sizes))):
        while left[first]:
            left[first] -= 1
            room = length - sizes[first]
            kind = _choose(sizes, left, sums, first, room)
            if kind is None:  # too many samples have been used since the sums were made
                sums = _sums(sizes[: first + 1], left, length)
                kind = cast(dict[int, int], _choose(sizes, left, sums, first, room))
            left[first] += 1
            kind[first] = kind.get(first, 0) + 1
            times = min(left[number] // count for number, count in kind.items())
            for number, count in kind.items():
                left[number] -= times * count
            yield {sizes[number]: count for number, count in kind.items()}, times


def _sums(sizes: Sequence[int], left: Sequence[int], length: int) -> list[int]:
    """Bit s of number i is set if some samples of the first i sizes add up to s."""
    sums = [1]
    for size, count in zip(sizes, left, strict=False):
        reached, step, count = sums[-1], 1, min(count, length // size)
        while count:
            step = min(step, count)
            reached |= reached << step * size
            count -= step
            step *= 2
        sums.append(reached & ((2 << length) - 1))
    return sums


def _choose(sizes: list[int], left: list[int], sums: list[int], first: int, room: int) -> dict[int, int] | None:
    """The samples, up to the size numbered `first`, that fill the room best; as many as possible of the last size.

    None if the sums promise samples that are no longer left; any other result is the best there is.
    """
    chosen = {}
    room = (sums[first + 1] & ((2 << room) - 1)).bit_length() - 1  # the most of it that can be filled
    for number in range(first, -1, -1):
        size = sizes[number]
        if not room:
            break
        if size > room:
            continue
        count = min(left[number], room // size)
        while count >= 0 and not sums[number] >> (room - count * size) & 1:
            count -= 1
        if count < 0:
            return None
        if count:
            chosen[number] = count
            room -= count * size
    return chosen


def fill(lengths: Sequence[int] | np.ndarray, packs: int, length: int) -> float:
    """The share of places that hold a token of a sample."""
    return int(np.sum(lengths)) / (packs * length) if packs else 1.0


def fewest_packs(lengths: Sequence[int] | np.ndarray, length: int) -> int:
    """A lower bound on the number of packs: it shows whether a poor fill is due to the planner or to the lengths.

    Cut a sample down to a multiple of length / (k + 1), and count each of these parts as 1 / k of a pack: at most k
    parts with something cut off fit into one. A sample that is such a multiple already counts by its length. The bound
    is the best over many k and the plain sum. (Fekete and Schepers 2001)
    """
    counts = np.bincount(np.asarray(lengths, np.int64), minlength=length + 1)
    sizes = np.arange(length + 1)
    bounds = [-(-int(counts @ sizes) // length)]
    for k in range(1, 50):
        parts, odd = np.divmod((k + 1) * sizes, length)
        weights = np.where(odd, parts * length, k * sizes)  # times k * length
        bounds.append(-(-int(counts @ weights) // (k * length)))
    return max(bounds)


def places(lengths: Sequence[int] | np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """For one pack of samples: the document and the position of each place, both int32 [length].

    Documents are numbered from 0, and positions restart in each. Places left over are `PADDING`, at position 0.
    """
    lengths = np.asarray(lengths, np.int64)
    used = int(lengths.sum())
    if used > length:
        raise ValueError(f"samples of {used} tokens do not fit into a pack of {length}")
    documents, positions = np.full(length, PADDING, np.int32), np.zeros(length, np.int32)
    documents[:used] = np.repeat(np.arange(len(lengths)), lengths)
    positions[:used] = np.arange(used) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return documents, positions


def attends(documents: np.ndarray) -> np.ndarray:
    """The mask of a pack: bool [length, length], true where the place of a row may attend to the place of a column.

    A token attends to itself and to the tokens before it in its own document. Padding attends to padding, so that no
    row is empty: a softmax over nothing is not a number.
    """
    same = documents[:, None] == documents[None, :]
    return np.tril(same)

"""Finds exactly all pairs of 64-bit hashes that differ in few bits, without comparing all with all.

If hashes are cut into b blocks, two hashes at most k bits apart are equal in at least b - k blocks. So for each choice
of b - k blocks the hashes are sorted by these blocks, and only hashes that are equal in them are compared. (Manku et
al., Detecting Near-Duplicates for Web Crawling, 2007, section 3.) Hashes of real images are far from uniform. So bits
are dealt to blocks that are about equally informative; where many hashes are still equal, the other bits are cut again.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, combinations
from math import comb

import numpy as np

BITS = 64
MANY = 1000  # hashes; up to so many are compared all with all
AT_ONCE = 1 << 22  # hashes that are worked on together: what is needed beside the sorted copy depends on this alone

Pairs = Iterator[tuple[np.ndarray, np.ndarray]]


def near_pairs(hashes: np.ndarray, distance: int) -> Pairs:
    """Every pair of hashes that differ in at most `distance` bits, once.

    `hashes`: uint64 of shape (n,), strictly increasing. Yields some pairs at a time, as two arrays of positions, int64
    of shape (m,). Takes about 25 bytes per hash, besides the pairs that the caller keeps. Raises `ValueError` for
    hashes that are not in order or occur twice.
    """
    if np.any(hashes[1:] <= hashes[:-1]):
        raise ValueError("hashes are not in strictly increasing order")
    for one, other in _pairs(hashes, BITS, distance) if distance else ():
        yield np.searchsorted(hashes, one), np.searchsorted(hashes, other)


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The number of bits in which hashes differ: uint8 of their shape."""
    return np.bitwise_count(one ^ other)


def _pairs(hashes: np.ndarray, bits: int, distance: int) -> Pairs:
    """Pairs of hashes (not positions), of which only the `bits` lowest bits are used."""
    blocks = _dealt(hashes, bits, distance) if len(hashes) > MANY else []
    if not blocks:
        yield from _compared(hashes, np.arange(len(hashes)), np.full(len(hashes), len(hashes)), distance)
        return
    order = [bit for block in blocks for bit in block]
    for one, other in _in_blocks(_permuted(hashes, order), [len(block) for block in blocks], distance):
        yield _permuted(one, np.argsort(order)), _permuted(other, np.argsort(order))


def _in_blocks(hashes: np.ndarray, widths: Sequence[int], distance: int) -> Pairs:
    """Pairs of hashes that are cut into blocks of these widths in bits, from the lowest bit on."""
    blocks = [range(end - width, end) for end, width in zip(accumulate(widths), widths, strict=True)]
    for equal in combinations(range(len(blocks)), len(blocks) - distance):
        free = [n for n in range(len(blocks)) if n not in equal]
        order = [bit for n in (*free, *equal) for bit in blocks[n]]
        moved = _permuted(hashes, order)
        moved.sort()
        for one, other in _in_runs(moved, sum(widths[n] for n in free), distance):
            one, other = _permuted(one, np.argsort(order)), _permuted(other, np.argsort(order))
            for n in free:  # a pair that is equal in more blocks is found once, for the first choice of them
                if n < equal[-1]:
                    unequal = (one ^ other) & _mask(blocks[n].start, widths[n]) != 0
                    one, other = one[unequal], other[unequal]
            yield one, other


def _in_runs(hashes: np.ndarray, free: int, distance: int) -> Pairs:
    """Pairs among sorted hashes that are equal in all but their `free` lowest bits."""
    start = 0
    while start < len(hashes):
        end = min(start + AT_ONCE, len(hashes))
        if end < len(hashes):  # where a run ends
            last = hashes[end - 1] | _mask(0, free)
            end += int(np.searchsorted(hashes[end:], last, side="right"))
        yield from _in_some_runs(hashes[start:end], free, distance)
        start = end


def _in_some_runs(hashes: np.ndarray, free: int, distance: int) -> Pairs:
    """The same for a part of the hashes that ends where a run does."""
    tops = hashes >> np.uint64(free)
    ends = np.append(np.flatnonzero(tops[1:] != tops[:-1]) + 1, len(hashes))
    lengths = np.diff(ends, prepend=0)
    many = lengths > MANY
    yield from _compared(hashes, np.flatnonzero(np.repeat(~many, lengths)), np.repeat(ends, lengths), distance)
    for end, length in zip(ends[many], lengths[many], strict=True):
        run, low = hashes[end - length : end], _mask(0, free)
        for one, other in _pairs(run & low, free, distance):
            yield one | run[0] & ~low, other | run[0] & ~low


def _compared(hashes: np.ndarray, positions: np.ndarray, ends: np.ndarray, distance: int) -> Pairs:
    """Compares the hashes at these positions with each hash that follows, up to the end of their run."""
    step = 1
    while (positions := positions[positions + step < ends[positions]]).size:
        one, other = hashes[positions], hashes[positions + step]
        near = distances(one, other) <= distance
        if near.any():
            yield one[near], other[near]
        step += 1


def _dealt(hashes: np.ndarray, bits: int, distance: int) -> list[list[int]]:
    """Blocks of bits that distinguish hashes about equally well; none if comparing all with all costs less.

    Their number is the one that costs least: many blocks mean many sorts, few mean many blocks equal by chance.
    """
    sample = hashes[:: len(hashes) // 100_000 + 1].astype("<u8").view(np.uint8).reshape(-1, 8)
    ones = np.unpackbits(sample, axis=1, bitorder="little").mean(axis=0)[:bits]
    information = -np.log2(ones**2 + (1 - ones) ** 2)  # of each bit, in bits; 1 for uniform hashes

    def cost(count: int) -> float:
        """Comparisons per hash; a sort costs about as much as 8."""
        by_chance = len(hashes) / 2 / 2 ** (information.sum() * (count - distance) / count)
        return comb(count, distance) * (8 + by_chance)

    count = min(range(distance + 1, min(bits, distance + 12) + 1), key=cost)
    if cost(count) >= len(hashes) / 2:
        return []
    order = np.argsort(-information, kind="stable").tolist()
    return [order[start::count] for start in range(count)]


def _permuted(hashes: np.ndarray, order: Sequence[int] | np.ndarray) -> np.ndarray:
    """Hashes whose bit n is bit `order[n]` of the given ones, counted from the lowest bit."""
    if len(hashes) > AT_ONCE:
        permuted = np.empty_like(hashes)
        for start in range(0, len(hashes), AT_ONCE):
            permuted[start : start + AT_ONCE] = _permuted(hashes[start : start + AT_ONCE], order)
        return permuted
    permuted, place = np.zeros_like(hashes), 0
    while place < len(order):
        low, width = int(order[place]), 1
        while place + width < len(order) and order[place + width] == low + width:
            width += 1
        permuted |= (hashes & _mask(low, width)) >> np.uint64(low) << np.uint64(place)
        place += width
    return permuted


def _mask(low: int, width: int) -> np.uint64:
    return np.uint64(((1 << width) - 1) << low)

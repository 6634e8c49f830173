"""Finds all pairs of 64-bit hashes that differ in few bits, exactly, without comparing all with all.

Cut into b blocks, two hashes at most k bits apart are equal in at least b - k of them. So for each choice of b - k
blocks the hashes are sorted by these, and only neighbours with equal ones are compared. (Manku et al., Detecting
Near-Duplicates for Web Crawling, 2007, section 3.) Hashes of real images are far from uniform: bits are dealt to blocks
so that each tells as much as the next, and where many hashes are equal nonetheless, the bits left over are cut again.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, combinations
from math import comb

import numpy as np

BITS = 64
MANY = 1000  # hashes; fewer are compared all with all

Pairs = Iterator[tuple[np.ndarray, np.ndarray]]


def near_pairs(hashes: np.ndarray, distance: int) -> Pairs:
    """Every pair of hashes that differ in at most `distance` bits, once.

    `hashes`: uint64 of shape (n,), strictly increasing. Yields positions of the one and the other, int64 of shape (m,)
    each, some pairs at a time. Takes about 100 bytes a hash, beside what the caller keeps of the pairs. Raises
    `ValueError` for hashes that are not in order or occur twice.
    """
    if np.any(hashes[1:] <= hashes[:-1]):
        raise ValueError("hashes are not in strictly increasing order")
    for one, other in _pairs(hashes, BITS, distance) if distance else ():
        yield np.searchsorted(hashes, one), np.searchsorted(hashes, other)


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """In how many bits hashes differ: uint8 of their shape."""
    return np.bitwise_count(one ^ other)


def _pairs(hashes: np.ndarray, bits: int, distance: int) -> Pairs:
    """The pairs themselves, of hashes of which only so many low bits are used."""
    blocks = _dealt(hashes, bits, distance) if len(hashes) > MANY else []
    if not blocks:
        yield from _compared(hashes, np.arange(len(hashes)), np.full(len(hashes), len(hashes)), distance)
        return
    order = [bit for block in blocks for bit in block]
    for one, other in _in_blocks(_permuted(hashes, order), [len(block) for block in blocks], distance):
        yield _permuted(one, np.argsort(order)), _permuted(other, np.argsort(order))


def _in_blocks(hashes: np.ndarray, widths: Sequence[int], distance: int) -> Pairs:
    """Pairs of hashes that are cut into blocks of so many bits, from the lowest on."""
    blocks = [range(end - width, end) for end, width in zip(accumulate(widths), widths)]
    for equal in combinations(range(len(blocks)), len(blocks) - distance):
        free = [n for n in range(len(blocks)) if n not in equal]
        order = [bit for n in (*free, *equal) for bit in blocks[n]]
        moved = _permuted(hashes, order)
        moved.sort()
        for one, other in _in_runs(moved, sum(widths[n] for n in free), distance):
            one, other = _permuted(one, np.argsort(order)), _permuted(other, np.argsort(order))
            for n in free:  # a pair that is equal in more blocks belongs to the first of them
                if n < equal[-1]:
                    unequal = (one ^ other) & _mask(blocks[n].start, widths[n]) != 0
                    one, other = one[unequal], other[unequal]
            yield one, other


def _in_runs(hashes: np.ndarray, free: int, distance: int) -> Pairs:
    """Pairs among sorted hashes that are equal in all but their `free` lowest bits."""
    tops = hashes >> np.uint64(free)
    ends = np.append(np.flatnonzero(tops[1:] != tops[:-1]) + 1, len(hashes))
    lengths = np.diff(ends, prepend=0)
    many = lengths > MANY
    yield from _compared(hashes, np.flatnonzero(np.repeat(~many, lengths)), np.repeat(ends, lengths), distance)
    for end, length in zip(ends[many], lengths[many]):
        run, low = hashes[end - length : end], _mask(0, free)
        for one, other in _pairs(run & low, free, distance):
            yield one | run[0] & ~low, other | run[0] & ~low


def _compared(hashes: np.ndarray, at: np.ndarray, ends: np.ndarray, distance: int) -> Pairs:
    """Compares the hashes at some positions with each that follows, up to the end of their run."""
    step = 1
    while (at := at[at + step < ends[at]]).size:
        one, other = hashes[at], hashes[at + step]
        near = distances(one, other) <= distance
        if near.any():
            yield one[near], other[near]
        step += 1


def _dealt(hashes: np.ndarray, bits: int, distance: int) -> list[list[int]]:
    """Blocks of bits that tell hashes apart about equally well, as many as cost least: many blocks mean many sorts, few
    mean many hashes that are equal in some by chance. None if it costs less to compare all with all."""
    sample = hashes[:: len(hashes) // 100_000 + 1].astype("<u8").view(np.uint8).reshape(-1, 8)
    ones = np.unpackbits(sample, axis=1, bitorder="little").mean(axis=0)[:bits]
    told = -np.log2(ones**2 + (1 - ones) ** 2)  # bits: of a uniform hash each tells one

    def cost(count: int) -> float:
        """Comparisons a hash; to sort one costs as much as about 8."""
        by_chance = len(hashes) / 2 / 2 ** (told.sum() * (count - distance) / count)
        return comb(count, distance) * (8 + by_chance)

    count = min(range(distance + 1, min(bits, distance + 12) + 1), key=cost)
    if cost(count) >= len(hashes) / 2:
        return []
    order = np.argsort(-told, kind="stable").tolist()
    return [order[start::count] for start in range(count)]


def _permuted(hashes: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Hashes whose bit n is bit `order[n]` of those given, from the lowest on."""
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

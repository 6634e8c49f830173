"""Finds exactly all pairs of pictures that are near by both of their perceptual hashes.

The 64-bit hash finds the pairs that may be near, and the 256-bit hash decides on each. Pictures whose 64-bit hashes are
equal or near are compared with each other, so a corpus of n pages of one layout takes n * n / 2 comparisons.
"""

import numpy as np

from pipelines.dedup.fine_hash import NEAR
from pipelines.dedup.hamming import Pairs, near_pairs

LONG = 256  # pictures; so many and more are compared with one picture at a time


def near_in_both(first: np.ndarray, second: np.ndarray, distance: int, most: int | None = None) -> Pairs:
    """Every pair whose first hashes differ in at most `distance` bits, and second ones in at most `most`, once.

    `most`: NEAR if not given.

    `first`: uint64 of shape (n,); `second`: uint64 of shape (n, 4), zeros where it is unknown: such a picture is near
    whatever its second hash would say. The first ones are in order. Yields some pairs at a time, as two arrays of
    positions, int64 of shape (m,).
    """
    most = NEAR if most is None else most
    starts = np.flatnonzero(np.diff(first, prepend=~first[:1]))
    ends = np.append(starts[1:], len(first))
    count = ends - starts
    words, unknown = np.ascontiguousarray(second.T), np.bitwise_or.reduce(second, axis=1) == 0
    several = count > 1
    rows = _ranges(starts[several], ends[several])
    yield from _compared(words, unknown, most, rows, rows + 1, np.repeat(ends[several], count[several]))
    for one, other in near_pairs(first[starts], distance):
        rows = _ranges(starts[one], ends[one])
        bounds = (np.repeat(edge[other], count[one]) for edge in (starts, ends))
        yield from _compared(words, unknown, most, rows, *bounds)


def _ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The numbers from each start to before its end, one range after another."""
    lengths = ends - starts
    return np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)


def _compared(
    words: np.ndarray, unknown: np.ndarray, most: int, rows: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> Pairs:
    """The pairs of each row with the rows from its start to before its end that are near by the second hash."""
    is_long = ends - starts > LONG
    for row, start, end in zip(*(column[is_long].tolist() for column in (rows, starts, ends)), strict=True):
        half = sum(np.bitwise_count(word[start:end] ^ word[row]) for word in words[:2])
        near = (half <= most) | unknown[start:end] | unknown[row]  # few: half of the bits tell most pictures apart
        other = start + np.flatnonzero(near)
        yield from _near(words, unknown, most, np.full_like(other, row), other)
    rows, starts, lengths = rows[~is_long], starts[~is_long], (ends - starts)[~is_long]
    order = np.argsort(-lengths, kind="stable")
    rows, starts, lengths = rows[order], starts[order], lengths[order]
    for step in range(int(lengths.max(initial=0))):
        left = int(np.searchsorted(-lengths, -step))
        yield from _near(words, unknown, most, rows[:left], starts[:left] + step)


def _near(words: np.ndarray, unknown: np.ndarray, most: int, one: np.ndarray, other: np.ndarray) -> Pairs:
    bits = np.bitwise_count(words[:, one] ^ words[:, other]).sum(axis=0)
    near = (bits <= most) | unknown[one] | unknown[other]
    if near.any():
        yield one[near], other[near]

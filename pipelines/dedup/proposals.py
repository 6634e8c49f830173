"""Which pictures may be copies of each other, for `pipelines.dedup.pixels` to say which are.

Copies differ in few bits of their 64-bit hashes, and in some of their 256-bit hashes, with three exceptions. The second
hash of a photograph on plain ground changes as a whole when it is cropped; so it is not asked where the first hashes
are close. A symmetric design, such as a certificate or a logo, has no odd frequencies, so that chance decides their
signs; there the signs of the even columns, or rows, are compared alone. A solid ground has no frequencies at all; it is
compared with every picture by the 256-bit hash.
"""

from collections.abc import Iterator

import numpy as np

from pipelines.dedup.hamming import Pairs
from pipelines.dedup.two_hashes import near_in_both

CLOSE = 4  # bits by which 64-bit hashes differ at most if the 256-bit hash is not looked at
BITS = 6  # by which 64-bit hashes of copies differ at most, in most kinds of pictures
EVEN_BITS = 1  # by which the signs of even columns, or rows, may differ
WIDE = 96  # bits of 256 by which copies differ at most, those that are cropped included
COLUMNS, ROWS = np.uint64(0xAAAAAAAAAAAAAAAA), np.uint64(0xFF00FF00FF00FF00)  # the even frequencies of a hash
SOLID = np.uint64(1 << 63)  # the hash of a solid ground
SOLID_WIDE = 72
SOLIDS = 1000  # different solid grounds; of more, only these are compared with every picture


def proposed(first: np.ndarray, second: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pair that may be copies, once: two arrays of positions, int64 of shape (m,), the first one lower.

    `first`: uint64 of shape (n,); `second`: uint64 of shape (n, 4), zeros where it is unknown. Both together are in
    strictly increasing order. `distance`: bits in which first hashes may differ at least.
    """
    pairs = np.empty(0, np.int64)
    for one, other in _pairs(first, second, max(distance, BITS)):
        low, high = np.minimum(one, other), np.maximum(one, other)
        pairs = np.append(pairs, low * len(first) + high)
    pairs = np.unique(pairs)
    return pairs // max(len(first), 1), pairs % max(len(first), 1)


def _pairs(first: np.ndarray, second: np.ndarray, distance: int) -> Pairs:
    yield from _gathered(near_in_both(first, second, distance, WIDE))
    drawn = np.flatnonzero(first != SOLID)
    for one, other in _gathered(near_in_both(first[drawn], second[drawn], CLOSE, 256)):
        yield drawn[one], drawn[other]
    for mask in (COLUMNS, ROWS):
        masked = first & mask
        order = np.argsort(masked, kind="stable")
        for one, other in _gathered(near_in_both(masked[order], second[order], EVEN_BITS, WIDE)):
            yield order[one], order[other]
    known = np.bitwise_or.reduce(second, axis=1) != 0
    for one in np.flatnonzero((first == SOLID) & known)[:SOLIDS]:
        near = known & (np.bitwise_count(second ^ second[one]).sum(axis=1) <= SOLID_WIDE)
        near[one] = False
        other = np.flatnonzero(near)
        yield np.full_like(other, one), other


def _gathered(pairs: Pairs) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same pairs, many at a time."""
    some = [*pairs]
    if some:
        yield np.concatenate([one for one, _ in some]), np.concatenate([other for _, other in some])

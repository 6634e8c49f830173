"""Which pictures may be copies of each other, for `pipelines.dedup.pixels` to say which are.

Copies differ in few bits of their 64-bit hashes, or in few of some quarter of their 256-bit hashes: a crop changes the
second hash of a page as a whole, a watermark the first one of a picture of even texture. A symmetric design, such as a
certificate or a logo, has no odd frequencies, so that chance decides their signs; there the signs of the even columns,
or rows, are compared alone. A solid ground has no frequencies at all; it is compared with every picture by the 256-bit
hash.
"""

from collections.abc import Iterator

import numpy as np

from pipelines.dedup.hamming import Pairs
from pipelines.dedup.two_hashes import near_in_both

BITS = 6  # by which 64-bit hashes of copies differ at most
QUARTER_BITS = 4  # by which some quarter of their 256-bit hashes differs at most
EVEN_BITS = 2  # by which the signs of even columns, or rows, may differ
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
    found = [np.empty(0, np.int64)]
    for one, other in _pairs(first, second, max(distance, BITS)):
        found.append(np.minimum(one, other) * len(first) + np.maximum(one, other))
    pairs = np.unique(np.concatenate(found))
    return pairs // max(len(first), 1), pairs % max(len(first), 1)


def _pairs(first: np.ndarray, second: np.ndarray, distance: int) -> Pairs:
    known, drawn = np.bitwise_or.reduce(second, axis=1) != 0, first != SOLID
    rules = [
        (first, drawn | ~known, distance, 256),
        *((first & mask, drawn, EVEN_BITS, WIDE) for mask in (COLUMNS, ROWS)),
        *((quarter, drawn & known, QUARTER_BITS, WIDE) for quarter in second.T),
    ]
    for hashes, among, bits, most in rules:
        rows = np.flatnonzero(among)
        rows = rows[np.argsort(hashes[rows], kind="stable")]
        for one, other in _gathered(near_in_both(hashes[rows], second[rows], bits, most)):
            yield rows[one], rows[other]
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

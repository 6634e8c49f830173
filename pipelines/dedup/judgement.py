"""Which images of a corpus are duplicates of a kept one, or excluded: the judgement, from their hashes alone."""

from typing import NamedTuple

import numpy as np

from pipelines.dedup.decontamination import Hashes
from pipelines.dedup.hamming import distances
from pipelines.dedup.two_hashes import near_in_both
from schemas.duplicates import REASONS

KEPT, EXACT, NEAR, EXCLUDED = range(4)
WORDS = (None, *REASONS)
BLANK = ((KEPT, np.int8), (-1, np.int64), (-1, np.int8), (-1, np.int64))


class ImageHashes(NamedTuple):
    """The columns that decide about n rows, in the order of (partition, key). Arrays of shape (n,) but for two."""

    partition: np.ndarray  # int32
    key: np.ndarray  # uint64
    sha256: np.ndarray  # uint64 of shape (n, 2): its first half
    phash: np.ndarray  # uint64
    phash256: np.ndarray  # uint64 of shape (n, 4); zeros: unknown
    present: np.ndarray  # bool: the row has an image, and nothing has left it out
    talked_of: np.ndarray  # bool: in a conversation
    kept_before: np.ndarray  # bool: with the same bytes and hash
    why: np.ndarray  # int32, position in a list of the reasons for which an earlier stage left it out; 0 for none
    image: np.ndarray  # uint64, equal for rows of one source image; 0 where that does not matter


class DuplicateMarks(NamedTuple):
    """What happens to n rows."""

    reason: np.ndarray  # int8, position in WORDS
    of: np.ndarray  # int64, the row that it duplicates; -1 for none
    distance: np.ndarray  # int8; -1 for none
    by: np.ndarray  # int64, the excluded file that holds it; -1 for none


def blank(count: int) -> DuplicateMarks:
    """Marks of rows to which nothing happens."""
    return DuplicateMarks(*(np.full(count, value, kind) for value, kind in BLANK))


def judge(images: ImageHashes, excluded: Hashes, near: int) -> DuplicateMarks:
    """What happens to each row. It depends on what is excluded, the order of rows, and which were kept before.

    `near`: bits in which perceptual hashes may differ; -1 for none, when only equal bytes count.
    """
    rows = np.flatnonzero(images.present)
    numbered, _ = numbers_of(np.concatenate([images.sha256[rows], excluded.sha256[excluded.has_sha256]]))
    same, same_excluded = np.split(numbered, [len(rows)])  # equal bytes have one number
    look, pairs, apart = same, np.empty((2, 0), np.int64), np.empty(0, np.int8)
    look_excluded, looks = np.empty(0, np.int64), numbered.max(initial=-1) + 1
    if near >= 0:
        phash, phash256 = np.full(looks, ~np.uint64(0)), np.zeros((looks, 4), np.uint64)
        np.minimum.at(phash, same, images.phash[rows])  # one for equal bytes, whichever version measured them
        np.maximum.at(phash256, same, images.phash256[rows])  # equal, or unknown
        hashes = np.column_stack([phash, phash256])[same]
        listed = np.zeros((int(excluded.has_phash.sum()), hashes.shape[1]), np.uint64)
        listed[:, 0] = excluded.phash[excluded.has_phash]  # its second hash is unknown: the first one decides
        look, first = numbers_of(np.concatenate([hashes, listed]))
        hashes = np.concatenate([hashes, listed])[first]
        (look, look_excluded), looks = np.split(look, [len(rows)]), len(hashes)  # equal hashes have one number
        pairs = np.concatenate([pairs, *map(np.stack, near_in_both(hashes[:, 0], hashes[:, 1:], near))], axis=1)
        apart = distances(*hashes[:, 0][pairs]).astype(np.int8)
    one, other, apart = *np.concatenate([pairs, pairs[::-1]], axis=1), np.tile(apart, 2)  # both ways

    # What is excluded
    names = excluded.name[excluded.has_phash][: len(look_excluded)]
    _, name = _nearest(looks, look_excluded, np.zeros_like(names), names)
    shown = name[one] >= 0
    distance, by = _nearest(
        looks,
        np.concatenate([look_excluded, other[shown]]),
        np.concatenate([np.zeros_like(names), apart[shown]]),
        np.concatenate([names, name[one][shown]]),
    )
    names = excluded.name[excluded.has_sha256]
    _, by_bytes = _nearest(numbered.max(initial=-1) + 1, same_excluded, np.zeros_like(names), names)
    distance = np.where(by_bytes[same] >= 0, 0, distance[look])
    by = np.where(by_bytes[same] >= 0, by_bytes[same], by[look])
    verdicts = blank(len(images.key))
    verdicts.reason[rows] = np.where(by >= 0, EXCLUDED, KEPT)
    verdicts.distance[rows], verdicts.by[rows] = distance, by

    # The other rows: the first row of each look represents it, and is kept if no kept look is near
    left = np.flatnonzero((by < 0) & ~images.talked_of[rows])
    order = left[np.argsort(~images.kept_before[rows[left]], kind="stable")]
    seen, first = np.unique(look[order], return_index=True)
    rank, stands = np.full((2, looks), -1)
    rank[seen], stands[seen] = first, order[first]
    later = (rank[one] >= 0) & (rank[one] < rank[other])
    kept = np.zeros(looks, bool)
    kept[seen] = kept_first(len(order), rank[one[later]], rank[other[later]])[first]
    near_kept = kept[one] & (rank[other] >= 0)
    distance, of = _nearest(looks, other[near_kept], apart[near_kept], stands[one[near_kept]])
    distance, of = np.where(kept, 0, distance)[look[left]], np.where(kept, stands, of)[look[left]]
    twice = (of != left) & ~same_image(images.image[rows], left, of)
    left, of = left[twice], of[twice]
    verdicts.reason[rows[left]] = np.where(same[left] == same[of], EXACT, NEAR)
    verdicts.of[rows[left]], verdicts.distance[rows[left]] = rows[of], distance[twice]
    return verdicts


def same_image(image: np.ndarray, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each of these rows is of one source image with the other: bool of shape (n,). `image`: 0 for no image."""
    return (image[rows] == image[others]) & (image[rows] != 0)


def kept_first(count: int, earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Which of `count` things are kept, one after another, each if no kept one is near: bool of shape (count,).

    `earlier`, `later`: pairs that are near, int64 of shape (m,).
    """
    order, kept = np.argsort(earlier, kind="stable"), bytearray(b"\1") * count
    for start in range(0, len(order), 1_000_000):
        pairs = order[start : start + 1_000_000]
        for one, other in zip(earlier[pairs].tolist(), later[pairs].tolist(), strict=True):
            if kept[one]:  # final: every pair that could drop it came before
                kept[other] = 0
    return np.frombuffer(kept, bool)


def numbers_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A number for each row of an array of shape (n, k), equal for equal rows and in their order: int64 of shape (n,).
    And of each number the position of one of its rows."""
    order = np.lexsort(values.T[::-1])
    new = np.any(np.diff(values[order], axis=0, prepend=~values[order[:1]]) != 0, axis=1)
    numbers = np.empty(len(values), np.int64)
    numbers[order] = np.cumsum(new) - 1
    return numbers, order[new]


def _nearest(count: int, where: np.ndarray, distance: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of `count` places the smallest distance and the smallest value that is so near; -1 if there is none."""
    order = np.lexsort((value, distance, where))
    places, first = np.unique(where[order], return_index=True)
    best = np.full((2, count), -1)
    best[:, places] = distance[order[first]], value[order[first]]
    return best[0], best[1]

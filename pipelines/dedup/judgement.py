"""Which images of a corpus are duplicates of a kept one, or excluded: the judgement, from their hashes alone."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from pipelines.dedup.decontamination import Hashes
from pipelines.dedup.hamming import distances
from pipelines.dedup.proposals import proposed
from pipelines.dedup.two_hashes import near_in_both
from schemas.duplicates import REASONS

KEPT, EXACT, NEAR, EXCLUDED = range(4)
WORDS = (None, *REASONS)
MOST = 1000  # pictures with which one is compared at most
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


class Answers(Protocol):
    """Says of pictures whether they are copies of each other. A corpus is judged again until it is `settled`."""

    def first_copy(self, content: int, others: Sequence[int], apart: Sequence[int]) -> int | None:
        """The first of some pictures that is a copy of another one. `apart`: bits of 256 by which each differs from
        it. A picture is named by the first 64 bits of its SHA-256."""
        ...

    def settled(self) -> bool:
        """Whether all that was said since the last call is final."""
        ...


def judge(images: ImageHashes, excluded: Hashes, near: int, answers: Answers | None = None) -> DuplicateMarks:
    """What happens to each row. It depends on what is excluded, the order of rows, and which were kept before.

    `near`: bits in which perceptual hashes may differ; -1 for none, when only equal bytes count. `answers`: decides on
    pictures that may be copies, instead of their hashes; what is excluded is found by hashes alone.
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
    if answers is None:
        distance, of = _repeats(look, order, one, other, apart, looks)
    else:
        names = images.sha256[rows][:, 0]
        distance, of = repeats_by_pixels(same, phash, phash256, names, order, near, answers)
    distance, of = distance[left], of[left]
    twice = (of != left) & ~same_image(images.image[rows], left, of)
    left, of = left[twice], of[twice]
    verdicts.reason[rows[left]] = np.where(same[left] == same[of], EXACT, NEAR)
    verdicts.of[rows[left]], verdicts.distance[rows[left]] = rows[of], distance[twice]
    return verdicts


def _repeats(
    look: np.ndarray, order: np.ndarray, one: np.ndarray, other: np.ndarray, apart: np.ndarray, looks: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each row the bits by which it differs from a kept row of the nearest kept look, and that row, which may be
    itself; -1 for rows that are not in `order`, in which they are judged. `one`, `other`: looks that are near."""
    seen, first = np.unique(look[order], return_index=True)
    rank, stands = np.full((2, looks), -1)
    rank[seen], stands[seen] = first, order[first]
    later = (rank[one] >= 0) & (rank[one] < rank[other])
    kept = np.zeros(looks, bool)
    kept[seen] = kept_first(len(order), rank[one[later]], rank[other[later]])[first]
    near_kept = kept[one] & (rank[other] >= 0)
    distance, of = _nearest(looks, other[near_kept], apart[near_kept], stands[one[near_kept]])
    return np.where(kept, 0, distance)[look], np.where(kept, stands, of)[look]


def repeats_by_pixels(
    same: np.ndarray, phash: np.ndarray, phash256: np.ndarray, names: np.ndarray, order: np.ndarray, near: int,
    answers: Answers,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The same by `answers`. `same`: a number for each row, equal for equal bytes; `phash`, `phash256`: by that number;
    `names`: of the rows, for `answers`.

    A picture is compared with the kept ones before it that may be copies, the nearest first, at most MOST of them.
    """
    look, one_of = numbers_of(np.column_stack([phash, phash256]))
    first, second = phash[one_of], phash256[one_of]
    one, other = proposed(first, second, near)
    one, other = np.concatenate([one, other]), np.concatenate([other, one])
    unknown = np.bitwise_or.reduce(second, axis=1) == 0
    apart = np.bitwise_count(second[one] ^ second[other]).sum(axis=1) * ~(unknown[one] | unknown[other])
    nearest = np.lexsort((other, distances(first[one], first[other]), apart, one))
    other, apart = other[nearest], apart[nearest]
    bounds = np.searchsorted(one[nearest], np.arange(len(first) + 1))
    while True:
        stands, of = np.full((2, len(phash)), -1)
        kept: dict[int, list[int]] = {}  # look -> contents of it that are kept
        for row in order.tolist():
            content = int(same[row])
            if of[content] >= 0:
                continue
            own, near_looks = int(look[content]), slice(bounds[look[content]], bounds[look[content] + 1])
            others, bits = list[int](), list[int]()
            for its, far in ((own, 0), *zip(other[near_looks].tolist(), apart[near_looks].tolist(), strict=True)):
                others += kept.get(its, ())
                bits += [far] * (len(others) - len(bits))
                if len(others) >= MOST:
                    break
            named = {int(names[stands[its]]): its for its in others[:MOST]}
            copied = answers.first_copy(int(names[row]), [*named], bits[: len(named)]) if named else None
            of[content] = content if copied is None else named[copied]
            if copied is None:
                stands[content] = row
                kept.setdefault(own, []).append(content)
        if answers.settled():
            break
    of_content = of[same]
    distance = np.where(of_content >= 0, distances(phash[same], phash[of_content]), -1).astype(np.int8)
    return distance, np.where(of_content >= 0, stands[of_content], -1)


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

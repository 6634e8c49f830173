"""Judges a corpus of which only the suspects are held: rows that can be duplicates or excluded.

Most images of a corpus resemble no other. They are kept, and no other row depends on them. So the corpus is gone
through three times, some partitions at a time: for the values that occur twice or are near each other, for the rows
that have one of these, and for what becomes of each row.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from pipelines.dedup.decontamination import Hashes
from pipelines.dedup.hamming import near_pairs
from pipelines.dedup.judgement import DuplicateMarks, ImageHashes, blank, judge, numbers_of
from pipelines.dedup.proposals import proposed


class Parts(Protocol):
    """The rows of a corpus in their order, some at a time, as often as is asked."""

    @property
    def rows(self) -> int:
        """How many there are."""
        ...

    def __iter__(self) -> Iterator[ImageHashes]: ...


def judged(
    parts: Parts, excluded: Hashes, near: int,
    by_pixels: Callable[[ImageHashes, Hashes, int], DuplicateMarks] | None = None,
) -> Iterator[tuple[ImageHashes, DuplicateMarks, np.ndarray]]:  # fmt: skip
    """For each part what happens to its rows, as `judge` says of the whole; `of` is a position in the third, keys.

    `by_pixels`: judges instead, by the pixels of all pictures that may be copies."""
    suspects = suspected(parts, excluded, near, wide=by_pixels is not None)
    verdicts, start = (by_pixels or judge)(suspects.images, excluded, near), 0
    for images in parts:
        end = start + len(images.key)
        here = slice(*np.searchsorted(suspects.row, [start, end]))
        marks = blank(len(images.key))
        for column, of_suspects in zip(marks, verdicts, strict=True):
            column[suspects.row[here] - start] = of_suspects[here]
        yield images, marks, suspects.images.key
        start = end


class Suspects(NamedTuple):
    """The rows that can be duplicates or excluded; all others are kept, and say nothing about these."""

    images: ImageHashes
    row: np.ndarray  # int64 of shape (n,), increasing: their numbers among all rows


def suspected(parts: Parts, excluded: Hashes, near: int, wide: bool = False) -> Suspects:
    """The rows whose bytes or perceptual hash another row or an excluded image has, or whose hash is near such a one.

    `wide`: also those whose pictures `proposed` says may be copies.

    Takes about 45 bytes for each row of the corpus, 150 if `wide`, and what `ImageHashes` takes for each of these rows.
    """
    listed = excluded.phash[excluded.has_phash], excluded.sha256[excluded.has_sha256, 0]
    phash, content = (np.empty(parts.rows + len(values), np.uint64) for values in listed)
    end = 0
    for images in parts:
        start, end = end, end + int(images.present.sum())
        phash[start:end] = images.phash[images.present]
        content[start:end] = images.sha256[images.present, 0]
    content = _several(_filled(content, end, listed[1]), -1)
    phash = _several(_filled(phash, end, listed[0]), near)
    perhaps = _perhaps(parts, near) if wide else np.empty(0, np.int64)
    found, rows, start = list[ImageHashes](), list[np.ndarray](), 0
    for images in parts:
        suspect = _among(images.sha256[:, 0], content) | (_among(images.phash, phash) if near >= 0 else False)
        suspect[perhaps[slice(*np.searchsorted(perhaps, [start, start + len(suspect)]))] - start] = True
        places = np.flatnonzero(suspect & images.present)
        found.append(ImageHashes(*(column[places] for column in images)))
        rows.append(places + start)
        start += len(images.key)
    return Suspects(ImageHashes(*map(np.concatenate, zip(*found, strict=True))), np.concatenate(rows))


def _perhaps(parts: Parts, near: int) -> np.ndarray:
    """The numbers of the rows whose pictures may be copies of another one by both hashes, increasing."""
    rows, looks, start = list[np.ndarray](), list[np.ndarray](), 0
    for images in parts:
        present = np.flatnonzero(images.present)
        rows.append(present + start)
        looks.append(np.column_stack([images.phash[present], images.phash256[present]]))
        start += len(images.key)
    numbered, first = numbers_of(np.concatenate(looks))
    hashes = np.concatenate(looks)[first]
    several = np.bincount(numbered, minlength=len(first)) > 1
    for places in proposed(hashes[:, 0], hashes[:, 1:], near):
        several[places] = True
    return np.concatenate(rows)[several[numbered]]


def _filled(values: np.ndarray, end: int, more: np.ndarray) -> np.ndarray:
    """The values before `end`, and more."""
    values[end : end + len(more)] = more
    return values[: end + len(more)]


def _several(values: np.ndarray, distance: int) -> np.ndarray:
    """The values that occur twice, or are at most `distance` bits from another, in order. `values` are put in order."""
    values.sort()
    first = np.diff(values, prepend=~values[:1]) != 0
    twice = np.unique(values[~first])
    if distance <= 0:
        return twice
    values = values[first]
    near = np.zeros(len(values), bool)
    for one, other in near_pairs(values, distance):
        near[one] = near[other] = True
    return np.union1d(twice, values[near])


def _among(values: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Whether each value is one of some, which are in order: bool of the shape of `values`."""
    places = np.minimum(np.searchsorted(some, values), max(len(some) - 1, 0))
    return some[places] == values if len(some) else np.zeros(len(values), bool)

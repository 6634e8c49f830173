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
from pipelines.dedup.judgement import DuplicateMarks, ImageHashes, blank, judge


class Parts(Protocol):
    """The rows of a corpus in their order, some at a time, as often as is asked."""

    @property
    def rows(self) -> int:
        """How many there are."""
        ...

    def __iter__(self) -> Iterator[ImageHashes]: ...


def judged(parts: Parts, excluded: Hashes, near: int) -> Iterator[tuple[ImageHashes, DuplicateMarks, np.ndarray]]:
    """For each part what happens to its rows, as `judge` says of the whole; `of` is a position in the third, keys."""
    suspects = suspected(parts, excluded, near)
    verdicts, start = judge(suspects.images, excluded, near), 0
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


def suspected(parts: Parts, excluded: Hashes, near: int) -> Suspects:
    """The rows whose bytes or perceptual hash another row or an excluded image has, or whose hash is near such a one.

    Takes about 35 bytes for each row of the corpus, and what `ImageHashes` takes for each of these rows.
    """
    phash = _several(parts, lambda images: images.phash, excluded.phash[excluded.has_phash], near)
    content = _several(parts, lambda images: images.sha256[:, 0], excluded.sha256[excluded.has_sha256, 0], -1)
    found, rows, start = list[ImageHashes](), list[np.ndarray](), 0
    for images in parts:
        suspect = _among(images.sha256[:, 0], content) | (_among(images.phash, phash) if near >= 0 else False)
        places = np.flatnonzero(suspect & images.present)
        found.append(ImageHashes(*(column[places] for column in images)))
        rows.append(places + start)
        start += len(images.key)
    return Suspects(ImageHashes(*map(np.concatenate, zip(*found, strict=True))), np.concatenate(rows))


def _several(parts: Parts, of: Callable[[ImageHashes], np.ndarray], more: np.ndarray, distance: int) -> np.ndarray:
    """The values of images and `more` that occur twice, or are at most `distance` bits from another, in order."""
    values, end = np.empty(parts.rows + len(more), np.uint64), len(more)
    values[:end] = more
    for images in parts:
        some = of(images)[images.present]
        values[end : end + len(some)], end = some, end + len(some)
    values = values[:end]
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

"""The judgement of duplicates alone, against one that goes through the rows one by one."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.dedup.decontamination import Hashes
from pipelines.dedup.judgement import KEPT, WORDS, ImageHashes, judge, kept_first
from pipelines.dedup.suspects import judged

ROW = st.tuples(
    st.integers(0, 4),  # partition
    st.integers(0, 9),  # bytes
    st.integers(0, 63).map(lambda bits: bits * 0x0400200100080401 & (2**64 - 1)),  # perceptual hash
    st.integers(0, 9).map(lambda n: n > 0),  # there
    st.integers(0, 9).map(lambda n: n == 0),  # talked of
    st.booleans(),  # kept before
    st.integers(0, 3).map(lambda n: n > 0),  # its second hash is known
)
FINE = np.array([[1, 2, 3, 4], [1, 2, 3, 4 + (0xFFFFFFFFF << 8)], [1, 2, 3, 4 + (0xFFF << 30)], [9, 2**64 - 1, 7, 7]],
                np.uint64)  # 36, 12 and many bits apart from the first  # fmt: skip
ENTRY = st.one_of(st.tuples(st.integers(0, 9), st.none()), st.tuples(st.none(), ROW.map(lambda row: row[2])))


def images_of(rows: list[tuple]) -> ImageHashes:
    columns = zip(*sorted(rows, key=lambda row: row[0]), strict=True)
    partition, content, phash, there, talked_of, kept_before, known = columns
    return ImageHashes(
        np.array(partition, np.int32), np.arange(len(rows), dtype=np.uint64),
        np.array([(n, 3 * n) for n in content], np.uint64), np.array(phash, np.uint64),
        np.array([FINE[n % 4] * np.uint64(known) for n, known in zip(content, known, strict=True)]), np.array(there),
        np.array(talked_of), np.array(kept_before), np.array([0 if some else 1 for some in there], np.int8),
        np.zeros(len(rows), np.uint64),
    )  # fmt: skip


def hashes_of(entries: list[tuple[int | None, int | None]]) -> Hashes:
    return Hashes(
        np.arange(len(entries)), np.array([(n or 0, 3 * (n or 0)) for n, _ in entries], np.uint64).reshape(-1, 2),
        np.array([n is not None for n, _ in entries], bool), np.array([phash or 0 for _, phash in entries], np.uint64),
        np.array([phash is not None for _, phash in entries], bool),
    )  # fmt: skip


def one_by_one(images: ImageHashes, entries: list[tuple], near: int) -> list[tuple]:
    """(reason, row that it duplicates, distance, excluded file) of each row."""
    rows = [n for n in range(len(images.key)) if images.present[n]]
    content = {n: int(images.sha256[n, 0]) for n in rows}
    phash = {n: min(int(images.phash[other]) for other in rows if content[other] == content[n]) for n in rows}

    fine = {
        n: max(tuple(images.phash256[other].tolist()) for other in rows if content[other] == content[n]) for n in rows
    }

    def apart(a: int, b: int) -> int | None:
        if content[a] == content[b]:
            return 0
        bits = (phash[a] ^ phash[b]).bit_count()
        second = sum((x ^ y).bit_count() for x, y in zip(fine[a], fine[b], strict=True))
        return bits if bits <= near and (second <= 36 or not any(fine[a]) or not any(fine[b])) else None

    said = [(None, -1, -1, -1)] * len(images.key)
    for n in rows:
        same = [(0, name) for name, (sha256, _) in enumerate(entries) if sha256 == content[n]]
        alike = [((phash[n] ^ p).bit_count(), name) for name, (_, p) in enumerate(entries) if p is not None]
        hits = same or [hit for hit in alike if hit[0] <= near]
        if hits:
            said[n] = ("benchmark_overlap", -1, *min(hits))
    left = [n for n in rows if said[n][0] is None and not images.talked_of[n]]
    kept: list[int] = []
    for n in sorted(left, key=lambda n: (not images.kept_before[n], n)):
        if all(apart(n, other) is None for other in kept):
            kept.append(n)
    for n in left:
        if n not in kept:
            distance, of = min((bits, other) for other in kept if (bits := apart(n, other)) is not None)
            said[n] = ("exact_duplicate" if content[n] == content[of] else "near_duplicate", of, distance, -1)
    return said


def said_by(verdicts) -> list[tuple]:
    lists = zip(*(column.tolist() for column in verdicts), strict=True)
    return [(WORDS[reason], of, distance, by) for reason, of, distance, by in lists]


@pytest.mark.slow
@given(st.lists(ROW, min_size=1, max_size=40), st.lists(ENTRY, max_size=3), st.integers(-1, 4))
@settings(max_examples=400, deadline=None)
def test_rows_are_judged_as_if_one_by_one(rows, entries, near):
    images = images_of(rows)
    assert said_by(judge(images, hashes_of(entries), near)) == one_by_one(images, entries, near)


class Cut(NamedTuple):
    """Rows, some at a time."""

    images: ImageHashes
    each: int

    @property
    def rows(self) -> int:
        return len(self.images.key)

    def __iter__(self):
        for start in range(0, self.rows, self.each):
            yield ImageHashes(*(column[start : start + self.each] for column in self.images))


LONE = st.tuples(st.integers(0, 2**32), st.integers(0, 2**64 - 1))


@pytest.mark.slow
@given(
    st.lists(ROW, min_size=1, max_size=30), st.lists(LONE, max_size=10), st.lists(ENTRY, max_size=3),
    st.integers(-1, 4), st.integers(1, 20),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_the_suspects_alone_are_judged_as_in_the_whole(rows, lone, entries, near, each):
    """Whatever rows stand beside them that resemble nothing."""
    images = images_of([*rows, *((n % 5, content, phash, True, False, n % 2, True) for n, (content, phash) in
                                 enumerate(lone))])  # fmt: skip
    said, excluded = [], hashes_of(entries)
    for part, marks, keys in judged(Cut(images, each), excluded, near):
        of = np.where(marks.of >= 0, keys[marks.of].astype(np.int64) if len(keys) else -1, -1)
        said += said_by(marks._replace(of=of))
        assert len(part.key) == len(of)
    assert said == said_by(judge(images, excluded, near))


@pytest.mark.slow
@given(
    st.lists(ROW, min_size=1, max_size=40), st.lists(ENTRY, max_size=2), st.integers(-1, 4), st.sets(st.integers(0, 4))
)
@settings(max_examples=400, deadline=None)
def test_a_step_that_was_killed_between_two_partitions_comes_to_the_same_end(rows, entries, near, done):
    """Even if what was kept before is near each other now."""
    images, excluded = images_of(rows), hashes_of(entries)
    verdicts = judge(images, excluded, near)
    written = np.isin(images.partition, list(done))
    again = images._replace(kept_before=np.where(written, verdicts.reason == KEPT, images.kept_before))
    assert said_by(judge(again, excluded, near)) == said_by(verdicts)


@pytest.mark.slow
@given(st.lists(ROW, min_size=2, max_size=40), st.integers(0, 4), st.integers(1, 39))
@settings(max_examples=200, deadline=None)
def test_new_rows_never_evict_old_ones(rows, near, new):
    """Whichever rows come in addition, and wherever they stand. Equal bytes have one hash, as one version measures."""
    phash = {row[1]: (row[2], row[6]) for row in rows}
    images = images_of([(*row[:2], phash[row[1]][0], *row[3:5], False, phash[row[1]][1]) for row in rows])
    old = np.random.default_rng(new).permutation(len(rows)) >= new
    before = judge(images._replace(present=images.present & old), hashes_of([]), near)
    kept = (before.reason == KEPT) & images.present & old
    after = judge(images._replace(kept_before=kept), hashes_of([]), near)
    assert (after.reason[kept] == KEPT).all()


def test_only_kept_rows_count_and_chains_do_not():
    assert kept_first(4, np.array([0, 1, 2]), np.array([1, 2, 3])).tolist() == [True, False, True, False]
    assert kept_first(3, np.array([], int), np.array([], int)).all()

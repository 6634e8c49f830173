"""Pairs of near hashes: all of them, each once, and no other, whatever the hashes are like."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.dedup import hamming
from pipelines.dedup.hamming import distances, near_pairs

Pair = tuple[int, int]


def found(hashes: np.ndarray, distance: int) -> list[Pair]:
    """The pairs that are found, each in order."""
    return [tuple(sorted(pair)) for one, other in near_pairs(hashes, distance) for pair in zip(one, other, strict=True)]


def compared(hashes: np.ndarray, distance: int) -> set[Pair]:
    """The pairs that there are, seen by comparing all with all."""
    values = hashes.tolist()
    return {(a, b) for a, b in combinations(range(len(values)), 2) if (values[a] ^ values[b]).bit_count() <= distance}


def check(hashes: np.ndarray, distance: int) -> int:
    """Compares what is found with what there is; how many pairs that is."""
    pairs, expected = found(hashes, distance), compared(hashes, distance)
    assert len(pairs) == len(set(pairs)), "a pair is found twice"
    assert set(pairs) == expected
    return len(expected)


def flipped(hashes: np.ndarray, bits: int, draws: np.random.Generator) -> np.ndarray:
    """Hashes with so many of their bits turned."""
    for one in range(len(hashes)):
        for bit in draws.choice(64, bits, replace=False):
            hashes[one] ^= np.uint64(1) << np.uint64(bit)
    return hashes


@pytest.fixture
def few(monkeypatch):
    """Blocks are cut, runs of equal ones cut again, and parts are small, for hashes as few as can be compared."""
    monkeypatch.setattr(hamming, "MANY", 50)
    monkeypatch.setattr(hamming, "AT_ONCE", 7)


@pytest.mark.slow
@given(
    centres=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5),
    turned=st.lists(st.tuples(st.integers(0, 4), st.sets(st.integers(0, 63), max_size=6)), max_size=80),
    kept=st.sampled_from([2**64 - 1, 2**32 - 1, 0xFFFF << 40, 0x5555555555555555, 0xFF]),
    distance=st.integers(0, 4),
    part=st.sampled_from([1, 3, 1 << 22]),
)
@settings(max_examples=200, deadline=None)
def test_as_when_all_are_compared_with_all(centres, turned, kept, distance, part):
    """Clusters around some hashes, of which some only differ in some bits."""
    hashes = {centres[n % len(centres)] ^ sum(1 << bit for bit in bits) for n, bits in turned} | {*centres}
    hashes = np.array(sorted({value & kept for value in hashes}), np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "MANY", 50)
        patch.setattr(hamming, "AT_ONCE", part)
        check(hashes, distance)


@pytest.mark.parametrize("distance", range(9))
def test_every_distance_that_can_be_configured(distance):
    draws = np.random.default_rng(distance)
    hashes = draws.integers(0, 2**64, 1500, dtype=np.uint64)
    near = [flipped(hashes[10 * n : 10 * n + 10].copy(), n, draws) for n in range(11)]
    assert check(np.unique(np.concatenate([hashes, *near])), distance) >= 10 * distance


KINDS = {
    "uniform": lambda hashes: hashes,
    "half of their bits are always equal": lambda hashes: hashes & np.uint64(0x5555555555555555),
    "few of their bits differ": lambda hashes: hashes & np.uint64(0xFF000000000FF),
    "many are equal in a quarter": lambda hashes: np.concatenate([hashes[:200], hashes[200:] & np.uint64(2**48 - 1)]),
    "bits that say the same": lambda hashes: hashes >> np.uint64(32) | hashes >> np.uint64(32) << np.uint64(32),
    "around one": lambda hashes: flipped(np.repeat(hashes[:1], len(hashes)), 5, np.random.default_rng(1)),
    "one after another": lambda hashes: np.arange(len(hashes), dtype=np.uint64),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distance", [1, 3])
def test_whatever_the_hashes_are_like(kind, distance, few):
    draws = np.random.default_rng(0)
    hashes = KINDS[kind](draws.integers(0, 2**64, 800, dtype=np.uint64))
    near = flipped(hashes[:60].copy(), distance, draws)
    assert check(np.unique(np.concatenate([hashes, near])), distance) >= 60


def test_too_many_to_be_compared_with_all_are_cut_again():
    """A quarter of a million hashes of which 16 bits are equal, and planted pairs among them."""
    draws = np.random.default_rng(0)
    hashes = draws.integers(0, 2**48, 250_000, dtype=np.uint64)
    near = np.concatenate([flipped(hashes[1000 * n : 1000 * n + 1000].copy(), n, draws) for n in (1, 2, 3, 4)])
    every = np.unique(np.concatenate([hashes, near]))
    pairs = set(found(every, 3))
    planted = [np.searchsorted(every, some[:3000]) for some in (np.concatenate([hashes[1000:4000], hashes]), near)]
    assert {tuple(sorted(pair)) for pair in zip(*planted, strict=True)} <= pairs
    one, other = (every[list(ends)] for ends in zip(*pairs, strict=True))
    assert distances(one, other).max() == 3


@pytest.mark.parametrize("hashes", [[], [7], [7, 8], [0, 2**64 - 1], [0, 1, 3, 7]])
def test_few_hashes(hashes):
    for distance in (0, 1, 2, 8):
        check(np.array(hashes, np.uint64), distance)


@pytest.mark.parametrize("hashes", [[2, 1], [1, 1]])
def test_hashes_that_are_not_in_order_are_a_bug(hashes):
    with pytest.raises(ValueError, match="not in strictly increasing order"):
        list(near_pairs(np.array(hashes, np.uint64), 1))


def test_distances_are_bits_that_differ():
    one, other = np.array([0, 0, 2**64 - 1, 5], np.uint64), np.array([0, 1, 0, 6], np.uint64)
    assert distances(one, other).tolist() == [0, 1, 64, 2]

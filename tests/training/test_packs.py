"""Packs: every sample once, none cut, and as full as lengths allow."""

import math
from bisect import bisect_left, insort
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.slices import image_tokens, plan_llama_cpp
from training.packs import PADDING, attends, fewest_packs, fill, places, plan_packs

LENGTH = 2048


def best_fit_decreasing(lengths, length: int) -> int:
    """How many packs the textbook's planner makes."""
    rooms: list[int] = []  # ascending
    for size in sorted(lengths, reverse=True):
        at = bisect_left(rooms, size)
        insort(rooms, (rooms.pop(at) if at < len(rooms) else length) - size)
    return len(rooms)


def fewest_by_trying(lengths: list[int], length: int) -> int:
    """The best of all plans: each sample into every pack that it fits, one new pack at most."""

    def best(left: list[int], rooms: tuple[int, ...]) -> int:
        if not left:
            return len(rooms)
        size, *rest = left
        tries = [best(rest, (*rooms, length - size))]
        for room in set(rooms):
            if room >= size:
                others = list(rooms)
                others.remove(room)
                tries.append(best(rest, (*others, room - size)))
        return min(tries)

    return best(sorted(lengths, reverse=True), ())


def captions(count: int, seed: int = 0, queries: int = 64, sizes: int = 400) -> np.ndarray:
    """Lengths as in a web corpus: photographs of many sizes, and 3 to 500 tokens of text."""
    draws = np.random.default_rng(seed)
    sides = np.exp(draws.normal(6.1, 0.55, (sizes, 2))).clip(64, 4000).astype(int)
    images = np.array([image_tokens(plan_llama_cpp(int(width), int(height)), queries) for width, height in sides])
    text = np.exp(draws.normal(math.log(12), 0.6, count)).clip(3, 500).astype(int)
    return images[draws.integers(0, sizes, count)] + text + 2


LENGTHS = {
    "captions": captions(1000),
    "captions, 96 queries": captions(1000, queries=96),
    "captions and OCR": captions(1000) + np.random.default_rng(1).integers(0, 300, 1000),
    "anything": np.random.default_rng(2).integers(1, LENGTH + 1, 1000),
    "a quarter to a half": np.random.default_rng(3).integers(512, 1025, 1000),
    "just over a third": np.random.default_rng(4).integers(700, 761, 1000),
    "all the same": np.full(1000, 300),
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_every_sample_is_in_one_pack_and_none_is_cut(lengths):
    packs = plan_packs(lengths, LENGTH)
    assert np.sort(packs.samples).tolist() == list(range(1000))
    assert packs.samples.tolist() == [sample for pack in packs for sample in pack]
    assert all(0 < lengths[pack].sum() <= LENGTH for pack in packs)


@pytest.mark.parametrize(("name", "more"), [
    ("captions", 0), ("captions, 96 queries", 1), ("captions and OCR", 1), ("anything", 4),
    ("just over a third", 0), ("all the same", 0),
    ("a quarter to a half", 45),  # of 373; linear programming says that 400 are needed
])  # fmt: skip
def test_packs_are_nearly_as_few_as_they_can_be(name, more):
    packs = len(plan_packs(LENGTHS[name], LENGTH))
    assert packs <= fewest_packs(LENGTHS[name], LENGTH) + more
    assert packs <= best_fit_decreasing(LENGTHS[name], LENGTH) + 1


@pytest.mark.parametrize("seed", range(5))
def test_a_shard_of_captions_is_at_least_99_percent_full(seed):
    lengths = captions(1000, seed)
    assert fill(lengths, len(plan_packs(lengths, LENGTH)), LENGTH) >= 0.99


def test_no_plan_can_be_full_where_lengths_are_alike():
    """Two of these go into a pack and a third never does; the bound knows."""
    lengths = LENGTHS["just over a third"]
    assert fewest_packs(lengths, LENGTH) == len(plan_packs(lengths, LENGTH)) == 500
    assert fill(lengths, 500, LENGTH) == pytest.approx(0.713, abs=0.001)


def test_short_samples_fill_packs_when_shards_are_planned_together():
    """Of 1,000 samples of 85 tokens the last pack alone leaves up to two percent empty."""
    lengths = 66 + 2 + captions(8000) % 32
    for shard in np.split(lengths, 8):
        assert len(plan_packs(shard, LENGTH)) == fewest_packs(shard, LENGTH)
    assert min(fill(shard, fewest_packs(shard, LENGTH), LENGTH) for shard in np.split(lengths, 8)) < 0.99
    assert fill(lengths, len(plan_packs(lengths, LENGTH)), LENGTH) > 0.995


@given(st.lists(st.integers(1, 20), max_size=8))
def test_small_plans_are_near_the_best_of_all_plans_and_never_below_the_bound(lengths):
    packs, best = plan_packs(lengths, 20), fewest_by_trying(lengths, 20)
    assert fewest_packs(lengths, 20) <= best <= len(packs) <= best * 1.5
    assert sorted(packs.samples.tolist()) == list(range(len(lengths)))
    assert all(sum(lengths[sample] for sample in pack) <= 20 for pack in packs)


def test_the_same_lengths_have_the_same_plan():
    one, other = (plan_packs(captions(3000), LENGTH) for _ in range(2))
    assert np.array_equal(one.samples, other.samples) and np.array_equal(one.offsets, other.offsets)


def test_packs_can_be_counted_and_asked_for():
    packs = plan_packs([5, 3, 2, 4], 7)
    assert [sorted(pack.tolist()) for pack in packs] == [[0, 2], [1, 3]]
    assert len(packs) == 2
    assert packs[-1].tolist() == packs[1].tolist()
    with pytest.raises(IndexError):
        packs[2]
    assert (len(plan_packs([], 7)), list(plan_packs([], 7)), fewest_packs([], 7)) == (0, [], 0)


@pytest.mark.parametrize("lengths", [[0, 3], [3, 8], [-1]])
def test_lengths_that_do_not_go_into_a_pack_are_refused(lengths):
    with pytest.raises(ValueError, match="do not fit into packs of 7"):
        plan_packs(lengths, 7)


def test_a_million_samples_are_planned_in_seconds():
    lengths = captions(1_000_000)
    started = perf_counter()
    packs = plan_packs(lengths, LENGTH)
    assert perf_counter() - started < 5
    assert fill(lengths, len(packs), LENGTH) > 0.995


# One pack


def test_places_number_documents_and_start_positions_anew():
    documents, positions = places([3, 1, 2], 8)
    assert documents.tolist() == [0, 0, 0, 1, 2, 2, PADDING, PADDING]
    assert positions.tolist() == [0, 1, 2, 0, 0, 1, 0, 0]
    assert documents.dtype == positions.dtype == "int32"


def test_samples_that_do_not_fit_have_no_places():
    assert [part.tolist() for part in places([2, 2], 4)] == [[0, 0, 1, 1], [0, 1, 0, 1]]
    with pytest.raises(ValueError, match="5 tokens"):
        places([2, 3], 4)


def test_a_token_looks_at_itself_and_back_within_its_document():
    documents, positions = places([3, 1, 2], 8)
    mask = attends(documents)
    for row in range(8):
        for column in range(8):
            assert mask[row, column] == (documents[row] == documents[column] and column <= row)
    assert mask[:6].sum(axis=1).tolist() == (positions[:6] + 1).tolist()
    assert mask.any(axis=1).all()  # padding too

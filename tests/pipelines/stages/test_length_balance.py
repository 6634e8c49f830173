"""Pairs that length alone could tell apart, by the rule of the public scripts."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages.length_balance import Lengths, length_balance


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=30))
def test_the_length_ratio_is_the_first_best_of_the_grid(lengths):
    """Held against the rule as it is written down, in fractions; an empty rejected text is no division by zero."""
    ratio, stays = length_balance(*(np.array([pair[side] for pair in lengths], np.int64) for side in (0, 1)))

    def staying(r: Fraction) -> list[bool]:
        return [not (rejected and Fraction(rejected - chosen, rejected) > r) for chosen, rejected in lengths]

    def apart(r: Fraction) -> Fraction | None:
        some = [pair for pair, there in zip(lengths, staying(r), strict=False) if there]
        chosen, rejected = (sum(pair[side] for pair in some) for side in (0, 1))
        return Fraction(abs(chosen - rejected), rejected) if rejected else None

    grid = [Fraction(n, 50) for n in range(50)]
    judged = [(apart(r), r) for r in grid if apart(r) is not None]
    best = min(judged, default=(None, Fraction(49, 50)), key=lambda one: one[0])[1]
    assert Fraction(round(ratio * 50), 50) == best
    assert stays.tolist() == staying(best)


def test_a_pair_whose_chosen_text_is_empty_never_stays_and_one_whose_rejected_is_empty_does():
    _, stays = length_balance(np.array([0, 5, 4]), np.array([5, 0, 4]))
    assert stays.tolist() == [False, True, True]


def balanced(chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """Which pairs stay; their lengths are known in two steps."""
    lengths, half = Lengths(), len(chosen) // 2
    lengths.add(chosen[:half], rejected[:half])
    lengths.add(chosen[half:], rejected[half:])
    return lengths.staying(chosen, rejected)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=30))
def test_lengths_are_balanced_on_the_side_that_is_longer(lengths):
    chosen, rejected = (np.array([pair[side] for pair in lengths], np.int64) for side in (0, 1))
    if chosen.sum() <= rejected.sum():
        assert balanced(chosen, rejected).tolist() == length_balance(chosen, rejected)[1].tolist()
    else:
        assert balanced(chosen, rejected).tolist() == balanced(rejected, chosen).tolist()


def test_a_chosen_text_that_is_much_longer_does_not_stay():
    chosen, rejected = np.array([40, 12, 11, 9]), np.array([10, 12, 10, 10])
    assert length_balance(chosen, rejected)[1].all(), "the published rule looks at longer rejected texts alone"
    assert balanced(chosen, rejected).tolist() == [False, True, True, True]

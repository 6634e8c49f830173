"""The order of training, at scale and without images: nothing is skipped, nothing comes twice."""

from collections import Counter
from fractions import Fraction
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.shuffle import Cuts, Order, shuffled

WEIGHTS = st.fractions(Fraction(1, 20), 3)
ORDERS = st.lists(st.tuples(st.integers(0, 90), WEIGHTS), min_size=1, max_size=4).filter(
    lambda sets: any(packs for packs, _ in sets)
)


def order_of(sets: list[tuple[int, Fraction]], seed: int = 0) -> Order:
    packs, weights = zip(*sets, strict=True)
    return Order(packs, weights, seed)


@given(of=st.integers(1, 2000), key=st.integers())
@settings(deadline=None)
def test_a_shuffle_has_each_number_once(of, key):
    assert sorted(shuffled(number, of, key) for number in range(of)) == list(range(of))


def test_a_shuffle_of_more_numbers_than_memory_holds_has_no_number_twice():
    of = 10**12 + 7
    found = [shuffled(number, of, "key") for number in range(10_000)]
    assert len(set(found)) == 10_000 and min(found) >= 0 and max(found) < of


@pytest.mark.parametrize("of", [2, 3, 4])
def test_all_orders_of_a_few_are_about_as_frequent(of):
    found = Counter(tuple(shuffled(number, of, key) for number in range(of)) for key in range(3000))
    expected = 3000 / {2: 2, 3: 6, 4: 24}[of]
    assert len(found) == {2: 2, 3: 6, 4: 24}[of]
    assert all(abs(times - expected) < 5 * expected**0.5 for times in found.values())


def test_neighbours_in_a_shuffle_have_nothing_to_do_with_each_other():
    found = [shuffled(number, 10_000, 7) for number in range(10_000)]
    steps = Counter((b - a) % 10_000 for a, b in pairwise(found))
    assert max(steps.values()) < 12  # of 10,000 steps that may have any of 10,000 sizes
    assert abs(sum(number < 5000 for number in found[:5000]) - 2500) < 200


@pytest.mark.slow
@given(sets=ORDERS, seed=st.integers(0, 5), epochs=st.integers(1, 8))
@settings(deadline=None, max_examples=50)
def test_after_some_epochs_each_pack_came_as_often_as_its_weight_says(sets, seed, epochs):
    order = order_of(sets, seed)
    end = sum(order.before(epochs))
    places = [order[number] for number in range(end)]
    assert [place.epoch for place in places] == sorted(place.epoch for place in places)
    assert all(place.epoch < epochs for place in places) and order[end].epoch >= epochs
    seen = Counter((place.set, place.pack) for place in places)
    for one, (packs, weight) in enumerate(sets):
        times = [seen[one, pack] for pack in range(packs)]
        assert sum(times) == int(epochs * weight * packs)
        assert not times or max(times) - min(times) <= 1


def test_a_set_of_a_quarter_gives_another_quarter_to_each_of_four_epochs():
    order = order_of([(40, Fraction(1, 4)), (100, Fraction(1))])
    quarters = [{p.pack for p in map(order.__getitem__, range(e * 110, e * 110 + 110)) if p.set == 0} for e in range(4)]
    assert [len(quarter) for quarter in quarters] == [10] * 4
    assert set.union(*quarters) == set(range(40))


def test_an_epoch_is_shuffled_as_a_whole_and_each_differently():
    order = order_of([(1000, Fraction(1)), (1000, Fraction(1))])
    first, second = ([order[number] for number in range(start, start + 2000)] for start in (0, 2000))
    assert abs(sum(place.set for place in first[:1000]) - 500) < 80
    assert sum(a[1:] == b[1:] for a, b in zip(first, second, strict=False)) < 10
    assert first != [order_of([(1000, Fraction(1)), (1000, Fraction(1))], seed=1)[n] for n in range(2000)]


def test_the_order_of_a_seed_stays_what_it_is():
    """A checkpoint of an older version goes on where it was: change this only together with what says so."""
    order = order_of([(7, Fraction(1)), (5, Fraction("0.5"))], seed=3)
    expected = [(0, 0, 4), (0, 0, 6), (0, 0, 1), (1, 0, 1), (1, 0, 3), (105263, 0, 1)]
    assert [order[number] for number in (0, 1, 2, 9, 10, 10**6)] == expected


def test_nothing_to_train_on_is_refused():
    with pytest.raises(ValueError, match="no pack"):
        Order([0, 0], [Fraction(1), Fraction(2)])


# Steps, ranks and workers

RUNS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(0, 12)), min_size=1, max_size=6)


@given(batch=st.integers(9, 40), runs=RUNS, start=st.integers(0, 10**9))
@settings(deadline=None)
def test_any_number_of_stops_and_ranks_gives_one_unbroken_sequence(batch, runs, start):
    done, seen = start, []
    for ranks, micro, steps in runs:  # each goes on from the steps that are done, on other ranks
        of = [list(Cuts(batch, micro, rank, ranks, done, done + steps)) for rank in range(ranks)]
        for step in range(done, done + steps):
            for cuts in of:
                mine = [cut for cut in cuts if cut.step == step]
                assert [cut.last for cut in mine] == [False] * (len(mine) - 1) + [True]
                assert all(0 < cut.stop - cut.start <= micro for cut in mine)
                seen += [number for cut in mine for number in range(cut.start, cut.stop)]
        done += steps
    assert seen == list(range(start * batch, done * batch))


@pytest.mark.slow
@given(sets=ORDERS, batch=st.integers(4, 16), stops=st.lists(st.integers(1, 30), max_size=5), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_a_run_that_is_stopped_and_resumed_anywhere_trains_what_one_run_does(sets, batch, stops, seed):
    order, done, resumed = order_of(sets, seed), 0, []
    for number, steps in enumerate(stops):
        ranks = 1 + (seed + number) % 4
        shares = [Cuts(batch, 1 + number % 3, rank, ranks, done, done + steps) for rank in range(ranks)]
        by_step = sorted((cut.step, rank, cut.start, cut.stop) for rank, cuts in enumerate(shares) for cut in cuts)
        resumed += [order[number] for _, _, start, stop in by_step for number in range(start, stop)]
        done += steps
    assert resumed == [order[number] for number in range(done * batch)]


def test_steps_run_on_without_end():
    cuts = list(islice(Cuts(batch=4, micro=4, start=10**6), 3))
    assert [cut.step for cut in cuts] == [10**6, 10**6 + 1, 10**6 + 2]
    assert cuts[0].start == 4 * 10**6


@pytest.mark.parametrize("wrong", [{"ranks": 5}, {"rank": 2, "ranks": 2}, {"micro": 0}, {"rank": -1}])
def test_a_split_that_leaves_a_rank_without_work_is_refused(wrong):
    with pytest.raises(ValueError, match=r"of 4 packs"):
        Cuts(4, **wrong)


def test_a_start_before_the_first_step_is_refused():
    with pytest.raises(ValueError, match=r"^start is -1; it is the number of steps that are done, from 0 on$"):
        Cuts(4, start=-1)

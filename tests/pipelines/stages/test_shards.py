"""Shards stand in groups of partitions: how many a group has is settled once it is full. A change of a full group moves
no other sample, and nothing gets lost when others grow, go, or had no samples before."""

import json

import pytest
from support.corpora import build, write_tar

from pipelines.engine.parquet import read_rows
from pipelines.engine.releases import read_card
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from pipelines.stages import shard_layout


@pytest.fixture
def make(configure, tmp_path, monkeypatch):
    """Runs a corpus of tars, two to a group and about three samples to a shard; all of it must be well.

    A tar is its numbers, or how many it has of its own hundred.
    """
    monkeypatch.setattr(shard_layout, "GROUP", 2)

    def make(tars: dict[int, int | range], where: str = "true") -> Root:
        for tar in (tmp_path / "tars").glob("*"):
            tar.unlink()
        for tar, some in tars.items():
            numbers = range(100 * tar, 100 * tar + some) if isinstance(some, int) else some
            write_tar(tmp_path / "tars" / f"{tar}.tar", numbers)
        source = '[source]\nkind = "webdataset"\npath = "tars"\n'
        root = build(configure(f'{source}[sets.train]\nwhere = "{where}"\nsamples_per_shard = 3'))
        assert verify_root(root).problems == []
        return root

    return make


def layout(root: Root) -> tuple[list[int], list[tuple[int, int]]]:
    """Shards of each group; (number, samples) of each shard."""
    card = read_card(root, "train")
    return [group["shards"] for group in card["groups"]], [(one["number"], one["samples"]) for one in card["shards"]]


def groups(root: Root) -> list[tuple[int, bool]]:
    """How many shards each group has, and whether that stays."""
    return [(group["shards"], group["settled"]) for group in read_card(root, "train")["groups"]]


def placed(root: Root) -> dict[str, int]:
    """sample -> the number of its shard."""
    entries = read_card(root, "train")["shards"]
    return {row["sample"]: e["number"] for e in entries for row in read_rows(root, f"shards/{e['index']}")}


@pytest.mark.slow
def test_a_group_that_is_exactly_full_keeps_its_number_of_shards(make):
    groups, full = layout(make({0: 4, 1: 4}))
    assert groups == [3] and sum(samples for _, samples in full) == 8
    groups, grown = layout(make({0: 4, 1: 4, 2: 4, 3: 4}))
    assert groups == [3, 3] and grown[: len(full)] == full
    groups, changed = layout(make({0: 10, 1: 4, 2: 4, 3: 4}))
    assert groups == [3, 3] and changed[len(full) :] == grown[len(full) :]
    assert sum(samples for _, samples in changed) == 22


@pytest.mark.slow
def test_a_full_group_that_had_no_samples_can_have_some(make):
    tars = dict.fromkeys(range(4), 4)
    groups, _ = layout(make(tars, "extra.n::int >= 200"))
    assert groups == [0, 3]
    groups, every = layout(make(tars))
    assert groups == [3, 3] and sum(samples for _, samples in every) == 16
    groups, grown = layout(make(tars | {3: 6}))  # the first group is as it was
    assert groups == [3, 4] and sum(samples for _, samples in grown) == 18


@pytest.mark.slow
def test_a_group_that_is_gone_leaves_the_others_where_they_are(make):
    tars = dict.fromkeys(range(6), 4)
    _, before = layout(make(tars))
    groups, after = layout(make({number: 4 for number in (0, 1, 4, 5)}))
    assert groups == [3, 3, 3] and after == [shard for shard in before if shard[0] not in (3, 4, 5)]


@pytest.mark.slow
def test_an_open_group_is_laid_out_anew_and_a_full_one_never(make):
    assert groups(make({0: range(3), 1: range(3, 6)})) == [(2, False)]
    assert groups(make({0: range(3), 1: range(3, 9)})) == [(3, False)]
    root = make({0: range(3), 1: range(3, 9), 2: range(9, 12)})
    before = placed(root)
    assert groups(root) == [(3, True), (1, False)]
    after = placed(make({0: range(20, 29), 1: range(5, 9), 2: range(9, 12)}))
    assert groups(root) == [(3, True), (1, False)]
    assert {name: number for name, number in before.items() if name in after} == {
        name: number for name, number in after.items() if name in before
    }
    assert len(after) == 9 + 4 + 3


@pytest.mark.slow
def test_a_full_group_stays_as_it_is_when_all_after_it_vanish(make):
    two = {0: range(3), 1: range(3, 6)}
    make(two)
    make(two | {2: range(6, 9)})
    root = make(two)
    assert groups(root) == [(2, True)]
    assert len(placed(make(two | {0: range(20)}))) == 23
    assert groups(root) == [(2, True)]


@pytest.mark.slow
def test_a_card_on_which_a_full_group_is_not_settled_loses_nothing(make):
    """Older versions left it so where a group did not change as the next one began."""
    tars = {0: range(3), 1: range(3, 6), 2: range(6, 12)}
    root = make(tars)
    card = read_card(root, "train")
    card["groups"][0]["settled"] = False
    for name in ("train", f"train@{card['release']}"):
        root.write(f"shards/{name}.json", json.dumps(card, indent=1).encode())
    before = placed(root)
    after = placed(make(tars | {0: range(20, 40)}))
    assert groups(root) == [(2, True), (2, False)]
    assert len(after) == 20 + 3 + 6
    assert all(after[name] == number for name, number in before.items() if name in after)

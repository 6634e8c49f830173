"""Shards stand in groups of partitions: how many a group has is settled once it is full, and nothing gets lost when
others grow, go, or had no samples before."""

import pytest
from corpora import build, write_tar

from pipelines import shards
from pipelines.cards import read_card
from pipelines.root import Root
from pipelines.verify import verify_root


@pytest.fixture
def make(configure, tmp_path, monkeypatch):
    """Runs a corpus of tars, two to a group and about three samples to a shard; all of it must be well."""
    monkeypatch.setattr(shards, "GROUP", 2)

    def make(tars: dict[int, int], where: str = "true") -> Root:
        for tar in (tmp_path / "tars").glob("*"):
            tar.unlink()
        for number, count in tars.items():
            write_tar(tmp_path / "tars" / f"{number}.tar", range(100 * number, 100 * number + count))
        source = '[source]\nkind = "webdataset"\npath = "tars"\n'
        root = build(configure(f'{source}[sets.train]\nwhere = "{where}"\nsamples_per_shard = 3'))
        assert verify_root(root).problems == []
        return root

    return make


def layout(root: Root) -> tuple[list[int], list[tuple[int, int]]]:
    """Shards of each group; (number, samples) of each shard."""
    card = read_card(root, "train")
    return [group["shards"] for group in card["groups"]], [(one["number"], one["samples"]) for one in card["shards"]]


def test_a_group_that_is_exactly_full_keeps_its_number_of_shards(make):
    groups, full = layout(make({0: 4, 1: 4}))
    assert groups == [3] and sum(samples for _, samples in full) == 8
    groups, grown = layout(make({0: 4, 1: 4, 2: 4, 3: 4}))
    assert groups == [3, 3] and grown[: len(full)] == full
    groups, changed = layout(make({0: 10, 1: 4, 2: 4, 3: 4}))
    assert groups == [3, 3] and changed[len(full) :] == grown[len(full) :]
    assert sum(samples for _, samples in changed) == 22


def test_a_full_group_that_had_no_samples_can_have_some(make):
    tars = dict.fromkeys(range(4), 4)
    groups, _ = layout(make(tars, "extra.n::int >= 200"))
    assert groups == [0, 3]
    groups, every = layout(make(tars))
    assert groups == [3, 3] and sum(samples for _, samples in every) == 16
    groups, grown = layout(make(tars | {3: 6}))  # the first group is as it was
    assert groups == [3, 4] and sum(samples for _, samples in grown) == 18


def test_a_group_that_is_gone_leaves_the_others_where_they_are(make):
    tars = dict.fromkeys(range(6), 4)
    _, before = layout(make(tars))
    groups, after = layout(make({number: 4 for number in (0, 1, 4, 5)}))
    assert groups == [3, 3, 3] and after == [shard for shard in before if shard[0] not in (3, 4, 5)]

"""The cache of generation holds what transformers' own would hold, whatever is read, selected and dropped."""

from random import Random

import pytest
import torch
from transformers import DynamicCache

from training.key_cache import SPARE, BufferedCache

LAYERS, HEADS, CHANNELS = 2, 3, 4


def read(caches, rows: int, tokens: int, seed: int) -> None:
    """Both caches read the same tokens."""
    draws = torch.Generator().manual_seed(seed)
    for layer in range(LAYERS):
        keys, values = (torch.rand(rows, HEADS, tokens, CHANNELS, generator=draws) for _ in range(2))
        given = [cache.update(keys, values, layer) for cache in caches]
        assert all(torch.equal(one, other) for one, other in zip(*given, strict=True))


def are_equal(one: BufferedCache, other: DynamicCache) -> bool:
    pairs = zip(one.layers, other.layers, strict=True)
    return all(torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values) for a, b in pairs)


@pytest.mark.parametrize("seed", range(20))
def test_any_sequence_of_steps_holds_the_same_keys(seed):
    draws, ours, theirs = Random(seed), BufferedCache(), DynamicCache()
    rows = draws.randint(2, 9)
    read((ours, theirs), rows, draws.randint(1, 2 * SPARE), seed)
    for step in range(30):
        kind = draws.choice(("read", "read", "select", "keep"))
        if kind == "read":
            read((ours, theirs), rows, draws.choice((1, 1, 7, SPARE + 1)), 100 * seed + step)
        elif kind == "select":
            chosen = torch.tensor(draws.choices(range(rows), k=draws.randint(1, 9)))
            for cache in (ours, theirs):
                cache.batch_select_indices(chosen)
            rows = len(chosen)
        elif rows > 1:
            kept = sorted(draws.sample(range(rows), draws.randint(1, rows)))
            order = ours.keep(kept)
            assert sorted(order) == kept
            theirs.batch_select_indices(torch.tensor(order))
            rows = len(kept)
        assert are_equal(ours, theirs) and ours.get_seq_length() == theirs.get_seq_length()


def test_few_rows_move_when_some_are_dropped():
    """Those that are kept among the first places stay where they are."""
    ours = BufferedCache()
    read((ours, DynamicCache()), 6, 5, 0)
    assert ours.keep([0, 2, 3, 5]) == [0, 5, 2, 3]
    assert ours.keep([0, 1, 2, 3]) == [0, 1, 2, 3]
    assert ours.keep([3]) == [3]


def test_a_buffer_is_not_made_anew_at_each_token():
    ours = BufferedCache()
    read((ours, DynamicCache()), 2, 5, 0)
    places = set()
    for _ in range(SPARE):
        for layer in range(LAYERS):
            ours.update(*torch.rand(2, 2, HEADS, 1, CHANNELS), layer)
        places.add(ours.layers[0].keys.data_ptr())
    assert len(places) == 1

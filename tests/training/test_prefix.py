"""Attention over one copy of each prompt equals attention over a copy of it for each answer."""

from random import Random
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from training.prefix import Prefix, behind_prefix

HEADS, CHANNELS = 4, 8


@pytest.mark.parametrize("key_heads", (4, 2, 1))
@pytest.mark.parametrize("prompts", ([0], [0, 0, 0], [0, 1, 2], [2, 0, 2, 2, 1, 0], [3, 3, 1]))
def test_it_is_attention_to_the_prompt_and_to_the_answer(prompts, key_heads):
    draws = torch.Generator().manual_seed(len(prompts))
    before = [torch.randn(4, key_heads, 7, CHANNELS, generator=draws) for _ in range(2)]
    present = torch.arange(7) >= torch.tensor([0, 3, 6, 1])[:, None]
    query = torch.randn(len(prompts), HEADS, 1, CHANNELS, generator=draws)
    own = [torch.randn(len(prompts), key_heads, 5, CHANNELS, generator=draws) for _ in range(2)]
    mask = torch.cat([present[prompts], torch.ones(len(prompts), 5, dtype=torch.bool)], 1)[:, None, None]
    keys, values = (torch.cat([old[prompts], new], 2) for old, new in zip(before, own, strict=True))
    expected = F.scaled_dot_product_attention(query, keys, values, mask, scale=0.3, enable_gqa=True)
    layer, unused = SimpleNamespace(layer_idx=1), (torch.zeros(1), torch.zeros(1))
    prefix = Prefix.of([unused, (before[0], before[1])], present, prompts)
    asked = query, own[0], own[1], None, 0.3
    found, _ = behind_prefix(layer, *asked, prefix=prefix)  # pyright: ignore[reportArgumentType]
    assert torch.allclose(found, expected.transpose(1, 2), atol=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_answers_that_are_kept_keep_their_prompts(seed):
    draws = Random(seed)
    prompts = draws.choices(range(5), k=12)
    prefix = Prefix.of([], torch.ones(5, 3, dtype=torch.bool), prompts)
    states = torch.arange(12.0)[:, None, None].expand(12, HEADS, CHANNELS)
    assert torch.equal(prefix.apart(prefix.together(states)), states)
    kept = draws.sample(range(12), 6)
    fewer = prefix.keep(kept)
    assert fewer.prompts.tolist() == [prompts[number] for number in kept]
    assert fewer.most == max(fewer.prompts.bincount())
    assert torch.equal(fewer.apart(fewer.together(states[kept])), states[kept])

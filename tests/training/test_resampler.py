"""The resampler against a plain formulation of it, and the positions against their formula."""

import math

import pytest
import torch
from torch import nn

from training.resampler import Resampler, sine_cosine


@pytest.fixture(scope="module")
def resampler() -> Resampler:
    torch.manual_seed(0)
    made = Resampler(queries=5, width=256, width_in=48, epsilon=1e-6).double()
    with torch.no_grad():
        for one in made.parameters():
            one.normal_(std=0.2)
    return made


def plainly(resampler: Resampler, patches: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """One view [patches, width_in] as the paper's code has it: `nn.MultiheadAttention`, a view at a time, no mask."""
    attention = nn.MultiheadAttention(256, 2, dtype=torch.float64)
    parts, norm = resampler.attn, nn.functional.layer_norm
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([parts[name].weight for name in "qkv"]))
        attention.in_proj_bias.copy_(torch.cat([parts[name].bias for name in "qkv"]))
        attention.out_proj.weight.copy_(parts["out"].weight)
        attention.out_proj.bias.copy_(parts["out"].bias)

        def normed(of: torch.Tensor, layer: nn.LayerNorm) -> torch.Tensor:
            return norm(of, (256,), layer.weight, layer.bias, 1e-6)

        values = normed(patches @ resampler.kv.weight.T, resampler.ln_kv)
        queries = normed(resampler.query, resampler.ln_q)
        found, _ = attention(queries, values + positions, values)
        return normed(found, resampler.ln_post) @ resampler.proj.weight.T


def test_it_is_one_layer_of_cross_attention_with_positions_on_the_keys_alone(resampler):
    patches, positions = torch.randn(1, 15, 48).double(), sine_cosine(256, 3, 5).double()
    torch.testing.assert_close(resampler(patches, positions[None])[0], plainly(resampler, patches[0], positions))


def test_views_of_different_sizes_are_resampled_as_each_is_alone(resampler):
    grids = [(3, 5), (1, 2), (4, 4)]
    views = [torch.randn(rows * columns, 48).double() for rows, columns in grids]
    padded, positions = torch.full((3, 16, 48), 7.0).double(), torch.full((3, 16, 256), 7.0).double()
    there = torch.zeros(3, 16, dtype=torch.bool)
    for number, (view, grid) in enumerate(zip(views, grids, strict=False)):
        padded[number, : len(view)], positions[number, : len(view)] = view, sine_cosine(256, *grid).double()
        there[number, : len(view)] = True
    found = resampler(padded, positions, there)
    for one, view, grid in zip(found, views, grids, strict=False):
        torch.testing.assert_close(one, plainly(resampler, view, sine_cosine(256, *grid).double()))


def test_what_stands_in_padding_does_not_matter(resampler):
    patches, positions = torch.randn(2, 6, 48).double(), torch.randn(2, 6, 256).double()
    there = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    before = resampler(patches, positions, there)
    patches[1, 4:], positions[1, 4:] = 1e6, -1e6
    torch.testing.assert_close(resampler(patches, positions, there), before, rtol=0, atol=0)


def test_where_a_patch_stands_matters(resampler):
    patches = torch.randn(1, 4, 48).double()
    wide, tall = (sine_cosine(256, *grid).double()[None] for grid in ((1, 4), (4, 1)))
    assert (resampler(patches, wide) - resampler(patches, tall)).abs().max() > 1e-3


def test_positions_are_sines_and_cosines_of_x_and_then_of_y():
    width, rows, columns = 16, 3, 5
    table = sine_cosine(width, rows, columns)
    assert table.shape == (rows * columns, width)
    for row in range(rows):
        for column in range(columns):
            expected = []
            for axis in (column, row):
                waves = [10000 ** (-n / 4) for n in range(4)]
                expected += [math.sin(axis * wave) for wave in waves] + [math.cos(axis * wave) for wave in waves]
            assert table[row * columns + column].tolist() == pytest.approx(expected, abs=1e-7)


def test_the_number_of_embeddings_does_not_depend_on_the_patches(resampler):
    for rows, columns in ((1, 1), (2, 9), (8, 8)):
        patches = torch.randn(1, rows * columns, 48).double()
        assert resampler(patches, sine_cosine(256, rows, columns).double()[None]).shape == (1, 5, 256)

"""The perceiver resampler: turns a view of any number of patches into the same small number of embeddings.

One layer of cross attention with learned queries (MiniCPM-V, arXiv 2408.01800, section 3.1). Keys include the position
of their patch, values do not. The attention's heads have 128 channels, as llama.cpp requires.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.shapes import HEAD


class Resampler(nn.Module):
    """[views, patches, width_in] -> [views, queries, width]."""

    def __init__(self, queries: int, width: int, width_in: int, epsilon: float = 1e-6):
        super().__init__()
        self.heads = width // HEAD
        self.query = nn.Parameter(torch.empty(queries, width))
        self.kv = nn.Linear(width_in, width, bias=False)
        self.ln_q, self.ln_kv, self.ln_post = (nn.LayerNorm(width, eps=epsilon) for _ in range(3))
        self.attn = nn.ModuleDict({name: nn.Linear(width, width) for name in ("q", "k", "v", "out")})
        self.proj = nn.Linear(width, width, bias=False)
        self.reset()

    def reset(self) -> None:
        nn.init.trunc_normal_(self.query, std=0.02)
        for linear in (self.kv, self.proj, *self.attn.values()):
            if isinstance(linear, nn.Linear):  # each is
                nn.init.trunc_normal_(linear.weight, std=linear.in_features**-0.5)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)

    def forward(self, patches: Tensor, positions: Tensor, present: Tensor | None = None) -> Tensor:
        """`positions` [views, patches, width] are `sine_cosine`s; `present` [views, patches] is false for padding."""
        values = self.ln_kv(self.kv(patches))
        keys = self.attn["k"](values + positions.to(values.dtype))
        query = self.attn["q"](self.ln_q(self.query)).expand(len(patches), -1, -1)
        query, keys, values = (self._split(channels) for channels in (query, keys, self.attn["v"](values)))
        mask = None if present is None else present[:, None, None, :]
        attended = F.scaled_dot_product_attention(query.to(values.dtype), keys, values, mask)
        return self.proj(self.ln_post(self.attn["out"](attended.transpose(1, 2).flatten(2))))

    def _split(self, channels: Tensor) -> Tensor:
        return channels.unflatten(2, (self.heads, HEAD)).transpose(1, 2)


def sine_cosine(width: int, rows: int, columns: int) -> Tensor:
    """The position of each patch of a grid: float32 [rows * columns, width], every element between -1 and 1.

    The first half of the channels encodes x, the second y; each has sines, then cosines, of wave lengths up to 10,000.
    """
    return torch.cat([_axis(width, columns).repeat(rows, 1), _axis(width, rows).repeat_interleave(columns, 0)], 1)


@lru_cache(maxsize=512)
def _axis(width: int, count: int) -> Tensor:
    """One axis of `sine_cosine`, float32 [count, width / 2]; cached, as grids of hundreds of sizes share it.

    Computed in float64 and rounded once.
    """
    waves = 10_000.0 ** -(np.arange(width // 4) / (width // 4))
    turns = np.arange(count)[:, None] * waves
    return torch.from_numpy(np.hstack([np.sin(turns), np.cos(turns)]).astype(np.float32))

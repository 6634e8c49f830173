"""The perceiver resampler: however many patches a view has, it becomes the same small number of embeddings.

One layer of cross attention with learned queries (MiniCPM-V, arXiv 2408.01800, section 3.1). Keys know where their
patch stands, values do not. The attention's heads have 128 channels, as llama.cpp demands.
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
            nn.init.trunc_normal_(linear.weight, std=linear.in_features**-0.5)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, patches: Tensor, positions: Tensor, there: Tensor | None = None) -> Tensor:
        """`positions` [views, patches, width] are `sine_cosine`s; `there` [views, patches] is false for padding."""
        values = self.ln_kv(self.kv(patches))
        keys = self.attn["k"](values + positions.to(values.dtype))
        query = self.attn["q"](self.ln_q(self.query)).expand(len(patches), -1, -1)
        query, keys, values = (self._split(one) for one in (query, keys, self.attn["v"](values)))
        mask = None if there is None else there[:, None, None, :]
        found = F.scaled_dot_product_attention(query.to(values.dtype), keys, values, mask)
        return self.proj(self.ln_post(self.attn["out"](found.transpose(1, 2).flatten(2))))

    def _split(self, channels: Tensor) -> Tensor:
        return channels.unflatten(2, (self.heads, HEAD)).transpose(1, 2)


def sine_cosine(width: int, rows: int, columns: int) -> Tensor:
    """Where each patch of a grid stands: float32 [rows * columns, width], every element between -1 and 1.

    The first half of the channels is of x, the second of y; each sines, then cosines, of wave lengths up to 10,000.
    """
    return torch.cat([_axis(width, columns).repeat(rows, 1), _axis(width, rows).repeat_interleave(columns, 0)], 1)


@lru_cache(maxsize=512)
def _axis(width: int, count: int) -> Tensor:
    """One axis of it, float32 [count, width / 2]: grids come in hundreds of sizes, and share these. Computed in float64
    and rounded once."""
    waves = 10_000.0 ** -(np.arange(width // 4) / (width // 4))
    turns = np.arange(count)[:, None] * waves
    return torch.from_numpy(np.hstack([np.sin(turns), np.cos(turns)]).astype(np.float32))

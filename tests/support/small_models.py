"""A model small enough for tests, and what it is shown."""

from dataclasses import replace

import numpy as np
import torch

from training.model import VisionLanguageModel
from training.pixels import patches
from training.shapes import Language, Shape, Vision

TINY = Shape(
    Vision(width=32, feed_forward=64, layers=2, heads=2, positions=35, side=56),
    Language(width=256, feed_forward=256, layers=2, heads=4, key_heads=2, vocab=400, context=512),
    queries=4,
)


def tiny(queries: int = 4, seed: int = 0) -> VisionLanguageModel:
    """With biases, norms and queries that are not what they begin as: nothing may go unseen because it is 0 or 1."""
    torch.manual_seed(seed)
    model = VisionLanguageModel(replace(TINY, queries=queries))
    with torch.no_grad():
        for one in model.parameters():
            if one.ndim == 1:
                one.add_(0.1 * torch.randn_like(one))
        model.resampler.query.normal_()
    return model.eval()


def views(*grids: tuple[int, int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random views of these rows and columns of patches, as the model takes them."""
    draws = np.random.default_rng(seed)
    pixels = [draws.integers(0, 256, (14 * rows, 14 * columns, 3), np.uint8) for rows, columns in grids]
    flat = np.concatenate([patches(one) for one in pixels] or [np.empty((0, 588), np.float32)])
    return torch.from_numpy(flat), torch.tensor(grids, dtype=torch.int64).reshape(-1, 2)

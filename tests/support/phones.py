"""Small checkpoints, and their exports."""

from dataclasses import replace
from pathlib import Path

import torch
from support.releases import small_tokenizer
from support.small_models import TINY, tiny

from training.checkpoint import save_model
from training.model import VisionLanguageModel
from training.shapes import Shape


def lively(model: VisionLanguageModel) -> VisionLanguageModel:
    """With larger weights than fresh ones: what it says depends on what it is shown."""
    with torch.no_grad():
        for one in model.language.model.layers.parameters():
            one.mul_(1 if one.ndim == 1 else 6)
    return model


def save_tiny(folder: Path, dtype: torch.dtype | None = None) -> Path:
    """A checkpoint of a second of training's size, whose answers differ from picture to picture."""
    save_model(folder, lively(tiny()), small_tokenizer(folder), dtype)
    return folder


def save_shape(folder: Path, shape: Shape = TINY, **language: object) -> Path:
    """A checkpoint with fresh weights of a shape, some sizes of its language model replaced."""
    torch.manual_seed(0)
    model = VisionLanguageModel(replace(shape, language=replace(shape.language, **language)))
    save_model(folder, lively(model), small_tokenizer(folder))
    return folder

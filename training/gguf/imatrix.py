"""The importance of a weight's columns: the mean square of their inputs, over samples from shards.

    matter, described = calibrate("checkpoint", "corpus", "train", samples=128)
    export("checkpoint", out, "Q4_K_M", imatrix=matter, calibration=described)

llama.cpp's `imatrix` computes the same from plain text. Here the samples are like those of use, with their images.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from schemas.errors import UserError
from training.checkpoint import load_model
from training.gguf.names import language_tensors
from training.layout import SampleRejected, Tokens
from training.model import VisionLanguageModel
from training.pixels import cut, decode, patches
from training.samples import SampleEncoder, Slicing
from training.shards import Shards
from training.tokenizer import Tokenizer


def calibrate(
    checkpoint: str | Path, root: str, name: str, samples: int = 128
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The importance matrix by llama.cpp's names, and its description for the card. Holds the model in float32.

    Raises `UserError` if there is no such set, or no sample of it can be read.
    """
    try:
        shards = Shards(root, name)
    except FileNotFoundError as error:
        raise UserError(str(error)) from None
    model, tokenizer = load_model(checkpoint)
    tokens = 0
    with torch.inference_mode(), gathering(model) as importance:
        read = 0
        for laid, pictures in spread_samples(shards, model, tokenizer, samples):
            model.language.lm_head(hidden(model, laid, pictures, tokenizer.marks.query))
            read, tokens = read + 1, tokens + len(laid.ids)
    if not read:
        raise UserError(f"{root}: no sample of {name} can be read for calibration; inspect it with `shardmill stats`")
    described = {"set": name, "release": shards.card["release"], "samples": read, "tokens": tokens}
    return importance, described


def spread_samples(
    shards: Shards, model: VisionLanguageModel, tokenizer: Tokenizer, count: int
) -> Iterator[tuple[Tokens, list[Image.Image]]]:
    """About `count` samples spread over a set, laid out, with their images; unreadable ones are left out."""
    vision, language = model.shape.vision, model.shape.language
    encoder = SampleEncoder(
        tokenizer, model.shape.queries, language.context, Slicing(side=vision.side, patch=vision.patch)
    )
    for number in sorted({int(number) for number in np.linspace(0, len(shards) - 1, min(count, len(shards)))}):
        sample = shards[number]
        try:
            laid = encoder.tokens(sample)
            encoder.views(sample, laid)
        except SampleRejected:
            continue
        yield laid, [decode(sample[picture.name]) for picture in laid.pictures]


def hidden(model: VisionLanguageModel, laid: Tokens, pictures: Sequence[Image.Image], query: int) -> Tensor:
    """The language model's last states for one sample: [tokens, width]."""
    ids = torch.from_numpy(laid.ids.astype(np.int64))[None]
    views = [view for image, picture in zip(pictures, laid.pictures, strict=False) for view in cut(image, picture.plan)]
    return model(ids, seen(model, views), ids == query, None, torch.arange(ids.shape[1])[None])[0]


def seen(model: VisionLanguageModel, views: Sequence[np.ndarray]) -> Tensor:
    """The embeddings of views, uint8 [height, width, 3] each: [views, queries, width]."""
    patch = model.shape.vision.patch
    grids = torch.tensor([(view.shape[0] // patch, view.shape[1] // patch) for view in views], dtype=torch.int64)
    pixels = np.concatenate([patches(view, patch) for view in views] or [np.empty((0, 3 * patch * patch), np.float32)])
    return model.see(torch.from_numpy(pixels), grids.reshape(-1, 2))


@contextmanager
def gathering(model: VisionLanguageModel) -> Iterator[dict[str, np.ndarray]]:
    """Fills a dictionary, when it ends, with the mean squares of the inputs of the language model's matrices."""
    matrices = [tensor for tensor in language_tensors(model.shape) if not tensor.exact]
    names = {matrix.source.removesuffix(".weight"): matrix.name for matrix in matrices}
    names.pop("language.model.embed_tokens")  # it is looked up, not multiplied
    if model.shape.language.tied:
        names["language.lm_head"] = "token_embd.weight"
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    importance: dict[str, np.ndarray] = {}

    def watch(name: str):
        def see(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            rows = given[0].detach().float().flatten(0, -2)
            sums[name] = sums.get(name, 0) + rows.square().sum(0, dtype=torch.float64)
            counts[name] = counts.get(name, 0) + len(rows)

        return see

    modules: Mapping[str, nn.Module] = dict(model.named_modules())
    hooks = [modules[ours].register_forward_pre_hook(watch(theirs)) for ours, theirs in names.items()]
    try:
        yield importance
    finally:
        for hook in hooks:
            hook.remove()
    importance |= {name: (total / counts[name]).float().numpy() for name, total in sums.items()}

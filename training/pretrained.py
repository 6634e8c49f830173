"""Loads published weights under the names used here: SigLIP's vision tower, Llama, and MiniCPM-Llama3-V 2.5.

    load_public(model, vision="siglip-so400m-patch14-384", language="Meta-Llama-3-8B-Instruct")
    load_public(model, whole="MiniCPM-Llama3-V-2_5")

Each argument is a folder with safetensors files, as downloaded. Weights are read one at a time.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from schemas.errors import UserError
from training.model import VisionLanguageModel

Renamed = Iterator[tuple[str, Tensor]]


def of_siglip(name: str, weight: Tensor) -> Renamed:
    """SigLIP, both towers or the vision tower alone; its pooling head and its text tower are left out."""
    if match := re.fullmatch(r"(?:vision_model\.)?((?:embeddings|encoder|post_layernorm)\..*)", name):
        yield f"vision.{match[1]}", weight


def of_llama(name: str, weight: Tensor) -> Renamed:
    if name.startswith(("model.", "lm_head.")):
        yield f"language.{name}", weight


def of_minicpm_v(name: str, weight: Tensor) -> Renamed:
    """`vpm`, `resampler` and `llm`; their resampler has queries, keys and values in one weight."""
    part, _, rest = name.partition(".")
    if part == "llm":
        yield f"language.{rest}", weight
    elif part == "vpm":
        yield f"vision.{rest}", weight
    elif rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
        for letter, piece in zip("qkv", weight.chunk(3), strict=True):
            yield f"resampler.attn.{letter}.{rest.rpartition('_')[2]}", piece
    elif rest == "proj":  # they multiply with it from the right
        yield "resampler.proj.weight", weight.T
    elif rest != "pos_embed":
        rest = rest.replace("kv_proj.", "kv.").replace("attn.out_proj.", "attn.out.")
        yield f"resampler.{rest}", weight


KINDS: dict[str, tuple[Callable[[str, Tensor], Renamed], tuple[str, ...]]] = {
    "vision": (of_siglip, ("vision",)),
    "language": (of_llama, ("language",)),
    "whole": (of_minicpm_v, ("vision", "resampler", "language")),
}


@torch.no_grad()
def load_public(model: VisionLanguageModel, **folders: str | Path) -> None:
    """Loads published weights into a model; `vision`, `language` or `whole` name their folders.

    A position table of another size is resized. Raises `UserError` if a weight of the model is missing, or has another
    shape.
    """
    wanted = dict(model.named_parameters())
    for kind, folder in folders.items():
        rename, parts = KINDS[kind]
        missing = {name for name in wanted if name.partition(".")[0] in parts}
        for theirs, their_weight in _weights(Path(folder)):
            for name, weight in rename(theirs, their_weight):
                if name == "language.lm_head.weight" and name not in wanted:
                    continue  # tied: the same as the embeddings
                if name not in wanted:
                    raise UserError(f"{folder}: {theirs} has no place in this shape")
                if name.endswith("position_embedding.weight"):
                    weight = _resized(weight, len(wanted[name]))
                if weight.shape != wanted[name].shape:
                    raise UserError(
                        f"{folder}: {theirs} is {list(weight.shape)}, the shape says {list(wanted[name].shape)}"
                    )
                wanted[name].copy_(weight)
                missing.discard(name)
        if missing:
            raise UserError(f"{folder}: lacks {sorted(missing)[0]}, and {len(missing) - 1} more weights of this shape")


def _weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    index = folder / "model.safetensors.index.json"
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else None
        for name in names or ["model.safetensors"]:
            with safe_open(folder / name, "pt") as file:
                for key in file.keys():  # noqa: SIM118 (it is not a dict)
                    yield key, file.get_tensor(key)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: cannot be read: {error!r}; give a folder with model.safetensors") from None


def _resized(table: Tensor, places: int) -> Tensor:
    """A square position table resized to `places`, bicubic, as Idefics2 and MiniCPM-V resized SigLIP's."""
    if len(table) == places:
        return table
    side, new = round(len(table) ** 0.5), round(places**0.5)
    square = table.float().T.reshape(1, -1, side, side)
    return F.interpolate(square, size=(new, new), mode="bicubic", align_corners=False).reshape(-1, places).T

"""Weights that others have published, under our names: SigLIP's tower, Llama, and MiniCPM-Llama3-V 2.5 as a whole.

    load_public(model, vision="siglip-so400m-patch14-384", language="Meta-Llama-3-8B-Instruct")
    load_public(model, whole="MiniCPM-Llama3-V-2_5")

Each is a folder with safetensors files, as it is downloaded. Weights are read one at a time.
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
    """SigLIP, both towers or the vision tower alone; its pooling head and its text tower have no place here."""
    if match := re.fullmatch(r"(?:vision_model\.)?((?:embeddings|encoder|post_layernorm)\..*)", name):
        yield f"vision.{match[1]}", weight


def of_llama(name: str, weight: Tensor) -> Renamed:
    if name.startswith(("model.", "lm_head.")):
        yield f"language.{name}", weight


def of_minicpm_v(name: str, weight: Tensor) -> Renamed:
    """`vpm`, `resampler` and `llm`; queries, keys and values stand in one weight there."""
    part, _, rest = name.partition(".")
    if part == "llm":
        yield f"language.{rest}", weight
    elif part == "vpm":
        yield f"vision.{rest}", weight
    elif rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
        for one, piece in zip("qkv", weight.chunk(3)):
            yield f"resampler.attn.{one}.{rest.rpartition('_')[2]}", piece
    elif rest == "proj":  # it stands on the right of a product there
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
    """Puts weights in their places; `vision`, `language` or `whole` name folders.

    A table of positions of another side is resized. Raises `UserError` if a part of the model got no weight, or one of
    another shape.
    """
    wanted = dict(model.named_parameters())
    for kind, folder in folders.items():
        rename, parts = KINDS[kind]
        missing = {name for name in wanted if name.partition(".")[0] in parts}
        for theirs, weight in _weights(Path(folder)):
            for name, one in rename(theirs, weight):
                if name == "language.lm_head.weight" and name not in wanted:
                    continue  # tied: the same as the embeddings
                if name not in wanted:
                    raise UserError(f"{folder}: {theirs} has no place in this shape")
                if name.endswith("position_embedding.weight"):
                    one = _resized(one, len(wanted[name]))
                if one.shape != wanted[name].shape:
                    raise UserError(
                        f"{folder}: {theirs} is {list(one.shape)}, the shape says {list(wanted[name].shape)}"
                    )
                wanted[name].copy_(one)
                missing.discard(name)
        if missing:
            raise UserError(f"{folder}: lacks {sorted(missing)[0]}, and {len(missing) - 1} more weights of this shape")


def _weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    index = folder / "model.safetensors.index.json"
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else None
        for name in names or ["model.safetensors"]:
            with safe_open(folder / name, "pt") as file:
                for key in file.keys():  # noqa: SIM118 (it is no dict)
                    yield key, file.get_tensor(key)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: cannot be read: {error!r}; give a folder with model.safetensors") from None


def _resized(table: Tensor, places: int) -> Tensor:
    """A square table of positions with another side, bicubic, as Idefics2 and MiniCPM-V made theirs of SigLIP's."""
    if len(table) == places:
        return table
    side, new = round(len(table) ** 0.5), round(places**0.5)
    square = table.float().T.reshape(1, -1, side, side)
    return F.interpolate(square, size=(new, new), mode="bicubic", align_corners=False).reshape(-1, places).T

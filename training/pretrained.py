"""Loads published weights under the names used here: SigLIP's vision tower, Llama, and MiniCPM-Llama3-V 2.5.

    load_public(model, vision="siglip-so400m-patch14-384", language="Meta-Llama-3-8B-Instruct")
    load_public(model, whole="MiniCPM-Llama3-V-2_5")

Each argument is a folder with safetensors files, as downloaded. Weights are read one at a time. Settings that decide
what the same weights compute, such as the number of heads, are compared with the shape if the folder has a config.json.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, PretrainedConfig, SiglipVisionConfig

from schemas.errors import UserError
from training.model import VisionLanguageModel
from training.tokenizer import Tokenizer

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


SETTINGS = {  # part of a model -> what decides its results, and is not seen in its weights
    "language": ("num_attention_heads", "num_key_value_heads", "rms_norm_eps", "hidden_act", "rope_parameters"),
    "vision": ("num_attention_heads", "layer_norm_eps", "hidden_act", "patch_size"),
}
EMBEDDINGS, HEAD = "language.model.embed_tokens.weight", "language.lm_head.weight"


def check_settings(model: VisionLanguageModel, kind: str, folder: Path) -> None:
    """Raises `UserError` if a folder's config.json has another setting than the model. What it lacks is the default of
    its own library."""
    path = folder / "config.json"
    if not path.exists():
        return
    try:
        read: dict[str, Any] = json.loads(path.read_text("utf-8"))
        configs: dict[str, PretrainedConfig] = {}
        if kind != "vision":
            configs["language"] = LlamaConfig.from_dict(read)
        if kind != "language":
            configs["vision"] = SiglipVisionConfig.from_dict(read.get("vision_config") or read)
    except Exception as error:  # each library checks with errors of its own
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read: {reason}") from None
    for part, config in configs.items():
        ours = getattr(model, part).config
        for name in SETTINGS[part]:
            theirs, wanted = getattr(config, name), getattr(ours, name)
            if theirs != wanted:
                raise UserError(f"{path}: {part}: {name} is {theirs}, the shape has {wanted}; choose a shape with it, "
                                "or other weights")  # fmt: skip
    most, context = read.get("max_position_embeddings"), model.shape.language.context
    if "language" in configs and isinstance(most, int) and most < context:
        raise UserError(f"{path}: max_position_embeddings is {most}, and the shape has a context of {context}: the "
                        f"weights know no later positions; choose a shape with context = {most}")  # fmt: skip


def check_tokens(tokenizer: Tokenizer, kind: str, folder: Path) -> None:
    """Raises `UserError` if an id means another token in the folder's own tokenizer than in the recipe's: it would have
    that token's embedding. Added tokens, such as marks, may take the place of others."""
    path = folder / "tokenizer.json"
    if kind == "vision" or not path.exists():
        return
    try:
        theirs = tokenizers.Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # it raises no other kind
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    ours, marks = tokenizer.vocabulary()
    at = {number: token for token, number in ours.items()}
    other = [
        (number, token) for token, number in theirs.items()
        if ours.get(token, number) != number or (number not in marks and at.get(number, token) != token)
    ]  # fmt: skip
    if other:
        number, token = min(other)
        raise UserError(f"{path}: {token!r} has the id {number}, which is another token in {tokenizer.path}; "
                        f"{len(other):,} of {len(theirs):,} tokens differ; train with it, and the marks")  # fmt: skip


@torch.no_grad()
def load_public(model: VisionLanguageModel, tokenizer: Tokenizer | None = None, **folders: str | Path) -> None:
    """Loads published weights into a model; `vision`, `language` or `whole` name their folders.

    A position table of another size is resized. Raises `UserError` if a weight of the model is missing, has another
    shape, or is not finite, and where `check_settings` does; with a tokenizer, where `check_tokens` does.
    """
    wanted = dict(model.named_parameters())
    for kind, folder in folders.items():
        rename, parts = KINDS[kind]
        check_settings(model, kind, Path(folder))
        if tokenizer is not None:
            check_tokens(tokenizer, kind, Path(folder))
        head: Tensor | None = None
        missing = {name for name in wanted if name.partition(".")[0] in parts}
        for theirs, their_weight in _weights(Path(folder)):
            for name, weight in rename(theirs, their_weight):
                if not weight.isfinite().all():
                    raise UserError(f"{folder}: {theirs} holds numbers that are not finite; choose other weights")
                if name == HEAD and name not in wanted:
                    head = weight  # of a tied shape
                    continue
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
        if head is not None and not torch.equal(head.to(wanted[EMBEDDINGS]), wanted[EMBEDDINGS]):
            raise UserError(f"{folder}: has an lm_head of its own, and the shape shares the embeddings with it; "
                            "set language.tied = false in the shape")  # fmt: skip


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

"""A small corpus of captions, conversations and pairs, and recipes that train on it."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from support.releases import captions, drawn, publish, small_tokenizer
from support.small_models import TINY

from training.recipe import Recipe

SHAPE = replace(TINY, language=replace(TINY.language, context=1024))
SFT = {"name": "sft", "sets": {"captions": 1.0}, "steps": 4, "batch": 2, "micro": 1, "length": 128, "rate": 1e-3,
       "precision": "float32"}  # fmt: skip
DPO = {**SFT, "name": "dpo", "sets": {"pairs": 1.0}, "beta": 0.1, "rate": 1e-2}


def pair(number: int, chosen: str, rejected: str) -> tuple[str, dict[str, bytes]]:
    words = {"question": "What is there?", "chosen": chosen, "rejected": rejected}
    return f"{number:016x}-pair", {"png": drawn(2), "json": json.dumps({"pair": words}).encode()}


def talk(number: int) -> tuple[str, dict[str, bytes]]:
    """A conversation about two images, the first of which is cut into slices."""
    turns = [
        {"role": "user", "content": "<image_00>\n<image_01>\nWhich is larger, <b>left</b> or right?"},
        {"role": "assistant", "content": f"The first & {number}."},
    ]
    said = {"conversation": {"turns": turns, "images": ["<image_00>", "<image_01>"]}}
    return f"{number:016x}-conversation", {
        "0.png": drawn(7), "1.png": drawn(0), "json": json.dumps(said).encode(),
    }  # fmt: skip


def make(folder: Path) -> Path:
    """The corpus, a tokenizer and a shape."""
    small_tokenizer(folder / "tokenizer", ["a picture of something", "another text"])
    (folder / "shape.json").write_text(json.dumps(SHAPE.as_dict()))
    root = folder / "corpus"
    publish(root, "captions", captions(16), 8)
    publish(root, "others", ((f"{900 + n:016x}-caption", members) for n, (_, members) in enumerate(captions(9))), 4)
    publish(root, "talks", map(talk, range(6)), 4)
    publish(root, "pairs", (pair(n, f"A star {n}.", "Two circles.") for n in range(6)), 4)
    publish(root, "other-pairs", (pair(50 + n, f"A moon {n}.", "Two squares.") for n in range(5)), 4)
    return folder


SETS = ("captions", "others", "talks", "pairs", "other-pairs")


def recipe(folder: Path, *stages: dict, sets: Iterable[str] = SETS, **more) -> Recipe:
    return Recipe.model_validate({
        "shape": str(folder / "shape.json"), "tokenizer": str(folder / "tokenizer"),
        "data": {name: {"root": str(folder / "corpus"), "set": name} for name in sets}, "stages": stages or (SFT,),
        **more,
    })  # fmt: skip


def toml(folder: Path, *stages: dict) -> Path:
    """The same as a file."""
    lines = ['shape = "shape.json"', 'tokenizer = "tokenizer"']
    lines += [f'[data.{name}]\nroot = "corpus"\nset = "{name}"' for name in SETS]
    for stage in stages or (SFT,):
        lines += ["[[stages]]", *(f"{key} = {_toml(value)}" for key, value in stage.items())]
    path = folder / "recipe.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{key}" = {_toml(inner)}' for key, inner in value.items()) + " }"
    return json.dumps(value)

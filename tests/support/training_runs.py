"""Recipes for small training runs, and what a run leaves."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from support.small_models import TINY

from training.begin import start
from training.probe import QUERIES
from training.recipe import Recipe
from training.train import World

SHAPE = replace(TINY, queries=QUERIES, language=replace(TINY.language, context=1024))


def recipe_of(folder: Path, *stages: dict, **more) -> Recipe:
    """Stages with what they need besides what is given."""
    usual = {"sets": {"lessons": 1.0}, "steps": 2, "batch": 2, "micro": 2, "length": 768, "rate": 1e-3}
    made = [{"name": f"stage{n}", "precision": "float32", **usual, **stage} for n, stage in enumerate(stages)]
    data = {name: {"root": str(folder / "corpus"), "set": name} for name in ("lessons", "pairs")}
    return Recipe.model_validate({
        "shape": str(folder / "shape.json"), "tokenizer": str(folder / "tokenizer"), "data": data, "stages": made,
        **more,
    })  # fmt: skip


def weights(run: Path) -> dict[str, torch.Tensor]:
    (one,) = (path for path in run.iterdir() if (path / "model.safetensors").exists())
    return load_file(one / "model.safetensors")


def files(run: Path) -> dict[str, bytes]:
    """All of the last checkpoint."""
    (one,) = (path for path in run.iterdir() if (path / "model.safetensors").exists())
    return {path.name: path.read_bytes() for path in one.iterdir()}


def plain_weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    from training.tokenizer import Tokenizer

    torch.manual_seed(recipe.seed)
    model, _ = start(recipe, Tokenizer(recipe.tokenizer), World().device)
    return {name: one.detach().clone() for name, one in model.named_parameters()}


PREFERENCE = {"name": "dpo", "sets": {"pairs": 1.0}, "beta": 0.1, "steps": 4, "batch": 3, "micro": 3}


def program(module, monkeypatch, capsys, *words) -> tuple[int, str, str]:
    """The exit code of a program and what it said."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    code = 0
    try:
        module.main()
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    return code, said.out, said.err

"""A training run in one TOML file: the model's shape, the shard sets, and stages, each a small table for the one loop.

shape = "pico"                      # or the path of a shape.json
tokenizer = "tokenizer"             # a folder with tokenizer.json

[start]                             # if not from fresh weights; or vision, language: public ones, as downloaded
checkpoint = "pico"

[data.lessons]                      # a published shard set; stages mix them by name
root = "corpus"
set = "lessons"

[[stages]]
name = "sft"
sets = { lessons = 1.0 }
steps = 1000
rate = 1e-3
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from schemas.checked import read_toml
from schemas.config.file import INSTEAD, first_of, unknown
from schemas.config.table import Location, Table
from schemas.errors import UserError, cannot_read, not_toml
from training.sample_text import CAPTIONS
from training.shapes import SHAPES, Shape, read_shape

Part = Literal["vision", "resampler", "language"]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Weight = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
LossWeight = Annotated[float, Field(strict=True, ge=0, le=1e10)]  # with more, the norm of a gradient is beyond float32
Beta = Annotated[float, Field(strict=True, gt=0, le=1e10)]
Momentum = Annotated[float, Field(strict=True, ge=0, lt=1)]


Whole = Annotated[int, Field(strict=True, gt=0)]  # neither true nor "3"


class Data(Table):
    root: Location
    set: str  # its name, or one release of it


class Start(Table):
    """Weights to begin with, each a folder with safetensors; weights that none of them has begin fresh."""

    checkpoint: Location | None = None  # of this trainer, of the recipe's shape and tokenizer
    vision: Location | None = None  # SigLIP's, as it is downloaded
    language: Location | None = None  # Llama's
    whole: Location | None = None  # MiniCPM-Llama3-V 2.5's


class HeldOut(Table):
    """A set whose loss is measured as a stage goes on; nothing is learned from it."""

    set: str  # name in [data]
    every: Whole = 100  # steps; it is also measured before the first and after the last
    packs: Whole = 32  # of the set, at most, drawn by the seed; pairs in a stage with beta


class TrainingStage(Table):
    """What is learned from what, how fast, and how long: for a number of steps, or of epochs."""

    name: Name
    sets: dict[str, Weight] = Field(min_length=1)  # name in [data] -> passes through it per epoch
    steps: Whole | None = None
    epochs: Weight | None = None  # passes through all its sets, by their weights
    held_out: HeldOut | None = None
    trains: tuple[Part, ...] = Field(default=("vision", "resampler", "language"), min_length=1)
    answers: LossWeight = 1.0  # weight of the loss of answers; at 0 the language model is not run
    truth: LossWeight = 0.0  # weight of the probe's loss, see `training.probe`
    beta: Beta | None = None  # of DPO; its sets hold pairs

    plan: Literal["llama.cpp", "openbmb"] = "llama.cpp"
    side: Whole | None = None  # pixels of an image that is not sliced; the shape's if not given
    length: Annotated[Whole, Field(le=1 << 20)] = 2048  # tokens of a pack
    batch: Whole = 8  # packs a step, on all ranks together
    micro: Whole = 8  # packs at once, on each rank

    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for the matrices of hidden layers, adamw for the rest
    rate: float = Field(strict=True, gt=0, le=1e30)  # learning rate, at its highest
    schedule: Literal["cosine", "warmup_stable_decay"] = "cosine"
    warm_up: Share = 0.01  # of the steps
    decay: Share = 0.2  # of the steps, at the end of warmup_stable_decay
    weight_decay: Amount = 0.0
    betas: tuple[Momentum, Momentum] = (0.9, 0.95)
    clip: float = Field(default=1.0, strict=True, gt=0)  # norm of the gradient
    precision: Literal["bfloat16", "float32"] = "bfloat16"  # of products; weights are float32 in any case

    @field_validator("trains")
    @classmethod
    def _once(cls, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        return tuple(dict.fromkeys(parts))

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            both = "has both steps and epochs; give one of them"
            neither = "has no end; write steps or epochs"
            raise PydanticCustomError("length", neither if self.steps is None else both)
        return self

    def rate_at(self, step: float, steps: int | None = None) -> float:
        """The learning rate of a step, counted from 0, of `steps` in all: the stage's own, unless it counts epochs.

        Cosine to 0; or MiniCPM's (arXiv 2404.06395), linear to 0.
        """
        steps = steps or self.steps or 1
        warm_up = round(self.warm_up * steps)
        if step < warm_up:
            return self.rate * (step + 1) / (warm_up + 1)
        if self.schedule == "cosine":
            return self.rate * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2
        return self.rate * min(1.0, (steps - step) / max(1.0, self.decay * steps))


class Recipe(Table):
    shape: Location
    tokenizer: Location
    data: dict[Name, Data] = Field(min_length=1)
    stages: tuple[TrainingStage, ...] = Field(min_length=1)
    instructions: dict[str, str] = {}  # task -> the user's text in its samples
    start: Start = Start()
    seed: int = Field(default=0, strict=True, ge=-(1 << 63), lt=1 << 64)  # what torch takes

    def model_shape(self) -> Shape:
        return SHAPES[self.shape] if self.shape in SHAPES else read_shape(self.shape)


TABLES = {"data": Data, "start": Start, "stages": TrainingStage, "held_out": HeldOut}  # all but the recipe itself


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a TOML file; its paths are relative to the file's folder. Raises `UserError` with one line."""
    path = Path(path)
    try:
        recipe = checked(read_toml(path), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(cannot_read(path, error)) from None
    except ValueError as error:
        raise UserError(not_toml(path, error)) from None
    here = path.resolve().parent
    named = recipe.start.model_dump(exclude_none=True)
    start = recipe.start.model_copy(update={name: _beside(here, part) for name, part in named.items()})
    data = {name: part.model_copy(update={"root": _beside(here, part.root)}) for name, part in recipe.data.items()}
    shape = recipe.shape if recipe.shape in SHAPES else _beside(here, recipe.shape)
    tokenizer = _beside(here, recipe.tokenizer)
    return recipe.model_copy(update={"data": data, "shape": shape, "tokenizer": tokenizer, "start": start})


def checked(given: dict[str, Any], path: str) -> Recipe:
    """A recipe as its file gives it, its paths as they stand. Raises `UserError`, which names the file `path`."""
    if given.keys() & {"root", "source"} and not given.keys() & {"shape", "stages"}:
        raise UserError(f"{path}: is a configuration of a corpus; name a recipe of training, with [[stages]]")
    try:
        recipe = Recipe.model_validate(given)
    except ValidationError as error:
        raise UserError(f"{path}: {_one_line(error)}") from None
    names = [stage.name for stage in recipe.stages]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path}: stages: two are called {twice[0]}; give each its own name")
    if unknown := sorted(recipe.instructions.keys() - {*CAPTIONS}):
        raise UserError(
            f"{path}: instructions.{unknown[0]}: no task of this name takes one; choose from {', '.join(CAPTIONS)}"
        )
    for stage in recipe.stages:
        if unknown := sorted(stage.sets.keys() - recipe.data):
            raise UserError(f"{path}: stages.{stage.name}.sets: no data {unknown[0]}; add [data.{unknown[0]}]")
        if stage.held_out and stage.held_out.set not in recipe.data:
            missing = stage.held_out.set
            raise UserError(f"{path}: stages.{stage.name}.held_out.set: no data {missing}; add [data.{missing}]")
        if not (stage.answers or stage.truth):
            raise UserError(f"{path}: stages.{stage.name}: learns nothing; give answers or truth a weight above 0")
        if stage.beta and (stage.truth or not stage.answers):
            raise UserError(f"{path}: stages.{stage.name}: beta is for answers alone; give truth its own stage")
    named = recipe.start.model_dump(exclude_none=True)
    if len(named) > 1 and {"checkpoint", "whole"} & named.keys():
        raise UserError(f"{path}: start: {' and '.join(named)}: either would overwrite the other; name one")
    return recipe


def _one_line(error: ValidationError) -> str:
    """The first of pydantic's errors, in one line."""
    first = first_of(error)
    loc = first["loc"]
    where, told = ".".join(map(str, loc)), first["msg"][0].lower() + first["msg"][1:]
    if first["type"] == "extra_forbidden":
        table = next((TABLES[part] for part in reversed(loc[:-1]) if part in TABLES), Recipe)
        return f"{where}: {unknown(str(loc[-1]), table.model_fields)}"
    if first["type"] == "missing":
        return f"{where}: missing; add it"
    if first["type"] in INSTEAD:
        return f"{where}: {INSTEAD[first['type']]}, not {str(first['input'])[:80]!r}"
    return f"{where}: {told}"


def _beside(here: Path, path: str) -> str:
    return path if "://" in path else str(here / Path(path).expanduser())

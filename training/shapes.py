"""The sizes of a model, and llama.cpp's limits on them: a shape that it could not run is never trained.

    shape = SHAPES["pico"]
    shape = read_shape("checkpoint/shape.json")

The limits are those of MiniCPM-V in GGUF; a model that breaks one would fail there silently, or end the process.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from schemas.errors import UserError

HEAD = 128  # channels of a head of the resampler: fixed in llama.cpp
BUCKETS = 70  # positions per side into which llama.cpp sorts patches
MOST, MOST_LAYERS = 1 << 24, 1 << 10  # that a size may be: far beyond any real model
BLOCK = 256  # weights that K-quants store in one block
SHAPE = "shape.json"  # in a checkpoint


@dataclass(frozen=True)
class Vision:
    """A vision transformer like SigLIP's."""

    width: int  # channels
    feed_forward: int  # channels
    layers: int
    heads: int
    positions: int = BUCKETS  # per side of the position table; repeated to give 70
    side: int = 448  # pixels of an image that is not sliced
    patch: int = 14  # pixels


@dataclass(frozen=True)
class Language:
    """A causal transformer like Llama's."""

    width: int  # channels
    feed_forward: int  # channels
    layers: int
    heads: int
    key_heads: int
    vocab: int  # tokens
    context: int = 2048  # tokens
    theta: float = 10_000.0  # base of the rotary positions
    epsilon: float = 1e-5  # of its norms
    tied: bool = True  # whether the output layer shares the weights of the token embeddings


@dataclass(frozen=True)
class Shape:
    """A model; the resampler has the language model's width. Raises `ValueError` if llama.cpp could not run it."""

    vision: Vision
    language: Language
    queries: int = 64  # embeddings a view
    epsilon: float = 1e-6  # of the norms of vision and resampler; llama.cpp has one value for both

    def __post_init__(self):
        vision, language = self.vision, self.language
        for name, value, whole in _numbers(self):
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ValueError(f"{name}: {str(value)[:40]!r} is not a number")
            if not value > 0:
                raise ValueError(f"{name}: {value} is not above 0")
            most = math.inf if not whole else MOST_LAYERS if name.endswith("layers") else MOST
            if value > most or value == math.inf:
                raise ValueError(f"{name}: is above {most}")
            if whole and not isinstance(value, int):
                raise ValueError(f"{name}: {value} is not a whole number")
        if vision.side > BUCKETS * vision.patch:
            raise ValueError(f"vision.side: {vision.side} pixels are more than {BUCKETS} patches")
        for name, value, divisor, why in (
            ("vision.width", vision.width, vision.heads, "each head has as many channels"),
            ("vision.width", vision.width, 4, "positions are sines and cosines of two axes"),
            ("vision.side", vision.side, vision.patch, "an image is cut into whole patches"),
            ("language.width", language.width, HEAD, "a head of llama.cpp's resampler has 128 channels"),
            ("language.width", language.width, BLOCK, "K-quants store blocks of 256 weights"),
            ("language.feed_forward", language.feed_forward, BLOCK, "K-quants store blocks of 256 weights"),
            ("language.width", language.width, 2 * language.heads, "rotary positions turn pairs of a head's channels"),
            ("language.heads", language.heads, language.key_heads, "as many heads share each head of keys"),
        ):
            if value % divisor:
                raise ValueError(f"{name}: {value} is not a multiple of {divisor}; {why}")
        if vision.width == vision.feed_forward:
            raise ValueError(f"vision.feed_forward: {vision.width} as the width; llama.cpp then swaps the two layers")
        if BUCKETS % vision.positions:
            raise ValueError(
                f"vision.positions: {vision.positions}; only divisors of 70 stretch to llama.cpp's 70 x 70"
            )

    def least_weights(self) -> int:
        """Weights that such a model has at least."""
        vision, language = self.vision, self.language
        layers = 3 * language.layers * language.width * language.feed_forward
        layers += 2 * vision.layers * vision.width * vision.feed_forward
        return layers + language.width * (language.vocab + self.queries) + vision.width * vision.positions**2

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _numbers(shape: Shape) -> list[tuple[str, Any, bool]]:
    """(name, value, whether it must be whole) of each size."""
    tables = [("vision.", shape.vision), ("language.", shape.language), ("", shape)]
    return [
        (where + field.name, getattr(table, field.name), field.type in (int, "int"))
        for where, table in tables
        for field in fields(table)
        if field.type in (int, float, "int", "float")
    ]


PICO = Shape(
    Vision(width=192, feed_forward=768, layers=4, heads=3, positions=35, side=126),
    Language(width=256, feed_forward=512, layers=3, heads=4, key_heads=4, vocab=640, context=1024),
    queries=40,
)
MINI = Shape(
    Vision(width=768, feed_forward=3072, layers=12, heads=12),
    Language(width=1024, feed_forward=2816, layers=24, heads=16, key_heads=8, vocab=16_384, context=4096),
)
MINICPM_LLAMA3_V_2_5 = Shape(
    Vision(width=1152, feed_forward=4304, layers=27, heads=16),
    Language(
        width=4096, feed_forward=14_336, layers=32, heads=32, key_heads=8, vocab=128_256, context=8192,
        theta=500_000.0, tied=False,
    ),
    queries=96,
)  # fmt: skip
SHAPES: Mapping[str, Shape] = {"pico": PICO, "mini": MINI, "minicpm-llama3-v-2_5": MINICPM_LLAMA3_V_2_5}


def shape_of(values: Mapping[str, Any]) -> Shape:
    """A shape from tables `vision` and `language` and other values. Raises `ValueError` if they make no shape."""
    values = dict(values)
    for name, kind in (("vision", Vision), ("language", Language)):
        table = values.get(name)
        if not isinstance(table, Mapping):
            raise ValueError(f"{name}: missing; add a table of its sizes")
        values[name] = _made(kind, table, f"{name}.")
    return _made(Shape, values, "")


def read_shape(path: str | Path) -> Shape:
    """The shape in a JSON file. Raises `UserError` with one line that names the file, the field and the limit."""
    try:
        return shape_of(json.loads(Path(path).read_text("utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: {error}") from None


def read_checkpoint_shape(folder: Path) -> Shape:
    """The shape of a checkpoint. Raises `UserError`, also if the folder is not a checkpoint."""
    if not (folder / SHAPE).is_file():
        raise UserError(
            f"{folder}: is not a checkpoint, {SHAPE} is missing; name a folder that `python -m training.checkpoint RUN "
            "OUT` wrote of a run of training.train, or a step's folder in RUN"
        )
    return read_shape(folder / SHAPE)


def _made(kind: type, values: Mapping[str, Any], where: str) -> Any:
    known = {field.name: field for field in fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"{where}{unknown[0]}: unknown; choose from {', '.join(known)}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where.rstrip('.') or 'shape'}: {str(error).partition(') ')[2] or error}") from None


def difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """A text about the first value in which two shapes, as dictionaries, differ."""
    before, after = _flat(was), _flat(now)
    keys = [key for key in before if before[key] != after.get(key)]
    return f"{keys[0]}: was {before[keys[0]]}, is now {after.get(keys[0])}" if keys else None


def _flat(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{where}{key}.") if isinstance(value, Mapping) else {f"{where}{key}": value}
    return flat


def uncut(name: str) -> str:
    """The option of `shardmill export` that stores a weight in float32."""
    return "--quant F32" if name.startswith("language.") else "--mmproj f32"

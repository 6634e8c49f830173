"""Shapes: what llama.cpp could not run is refused when it is read, with the reason in one line."""

import json
from copy import deepcopy

import pytest
import torch
from support.small_models import TINY

from schemas.errors import UserError
from training.model import VisionLanguageModel
from training.shapes import SHAPES, read_shape, shape_of


def changed(**values) -> dict:
    """The tiny shape with some values changed, by their dotted names."""
    table = deepcopy(TINY.as_dict())
    for name, value in values.items():
        part, _, field = name.rpartition("__")
        (table[part] if part else table)[field] = value
    return table


@pytest.mark.parametrize(
    "values, said",
    [
        ({"language__width": 192}, "language.width: 192 is not a multiple of 128"),
        ({"language__width": 384}, "language.width: 384 is not a multiple of 256; K-quants"),
        ({"language__feed_forward": 1000}, "language.feed_forward: 1000 is not a multiple of 256; K-quants"),
        ({"vision__feed_forward": 32}, "vision.feed_forward: 32 as the width"),
        ({"vision__positions": 16}, "vision.positions: 16; only divisors of 70"),
        ({"vision__side": 60}, "vision.side: 60 is not a multiple of 14"),
        ({"vision__heads": 3}, "vision.width: 32 is not a multiple of 3"),
        ({"language__heads": 6}, "language.width: 256 is not a multiple of 12"),
        ({"language__key_heads": 3}, "language.heads: 4 is not a multiple of 3"),
        ({"queries": 0}, "queries: 0 is not above 0"),
        ({"vision__layers": -1}, "vision.layers: -1 is not above 0"),
        ({"vision__depth": 2}, "vision.depth: unknown; choose from width"),
        ({"vision": 7}, "vision: missing"),
    ],
)
def test_a_shape_that_breaks_a_limit_is_refused_in_one_line(tmp_path, values, said):
    path = tmp_path / "shape.json"
    path.write_text(json.dumps(changed(**values)))
    with pytest.raises(UserError) as refused:
        read_shape(path)
    assert str(refused.value).startswith(f"{path}: {said}")
    assert "\n" not in str(refused.value)


def test_patches_may_have_any_size(tmp_path):
    (tmp_path / "shape.json").write_text(json.dumps(changed(vision__patch=16, vision__side=64)))
    assert read_shape(tmp_path / "shape.json").vision.patch == 16


def test_a_shape_without_a_size_or_file_is_refused(tmp_path):
    table = TINY.as_dict()
    del table["language"]["vocab"]
    (tmp_path / "shape.json").write_text(json.dumps(table))
    with pytest.raises(UserError, match=r"language: .*'vocab'"):
        read_shape(tmp_path / "shape.json")
    with pytest.raises(UserError, match=r"none\.json: "):
        read_shape(tmp_path / "none.json")


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_read_back_as_it_was_written(name, tmp_path):
    (tmp_path / "shape.json").write_text(json.dumps(SHAPES[name].as_dict()))
    assert read_shape(tmp_path / "shape.json") == SHAPES[name]
    assert shape_of(SHAPES[name].as_dict()) == SHAPES[name]


def parameters(name: str) -> dict[str, int]:
    with torch.device("meta"):
        model = VisionLanguageModel(SHAPES[name])
    parts = ("vision", "resampler", "language")
    return {part: sum(weight.numel() for weight in getattr(model, part).parameters()) for part in parts}


def test_the_large_shape_has_the_parts_of_the_published_model():
    """MiniCPM-Llama3-V 2.5: 8,537,092,336 in all, Llama 3's 8,030,261,248 of them (from its files on Hugging Face)."""
    found = parameters("minicpm-llama3-v-2_5")
    assert found["language"] == 8_030_261_248
    assert found["vision"] == pytest.approx(417_792_240, rel=0.01)
    assert found["resampler"] == pytest.approx(89_038_848, rel=0.01)
    assert sum(found.values()) == pytest.approx(8_537_092_336, rel=1e-6)


def test_the_small_shapes_are_as_large_as_they_are_said_to_be():
    assert 3e6 < sum(parameters("pico").values()) < 8e6  # float16 under 16 MB
    assert 3e8 < sum(parameters("mini").values()) < 5e8

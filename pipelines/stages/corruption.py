"""Corrupts lines of text in a picture, each at a level: a model learns to say what was printed there.

"Unified" learning of OCR and document knowledge, MiniCPM-V 4.5 (arXiv 2509.18154, section 2.2.3). The strengths are
ours; tests/benchmarks/corruption.py measures them. Noise is a hash and arithmetic is of whole numbers, so that a
picture has the same pixels on every machine.
"""

from collections.abc import Sequence
from hashlib import shake_256
from math import isqrt
from typing import NamedTuple

import numpy as np
from PIL import Image

CORRUPTOR = 1  # raised when the same picture and regions give other pixels; it is in the fingerprint of sets
TENTH = 10  # a corner is in tenths of a pixel


class Region(NamedTuple):
    """A line of text that is corrupted."""

    box: tuple[float, ...]  # x, y of four corners, clockwise from the top left, pixels of the upright original
    level: str  # one of `schemas.selection.LEVELS`
    salt: str  # of its noise


def corrupted(picture: Image.Image, regions: Sequence[Region], full: tuple[int, int]) -> Image.Image:
    """A picture (L or RGB) with corrupted regions. `full`: the size in pixels that boxes refer to."""
    pixels = np.array(picture, np.int32).reshape(picture.height, picture.width, -1)
    for region in regions:
        _corrupt(pixels, [_scaled(value, n, full, picture.size) for n, value in enumerate(region.box)], region)
    return Image.fromarray(pixels.astype(np.uint8).reshape(np.asarray(picture).shape))


def _scaled(value: float, place: int, full: tuple[int, int], size: tuple[int, int]) -> int:
    """A coordinate of a box in tenths of a pixel of the picture."""
    return round(value * TENTH) * size[place % 2] // full[place % 2]


def _corrupt(pixels: np.ndarray, box: Sequence[int], region: Region) -> None:
    """Corrupts one region in place. `pixels`: int32 of shape (height, width, channels)."""
    corners = list(zip(box[::2], box[1::2], strict=True))
    sides = [isqrt((ax - bx) ** 2 + (ay - by) ** 2) for (ax, ay), (bx, by) in _edges(corners)]
    height = max(1, min(sides[0] + sides[2], sides[1] + sides[3]) // (2 * TENTH))  # of the line, pixels
    margin = height // 8 + 1  # letters reach over the edge of a box
    left, right = min(box[::2]) // TENTH - margin, max(box[::2]) // TENTH + margin + 1
    top, bottom = min(box[1::2]) // TENTH - margin, max(box[1::2]) // TENTH + margin + 1
    left, top = max(0, left), max(0, top)
    inner = pixels[top : max(top, bottom), left : max(left, right)]
    if inner.size:
        mask = _inside(corners, sides, margin, left, top, inner.shape[:2])
        changed = LEVELS[region.level](inner, height, region.salt)
        inner[mask] = np.clip(changed, 0, 255)[mask]


def _edges(corners):
    return zip(corners, corners[1:] + corners[:1], strict=True)


def _inside(corners, sides, margin: int, left: int, top: int, shape: tuple[int, int]) -> np.ndarray:
    """Which pixels lie in a box or at most `margin` pixels outside: those on the inner side of all four edges."""
    y, x = (TENTH * grid for grid in np.mgrid[top : top + shape[0], left : left + shape[1]].astype(np.int64))
    inside = np.ones(shape, bool)
    for ((ax, ay), (bx, by)), length in zip(_edges(corners), sides, strict=True):
        inside &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= -margin * TENTH * length
    area = abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in _edges(corners))) // (2 * TENTH**2)
    return inside if 2 * inside.sum() > area else np.ones(shape, bool)  # corners in another order: all around them


def _noise(shape: tuple[int, ...], salt: str) -> np.ndarray:
    """Evenly distributed whole numbers from 0 to 255."""
    count = int(np.prod(shape))
    return np.frombuffer(shake_256(salt.encode()).digest(count), np.uint8).astype(np.int32).reshape(shape)


def _grains(shape: tuple[int, ...], cell: int, salt: str) -> np.ndarray:
    """Noise in squares of `cell` pixels."""
    small = _noise((-(-shape[0] // cell), -(-shape[1] // cell), shape[2]), salt)
    return small.repeat(cell, 0).repeat(cell, 1)[: shape[0], : shape[1]]


def _mosaic(pixels: np.ndarray, cell: int) -> np.ndarray:
    """Squares of `cell` pixels, each of its mean colour."""
    height, width, channels = pixels.shape
    padded = np.pad(pixels, ((0, -height % cell), (0, -width % cell), (0, 0)), mode="edge")
    cells = padded.reshape(padded.shape[0] // cell, cell, padded.shape[1] // cell, cell, channels)
    return (cells.sum((1, 3)) // cell**2).repeat(cell, 0).repeat(cell, 1)[:height, :width]


def _low(pixels: np.ndarray, height: int, salt: str) -> np.ndarray:
    """Noise, in which the text can still be read."""
    return pixels + (_grains(pixels.shape, max(1, height // 16), salt) - 128) * 3 // 5


def _moderate(pixels: np.ndarray, height: int, salt: str) -> np.ndarray:
    """Squares of about a quarter of a letter with noise over them: some letters can be told, others are ambiguous."""
    return _mosaic(pixels, max(2, height // 8)) + (_grains(pixels.shape, max(1, height // 12), salt) - 128) * 3 // 5


def _high(pixels: np.ndarray, height: int, salt: str) -> np.ndarray:
    """Black or white, whichever differs more from what is there: nothing is left of the text."""
    return np.full_like(pixels, 0 if pixels.mean() >= 128 else 255)


LEVELS = {"low": _low, "moderate": _moderate, "high": _high}

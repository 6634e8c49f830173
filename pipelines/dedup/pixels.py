"""Compares the pixels of two pictures: whether one is a copy of the other, which may be compressed, scaled, cropped a
little, or have a mark at its edge.

Hashes cannot tell pages of one layout apart that differ in a few words. Here one picture is laid over the other, and
each pixel has to lie among the other's pixels around it. What is within `FRAME` of an edge may be lighter, or darker,
than in the other picture, as under a watermark, but not both, as where one number replaces another. Plain ground must
have the same colour. Integers decide everything, so that every machine gives the same answer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import isqrt
from typing import NamedTuple

import numpy as np
from PIL import Image

from schemas.pictures import open_image, upright

LEAST, SIDE = 192, 448  # pixels of the longer side of what is compared
SMALL = 7  # how many times smaller the coarse picture is
COARSE = 90  # levels of brightness by which a pixel of the coarse pictures may differ
INK = 34  # levels of brightness by which 5 x 5 pixels may differ from what the other picture has there
FRAME_INK = 42  # the same in the frame
FRAME = 12  # hundredths of each side that are frame at either end
FLAT = 8  # levels within which pixels are plain ground
COLOUR = 13  # quarters of a level by which plain ground may differ, in brightness and both colours together
STRETCH, SHIFT = 5, 3  # in 100: how far one picture may be stretched, and its middle moved, over the other
RIGID = 1000  # a picture is stretched and moved by a part in so many less than fits best
RATIO = 4  # in 100: how far the proportions of two pictures may differ
WHOLE = 1 << 16  # a scale of 1, and a shift of one pixel

Move = tuple[int, int]  # scale and shift along one axis, in 65536ths
STILL = ((WHOLE, 0), (WHOLE, 0))


@dataclass(frozen=True)
class Picture:
    """A picture as it is compared. `ycc`: brightness and two colours, uint8 of shape (height, width, 3)."""

    ycc: np.ndarray

    @classmethod
    def read(cls, data: bytes) -> "Picture":
        """Raises what decoders do."""
        return cls.of(upright(open_image(data)).convert("RGB"))

    @classmethod
    def of(cls, image: Image.Image) -> "Picture":
        return cls(np.asarray(_resized(image).convert("YCbCr")))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.ycc.shape[0], self.ycc.shape[1]

    def resized(self, height: int, width: int, filter: Image.Resampling = Image.Resampling.LANCZOS) -> "Picture":
        if self.size == (height, width):
            return self
        return Picture(np.asarray(Image.fromarray(self.ycc, "YCbCr").resize((width, height), filter)))

    def moved(self, down: Move, across: Move, channels: int = 3) -> tuple["Picture", np.ndarray]:
        """The picture scaled and shifted, and which of its pixels exist: bool of shape (height, width). `channels`: how
        many it keeps."""
        (height, width), pixels = self.size, self.ycc[..., :channels].astype(np.int32)
        if (down, across) == STILL:
            return self, np.ones(self.size, bool)
        row, below, tall = _places(np.arange(height) * down[0] + down[1], height)
        column, right, wide = _places(np.arange(width) * across[0] + across[1], width)
        below, right = below.astype(np.int32)[:, None, None], right.astype(np.int32)[:, None]
        pixels = pixels[row] * (256 - below) + pixels[np.minimum(row + 1, height - 1)] * below
        pixels = pixels[:, column] * (256 - right) + pixels[:, np.minimum(column + 1, width - 1)] * right
        return Picture(((pixels + WHOLE // 2) >> 16).astype(np.uint8)), tall[:, None] & wide

    @cached_property
    def coarse(self) -> "Picture":
        height, width = self.size
        return self.resized(-(-height // SMALL), -(-width // SMALL), Image.Resampling.BOX)

    @cached_property
    def sharpness(self) -> int:
        """How much the brightness changes from pixel to pixel: the sum of squares."""
        grey = self.ycc[..., 0].astype(np.int64)
        return sum(int((np.diff(grey, axis=axis) ** 2).sum()) for axis in (0, 1))

    @cached_property
    def around(self) -> "Around":
        return Around.of(self.ycc[..., 0])


class Around(NamedTuple):
    """Pixels, and the least and greatest of the 3 x 3 around each: int16."""

    own: np.ndarray
    least: np.ndarray
    greatest: np.ndarray

    @classmethod
    def of(cls, channel: np.ndarray) -> "Around":
        squares = (_squares(channel, choose).astype(np.int16) for choose in (np.minimum, np.maximum))
        return cls(channel.astype(np.int16), *squares)

    def above(self, other: "Around") -> np.ndarray:
        """How far each pixel is above all around its place in the other picture, or that one's below all here."""
        return np.maximum(np.maximum(self.own - other.greatest, self.least - other.own), 0)


class Difference(NamedTuple):
    """How two pictures differ that are laid over each other."""

    inner: int  # levels of brightness
    frame: int = 0
    colour: int = 0  # quarters of a level, of plain ground

    def is_copy(self) -> bool:
        return self.inner <= INK and self.frame <= FRAME_INK and self.colour <= COLOUR


def is_copy(one: Picture, other: Picture) -> bool:
    """Whether two pictures are copies of each other."""
    return any(difference.is_copy() for difference in differences(one, other))


def differences(one: Picture, other: Picture) -> Iterator[Difference]:
    """How the pictures differ as they are, and when one is moved over the other; nothing if they are too far apart.

    The larger one is moved, or of one size the sharper one, since moving blurs it: whichever is given first."""
    small, large = sorted((one, other), key=lambda picture: (picture.size, picture.sharpness, picture.ycc.tobytes()))
    (height, width), (tall, wide) = small.size, large.size
    if abs(tall * width - wide * height) * 100 > RATIO * max(tall * width, wide * height):
        return
    large = large.resized(height, width)
    if _is_near(large.coarse, small.coarse, STILL):
        yield difference(large, small, STILL)
    moves = _aligned(large.coarse, small.coarse, STILL, 4)
    if _is_far(moves, small.coarse.size) or not _is_near(large.coarse, small.coarse, moves):
        return
    down, across = ((scale, SMALL * shift + (SMALL - 1) * (scale - WHOLE) // 2) for scale, shift in moves)
    moves = _aligned(large, small, (down, across), 3)
    if not _is_far(moves, small.size):
        yield difference(large, small, moves)


def _is_far(moves: tuple[Move, Move], size: tuple[int, int]) -> bool:
    """Whether a picture of this size is stretched or moved too far."""
    return any(
        abs(scale - WHOLE) * 100 > STRETCH * WHOLE
        or abs(2 * shift + (scale - WHOLE) * (length - 1)) * 50 > SHIFT * WHOLE * length
        for (scale, shift), length in zip(moves, size, strict=True)
    )


def _is_near(one: Picture, other: Picture, moves: tuple[Move, Move]) -> bool:
    """Whether no inner pixel of two coarse pictures differs much."""
    one, exists = one.moved(*moves, channels=1)
    apart = np.maximum(one.around.above(other.around), other.around.above(one.around))
    return int((apart * exists)[_inner(*other.size)].max(initial=0)) <= COARSE


def difference(one: Picture, other: Picture, moves: tuple[Move, Move]) -> Difference:
    """How two pictures of one size differ when the first one is moved. The figures after one that decides are 0."""
    moved, exists = one.moved(*moves, channels=1)
    apart = moved.around.above(other.around), other.around.above(moved.around)
    up, down = (_sums(np.where(exists, levels, 0), 2) // 25 for levels in apart)
    inner, in_frame = _inner(*one.size), np.ones(one.size, bool)
    if (most := int(np.maximum(up, down)[inner].max(initial=0))) > INK:
        return Difference(most)
    in_frame[inner] = False
    frame = min(int(levels[in_frame].max(initial=0)) for levels in (up, down))
    if frame > FRAME_INK:
        return Difference(most, frame)
    return Difference(most, frame, _colours_apart(one.moved(*moves)[0].coarse, other.coarse))


def _colours_apart(one: Picture, other: Picture) -> int:
    """The greatest difference of plain ground, which both coarse pictures have in the same places."""
    inner = _inner(*one.size)
    flat = np.ones(one.size, bool)
    for picture in (one, other):
        for channel in range(3):
            around = Around.of(picture.ycc[..., channel])
            flat &= around.greatest - around.least <= FLAT
    flat = flat[inner]
    apart = one.ycc[inner].astype(np.int32) - other.ycc[inner]
    count = _sums(flat.astype(np.int32), 2)
    enough = count >= 9
    sums = np.stack([_sums(np.where(flat, apart[..., channel], 0), 2)[enough] for channel in range(3)])
    return isqrt(int(((4 * np.abs(sums) // count[enough]) ** 2).sum(0).max(initial=0)))


def _inner(height: int, width: int) -> tuple[slice, slice]:
    """All but the frame."""
    down, across = height * FRAME // 100, width * FRAME // 100
    return slice(down, height - down), slice(across, width - across)


def _resized(image: Image.Image) -> Image.Image:
    """The image with a longer side of LEAST to SIDE pixels."""
    longest = max(image.size)
    side = min(max(longest, LEAST), SIDE)
    if longest == side:
        return image
    width, height = (max(1, (2 * length * side + longest) // (2 * longest)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _sums(values: np.ndarray, radius: int) -> np.ndarray:
    """The sum of the values in the square around each."""
    return _squares(np.pad(values, radius), np.add, radius)[radius:-radius, radius:-radius]


def _squares(values: np.ndarray, join: np.ufunc, radius: int = 1) -> np.ndarray:
    """What the values in the square around each are joined to; beyond an edge are the values at the edge."""
    wide = np.pad(values, radius, mode="edge")
    for _ in range(2):
        length, joined = wide.shape[0] - 2 * radius, wide[: -2 * radius]
        for step in range(1, 2 * radius + 1):
            joined = join(joined, wide[step : step + length])
        wide = joined.T
    return wide


# Laying one picture over the other


def _aligned(one: Picture, other: Picture, moves: tuple[Move, Move], times: int) -> tuple[Move, Move]:
    """How the first picture has to be moved, down and across, to lie over the other. `moves`: about so.

    Each time, the scale and shift of both axes that are best by least squares of the brightness, to the first order.
    (Lucas and Kanade, 1981) Plain ground is not moved."""
    y, x = (np.stack([np.ones(length, np.int64), 2 * np.arange(length) - (length - 1)]) for length in other.size)
    for _ in range(times):
        moved, exists = one.moved(*moves, channels=1)
        mine, its = (picture.ycc[..., 0].astype(np.int32) for picture in (moved, other))
        down, across = (slope * _squares(exists, np.minimum) for slope in _slopes(mine + its))
        both, missing = y @ (down * across) @ x.T, its - mine
        sums = np.block([
            [y * (down * down).sum(1) @ y.T, both],
            [both.T, x * (across * across).sum(0) @ x.T],
        ])  # fmt: skip
        down_by, taller, right_by, wider = _solved(
            sums + np.diag(np.diag(sums) // RIGID + 1),
            np.append(y @ (down * missing).sum(1), x @ (across * missing).sum(0)),
        )
        moves = _joined(moves[0], down_by, taller, len(y[0])), _joined(moves[1], right_by, wider, len(x[0]))
        if any(abs(scale - WHOLE) > WHOLE // 2 for scale, _ in moves):  # nothing fits
            break
    return moves


def _slopes(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Twice how much levels rise, down and across; 0 at the edges."""
    down, across = np.zeros_like(levels), np.zeros_like(levels)
    down[1:-1], across[:, 1:-1] = levels[2:] - levels[:-2], levels[:, 2:] - levels[:, :-2]
    return down, across


def _joined(move: Move, shift: Fraction, stretch: Fraction, length: int) -> Move:
    """A move after another one, of which `_aligned` finds a fourth of the shift and an eighth of the stretch."""
    scale, more = round((1 + 8 * stretch) * WHOLE), round((4 * shift - 4 * stretch * (length - 1)) * WHOLE)
    return move[0] * scale // WHOLE, move[0] * more // WHOLE + move[1]


def _solved(matrix: np.ndarray, values: np.ndarray) -> list[Fraction]:
    """The solution of linear equations with integers, positive definite, exactly. (Bareiss, 1968)"""
    rows, before = [[*row, value] for row, value in zip(matrix.tolist(), values.tolist(), strict=True)], 1
    for n, row in enumerate(rows):
        for other in rows:
            if other is not row:
                other[:] = [(row[n] * its - other[n] * mine) // before for mine, its in zip(row, other, strict=True)]
        before = row[n]
    return [Fraction(row[-1], before) for row in rows]


def _places(places: np.ndarray, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of places in 65536ths of a pixel: the pixel before each, how far it is beyond it in 256ths, whether it exists."""
    at = places >> 16
    exists = (at >= 0) & (at < end)
    return np.clip(at, 0, end - 1), np.where(exists, (places >> 8) & 255, 0), exists

"""Compares the pixels of two pictures: whether one is a copy of the other, which may be compressed, scaled, cropped a
little, or have a mark at its edge.

Hashes cannot tell pages of one layout apart that differ in a few words. Here one picture is laid over the other, and
each pixel has to lie among the other's pixels around it. What is within `FRAME` of an edge may be lighter, or darker,
than in the other picture, as under a watermark, but not both, as where one number replaces another. Plain ground must
have the same colour. Integers decide everything, so that every machine gives the same answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from schemas.pictures import open_image, upright

LEAST, SIDE = 192, 448  # pixels of the longer side of what is compared
SMALL = 7  # how many times smaller the coarse picture is
COARSE = 70  # levels of brightness by which a pixel of the coarse pictures may differ
INK = 34  # levels of brightness by which 5 x 5 pixels may differ from what the other picture has there
FRAME_INK = 42  # the same in the frame
FRAME = 12  # hundredths of each side that are frame at either end
FLAT = 8  # levels within which pixels are plain ground
COLOUR = 12  # quarters of a level by which plain ground may differ
STRETCH, SHIFT = 4, 3  # in 100: how far one picture may be stretched and moved over the other
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
    def around(self) -> "Around":
        return Around.of(self.ycc[..., 0])

    @cached_property
    def profiles(self) -> tuple[np.ndarray, np.ndarray]:
        """How much the brightness changes from row to row, and from column to column, smoothed: int64."""
        grey = self.ycc[..., 0].astype(np.int64)
        return _smooth(np.abs(np.diff(grey, axis=0)).sum(1)), _smooth(np.abs(np.diff(grey, axis=1)).sum(0))


class Around(NamedTuple):
    """Pixels, and the least and greatest of the 3 x 3 around each: int16."""

    own: np.ndarray
    least: np.ndarray
    greatest: np.ndarray

    @classmethod
    def of(cls, channel: np.ndarray) -> "Around":
        image = Image.fromarray(np.ascontiguousarray(channel))
        filters = ImageFilter.MinFilter(3), ImageFilter.MaxFilter(3)
        return cls(channel.astype(np.int16), *(np.asarray(image.filter(kind)).astype(np.int16) for kind in filters))

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
    """How the pictures differ as they are, and when one is moved over the other; nothing if they are too far apart."""
    small, large = sorted((one, other), key=lambda picture: picture.size)
    (height, width), (tall, wide) = small.size, large.size
    if abs(tall * width - wide * height) * 100 > RATIO * max(tall * width, wide * height):
        return
    large = large.resized(height, width)
    if _is_near(large.coarse, small.coarse, STILL):
        yield difference(large, small, STILL)
    for joint in (False, True):
        moves = _aligned(large.coarse, small.coarse, STILL, 2, 1, joint)
        if _is_near(large.coarse, small.coarse, moves):
            about = [(scale, SMALL * shift + (SMALL - 1) * (scale - WHOLE) // 2) for scale, shift in moves]
            about = _aligned(large, small, about, 1, 2, joint)
            yield difference(large, small, _aligned(large, small, about, 4, 8, joint))


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
    return int((4 * np.abs(sums) // count[enough]).max(initial=0))


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
    width = 2 * radius + 1
    total = np.pad(values.astype(np.int32), (radius + 1, radius)).cumsum(0).cumsum(1)
    return total[width:, width:] - total[:-width, width:] - total[width:, :-width] + total[:-width, :-width]


# Laying one picture over the other


def _aligned(
    one: Picture, other: Picture, near: Sequence[Move], parts: int, narrow: int, joint: bool
) -> tuple[Move, Move]:  # fmt: skip
    """How the first picture has to be moved, down and across, by the profiles of both. `near`: about so. `parts`,
    `narrow`: how many times finer the steps are than half a hundredth and half a pixel, and how many times narrower the
    range is than the whole. `joint`: by one scale."""
    of_axes = [
        _scores(mine, its, *move, parts, narrow)
        for mine, its, move in zip(one.profiles, other.profiles, near, strict=True)
    ]
    both = of_axes[0][0].max(axis=1) + of_axes[1][0].max(axis=1)
    moves = []
    for scores, scales, shifts in of_axes:
        scale = int((both if joint else scores.max(axis=1)).argmax())
        moves.append((int(scales[scale]), int(shifts[scores[scale].argmax()])))
    return moves[0], moves[1]


def _scores(
    mine: np.ndarray, its: np.ndarray, scale: int, shift: int, parts: int, narrow: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """How well a profile fits another one by each scale and shift, float64 of shape (scales, shifts), and these.

    A large move costs a little, so that plain ground is not moved."""
    length = len(its)
    scales, shifts = _tries(length, parts, narrow)
    scales, shifts = scales + scale, shifts + shift
    cost = (np.abs(scales - WHOLE) * 500 // WHOLE)[:, None] + np.abs(shifts) * 500 // (WHOLE * length)  # in 10,000ths
    at, beyond, _ = _places(np.arange(length) * scales[:, None, None] + shifts[:, None], length)
    moved = (mine[at] * (256 - beyond) + mine[np.minimum(at + 1, length - 1)] * beyond) >> 8
    mean, its_mean = moved.sum(-1), int(its.sum())
    both = length * (moved * its).sum(-1) - mean * its_mean
    spread = (length * (moved * moved).sum(-1) - mean * mean).astype(float)
    its_spread = float(length * int((its * its).sum()) - its_mean * its_mean)
    return both / np.sqrt(np.maximum(spread * its_spread, 1)) - cost / 10_000, scales, shifts


@lru_cache(maxsize=256)
def _tries(length: int, parts: int, narrow: int) -> tuple[np.ndarray, np.ndarray]:
    """Scales and shifts to try, around the middle: int64."""
    scales = np.arange(-2 * STRETCH * parts // narrow, 2 * STRETCH * parts // narrow + 1) * (WHOLE // (200 * parts))
    reach = (2 * SHIFT * length // 100 + 1) * parts // narrow
    shifts = np.arange(-reach, reach + 1) * (WHOLE // 2 // parts)
    return scales, shifts


def _smooth(changes: np.ndarray) -> np.ndarray:
    wide = np.pad(changes, (1, 2))
    return wide[:-2] + 2 * wide[1:-1] + wide[2:]


def _places(places: np.ndarray, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of places in 65536ths of a pixel: the pixel before each, how far it is beyond it in 256ths, whether it exists."""
    at = places >> 16
    exists = (at >= 0) & (at < end)
    return np.clip(at, 0, end - 1), np.where(exists, (places >> 8) & 255, 0), exists

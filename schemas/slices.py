"""How an image is cut into views, and how many tokens they become. This module plans sizes; `training.pixels` cuts.

An image has one overview. A large one also has a refined image, cut into a grid of equal cells. Two ways to plan that:
llama.cpp's, so that what the phone sees is what was trained, and the one of OpenBMB's fine-tuning code. They differ for
most sizes. Both follow the adaptive encoding of MiniCPM-V (arXiv 2408.01800), with these differences:

                    llama.cpp                               OpenBMB
    sliced when     a side is longer than `side`            the area is larger than side x side
    not sliced      stretched to side x side                keeps its shape, at about that area
    refined image   keeps its shape, on black               stretched
    a half patch    is rounded up                           is rounded to even
    real numbers    float32                                 float64
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Size(NamedTuple):
    width: int              # pixels
    height: int             # pixels


NOTHING = Size(0, 0)


@dataclass(frozen=True)
class Plan:
    """The views of an image of one size."""

    image: Size             # for which this is planned
    overview: Size
    columns: int = 0        # of the grid; 0 when the image is not sliced
    rows: int = 0
    cell: Size = NOTHING
    picture: Size = NOTHING     # size of the whole image inside the refined one: centred, the rest is black

    @property
    def refined(self) -> Size:
        return Size(self.columns * self.cell.width, self.rows * self.cell.height)

    @property
    def views(self) -> list[Size]:
        """In the order in which they are encoded: the overview, then the cells row by row."""
        return [self.overview] + self.columns * self.rows * [self.cell]


LLAMA_CPP_CELLS = 9         # it makes at most so many
LLAMA_CPP_SIDE = 65_536     # pixels; it resizes to no longer side


def plan_llama_cpp(width: int, height: int, side: int = 448, patch: int = 14) -> Plan:
    """The views that llama.cpp makes of an image; `side` is the GGUF file's `clip.vision.image_size`.

    An image that is long but small in area, such as 1 x 10,000, is sliced too; its overview is then only rounded to
    patches. Raises `ValueError` for an image so long that llama.cpp refuses it.
    """
    image = _size(width, height)
    if max(image) <= side:
        return Plan(image, Size(side, side))
    plan = _slice(image, side, patch, LLAMA_CPP_CELLS, np.float32, _half_up)
    scale = min(np.float32(a) / np.float32(b) for a, b in zip(plan.refined, image, strict=True))
    sides = zip(image, plan.refined, strict=True)
    picture = Size(*(min(math.ceil(np.float32(length) * scale), most) for length, most in sides))
    if max(plan.overview + picture) > LLAMA_CPP_SIDE:
        raise ValueError(f"llama.cpp does not accept {width} x {height}: its views are over {LLAMA_CPP_SIDE} long")
    return Plan(image, plan.overview, plan.columns, plan.rows, plan.cell, picture)


def plan_openbmb(width: int, height: int, side: int = 448, patch: int = 14, cells: int = 9) -> Plan:
    """The views that OpenBMB's fine-tuning code makes of an image, with at most `cells` cells."""
    image = _size(width, height)
    if width * height <= side * side or cells <= 1:
        return Plan(image, _round(_with_area(image, side, float), patch, _half_even))
    return _slice(image, side, patch, cells, float, _half_even)


PLANS: dict[str, Callable[..., Plan]] = {"llama.cpp": plan_llama_cpp, "openbmb": plan_openbmb}


def visual_tokens(plan: Plan, queries: int) -> int:
    """Number of embeddings that the resampler makes of an image: `queries` per view."""
    return len(plan.views) * queries


def image_tokens(plan: Plan, queries: int) -> int:
    """Tokens that an image takes in a sequence: its embeddings, two marks per view, a line break between rows."""
    return visual_tokens(plan, queries) + 2 * len(plan.views) + max(plan.rows - 1, 0)


# What the two plans share. `real` is the type of real numbers, `nearest` rounds length / unit to an integer.

Real = type[float] | type[np.float32]
Nearest = Callable[[int, int], int]


def _slice(image: Size, side: int, patch: int, most: int, real: Real, nearest: Nearest) -> Plan:
    """The plan of an image that is sliced, into a refined image that is stretched."""
    cells = min(math.ceil(real(image.width) * real(image.height) / real(side * side)), most)
    columns, rows = _grid(image, cells, most, real)
    overview = _with_area(image, side, real) if image.width * image.height > side * side else image
    width, height = _multiple(image.width, columns, nearest), _multiple(image.height, rows, nearest)
    cell = _round(_with_area(Size(width // columns, height // rows), side, real), patch, nearest)
    picture = Size(columns * cell.width, rows * cell.height)
    return Plan(image, _round(overview, patch, nearest), columns, rows, cell, picture)


def _grid(image: Size, cells: int, most: int, real: Real) -> tuple[int, int]:
    """Columns and rows: of the grids of about `cells` cells, the first whose shape is nearest to the image's."""
    shape = float(real(math.log(real(image.width) / real(image.height))))
    return min(_grids(cells, most), key=lambda grid: real(abs(shape - math.log(grid[0] / grid[1]))))


def _grids(cells: int, most: int) -> Iterator[tuple[int, int]]:
    for count in (cells - 1, cells, cells + 1):
        if 1 < count <= most:
            yield from ((columns, count // columns) for columns in range(1, count + 1) if count % columns == 0)


def _with_area(size: Size, side: int, real: Real) -> Size:
    """A size of the same shape with an area of about side x side: its height comes first, its width from that."""
    shape = real(size.width) / real(size.height)
    height = int(real(side) / np.sqrt(shape))
    return Size(int(real(height) * shape), height)


def _round(size: Size, patch: int, nearest: Nearest) -> Size:
    return Size(_multiple(size.width, patch, nearest), _multiple(size.height, patch, nearest))


def _multiple(length: int, unit: int, nearest: Nearest) -> int:
    """The nearest multiple of the unit, and at least one unit."""
    return max(nearest(length, unit), 1) * unit


def _half_up(length: int, unit: int) -> int:
    """Computed in integers: float32 gives the same for every length below 2**23 / unit."""
    return (2 * length + unit) // (2 * unit)


def _half_even(length: int, unit: int) -> int:
    return round(length / unit)


def _size(width: int, height: int) -> Size:
    if width < 1 or height < 1:
        raise ValueError(f"an image of {width} x {height} has no pixels")
    return Size(width, height)

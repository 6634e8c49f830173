"""Reads a picture that is larger than an engine's native side in tiles that overlap, and merges their lines.

Engines scale larger pictures down, so that small print can no longer be read. A line that a tile's edge cuts is taken
from the neighbour that has it whole. One that no tile has whole, because it is longer than the overlap, is joined from
its parts where they say the same. If they do not, the parts have confidence 0: wrong text is never taken for right.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from pipelines.ocr.engines import Engine
from schemas.ocr import OcrLine

OVERLAP = 0.1  # of a tile's side
SHARED = 0.5  # share of the smaller line that two lines have in common if they are one line
TOUCHES = 0.4  # line heights from an edge, at which a line may be cut
JOINT = 3  # characters in a row that two parts of a line must share
AGREED = 0.5  # of the characters where two parts overlap: so many must be the same, in a row
EDGES = ("left", "top", "right", "bottom")

Box = tuple[float, float, float, float]  # left, top, right, bottom


class Part(NamedTuple):
    """A line of a tile, in pixels of the whole picture."""

    line: OcrLine
    box: Box
    cut: frozenset[str]  # edges of its tile, inside the picture, that it touches


def spans(length: int, side: int) -> list[tuple[int, int]]:
    """(start, end) of the tiles along one axis: of at most `side` pixels, the same overlap everywhere."""
    if length <= side:
        return [(0, length)]
    count = -(-(length - int(side * OVERLAP)) // (side - int(side * OVERLAP)))
    starts = [round(n * (length - side) / (count - 1)) for n in range(count)]
    return [(start, start + side) for start in starts]


def tiles(width: int, height: int, side: int) -> int:
    """The number of tiles of a picture of this size in pixels."""
    return len(spans(width, side)) * len(spans(height, side))


def read_in_tiles(engine: Engine, pixels: np.ndarray) -> list[OcrLine]:
    """The lines of an RGB picture, uint8 of shape (height, width, 3), in any order."""
    height, width = pixels.shape[:2]
    rows, columns = spans(height, engine.side), spans(width, engine.side)
    if len(rows) == len(columns) == 1:
        return engine.read(pixels)
    merged: list[Part] = []
    for top, bottom in rows:
        row: list[Part] = []
        for left, right in columns:
            lines = engine.read(np.ascontiguousarray(pixels[top:bottom, left:right]))
            row = joined(row, [_placed(line, (left, top, right, bottom), (width, height)) for line in lines])
        merged = whole(merged, row)
    return [{**part.line, "confidence": 0.0} if part.cut else part.line for part in merged]


def _placed(line: OcrLine, tile: tuple[int, int, int, int], size: tuple[int, int]) -> Part:
    corners = [value + tile[n % 2] for n, value in enumerate(line["box"])]
    box = around(corners)
    reach = TOUCHES * min(box[2] - box[0], box[3] - box[1])
    cut = {name for n, name in enumerate(EDGES) if 0 < tile[n] < size[n % 2] and abs(box[n] - tile[n]) <= reach}
    return Part({**line, "box": corners}, box, frozenset(cut))


def around(corners: Sequence[float]) -> Box:
    """The upright box around four corners."""
    return min(corners[::2]), min(corners[1::2]), max(corners[::2]), max(corners[1::2])


# Tiles above each other


def whole(upper: list[Part], lower: list[Part]) -> list[Part]:
    """The lines of two rows of tiles: each once, from the row that has it whole, or is surer of it."""
    drop_upper, drop_lower = set(), set()
    for (a, one), (b, other) in product(enumerate(upper), enumerate(lower)):
        if _shared(one.box, other.box) > SHARED:
            drop_upper.add(a) if _better(other, one) else drop_lower.add(b)
    return [
        *(part for n, part in enumerate(upper) if n not in drop_upper),
        *(part for n, part in enumerate(lower) if n not in drop_lower),
    ]


def _better(one: Part, other: Part) -> bool:
    return (-len(one.cut), one.line["confidence"]) > (-len(other.cut), other.line["confidence"])


def _shared(one: Box, other: Box) -> float:
    """The share of the smaller box that both have in common."""
    return max(covered(one, other), covered(other, one))


def covered(box: Box, by: Box) -> float:
    """The share of a box that lies in another one."""
    across, down = _common(box[0], box[2], by[0], by[2]), _common(box[1], box[3], by[1], by[3])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return across * down / area if area else 0.0


def _common(start: float, end: float, other_start: float, other_end: float) -> float:
    return max(0.0, min(end, other_end) - max(start, other_start))


# Tiles beside each other


def joined(left: list[Part], right: list[Part]) -> list[Part]:
    """The lines of two tiles of one row. Parts of one line are joined."""
    waiting, done = list(left), []
    for part in sorted(right, key=lambda part: part.box):
        same = [other for other in waiting if _in_one_line(other.box, part.box)]
        for other in same:
            waiting.remove(other)
            if _covers(other.box, part.box) or _covers(part.box, other.box):
                part = other if _better(other, part) else part
            else:
                part = _join(other, part)
        done.append(part)
    return waiting + done


def _in_one_line(left: Box, right: Box) -> bool:
    """Whether two boxes overlap, and share half of their height."""
    height = min(left[3] - left[1], right[3] - right[1])
    return left[2] > right[0] and left[0] < right[2] and _common(left[1], left[3], right[1], right[3]) > height / 2


def _covers(one: Box, other: Box) -> bool:
    """Whether a box has nearly all of another's width."""
    return _common(one[0], one[2], other[0], other[2]) >= 0.9 * (other[2] - other[0])


def _join(left: Part, right: Part) -> Part:
    """One line of two parts, by what both say where they overlap; cut, if they share too little there."""
    one, other = left.line["text"], right.line["text"]
    common = left.box[2] - right.box[0]  # pixels; from them, characters
    shared = round(common * (len(one) + len(other)) / (left.box[2] - left.box[0] + right.box[2] - right.box[0]))
    slack = 3 + shared // 6
    shifts = range(max(0, len(one) - shared - slack), max(0, len(one) - shared + slack) + 1)
    size, end, shift = max((*_run(one[shift:], other), shift) for shift in shifts)
    cut = (left.cut - {"right"}) | (right.cut - {"left"}) | ({"right"} if size < max(JOINT, AGREED * shared) else set())
    text = one[: shift + end] + other[end:]
    confidence = min(left.line["confidence"], right.line["confidence"])
    (x0, y0, *_, x3, y3), (_, _, x1, y1, x2, y2, *_) = left.line["box"], right.line["box"]
    corners = [x0, y0, x1, y1, x2, y2, x3, y3]
    return Part({"text": text, "confidence": confidence, "box": corners}, around(corners), cut)


def _run(one: str, other: str) -> tuple[int, int]:
    """The length and the end of the longest run of characters that two texts have at the same places."""
    runs = [(0, 0)]
    for place, (a, b) in enumerate(zip(one, other, strict=False), 1):
        runs.append((runs[-1][0] + 1, place) if a == b else (0, place))
    return max(runs)

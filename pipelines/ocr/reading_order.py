"""The order in which a person reads the lines of an image: rows, columns, vertical writing, tilted pages.

This is a recursive XY cut (Nagy and Seth, 1984) over the lines' boxes, with three additions: the page is turned upright
first; columns of running text are read column by column, but the cells of a table row by row; and vertical writing is
read from right to left.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import median, median_low
from typing import NamedTuple

from pipelines.text_rules.scripts import scripts_of
from schemas.ocr import OcrLine

GUTTER = 0.75  # line heights; a narrower gap does not separate columns
RUNNING = 5.0  # line heights; a narrower line is a cell of a table, not running text
TALL = 1.5  # height / width


class Box(NamedTuple):
    """Where a line is on the upright page, in pixels."""

    left: float
    top: float
    right: float
    bottom: float
    rim: float  # width of the edge that may overlap with neighbours
    line: OcrLine


Span = tuple[float, float]
Axis = Callable[[Box], Span]  # the extent of a box in one direction


def in_reading_order(lines: Iterable[OcrLine]) -> list[OcrLine]:
    """Lines in reading order, which does not depend on the order in which they are given."""
    lines = sorted(lines, key=lambda line: (line["box"], line["text"], line["confidence"]))
    if not lines:
        return []
    slant, rim = _slant(lines), median(min(_sides(line)) for line in lines) / 4
    return [box.line for box in _ordered([_upright(line, slant, rim) for line in lines])]


def _ordered(boxes: list[Box]) -> list[Box]:
    if len(boxes) < 2:
        return boxes
    along, down = (_y, _leftwards) if _is_vertical(boxes) else (_x, _y)
    strips = _cut(boxes, down)
    if len(strips) == 1:
        parts = _at_widest_gap(boxes, along)
        return _joined(parts) if len(parts) > 1 else _row_by_row(boxes, along, down)
    ordered, gutter = [], GUTTER * median(_length(down(box)) for box in boxes)
    while strips:
        columns, taken = _columns(strips, along, gutter)
        if len(columns) > 1 and all(_is_running(column, along, down) for column in columns):
            ordered += _joined(columns)
        else:
            ordered, taken = ordered + _ordered(strips[0]), 1
        strips = strips[taken:]
    return ordered


def _joined(parts: Iterable[list[Box]]) -> list[Box]:
    return [box for part in parts for box in _ordered(part)]


# Cuts


def _cut(boxes: Sequence[Box], axis: Axis) -> list[list[Box]]:
    """Boxes, in order, divided wherever a straight line across the axis meets none."""
    parts: list[list[Box]] = []
    end = -math.inf
    for box in sorted(boxes, key=lambda box: _core(box, axis)):
        start, stop = _core(box, axis)
        if start >= end:
            parts.append([])
        parts[-1].append(box)
        end = max(end, stop)
    return parts


def _at_widest_gap(boxes: Sequence[Box], axis: Axis) -> list[list[Box]]:
    """Boxes divided at each gap if that leaves every box alone, otherwise at the widest gap only."""
    parts = _cut(boxes, axis)
    if len(parts) in (1, 2, len(boxes)):
        return parts
    ends = [max(_core(box, axis)[1] for box in part) for part in parts]
    widest = max(range(1, len(parts)), key=lambda n: _core(parts[n][0], axis)[0] - max(ends[:n]))
    return [[box for part in half for box in part] for half in (parts[:widest], parts[widest:])]


def _columns(strips: Sequence[list[Box]], along: Axis, gutter: float) -> tuple[list[list[Box]], int]:
    """The columns that the first strips have in common, and the number of these strips."""
    columns: list[tuple[Span, list[Box]]] = []
    for taken, strip in enumerate(strips):
        before = columns
        for box in strip:
            (start, stop), merged, apart = along(box), [box], []
            for (low, high), boxes in columns:
                if low < stop + gutter and start < high + gutter:
                    start, stop, merged = min(low, start), max(high, stop), boxes + merged
                else:
                    apart.append(((low, high), boxes))
            columns = [*apart, ((start, stop), merged)]
        if len(columns) == 1 < len(before):
            return [boxes for _, boxes in sorted(before, key=lambda column: column[0])], taken
    return [boxes for _, boxes in sorted(columns, key=lambda column: column[0])], len(strips)


def _is_running(column: Sequence[Box], along: Axis, down: Axis) -> bool:
    """Whether a column has at least two lines of running text, which are wide and close to each other."""
    rows = _cut(column, down)
    if len(rows) < 2:
        return False
    height = median(_length(down(box)) for box in column)
    widths = [max(along(box)[1] for box in row) - min(along(box)[0] for box in row) for row in rows]
    ends, starts = ([edge(down(box)[n] for box in row) for row in rows] for n, edge in ((1, max), (0, min)))
    gaps = [start - end for end, start in zip(ends, starts[1:], strict=False)]
    return median(widths) >= RUNNING * height and median(gaps) < height


def _row_by_row(boxes: Sequence[Box], along: Axis, down: Axis) -> list[Box]:
    """Boxes that no straight line divides, row by row; boxes that share more than half of their height are one row."""
    left, ordered = sorted(boxes, key=lambda box: sum(down(box))), []
    while left:
        start, stop = down(left[0])
        row = [box for box in left if min(stop, down(box)[1]) - max(start, down(box)[0])
               > 0.5 * min(stop - start, _length(down(box)))] or left[:1]  # fmt: skip
        ordered += sorted(row, key=along)
        left = [box for box in left if not any(box is member for member in row)]
    return ordered


# Places


def _x(box: Box) -> Span:
    return box.left, box.right


def _y(box: Box) -> Span:
    return box.top, box.bottom


def _leftwards(box: Box) -> Span:
    return -box.right, -box.left


def _length(span: Span) -> float:
    return span[1] - span[0]


def _core(box: Box, axis: Axis) -> Span:
    """The extent of a box without its rim: engines draw boxes too wide, and lines of a page are not quite parallel."""
    start, stop = axis(box)
    return start + box.rim, stop - box.rim


def _is_vertical(boxes: Sequence[Box]) -> bool:
    """Whether most of the writing runs from top to bottom, as only in East Asian scripts."""
    tall = wide = 0.0
    for box in boxes:
        width, height = _length(_x(box)), _length(_y(box))
        if height > TALL * width and "EAST_ASIAN" in scripts_of(box.line["text"]):
            tall += height
        else:
            wide += max(width, height)
    return tall > wide


def _edges(line: OcrLine) -> tuple[Span, Span]:
    """The mean vector (x, y) of a line's two edges from left to right, and that of the two from top to bottom."""
    x0, y0, x1, y1, x2, y2, x3, y3 = line["box"]
    return ((x1 + x2 - x0 - x3) / 2, (y1 + y2 - y0 - y3) / 2), ((x2 + x3 - x0 - x1) / 2, (y2 + y3 - y0 - y1) / 2)


def _sides(line: OcrLine) -> tuple[float, float]:
    """Width and height of a line along its own edges, in pixels."""
    across, down = _edges(line)
    return math.hypot(*across), math.hypot(*down)


def _slant(lines: Sequence[OcrLine]) -> float:
    """The clockwise rotation of the page in radians: the median over lines that are clearly longer than high."""
    slants = []
    for line in lines:
        (across, down), (width, height) = _edges(line), _sides(line)
        if width > 2 * height:
            slants.append(math.atan2(across[1], across[0]))
        elif height > 2 * width:
            slants.append(math.atan2(-down[0], down[1]))
    return median_low(slants) if slants else 0.0


def _upright(line: OcrLine, slant: float, rim: float) -> Box:
    """The box of a line once the page is turned back by its slant."""
    cos, sin = math.cos(slant), math.sin(slant)
    corners = list(zip(line["box"][::2], line["box"][1::2], strict=True))
    xs, ys = [x * cos + y * sin for x, y in corners], [y * cos - x * sin for x, y in corners]
    rim = min(rim, (max(xs) - min(xs)) / 4, (max(ys) - min(ys)) / 4)
    return Box(min(xs), min(ys), max(xs), max(ys), rim, line)

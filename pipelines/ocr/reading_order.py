"""The order in which a person reads the lines of an image: rows, columns, vertical writing, a page held askew.

A recursive XY cut (Nagy and Seth, 1984) over the lines' boxes, with three things beside: the page is turned upright
first; lines in columns of running text are read column by column, where the cells of a table are read row by row; and
what is written vertically is read from right to left.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import median, median_low
from typing import NamedTuple

from pipelines.text_rules.scripts import scripts_of
from schemas.ocr import OcrLine

GUTTER = 0.75  # heights of a line: a narrower gap parts no columns
RUNNING = 5.0  # heights of a line: what is narrower is a cell of a table, not a line of running text
TALL = 1.5  # height by width


class Box(NamedTuple):
    """Where a line is on the upright page, pixels."""

    left: float
    top: float
    right: float
    bottom: float
    rim: float  # of it, that may lie over its neighbours
    line: OcrLine


Span = tuple[float, float]
Axis = Callable[[Box], Span]  # from where to where a box reaches


def in_reading_order(lines: Iterable[OcrLine]) -> list[OcrLine]:
    """Lines as they are read; a function of the lines alone, not of the order in which they come."""
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
    """Boxes parted wherever a straight line along an axis meets none, in order."""
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
    """Boxes parted at each gap if that leaves them alone, else at the widest one."""
    parts = _cut(boxes, axis)
    if len(parts) in (1, 2, len(boxes)):
        return parts
    ends = [max(_core(box, axis)[1] for box in part) for part in parts]
    at = max(range(1, len(parts)), key=lambda n: _core(parts[n][0], axis)[0] - max(ends[:n]))
    return [[box for part in some for box in part] for some in (parts[:at], parts[at:])]


def _columns(strips: Sequence[list[Box]], along: Axis, gutter: float) -> tuple[list[list[Box]], int]:
    """The columns that the first strips have in common, as far as they have, and how many strips these are."""
    columns: list[tuple[Span, list[Box]]] = []
    for taken, strip in enumerate(strips):
        before = columns
        for box in strip:
            (start, stop), boxes, others = along(box), [box], []
            for (low, high), those in columns:
                if low < stop + gutter and start < high + gutter:
                    start, stop, boxes = min(low, start), max(high, stop), those + boxes
                else:
                    others.append(((low, high), those))
            columns = [*others, ((start, stop), boxes)]
        if len(columns) == 1 < len(before):
            return [those for _, those in sorted(before, key=lambda column: column[0])], taken
    return [those for _, those in sorted(columns, key=lambda column: column[0])], len(strips)


def _is_running(column: Sequence[Box], along: Axis, down: Axis) -> bool:
    """Whether a column holds at least two lines of running text: wide, and close below each other."""
    rows = _cut(column, down)
    if len(rows) < 2:
        return False
    height = median(_length(down(box)) for box in column)
    widths = [max(along(box)[1] for box in row) - min(along(box)[0] for box in row) for row in rows]
    ends, starts = ([edge(down(box)[n] for box in row) for row in rows] for n, edge in ((1, max), (0, min)))
    gaps = [start - end for end, start in zip(ends, starts[1:])]
    return median(widths) >= RUNNING * height and median(gaps) < height


def _row_by_row(boxes: Sequence[Box], along: Axis, down: Axis) -> list[Box]:
    """Boxes that no straight line parts: by their middles, those that share more than half their height together."""
    left, ordered = sorted(boxes, key=lambda box: sum(down(box))), []
    while left:
        start, stop = down(left[0])
        row = [box for box in left if min(stop, down(box)[1]) - max(start, down(box)[0])
               > 0.5 * min(stop - start, _length(down(box)))] or left[:1]  # fmt: skip
        ordered += sorted(row, key=along)
        left = [box for box in left if not any(box is other for other in row)]
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
    """A box along an axis without its rim: engines draw boxes wide, and lines of one page never lie quite parallel."""
    start, stop = axis(box)
    return start + box.rim, stop - box.rim


def _is_vertical(boxes: Sequence[Box]) -> bool:
    """Whether most of the writing runs from top to bottom, as only East Asian scripts do."""
    tall = wide = 0.0
    for box in boxes:
        width, height = _length(_x(box)), _length(_y(box))
        if height > TALL * width and "EAST_ASIAN" in scripts_of(box.line["text"]):
            tall += height
        else:
            wide += max(width, height)
    return tall > wide


def _edges(line: OcrLine) -> tuple[Span, Span]:
    """The means of a line's two edges from left to right, and of those from top to bottom: (x, y) each."""
    x0, y0, x1, y1, x2, y2, x3, y3 = line["box"]
    return ((x1 + x2 - x0 - x3) / 2, (y1 + y2 - y0 - y3) / 2), ((x2 + x3 - x0 - x1) / 2, (y2 + y3 - y0 - y1) / 2)


def _sides(line: OcrLine) -> tuple[float, float]:
    across, down = _edges(line)
    return math.hypot(*across), math.hypot(*down)


def _slant(lines: Sequence[OcrLine]) -> float:
    """By how much the page is turned clockwise, radians: the median of the lines that are clearly longer than high."""
    slants = []
    for line in lines:
        (across, down), (width, height) = _edges(line), _sides(line)
        if width > 2 * height:
            slants.append(math.atan2(across[1], across[0]))
        elif height > 2 * width:
            slants.append(math.atan2(-down[0], down[1]))
    return median_low(slants) if slants else 0.0


def _upright(line: OcrLine, slant: float, rim: float) -> Box:
    """A line's place once the page is turned back by its slant."""
    cos, sin = math.cos(slant), math.sin(slant)
    corners = list(zip(line["box"][::2], line["box"][1::2]))
    xs, ys = [x * cos + y * sin for x, y in corners], [y * cos - x * sin for x, y in corners]
    rim = min(rim, (max(xs) - min(xs)) / 4, (max(ys) - min(ys)) / 4)
    return Box(min(xs), min(ys), max(xs), max(ys), rim, line)

"""The chart of a run: losses, learning rate, norm of the gradient, and margins of pairs, by step, as one SVG file."""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from math import floor, isfinite, log10
from pathlib import Path
from typing import NamedTuple

from schemas.training import TrainingRow
from training.whole_files import replace

CHART, BEFORE = "chart.svg", "loss.svg"  # the second is its name in runs of version 0.1
WIDTH, LEFT, RIGHT = 960, 64, 24  # pixels
TOP, HEIGHT, GAP, FOOT = 60, 150, 44, 34  # of the first panel, of each, between two, and below the last
TICKS = 5


class Panel(NamedTuple):
    title: str
    series: dict[str, tuple[str, str]]  # column -> its name in the chart, and colour
    logarithmic: bool = False
    least: float | None = None  # of the axis
    most: float | None = None
    say: str = "{:.4g}"


BLUE, ORANGE, GREEN, PURPLE = "#1f6feb", "#c2570c", "#1a7f37", "#8250df"
PANELS = (
    Panel("loss", {
        "loss": ("trained", BLUE), "held_out_loss": ("held out", ORANGE), "truth_loss": ("truth", GREEN),
        "held_out_truth_loss": ("truth, held out", PURPLE),
    }, logarithmic=True),
    Panel("margin of pairs", {"margin": ("trained", BLUE), "held_out_margin": ("held out", ORANGE)}),
    Panel("pairs won", {"won": ("trained", BLUE), "held_out_won": ("held out", ORANGE)}, least=0, most=1, say="{:.0%}"),
    Panel("learning rate", {"rate": ("", BLUE)}, least=0, say="{:.2g}"),
    Panel("norm of the gradient", {"norm": ("", BLUE)}, logarithmic=True, say="{:.3g}"),
)  # fmt: skip


def draw(run: Path, rows: Sequence[TrainingRow]) -> None:
    """Writes the chart of a run."""
    if not rows:
        return
    replace(run / CHART, svg(rows))


def svg(rows: Sequence[TrainingRow]) -> str:
    """A panel for each kind of value that there is, with a vertical line where each stage begins."""
    panels = [panel for panel in PANELS if any(points(rows, column) for column in panel.series)]
    height = TOP + len(panels) * (HEIGHT + GAP) - GAP + FOOT
    steps = max(1, *(row["total"] for row in rows))

    def across(total: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * total / steps

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="11" fill="#57606a">'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, rows, TOP + number * (HEIGHT + GAP), across)
    begun, free = None, [0.0, 0.0]  # where the next name fits into each of two lines
    for row in rows:
        if row["stage"] == begun:
            continue
        begun, x = row["stage"], across(row["total"] - row["step"])
        parts.append(f'<path d="M{x:.1f} {TOP}V{height - FOOT}" stroke="#afb8c1" stroke-dasharray="2 3"/>')
        line = next((line for line in (0, 1) if x >= free[line]), None)
        if line is not None:  # names do not overlap
            parts.append(f'<text x="{x + 4:.1f}" y="{12 + 14 * line}" fill="#24292f">{escape(begun)}</text>')
            free[line] = x + 10 + 6.5 * len(begun)
    for step in ticks(0, steps):
        if step == int(step):
            parts.append(f'<text x="{across(step):.1f}" y="{height - 14}" text-anchor="middle">{int(step):,}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{height - 2}" text-anchor="end">steps</text></svg>')
    return "\n".join(parts)


def _panel(panel: Panel, rows: Sequence[TrainingRow], top: int, across: Callable[[float], float]) -> Iterator[str]:
    lines = {column: points(rows, column) for column in panel.series}
    if panel.logarithmic:
        lines = {column: [(x, y) for x, y in line if y > 0] for column, line in lines.items()}
    values = [y for line in lines.values() for _, y in line]
    if not values:
        return
    least, most = min([*values, *_given(panel.least)]), max([*values, *_given(panel.most)])
    scale = (lambda y: log10(y)) if panel.logarithmic else (lambda y: y)
    low, high = scale(least), scale(most)
    if high - low < 1e-9 * max(1.0, abs(high)):  # a constant is drawn in the middle
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)

    def up(y: float) -> float:
        return top + HEIGHT - HEIGHT * (scale(y) - low) / (high - low)

    yield f'<text x="{LEFT}" y="{top - 8}" font-size="12" font-weight="600" fill="#24292f">{panel.title}</text>'
    marks = decades(10**low, 10**high) if panel.logarithmic else ticks(low, high)
    for value in marks:
        yield f'<path d="M{LEFT} {up(value):.1f}H{WIDTH - RIGHT}" stroke="#eaeef2"/>'
        yield f'<text x="{LEFT - 8}" y="{up(value) + 4:.1f}" text-anchor="end">{panel.say.format(value)}</text>'
    yield f'<path d="M{LEFT} {top + HEIGHT}H{WIDTH - RIGHT}" stroke="#afb8c1"/>'
    x = LEFT + 10 + 7.2 * len(panel.title)
    for column, line in lines.items():
        if not line:
            continue
        name, colour = panel.series[column]
        drawn = " ".join(f"{across(step):.1f},{up(y):.1f}" for step, y in thinned(line))
        yield f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        if len(line) <= 60:
            yield from (
                f'<circle cx="{across(step):.1f}" cy="{up(y):.1f}" r="2.2" fill="{colour}"><title>'
                f"step {step:,}: {panel.say.format(y)}</title></circle>"
                for step, y in line
            )
        label = f"{name} {panel.say.format(line[-1][1])}".strip()
        yield f'<text x="{x:.1f}" y="{top - 8}" fill="{colour}">{label}</text>'
        x += 20 + 6.2 * len(label)


def points(rows: Sequence[TrainingRow], column: str) -> list[tuple[int, float]]:
    """(step of all stages, value) of a column where it has one."""
    found = [(row["total"], row.get(column)) for row in rows if row["step"] or column.startswith("held_out")]
    return [(step, value) for step, value in found if value is not None and isfinite(value)]


def thinned(line: Sequence[tuple[int, float]], most: int = 1600) -> list[tuple[int, float]]:
    """The least and the greatest value of each few points, so that no peak is lost and the file stays small."""
    few = -(-2 * len(line) // most)
    if few <= 2:
        return list(line)
    groups = [line[start : start + few] for start in range(0, len(line), few)]
    value = lambda point: point[1]  # noqa: E731
    return [point for group in groups for point in sorted({min(group, key=value), max(group, key=value)})]


def ticks(low: float, high: float) -> list[float]:
    """At most `TICKS` + 1 round values from `low` to `high`."""
    raw = (high - low) / TICKS
    unit = 10.0 ** floor(log10(raw))
    step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= raw * 0.999)
    first = -floor(-low / step - 1e-9)
    count = floor(high / step + 1e-9) - first
    return [round((first + number) * step, 12) for number in range(count + 1)]


def decades(low: float, high: float) -> list[float]:
    """Round values of a logarithmic axis, as many as are legible."""
    powers = range(floor(log10(low)) - 1, floor(log10(high)) + 1)
    for factors in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1,)):
        marks = [factor * 10.0**power for power in powers for factor in factors]
        marks = [mark for mark in marks if low * 0.999 <= mark <= high * 1.001]
        if len(marks) <= TICKS + 1:
            break
    else:
        marks = marks[:: -(-len(marks) // TICKS)]
    return marks if len(marks) > 1 else [low, high]


def _given(value: float | None) -> list[float]:
    return [] if value is None else [value]

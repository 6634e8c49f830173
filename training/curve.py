"""A run's measurements: `log.parquet` for the catalog, and the plot `loss.svg`."""

import os
from collections.abc import Sequence
from math import log
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.training import TRAINING, TrainingRow

LOG, CURVE = "log.parquet", "loss.svg"
WIDTH, HEIGHT, MARGIN = 960, 360, 48  # pixels
COLOURS = {"loss": "#1f6feb", "truth_loss": "#d29922"}


def read_log(run: Path) -> list[TrainingRow]:
    return pq.read_table(run / LOG).to_pylist() if (run / LOG).exists() else []


def write_log(run: Path, rows: Sequence[TrainingRow]) -> None:
    new = run / f"{LOG}.new"
    pq.write_table(pa.Table.from_pylist(list(rows), TRAINING), new)
    os.replace(new, run / LOG)


def draw(run: Path, rows: Sequence[TrainingRow]) -> None:
    """Draws losses by step on a logarithmic scale, with a vertical line where each stage begins."""
    values = [row[name] for row in rows for name in COLOURS if row[name]]
    if not values:
        return
    least, most, steps = log(min(values)), log(max(values)) + 1e-9, max(row["total"] for row in rows)

    def point(row: TrainingRow, name: str) -> str:
        x = MARGIN + (WIDTH - 2 * MARGIN) * row["total"] / steps
        y = MARGIN + (HEIGHT - 2 * MARGIN) * (most - log(row[name])) / (most - least)
        return f"{x:.1f},{y:.1f}"

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
             f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']  # fmt: skip
    for number, (name, colour) in enumerate(COLOURS.items()):
        line = " ".join(point(row, name) for row in rows if row[name])
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{MARGIN + 90 * number}" y="20" fill="{colour}">{name}</text>')
    before = None
    for row in rows:
        if row["stage"] != before:
            x = MARGIN + (WIDTH - 2 * MARGIN) * (row["total"] - row["step"]) / steps
            parts.append(f'<path d="M{x:.1f} {MARGIN}V{HEIGHT - MARGIN}" stroke="#bbb"/>'
                         f'<text x="{x + 4:.1f}" y="{HEIGHT - MARGIN + 16}">{row["stage"]}</text>')  # fmt: skip
            before = row["stage"]
    for value in (min(values), max(values)):
        y = MARGIN + (HEIGHT - 2 * MARGIN) * (most - log(value)) / (most - least)
        parts.append(f'<text x="4" y="{y:.1f}">{value:.3g}</text>')
    (run / CURVE).write_text("\n".join([*parts, f'<text x="{WIDTH - 90}" y="{HEIGHT - 8}">{steps} steps</text></svg>']))

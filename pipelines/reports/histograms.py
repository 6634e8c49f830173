"""Histograms of the measures of a corpus's samples, with the selected samples in front."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import duckdb

from schemas.arrow import Row

# One pass over the samples; all queries below read the table `measured` of its answers.
MEASURED = """
SELECT reason, host, format, width, height, size, ocr_verdict, ocr_confidence,
       CASE WHEN ocr_verdict IS NOT NULL THEN length(ocr_text) END AS ocr_characters,
       CASE WHEN conversation IS NULL AND part_of IS NULL THEN coalesce(length(text), 0) END AS characters
FROM samples"""

WIDTH, BASE, FEWEST = 300, 70, 12  # a drawing's width, the y on which its bars stand, and its fewest bins
TICKS = 6


@dataclass(frozen=True)
class Scale:
    """How values are assigned to numbered bins."""

    bin: str  # SQL of a value's bin
    begin: Callable[[float], float]  # the value at which a bin begins
    place: Callable[[float], float]  # the position of a value, counted in bins
    ticks: tuple[tuple[float, ...], ...]  # values of ticks, coarser ones first
    say: Callable[[float], str]  # a value as text
    whole: bool = False  # whether each bin is one integer, from 0 on


def number(value: float) -> str:
    """A value in few characters: 0.5, 640, 2,000, 12k, 3.4M."""
    if value < 10_000:
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    size, unit = next((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= s)
    return f"{value / size:.3g}{unit}"


POWERS = tuple(10.0**n for n in range(13))
LOG = Scale(
    bin="floor(10 * log10({x}) + 1e-9)",
    begin=lambda n: 10 ** (n / 10),
    place=lambda v: 10 * math.log10(v),
    ticks=(POWERS[::3], POWERS, tuple(m * v for v in POWERS for m in (1, 2, 5))),
    say=number,
)
RATIO = Scale(
    bin="floor(4 * log2({x}) + 0.5)",
    begin=lambda n: 2 ** ((n - 0.5) / 4),
    place=lambda v: 4 * math.log2(v) + 0.5,
    ticks=((0.1, 1, 10), (0.1, 0.25, 0.5, 1, 2, 4, 10)),
    say=lambda v: f"{v:.3g}:1" if v >= 1 else f"1:{1 / v:.3g}",
)
SHARE = Scale(
    bin="least(floor(20 * {x} + 1e-9), 19)",
    begin=lambda n: n / 20,
    place=lambda v: 20 * v,
    ticks=((0, 0.25, 0.5, 0.75, 1),),
    say="{:.3g}".format,
)

WHOLE = Scale(
    bin="{x}",
    begin=lambda n: n,
    place=lambda v: v + 0.5,
    ticks=(tuple(range(0, 1001, 100)), tuple(range(0, 101, 10)), tuple(range(0, 31, 5)), tuple(range(12))),
    say=number,
    whole=True,
)

# title -> a column of `measured` or an expression, its scale, and what a value of 0 means
MEASURES = {
    "width, pixels": ("width", LOG, ""),
    "height, pixels": ("height", LOG, ""),
    "width to height": ("width / height", RATIO, ""),
    "file size, bytes": ("size", LOG, ""),
    "caption, characters": ("characters", LOG, "without a caption"),
    "text in the image, characters": ("ocr_characters", LOG, "without text"),
    "OCR confidence, mean of an image": ("ocr_confidence", SHARE, ""),
}
COUNTED = {"formats": "format", "verdicts": "ocr_verdict"}


def histograms(connection: duckdb.DuckDBPyConnection) -> list[Row]:
    """A histogram for each measure that has values."""
    charts = [histogram(connection, title, *measure) for title, measure in MEASURES.items()]
    return [chart for chart in charts if chart["bars"] or chart["none"]]


def histogram(
    connection: duckdb.DuckDBPyConnection, title: str, x: str, scale: Scale, none: str, table: str = "measured"
) -> Row:
    """{title, summary, none, bars, ticks} of an expression `x`, drawn WIDTH units wide with its bars on BASE.

    The bars are of all rows of a table; those whose column `reason` is null are drawn in front.
    """
    low = ">= 0" if scale is SHARE or scale.whole else "> 0"
    bins = connection.sql(f"""
        SELECT {scale.bin.format(x=x)}::INTEGER AS bin, count(*), count(*) FILTER (reason IS NULL)
        FROM {table} WHERE {x} {low} GROUP BY bin ORDER BY bin""").fetchall()
    ((zeros, least, middle, most),) = connection.sql(f"""
        SELECT count(*) FILTER ({x} = 0), min({x}), quantile_disc({x}, 0.5), max({x}) FROM {table}""").fetchall()
    chart = {"title": title, "none": f"{zeros:,} {none}" if none and zeros else ""}
    if not bins:
        return chart | {"bars": [], "ticks": [], "summary": ""}
    first, end = (0, 20) if scale is SHARE else widened(bins[0][0], bins[-1][0] + 1)
    step = WIDTH / (end - first)
    front = "selected" if table == "measured" else "in kept pairs"
    return chart | {
        "bars": _bars(bins, scale, first, step, front),
        "ticks": _ticks(scale, first, step),
        "summary": _summary(scale, least, middle, most),
    }


def _bars(bins: list[tuple[int, int, int]], scale: Scale, first: int, step: float, front: str) -> list[Row]:
    """Places, heights and labels of bars, from (bin, rows, rows in front)."""
    tallest, total = max(rows for _, rows, _ in bins), sum(rows for _, rows, _ in bins)
    bars = []
    for bin, rows, kept in bins:
        begin, stop = (scale.say(scale.begin(n)) for n in (bin, bin + 1))
        values = begin if scale.whole else f"{begin} to {stop}"
        high, inner = (round(max(1, n / tallest * (BASE - 4)) if n else 0, 1) for n in (rows, kept))
        bars.append({
            "x": round((bin - first) * step + 0.5, 1), "width": round(step - 1, 1),
            "y": round(BASE - high, 1), "height": high, "kept_y": round(BASE - inner, 1), "kept_height": inner,
            "label": f"{values}: {rows:,} ({rows / total:.1%}), {kept:,} of them {front}",
        })  # fmt: skip
    return bars


def _ticks(scale: Scale, first: int, step: float) -> list[Row]:
    """The finest ticks of a scale of which at most TICKS are in the drawing."""
    ticks: list[Row] = []
    for values in scale.ticks:
        placed = [{"x": round((scale.place(value) - first) * step, 1), "label": scale.say(value)} for value in values]
        inside = [tick for tick in placed if 0 <= tick["x"] <= WIDTH]
        if len(inside) <= TICKS:
            ticks = inside
    return ticks


def _summary(scale: Scale, least: float, middle: float, most: float) -> str:
    if least == most:
        return f"all {scale.say(least)}"
    return f"{scale.say(least)} to {scale.say(most)}, median {scale.say(middle)}"


def widened(first: int, end: int) -> tuple[int, int]:
    """First bin and end of at least `FEWEST` bins around these, so that a single bin does not fill the drawing."""
    more = max(0, FEWEST - (end - first))
    return first - more // 2, end + more - more // 2


def counted(connection: duckdb.DuckDBPyConnection, column: str) -> list[Row]:
    """{value, rows, kept, total} of the values of a column, the most frequent first."""
    counts = connection.sql(f"""
        SELECT {column}, count(*) AS rows, count(*) FILTER (reason IS NULL) FROM measured
        WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY rows DESC, 1 LIMIT 20""").fetchall()
    total = sum(rows for _, rows, _ in counts)
    return [{"value": value, "rows": rows, "kept": kept, "total": total} for value, rows, kept in counts]


def hosts(connection: duckdb.DuckDBPyConnection, most: int = 15) -> list[Row]:
    """{host, rows, kept, main_reason} of the hosts that lost the most rows; the counts of `yield_by_host`."""
    rows = connection.sql(f"""
        SELECT host, count(*) AS rows, count(*) FILTER (reason IS NULL) AS kept
        FROM measured WHERE host IS NOT NULL GROUP BY host HAVING kept < rows
        ORDER BY rows - kept DESC, rows DESC, host LIMIT {most}""").fetchall()
    names = [host for host, _, _ in rows]
    main_reasons: dict[str, str] = {}
    for host, reason in connection.execute("""
            SELECT host, reason FROM measured WHERE host IN (SELECT unnest(?::VARCHAR[])) AND reason IS NOT NULL
            GROUP BY ALL ORDER BY host, count(*) DESC, reason""", [names]).fetchall():  # fmt: skip
        main_reasons.setdefault(host, reason)
    return [
        {"host": host, "rows": count, "kept": kept, "main_reason": main_reasons.get(host)} for host, count, kept in rows
    ]

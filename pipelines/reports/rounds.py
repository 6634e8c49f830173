"""The rounds of an alignment as a table and a chart: what each asked and drew, and what its policy is worth."""

from typing import Any

from pipelines.catalog.catalog import connect, stage_files
from pipelines.engine.alignment import read_alignment
from pipelines.engine.manifest import stages_of
from pipelines.engine.root import Root
from schemas.align import BEST, SHOWN, Alignment, Figures
from schemas.arrow import Row

WIDTH, HEIGHT, LEFT, TOP = 300, 120, 26, 8  # of the chart, and where its drawing begins
COLOURS = ("#c96a2b", "#e0975f", "#f0c39c", "#2f7a74", "#0969da", "#8250df")
STAGES = ("instructions", "responses", "claims", "verdicts", "pairs")

# One row per round: what was asked, and the result.
COUNTS = """
WITH asked AS (SELECT round, count(*) AS instructions FROM instructions WHERE reason IS NULL GROUP BY round),
judged AS (
    SELECT i.round, count(*) AS judged, avg((s.score < 0)::DOUBLE) AS rejected
    FROM scores s JOIN instructions i ON i.partition = s.partition AND i.key = s.instruction
    WHERE s.score IS NOT NULL GROUP BY i.round),
drawn AS (
    SELECT i.round, count(*) AS pairs
    FROM pairs p JOIN instructions i ON i.partition = p.partition AND i.key = p.instruction
    WHERE p.reason IS NULL GROUP BY i.round)
SELECT round, instructions, judged, rejected, pairs
FROM asked LEFT JOIN judged USING (round) LEFT JOIN drawn USING (round) WHERE round IS NOT NULL ORDER BY round"""


def gather(root: Root) -> dict[str, Any] | None:
    """The table and the chart; None where nothing is aligned."""
    alignment = read_alignment(root)
    if not alignment["rounds"] and alignment["start"] is None:
        return None
    columns, lines = table_of(root)
    return {"columns": columns, "lines": lines, "chart": chart(alignment)}


def counts(root: Root) -> dict[int, Row]:
    """round -> what was asked in it."""
    stages = stages_of(root)
    files = stage_files(root, [stages[name] for name in STAGES if name in stages])
    with connect(root, files, stages.values(), [COUNTS]) as connection:
        rows = connection.sql(COUNTS).to_arrow_table().to_pylist()
    return {row["round"]: row for row in rows}


def table_of(root: Root) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: the policy at the start, and that of each round, as far as it is known."""
    alignment, asked = read_alignment(root), counts(root)
    given = [one["figures"] for one in alignment["rounds"]]
    every = [figures["values"] for figures in (alignment["start"], *given) if figures]
    shown = [entry for entry in SHOWN if any(entry[0] in values for values in every)]
    lines = [["start", "", "", "", *_cells(alignment["start"], shown), ""]]
    for number, one in enumerate(alignment["rounds"], 1):
        row = asked.get(number, {})
        rejected = row.get("rejected")
        made = [
            _count(row.get("instructions")),
            "" if rejected is None else f"{rejected:.1%}",
            _count(row.get("pairs")),
        ]
        lines.append([str(number), *made, *_cells(one["figures"], shown), one["outcome"] or "going on"])
    heads = ["round", "instructions", "responses with a rejected claim", "pairs", *(head for _, head, _ in shown)]
    return [*heads, "outcome"], lines


def markdown(columns: list[str], lines: list[list[str]]) -> str:
    """The same as Markdown."""
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _cells(figures: Figures | None, shown: list[tuple[str, str, bool]]) -> list[str]:
    return [_cell(figures, name, share) for name, _, share in shown]


def _cell(figures: Figures | None, name: str, share: bool) -> str:
    """A figure with its interval: `9.0 % (6.6 to 11.4)`."""
    if figures is None or name not in figures["values"]:
        return ""
    times, unit = (100, " %") if share else (1, "")
    between = figures["intervals"].get(name)
    said = f" ({times * between[0]:.1f} to {times * between[1]:.1f})" if between else ""
    return f"{times * figures['values'][name]:.1f}{unit}{said}"


def chart(alignment: Alignment) -> Row:
    """Lines of the shares, the start first: {lines: [{name, colour, points, dots}], marks, rounds, best}."""
    of_round = [alignment["start"], *(one["figures"] for one in alignment["rounds"])]
    step = (WIDTH - LEFT - 10) / max(1, len(of_round) - 1)
    lines = []
    for (name, head, _), colour in zip([entry for entry in SHOWN if entry[2]], COLOURS, strict=True):
        dots = [
            {"x": round(LEFT + 5 + number * step, 1), "y": _up(figures["values"][name]),
             "label": f"{head}: {figures['values'][name]:.1%}", "value": f"{figures['values'][name]:.1%}"}
            for number, figures in enumerate(of_round) if figures and name in figures["values"]
        ]  # fmt: skip
        if dots:
            points = " ".join(f"{dot['x']},{dot['y']}" for dot in dots)
            lines.append({"name": head, "colour": colour, "points": points, "dots": dots})
    best = [n for n, one in enumerate(alignment["rounds"], 1) if one["outcome"] == BEST]
    names = ["start", *(f"{number}{' (best)' if number in best[-1:] else ''}" for number in range(1, len(of_round)))]
    rounds = [{"x": round(LEFT + 5 + n * step, 1), "label": name} for n, name in enumerate(names)]
    marks = [{"y": _up(share), "label": f"{share:.0%}"} for share in (0, 0.25, 0.5, 0.75, 1)]
    return {"lines": lines, "rounds": rounds, "marks": marks}


def _up(share: float) -> float:
    """The height of a share in the drawing."""
    return round(TOP + (HEIGHT - TOP) * (1 - min(1.0, max(0.0, share))), 1)


SECTION = """\
<h2 id="alignment">Alignment</h2>
<p class="soft">figures of the policy after each round, with intervals of 95 %</p>
<div class="wide"><table><tr>
{% for column in rounds.columns %}
<th{{ ' class="r"'|safe if not loop.first and not loop.last }}>{{ column|visible }}</th>
{% endfor %}
</tr>
{% for line in rounds.lines %}
<tr>
{% for cell in line %}
<td{{ ' class="r"'|safe if not loop.first and not loop.last }}>{{ cell|visible }}</td>
{% endfor %}
</tr>
{% endfor %}
</table></div>
{% if rounds.chart.lines %}
<p>
{% for line in rounds.chart.lines %}
<span class="key" style="background:{{ line.colour }}"></span> {{ line.name }} {{ line.dots[-1].value }}
{% endfor %}
</p>
<svg class="chart" viewBox="0 0 300 138" role="img" style="max-width:640px">
{% for mark in rounds.chart.marks %}
<line x1="26" x2="300" y1="{{ mark.y }}" y2="{{ mark.y }}"/>
<text x="12" y="{{ mark.y + 3 }}">{{ mark.label }}</text>
{% endfor %}
{% for line in rounds.chart.lines %}
<polyline points="{{ line.points }}" fill="none" stroke="{{ line.colour }}" stroke-width="1.5"/>
{% for dot in line.dots %}
<circle cx="{{ dot.x }}" cy="{{ dot.y }}" r="2.5" fill="{{ line.colour }}"><title>{{ dot.label }}</title></circle>
{% endfor %}
{% endfor %}
{% for round in rounds.chart.rounds %}
<text x="{{ round.x }}" y="134">{{ round.label }}</text>
{% endfor %}
</svg>
{% endif %}
"""

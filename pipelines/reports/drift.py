"""What moved from the release before to the last one of each shard set: a table, and a chart of each measure that moved
by more than chance."""

from typing import Any

from pipelines.catalog.catalog import connect, ledger_files
from pipelines.engine.root import Root
from schemas.arrow import Row

WIDTH, LINE, NAME = 300, 15, 92  # of a chart, of a value in it, and of the value's name
MOST = 8  # values in a chart

LAST = """
SELECT * FROM drift WHERE (run, "set") IN (SELECT (max(run), "set") FROM drift GROUP BY "set")
ORDER BY "set", distance DESC, measure"""
ASKED = ("set", "measure", "release", "before", "samples", "samples_before")
SHARES = """
WITH recorded AS (
    SELECT release, value, arg_max(samples, run) AS samples FROM distributions
    WHERE "set" = $set AND measure = $measure AND release IN ($release, $before) GROUP BY ALL)
SELECT value, coalesce(sum(samples) FILTER (release = $before), 0) / $samples_before AS before,
       coalesce(sum(samples) FILTER (release = $release), 0) / $samples AS after
FROM recorded GROUP BY value ORDER BY greatest(before, after) DESC, value"""


def gather(root: Root) -> dict[str, Any] | None:
    """{lines, charts}; None where no set has two releases with distributions."""
    of_ledger = ledger_files(root)
    files = {name: of_ledger[name] for name in ("releases", "distributions", "work")}
    with connect(root, files, queries=[LAST, SHARES]) as connection:
        rows = connection.sql(LAST).to_arrow_table().to_pylist()
        charts = []
        for row in rows:
            if row["drifted"]:
                shares = connection.execute(SHARES, {name: row[name] for name in ASKED}).fetchall()
                charts.append(chart(f"{row['set']}: {row['measure']}", shares))
    lines = [[row["set"], row["measure"], f"{row['distance']:.1%}", f"{row['noise']:.1%}", row["value"],
              f"{row['share_before']:.1%}", f"{row['share']:.1%}", "moved" if row["drifted"] else ""]
             for row in rows]  # fmt: skip
    return {"lines": lines, "charts": charts} if lines else None


def chart(title: str, shares: list[tuple[str, float, float]]) -> Row:
    """{title, bars, height} of the shares of values before and after: numbers in their order, others the largest
    first."""
    shown = shares[:MOST]
    if all(value.isdigit() for value, *_ in shown):
        shown.sort(key=lambda share: int(share[0]))
    widest = max((max(before, after) for _, before, after in shown), default=0) or 1
    bars = []
    for number, (value, before, after) in enumerate(shown):
        sizes = [round((WIDTH - NAME - 40) * share / widest, 1) for share in (before, after)]
        bars.append({"value": value, "y": number * LINE, "before": sizes[0], "after": sizes[1],
                     "label": f"{value}: {before:.1%} before, {after:.1%} after", "share": f"{after:.0%}"})  # fmt: skip
    return {"title": title, "bars": bars, "height": len(bars) * LINE + 4}


SECTION = """\
<h2 id="drift">Drift</h2>
<p class="soft">How the samples of each set differ from those of its release before. Distance is the share of samples
whose value would have to change; noise is the distance that chance alone would give.</p>
<div class="wide"><table>
<tr><th>set</th><th>measure</th><th class="r">distance</th><th class="r">noise</th><th>most moved</th>
<th class="r">before</th><th class="r">after</th><th></th></tr>
{% for line in drift.lines %}
<tr>
{% for cell in line %}
<td{{ ' class="r"'|safe if loop.index in (3, 4, 6, 7) }}>{{ cell|visible }}</td>
{% endfor %}
</tr>
{% endfor %}
</table></div>
{% for chart in drift.charts %}
<h3>{{ chart.title|visible }}</h3>
<svg class="chart" viewBox="0 0 300 {{ chart.height }}" role="img" style="max-width:640px">
{% for bar in chart.bars %}
<g><title>{{ bar.label }}</title>
<text x="0" y="{{ bar.y + 11 }}" style="text-anchor:start">{{ bar.value[:18]|visible }}</text>
<rect x="92" y="{{ bar.y + 2 }}" width="{{ bar.before }}" height="5" style="fill:#e0975f"/>
<rect x="92" y="{{ bar.y + 8 }}" width="{{ bar.after }}" height="5" style="fill:#2f7a74"/>
<text x="{{ 96 + (bar.before if bar.before > bar.after else bar.after) }}" y="{{ bar.y + 11 }}"
 style="text-anchor:start">{{ bar.share }}</text></g>
{% endfor %}
</svg>
{% endfor %}
"""

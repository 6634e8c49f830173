"""The section on preferences: from instructions to pairs, distributions, the cost of a pair, and sample pairs."""

from collections.abc import Mapping
from typing import Any

import duckdb

from pipelines.catalog.catalog import connect, files, stage_files
from pipelines.engine.commit import Commit
from pipelines.engine.root import Root
from pipelines.reports.contact_sheet import TEXT, cards, rows_of
from pipelines.reports.histograms import RATIO, WHOLE, histogram
from schemas.arrow import Row
from schemas.pairs import OF_PAIRS
from schemas.stages import Stages
from schemas.views import Files, literal

SHOWN = 12  # pairs

# One row per response, and one per pair that was drawn; all queries below read these tables.
RESPONSES = r"""
CREATE TEMP TABLE answers AS
SELECT partition, key, instruction, score, claims, why_not, regexp_replace(text, '^\s+|\s+$', '', 'g') AS said,
       CASE WHEN said = '' THEN 0 ELSE len(string_split_regex(said, '\s+')) END AS words
FROM scores WHERE why_not IS NULL OR why_not NOT LIKE 'responses: %'"""
MEASURED = """
CREATE TEMP TABLE compared AS
SELECT p.partition, p.key, p.reason, p.margin, c.key AS chosen, r.key AS rejected, r.words / c.words AS longer
FROM pairs p
JOIN answers c ON c.partition = p.partition AND c.key = p.chosen
JOIN answers r ON r.partition = p.partition AND r.key = p.rejected"""
JUDGED = """
CREATE TEMP TABLE judged AS
SELECT partition, key, score, -score AS wrong,
       CASE WHEN key NOT IN (SELECT unnest([chosen, rejected]) FROM compared WHERE reason IS NULL)
            THEN 'in no pair' END AS reason
FROM answers WHERE score IS NOT NULL"""
POSSIBLE = """
SELECT count(*), count(*) FILTER (NOT far), count(*) FILTER (far AND said = other),
       count(DISTINCT [instruction, better, worse]) FILTER (far AND said != other)
FROM (SELECT a.instruction, a.said, b.said AS other, {score} AS apart,
             abs(apart) >= $least - 1e-9 AND apart != 0 AS far,
             CASE WHEN apart > 0 THEN a.said ELSE b.said END AS better,
             CASE WHEN apart > 0 THEN b.said ELSE a.said END AS worse
      FROM answers a
      JOIN answers b ON b.partition = a.partition AND b.instruction = a.instruction AND b.key > a.key
      WHERE a.score IS NOT NULL AND b.score IS NOT NULL)"""
APART = {"count": "a.score - b.score", "share": "a.score / a.claims - b.score / b.claims"}
LENGTHS = """
SELECT count(*) AS pairs, count(*) FILTER (longer > 1) AS shorter, count(*) FILTER (longer < 1) AS longer
FROM compared WHERE reason IS NULL"""
ASKED = """
SELECT count(*) AS claims, count(DISTINCT made_from) AS questions
FROM verdicts WHERE number IS NOT NULL"""
PAIRS = f"""
SELECT partition, key, image, left(question, {TEXT}) AS question, length(question) AS question_characters,
       left(chosen, {TEXT}) AS chosen, length(chosen) AS chosen_characters,
       left(rejected, {TEXT}) AS rejected, length(rejected) AS rejected_characters,
       instruction || '_' || lpad(chosen_draw::VARCHAR, 2, '0') AS chosen_key,
       instruction || '_' || lpad(rejected_draw::VARCHAR, 2, '0') AS rejected_key,
       chosen_score, rejected_score, margin, agreement
FROM preferences WHERE key IN ({{keys}}) ORDER BY md5({{seed}} || key)"""
CLAIMS = f"""
SELECT response, left(claim.claim, {TEXT}) AS claim, length(claim.claim) AS characters, accepted, agree, labelers
FROM (SELECT v.response, v.number, any_value(c.claims[v.number + 1]) AS claim, count(*) AS labelers,
             count(*) FILTER (v.accepted) AS agree, 2 * agree > labelers AS accepted
      FROM verdicts v JOIN claims c ON c.partition = v.partition AND c.key = v.response
      WHERE v.number IS NOT NULL AND v.response IN ({{keys}}) GROUP BY v.response, v.number)
ORDER BY response, number"""
COST = """
SELECT stage, endpoint, calls, failed, tokens_in + tokens_out AS tokens, seconds, calls_a_pair, tokens_a_pair,
       seconds_a_pair
FROM cost WHERE stage IN ('responses', 'claims', 'verdicts')"""


def asked(
    root: Root, table: Stages, commits: Mapping[str, Mapping[int, Commit]], looked: set[int], seed: int, **config: str
) -> dict[str, Any]:
    """The content of the section besides the counts of commits, from the `looked` partitions of all stages."""
    inspected: dict[str, Files | None] = {}
    for stage, stage_commits in commits.items():
        inspected |= stage_files(root, [table[stage]], sorted(looked & stage_commits.keys()))
    with connect(root, inspected, table.values(), (), None, **config) as connection:
        for sql in (RESPONSES, MEASURED, JUDGED):
            connection.execute(sql)
        charts = [
            histogram(connection, "rejected claims of a response", "wrong", WHOLE, "", "judged"),
            histogram(connection, "margin of a pair, claims", "margin", WHOLE, "", "compared"),
            histogram(connection, "rejected to chosen text, words", "longer", RATIO, "", "compared"),
        ]
        settings = next((commit.settings for commit in commits.get("pairs", {}).values()), {})
        section = {
            "steps": [] if settings.get("from_source") else steps(connection, settings),
            "charts": [chart for chart in charts if chart["bars"]],
            "pairs": pick(connection, root, commits.get("images", {}), seed),
            "lengths": rows_of(connection, LENGTHS)[0],
            "asked": rows_of(connection, ASKED)[0],
        }
    all_files = files(root, table)
    asked = {name: all_files[name] for name in ("calls", "pairs") if name in all_files}
    with connect(root, asked, queries=[COST]) as connection:
        return section | {"cost": rows_of(connection, COST)}


def steps(connection: duckdb.DuckDBPyConnection, settings: Mapping[str, Any]) -> list[Row]:
    """From responses to pairs, in the form of `pipelines.reports.report.funnel`. `settings`: those of the pairs."""
    outcomes = connection.sql("SELECT why_not, count(*) FROM answers GROUP BY why_not ORDER BY 2 DESC, 1").fetchall()
    scored = sum(count for reason, count in outcomes if reason is None)
    score = settings.get("score", "count")
    least = settings.get("min_margin", 1) if score == "count" else settings.get("min_share", 0.1)
    possible = connection.execute(POSSIBLE.format(score=APART[score]), {"least": least})
    ((possible, equal, same, distinct),) = possible.fetchall()
    pairs = dict(connection.sql("SELECT reason, count(*) FROM compared GROUP BY reason").fetchall())
    candidates, drawn = possible - equal - same, sum(pairs.values())
    lost = [(reason, pairs[reason], OF_PAIRS[reason]) for reason in OF_PAIRS if reason in pairs]
    return [
        _step("scored", "responses", sum(count for _, count in outcomes), scored,
              [(reason, count, "") for reason, count in outcomes if reason]),
        _step("candidates", "possible pairs", possible, candidates,
              [("equal_scores", equal, f"their scores differ by less than {least:g}"),
               ("equal_texts", same, "both say the same")]),
        _step("drawn", "candidates", candidates, drawn,
              [("not_drawn", distinct - drawn, "other pairs of the instruction were drawn"),
               ("equal_pair", candidates - distinct, "another pair of the instruction has the same texts")]),
        _step("kept pairs", "drawn", drawn, pairs.get(None, 0), lost),
    ]  # fmt: skip


def _step(name: str, of: str, rows: int, kept: int, reasons: list[tuple[str, int, str]]) -> Row:
    counted = [{"reason": reason, "rows": count, "meaning": meaning} for reason, count, meaning in reasons if count]
    return {"stage": name, "of": of, "rows": rows, "kept": kept, "before": 0, "missing": 0, "reasons": counted}


def pick(connection: duckdb.DuckDBPyConnection, root: Root, images: Mapping[int, Commit], seed: int) -> list[Row]:
    """Some kept pairs, chosen by hash(seed, key) alone: each with its image, and the claims of both texts."""
    salt = literal(f"{seed}/")
    drawn = f"SELECT key FROM compared WHERE reason IS NULL ORDER BY md5({salt} || key) LIMIT {SHOWN}"
    keys = [key for (key,) in connection.sql(drawn).fetchall()]
    if not keys:
        return []
    pairs = rows_of(connection, PAIRS.format(keys=", ".join(map(literal, keys)), seed=salt))
    responses = [pair[side] for pair in pairs for side in ("chosen_key", "rejected_key")]
    claims = rows_of(connection, CLAIMS.format(keys=", ".join(map(literal, responses))))
    shown = cards(connection, root, images, {(pair["partition"], pair["image"]) for pair in pairs})
    for pair in pairs:
        pair["pictures"] = shown.get((pair["partition"], pair["image"]), {}).get("pictures", [])
        for side in ("chosen", "rejected"):
            pair[f"{side}_claims"] = [claim for claim in claims if claim["response"] == pair[f"{side}_key"]]
    return pairs


SECTION = """\
{% macro response(side, text, characters, score, claims) %}
<div{{ ' class="target"'|safe if side == "chosen" }}><span class="label">{{ side }}
{{- ", score %s" % score if score is not none }}</span>
{{ words(text, characters) }}
<ul class="claims">
{% for claim in claims %}
<li{{ ' class="bad"'|safe if not claim.accepted }} title="yes is likelier for {{ claim.agree }} of
{{- " " }}{{ claim.labelers }}">
{{- "accepted: " if claim.accepted else "rejected: " }}{{ words(claim.claim, claim.characters) }}</li>
{% endfor %}
</ul></div>
{% endmacro %}

<h2 id="preferences">Preferences</h2>
<p class="soft">{{ preferences.kept|n }} pairs are kept</p>
{% for stage in preferences.funnel %}
{{ stage_bar(stage, stage.rows, False) }}
{% endfor %}
{% if preferences.note %}
<p class="note">{{ preferences.note|visible }}</p>
{% else %}
{% if preferences.looked < partitions %}
<p class="soft">the rest of this section is drawn from {{ preferences.looked|n }} of {{ partitions|n }} partitions</p>
{% endif %}
{% for stage in preferences.steps %}
{{ stage_bar(stage, stage.rows, False) }}
{% endfor %}

<h3>Distributions</h3>
{% if preferences.charts %}
<p class="soft"><span class="key pale"></span> all that are scored or drawn <span class="key kept"></span> those in kept
pairs</p>
<div class="charts">
{% for chart in preferences.charts %}
{{ drawing(chart) }}
{% endfor %}
</div>
{% else %}
<p class="note">nothing is scored yet</p>
{% endif %}

{% if preferences.lengths.pairs %}
<p>The chosen text is shorter in {{ share(preferences.lengths.shorter, preferences.lengths.pairs) }} of the kept pairs,
and longer in {{ share(preferences.lengths.longer, preferences.lengths.pairs) }}.</p>
{% endif %}

<h3>Cost</h3>
{% if preferences.asked.questions %}
<p>{{ preferences.asked.claims|n }} verdicts come from {{ preferences.asked.questions|n }} questions to labelers: asking
equal questions about one image once saved
{{ share(preferences.asked.claims - preferences.asked.questions, preferences.asked.claims) }} of the calls.</p>
{% endif %}
{% if preferences.cost %}
<div class="wide"><table><tr><th>stage</th><th>endpoint</th><th class="r">calls</th><th class="r">failed</th>
<th class="r">tokens</th><th class="r">seconds</th><th class="r">calls per kept pair</th>
<th class="r">tokens per kept pair</th><th class="r">seconds per kept pair</th></tr>
{% for cost in preferences.cost %}
<tr><td>{{ cost.stage|visible }}</td><td>{{ cost.endpoint|visible }}</td><td class="r">{{ cost.calls|n }}</td>
<td class="r">{{ cost.failed|n }}</td><td class="r">{{ cost.tokens|n }}</td><td class="r">{{ cost.seconds|n }}</td>
{% for share_of_pair in (cost.calls_a_pair, cost.tokens_a_pair, cost.seconds_a_pair) %}
<td class="r">{{ "-" if share_of_pair is none else share_of_pair|n }}</td>
{% endfor %}
</tr>
{% endfor %}
</table></div>
{% else %}
<p class="soft">no call is recorded yet</p>
{% endif %}

<h3>Some kept pairs</h3>
<p class="soft">{{ preferences.pairs|length|n }} of {{ preferences.kept|n }}, drawn at random; claims that most labelers
reject are marked</p>
<div class="cards pairs">
{% for pair in preferences.pairs %}
<article class="card">
{% if pair.pictures %}
<div class="pictures{{ " several" if pair.pictures|length > 1 }}">
{% for picture in pair.pictures %}
{{ drawn(picture) }}
{% endfor %}
</div>
{% endif %}
<div class="turn user"><span class="label">question</span>{{ words(pair.question, pair.question_characters) }}</div>
{{ response("chosen", pair.chosen, pair.chosen_characters, pair.chosen_score, pair.chosen_claims) }}
{{ response("rejected", pair.rejected, pair.rejected_characters, pair.rejected_score, pair.rejected_claims) }}
<footer><code>{{ pair.key|visible }}</code>{% if pair.margin is none %}<span>chosen by the source</span>
{% else %}<span>margin {{ pair.margin }}</span>
<span>{{ share(pair.agreement, 1) }} of the labelers agree</span>{% endif %}</footer>
</article>
{% endfor %}
</div>
{% endif %}
"""

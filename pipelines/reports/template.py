"""The Jinja template of report.html; `pipelines.reports.page` renders it with everything escaped."""

PAGE = """\
{% macro words(text, characters) %}
{% if characters > text|brief|length %}
<details><summary><span class="t" dir="auto">{{ text|brief|visible }}</span>
<span class="more">… {{ characters|n }} characters</span></summary>
<div class="t" dir="auto">{{ text|visible }}</div>
{% if characters > text|length %}
<span class="soft">the first {{ text|length|n }} of {{ characters|n }} characters</span>
{% endif %}
</details>
{% else %}
<div class="t" dir="auto">{{ text|visible }}</div>
{% endif %}
{% endmacro %}

{% macro where(url) %}
{% if is_link(url) %}
<a href="{{ url }}" rel="noopener noreferrer nofollow" referrerpolicy="no-referrer" target="_blank">
{{- url[:60]|visible }}{{ "…" if url|length > 60 }}</a>
{% else %}
<code>{{ url[:60]|visible }}{{ "…" if url|length > 60 }}</code>
{% endif %}
{% endmacro %}

{% macro drawn(picture) %}
{% if picture.note %}
<span class="note">{{ picture.note[:300]|visible }}</span>
{% else %}
<figure><img src="{{ picture.source }}" width="{{ picture.width }}" height="{{ picture.height }}"
 alt="the image of {{ picture.key }}" decoding="async">
{% if picture.boxes %}
<svg viewBox="0 0 {{ picture.full[0] }} {{ picture.full[1] }}" preserveAspectRatio="none">
{% for box in picture.boxes %}
<polygon points="{{ box.points }}"{{ ' class="unsure"'|safe if box.confidence < 0.8 }}><title>
{{- loop.index }}. {{ box.text|visible|striptags }} ({{ "%.2f"|format(box.confidence) }})</title></polygon>
{% endfor %}
</svg>
{% endif %}
</figure>
{% endif %}
{% endmacro %}

{% macro card(row, task, detail) %}
<article class="card">
{% if row.pictures %}
<div class="pictures{{ " several" if row.pictures|length > 1 }}">
{% for picture in row.pictures %}
{{ drawn(picture) }}
{% endfor %}
</div>
{% endif %}
{% if detail %}
<div><span class="label">left out because</span>{{ words(detail, detail|length) }}</div>
{% endif %}
{% if row.of %}
<div><span class="label">duplicate of</span><code>{{ row.of|visible }}</code>
{{- ", %d bits apart"|format(row.distance) if row.duplicate == "near_duplicate" }}</div>
{% endif %}
{% if row.turns %}
<div{{ ' class="target"'|safe if task == "conversation" }}><span class="label">conversation</span>
{% for turn in row.turns %}
<div class="turn {{ turn.role }}"><span class="label">{{ turn.role|visible }}</span>
{{ words(turn.content, turn.characters) }}</div>
{% endfor %}
{% if row.turn_count > row.turns|length %}
<span class="soft">and {{ (row.turn_count - row.turns|length)|n }} more turns</span>
{% endif %}
</div>
{% elif row.text is not none %}
<div{{ ' class="target"'|safe if task == "caption" }}><span class="label">caption</span>
{{ words(row.text, row.characters) }}</div>
{% elif row.part_of %}
<div class="soft">image {{ row.part }} of the conversation <code>{{ row.part_of|visible }}</code></div>
{% else %}
<div class="soft">no caption</div>
{% endif %}
{% if row.read %}
<div{{ ' class="target"'|safe if task in ("ocr", "reconstruct") }}><span class="label">text in the image
{{- ": " ~ row.verdict.replace("_", " ") if row.verdict }}
{{- ", the first %d of %d lines drawn"|format(row.lines|length, row.line_count) if row.line_count > row.lines|length }}
</span>{{ words(row.read, row.read_characters) }}</div>
{% endif %}
<footer><code>{{ row.key|visible }}</code>
{% if row.picture_count > row.pictures|length %}
<span>{{ row.pictures|length }} of {{ row.picture_count }} images</span>
{% endif %}
{% if row.width %}
<span>{{ row.width }}×{{ row.height }} {{ row.format }}</span><span>{{ row.size|size }}</span>
{% endif %}
{% if row.url %}
<span>{{ where(row.url) }}</span>
{% elif row.file or row.member %}
<span>{{ [row.file, row.member]|select|join(": ")|visible(200) }}</span>
{% endif %}
</footer>
</article>
{% endmacro %}

{% macro sheet(group, task) %}
<div class="cards">
{% for place in group.places %}
{% set row = cards.get((place.partition, place.key)) %}
{% if row %}
{{ card(row, task, place.detail) }}
{% endif %}
{% endfor %}
</div>
{% endmacro %}

{% macro counts(title, values) %}
{% if values %}
<div><h3>{{ title }}</h3><table>
{% for entry in values %}
<tr><td>{{ entry.value|visible }}</td><td class="r">{{ entry.rows|n }}</td>
<td><div class="bar line" title="{{ entry.kept|n }} of them selected"><i class="kept" style="width:
{{- percent(entry.kept, entry.total) }}%"></i><i class="pale" style="width:
{{- percent(entry.rows - entry.kept, entry.total) }}%"></i></div></td></tr>
{% endfor %}
</table></div>
{% endif %}
{% endmacro %}

{% macro stage_bar(stage, whole, linked) %}
<div class="stage"><b>{{ stage.stage }}</b>
<div class="bar">
<i class="kept" style="width:{{ percent(stage.kept, whole) }}%" title="kept: {{ stage.kept|n }}"></i>
{% for why in stage.reasons %}
<i class="lost" style="width:{{ percent(why.rows, whole) }}%" title="{{ why.reason }}: {{ why.rows|n }}"></i>
{% endfor %}
{% if stage.before %}
<i class="before" style="width:{{ percent(stage.before, whole) }}%" title="left out before:
 {{- " " }}{{ stage.before|n }}"></i>
{% endif %}
</div><span>{{ stage.kept|n }}
<span class="soft">of {{ stage.rows|n }}{{ " " ~ stage.of if stage.of is defined }}, {{ share(stage.kept, stage.rows) }}
</span></span></div>
{% if stage.reasons %}
<div class="why wide"><table>
{% for why in stage.reasons %}
<tr><td>{% if linked %}<a href="#left-{{ stage.stage }}-{{ why.reason }}"><code>{{ why.reason|visible }}</code></a>
{%- else %}<code>{{ why.reason|visible }}</code>{% endif %}</td>
<td class="r">{{ why.rows|n }}</td><td class="r">{{ share(why.rows, stage.rows) }}</td><td>{{ why.meaning }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
{% if stage.missing %}
<p class="note why">{{ stage.missing|n }} of {{ stage.partitions|n }} partitions are missing: not made yet, or
damaged</p>
{% endif %}
{% endmacro %}

{% macro drawing(chart) %}
<div><h3>{{ chart.title }}</h3><p class="soft">{{ [chart.summary, chart.none]|select|join("; ") }}</p>
<svg class="chart" viewBox="0 0 300 86" role="img">
{% for bar in chart.bars %}
<g><title>{{ bar.label }}</title>
<rect class="all" x="{{ bar.x }}" y="{{ bar.y }}" width="{{ bar.width }}" height="{{ bar.height }}"/>
<rect class="sel" x="{{ bar.x }}" y="{{ bar.kept_y }}" width="{{ bar.width }}" height="{{ bar.kept_height }}"/></g>
{% endfor %}
<line x1="0" x2="300" y1="70.5" y2="70.5"/>
{% for tick in chart.ticks %}
<text x="{{ tick.x }}" y="83">{{ tick.label }}</text>
{% endfor %}
</svg></div>
{% endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline';
 base-uri 'none'; form-action 'none'">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}: report</title>
<style>{{ style }}</style>
</head>
<body>
<header>
<h1>{{ name|visible }}</h1>
<p class="soft"><code>{{ root|visible }}</code></p>
{% if run %}
<p class="soft">last run <code>{{ run.run|visible }}</code>
<span{{ ' class="bad"'|safe if run.status != "completed" }}>{{ run.status }}</span>
{{- " " ~ run.ended[:19].replace("T", " ") ~ " UTC" if run.ended }}, shardmill {{ run.version|visible }}</p>
{% if run.detail %}
<p class="note">{{ run.detail|visible }}</p>
{% endif %}
{% else %}
<p class="note">no run is recorded yet</p>
{% endif %}
<div class="numbers">
<div><b>{{ rows|n }}</b>rows in</div>
<div><b>{{ kept|n }}</b>{{ "selected" if last == "selection" else "kept so far" }}, {{ share(kept, rows) }}</div>
<div><b>{{ samples|n }}</b>samples in {{ sets|length }} shard set{{ "s" if sets|length != 1 }}</div>
</div>
<nav>
<a href="#funnel">Funnel</a> <a href="#spread">Distributions</a>
{% for group in sheets %}
<a href="#set-{{ loop.index }}">{{ (group.set or "Kept so far")|visible }}</a>
{% endfor %}
{% if preferences %}
<a href="#preferences">Preferences</a>
{% endif %}
{% if rounds %}
<a href="#alignment">Alignment</a>
{% endif %}
{% if drift %}
<a href="#drift">Drift</a>
{% endif %}
<a href="#left-out">Left out</a> <a href="#changes">Changes</a>
</nav>
</header>

<main>
<h2 id="funnel">Rows kept and left out at each stage</h2>
{% for note in notes %}
<p class="note">{{ note|visible }}</p>
{% endfor %}
{% for stage in funnel %}
{{ stage_bar(stage, rows, True) }}
{% endfor %}
<p class="soft"><span class="key kept"></span> kept <span class="key lost"></span> left out by this stage
<span class="key before"></span> left out by an earlier stage; percentages are of the rows that enter a stage</p>

{% if sources %}
<h3>Sources</h3>
<div class="wide"><table><tr><th>source</th><th class="r">files</th><th class="r">rows in</th>
<th class="r">kept</th></tr>
{% for source in sources %}
<tr><td>{{ source.source|visible }}</td><td class="r">{{ source.files|n }}</td><td class="r">{{ source.rows|n }}</td>
<td class="r">{{ source.kept|n }}</td></tr>
{% endfor %}
</table></div>
{% endif %}

<h3>Shard sets</h3>
{% if sets %}
<div class="wide"><table><tr><th>set</th><th>task</th><th>release</th><th class="r">samples</th>
<th class="r">shards</th><th class="r">size</th>{% if bounds %}<th>images</th>{% endif %}</tr>
{% for release in sets %}
<tr><td>{{ release.set|visible }}</td><td>{{ release.task|visible }}</td><td><code>
{{- release.release|visible }}</code></td>
<td class="r">{{ release.samples|n }}</td><td class="r">{{ release.shards|length|n }}</td>
<td class="r">{{ release.bytes|size }}</td>
{%- if bounds %}<td>{{ bounds[release.set]|visible }}</td>{% endif %}</tr>
{% endfor %}
</table></div>
{% else %}
<p class="note">no shard set is published yet</p>
{% endif %}

<h2 id="spread">Distributions</h2>
{% if looked < partitions %}
<p class="soft">drawn from {{ looked|n }} of {{ partitions|n }} partitions, as are the samples below</p>
{% endif %}
{% if spread_note %}
<p class="note">{{ spread_note|visible }}</p>
{% elif charts or formats or verdicts %}
<p class="soft"><span class="key pale"></span> all measured rows <span class="key kept"></span> those selected for a
shard set</p>
<div class="charts">
{% for chart in charts %}
{{ drawing(chart) }}
{% endfor %}
{{ counts("format", formats) }}
{{ counts("the text in an image", verdicts) }}
</div>
{% if hosts %}
<h3>Hosts that lost the most</h3>
<div class="wide"><table><tr><th>host</th><th class="r">rows</th><th class="r">kept</th><th class="r">share</th>
<th></th><th>main reason</th></tr>
{% for host in hosts %}
<tr><td>{{ host.host|visible(200) }}</td><td class="r">{{ host.rows|n }}</td><td class="r">{{ host.kept|n }}</td>
<td class="r">{{ share(host.kept, host.rows) }}</td><td><div class="bar line"><i class="kept" style="width:
{{- percent(host.kept, host.rows) }}%"></i></div></td>
<td><code>{{ (host.main_reason or "")|visible }}</code></td></tr>
{% endfor %}
</table></div>
{% endif %}
{% else %}
<p class="note">nothing is measured yet</p>
{% endif %}

{% if sheet_note %}
<h2>Samples</h2><p class="note">{{ sheet_note|visible }}</p>
{% endif %}
{% for group in sheets %}
<h2 id="set-{{ loop.index }}">{{ "Shard set " ~ group.set if group.set else "Kept so far" }}</h2>
<p class="soft">{{ group.places|length|n }} of {{ group.rows|n }} samples, drawn at random
{{- "; each teaches " ~ teaches[group.task] if group.task }}</p>
{{ sheet(group, group.task) }}
{% endfor %}

{% if preferences %}
{% include "preferences" %}
{% endif %}

{% if rounds %}
{% include "rounds" %}
{% endif %}

{% if drift %}
{% include "drift" %}
{% endif %}

<h2 id="left-out">Left out</h2>
{% for stage in left_out %}
{% if stage.note %}
<p class="note">{{ stage.stage }}: {{ stage.note|visible }}</p>
{% endif %}
{% for group in stage.reasons %}
<h3 id="left-{{ stage.stage }}-{{ group.reason }}">{{ stage.stage }}: {{ group.reason|visible }}
<span class="soft">{{ group.rows|n }}, {{ group.meaning }}</span></h3>
{{ sheet(group, None) }}
{% endfor %}
{% endfor %}
{% if not left_out|selectattr("reasons")|list %}
<p class="soft">nothing</p>
{% endif %}
</main>

<section id="changes">
<h2>What the last run changed</h2>
{% if changes_note %}
<p class="note">{{ changes_note|visible }}</p>
{% elif changes %}
<div class="wide"><table><tr><th>stage</th><th class="r">added</th><th class="r">changed</th>
<th class="r">removed</th></tr>
{% for stage in changes %}
<tr><td>{{ stage.stage|visible }}</td><td class="r">{{ stage.added|n }}</td><td class="r">{{ stage.changed|n }}</td>
<td class="r">{{ stage.removed|n }}</td></tr>
{% endfor %}
</table></div>
{% for stage in changes if stage.examples %}
<h3>{{ stage.stage|visible }}</h3>
<div class="wide"><table class="diff"><tr><th>key</th><th></th><th>before</th><th>after</th></tr>
{% for row in stage.examples %}
{% for part in row.parts %}
<tr><td>{% if loop.first %}<code>{{ row.key|visible }}</code>{% endif %}</td>
<td>{{ (part.column or row.change)|visible }}</td>
<td>{{ words(part.before, part.before|length) }}</td><td>{{ words(part.after, part.after|length) }}</td></tr>
{% endfor %}
{% endfor %}
</table></div>
{% endfor %}
{% else %}
<p class="soft">nothing</p>
{% endif %}
</section>
<div class="foot">Every run writes this page again, and so does <code>shardmill report</code>. It holds thumbnails and
texts of the samples above, and can be deleted at any time.</div>
</body>
</html>
"""

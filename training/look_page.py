"""Samples as the model gets them, as one HTML file that needs nothing beside it."""

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO

from jinja2 import Environment, StrictUndefined
from PIL import Image

from schemas.printable import printable
from training.loader import Lost
from training.shown import Shown, ShownImage

OVERVIEW, GRID = 200, 420  # pixels of the longer side on the page, at most

PAGE = """{% macro text(part) %}
{% if part.title %}<h3>{{ part.title }}, {{ part.tokens }} tokens</h3>{% endif %}
<div class="text {{ part.title }}" dir="auto">
{%- for piece in part.pieces -%}
{%- if piece.kind == "text" %}<span class="{{ 'learned' if piece.learned else 'plain' }}">{{ piece.text }}</span>
{%- else %}<span class="{{ 'mark' if piece.kind == 'mark' else 'seen' }}{{ ' learned' if piece.learned else '' }}">
{{- piece.text }}</span>
{%- endif -%}
{%- endfor -%}
</div>
{% endmacro %}
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --paper: #fbfaf7; --sheet: #fff; --ink: #23262b; --soft: #6b6f76; --line: #e3dfd6;
  --mark: #eceaf4; --markink: #554a86; --view: #e4eef8; --viewink: #225a8c; --learned: #d5efdc; --learnedline: #2b8a4b;
  --rejected: #fbdcd6; --rejectedline: #b3382a; }
@media (prefers-color-scheme: dark) { :root { --paper: #17191c; --sheet: #1f2226; --ink: #e3e4e6; --soft: #9a9ea6;
  --line: #33373d; --mark: #302c45; --markink: #c3b8f0; --view: #1f3245; --viewink: #9ecbf3; --learned: #1d3f2a;
  --learnedline: #5fc384; --rejected: #4b2521; --rejectedline: #f08b7d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 1.6rem clamp(14px, 4vw, 40px) 4rem; }
h1 { font-size: 1.5rem; font-weight: 650; margin: 0 0 0.2rem; }
h2 { font-size: 1rem; font-weight: 650; margin: 0; font-family: ui-monospace, Menlo, Consolas, monospace; }
h3 { font-size: 0.8rem; font-weight: 650; margin: 0.9rem 0 0.2rem; color: var(--soft); }
.soft, figcaption { color: var(--soft); font-size: 0.87rem; }
.legend { margin: 0.7rem 0 0; } .legend span { margin-right: 1.1rem; }
article { background: var(--sheet); border: 1px solid var(--line); border-radius: 8px; padding: 1rem 1.2rem;
  margin-top: 1.2rem; }
.images { display: flex; flex-wrap: wrap; gap: 1.4rem; margin-top: 0.8rem; align-items: flex-start; }
figure { margin: 0; } .views { display: flex; flex-wrap: wrap; gap: 14px; align-items: flex-start; }
.grid { display: grid; gap: 5px; }
.view { position: relative; line-height: 0; } .view img { border-radius: 2px; image-rendering: auto; max-width: 100%; }
.view b { position: absolute; left: 3px; top: 3px; font: 600 11px/1 system-ui, sans-serif; color: #fff;
  background: #000a; border-radius: 3px; padding: 3px 5px; }
figcaption { margin-top: 0.35rem; max-width: 44rem; }
.text { white-space: pre-wrap; unicode-bidi: isolate; margin: 0.5rem 0 0; line-height: 1.75; }
.text span, .legend i { font-style: normal; }
.plain { color: var(--soft); }
.learned { background: var(--learned); border-bottom: 2px solid var(--learnedline); padding: 1px 0; color: var(--ink); }
.mark, .seen { font: 0.8em ui-monospace, Menlo, Consolas, monospace; border-radius: 4px; padding: 1px 4px;
  white-space: nowrap; background: var(--mark); color: var(--markink); }
.seen { background: var(--view); color: var(--viewink); }
.mark.learned { background: var(--learned); border-radius: 4px 4px 0 0; }
.rejected .learned, .learned.no { background: var(--rejected); border-bottom-color: var(--rejectedline); }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 0 1.6rem; }
.lost { margin-top: 0.6rem; } code { font: 0.87em ui-monospace, Menlo, Consolas, monospace; }
</style></head><body><main>
<h1>{{ title }}</h1>
<p class="soft" style="margin: 0">{{ about }}</p>
<p class="legend"><span><i class="learned">{{ "made more likely" if pairs else "learned" }}</i></span>
{% if pairs %}<span><i class="learned no">made less likely</i></span>{% endif %}
<span><i class="plain">read, not learned</i></span> <span><i class="mark">mark</i></span>
<span><i class="seen">view 1 · {{ queries }}</i> embeddings of a picture</span></p>
{% for sample in samples %}
<article>
<h2>{{ sample.name }}</h2>
<div class="soft">{{ sample.summary }}</div>
{% if sample.images %}<div class="images">
{% for image in sample.images %}
<figure><div class="views">
<div class="view"><img src="{{ image.overview.src }}" width="{{ image.overview.width }}"
 height="{{ image.overview.height }}" alt="view {{ image.overview.number }}"><b>{{ image.overview.number }}</b></div>
{% if image.cells %}<div class="grid" style="grid-template-columns: repeat({{ image.columns }}, max-content)">
{% for view in image.cells %}<div class="view"><img src="{{ view.src }}" width="{{ view.width }}"
 height="{{ view.height }}" alt="view {{ view.number }}"><b>{{ view.number }}</b></div>
{% endfor %}</div>{% endif %}
</div><figcaption>{{ image.caption }}</figcaption></figure>
{% endfor %}
</div>{% endif %}
<div class="{{ 'parts' if sample.parts|length == 1 else '' }}">
{% for part in sample.parts if part.title in ("", "prompt") %}{{ text(part) }}{% endfor %}
{% if sample.parts|length > 1 %}<div class="answers">
{% for part in sample.parts if part.title in ("chosen", "rejected") %}<div>{{ text(part) }}</div>{% endfor %}
</div>{% endif %}
</div></article>
{% endfor %}
{% if not samples %}<p>No sample of these sets is trained.</p>{% endif %}
{% for lost in left_out %}
{% if loop.first %}<h3>Left out, among the samples that were drawn</h3>{% endif %}
<div class="lost"><code>{{ lost.sample }}</code> of {{ lost.tar }}: <b>{{ lost.reason }}</b>
<span class="soft">{{ lost.detail }}</span></div>
{% endfor %}
</main></body></html>
"""


def page(title: str, about: str, samples: Sequence[Shown], left_out: Sequence[Lost], queries: int) -> str:
    """The page; everything in it is escaped, and it loads nothing."""
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(PAGE)
    return template.render(
        title=title, about=about, queries=queries, samples=[_sample(sample) for sample in samples],
        left_out=[Lost(*map(printable, lost)) for lost in left_out],
        pairs=any(len(sample.parts) > 1 for sample in samples),
    )  # fmt: skip


def summary(sample: Shown) -> str:
    """How much there is of a sample, in words."""
    views = sum(len(image.views) for image in sample.images)
    images = f", {len(sample.images)} images in {views} views" if sample.images else ""
    images = images.replace(" 1 images", " 1 image").replace(" 1 views", " 1 view")
    return (
        f"task {sample.task}, set {sample.set}: {sample.tokens():,} tokens, {sample.tokens(learned=True):,} of them "
        f"learned, {sample.tokens('view'):,} of views{images}"
    )


def caption(image: ShownImage) -> str:
    """How an image is cut, in words."""
    plan = image.plan
    size = "{} × {}".format
    if not plan.rows:
        return f"{image.name}, {size(*plan.image)} pixels: one view of {size(*plan.overview)}"
    return (
        f"{image.name}, {size(*plan.image)} pixels: an overview of {size(*plan.overview)}, and {plan.columns} × "
        f"{plan.rows} slices of {size(*plan.cell)}"
    )


def _sample(sample: Shown) -> dict:
    number = 0
    images = []
    for image in sample.images:
        plan, (overview, *cells) = image.plan, image.views
        scale = OVERVIEW / max(overview.size)
        numbers = range(number + 1, number + 1 + len(image.views))
        first = _view(overview, numbers[0], scale)
        wide = GRID / max(plan.columns * plan.cell.width, plan.rows * plan.cell.height, 1)
        images.append({
            "overview": first, "columns": plan.columns, "caption": printable(caption(image)),
            "cells": [_view(cell, place, wide) for place, cell in zip(numbers[1:], cells, strict=False)],
        })  # fmt: skip
        number += len(image.views)
    seen = 0
    parts = []
    for part in sample.parts:
        pieces = []
        for piece in part.pieces:
            text = _legible(piece.text)
            if piece.kind == "view":
                seen += 1
                text = f"view {seen} · {piece.tokens}"
            pieces.append({"kind": piece.kind, "text": text, "learned": piece.learned})
        parts.append({"title": part.title, "pieces": pieces, "tokens": sum(piece.tokens for piece in part.pieces)})
    return {"name": printable(sample.name), "summary": summary(sample), "images": images, "parts": parts}


def _legible(text: str) -> str:
    """Text with its line breaks shown, and with what cannot be seen spelled."""
    return printable(text).replace("\n", "↵\n")


def _view(view: Image.Image, number: int, scale: float) -> dict:
    file = BytesIO()
    view.save(file, "WEBP", quality=90)
    width, height = (max(1, round(side * scale)) for side in view.size)
    src = f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}"
    return {"src": src, "width": width, "height": height, "number": number}

"""The page of a report: one HTML file that loads nothing else, and shows untrusted content as text.

All content is escaped; characters that are invisible, or that change the direction of others, are shown as their code.
"""

import re
from functools import cache
from itertools import groupby
from typing import Any

from markupsafe import Markup, escape

from pipelines.catalog.stats import share
from pipelines.reports import drift, preferences, rounds
from pipelines.reports.style import STYLE
from pipelines.reports.template import PAGE

BRIEF, LINES = 180, 6  # characters and lines of a text that are shown before it is folded
WHOLE = 3500  # characters of HTML that a folded text may take

UNSEEN = Markup("<i class=u>{}</i>")
LINK = re.compile(r"https?://[^\s\"'<>\\^`{|}]{1,2000}", re.IGNORECASE)


def is_seen(character: str) -> bool:
    """Whether a character is shown as it is, like the joiners of Persian and of emoji, and wide blanks."""
    return character.isprintable() or character in "\n\t\xa0\u3000\u200c\u200d"


def visible(text: object, room: int = WHOLE) -> Markup:
    """A text as HTML of at most about `room` characters; a run of one invisible character is its code and count."""
    pieces: list[Markup] = []
    for unseen, run in groupby(str(text), key=lambda c: "" if is_seen(c) else c):
        if unseen:
            count = sum(1 for _ in run)
            shown = [UNSEEN.format(f"U+{ord(unseen):04X}" + (f" ×{count:,}" if count > 1 else ""))]
        else:
            shown = map(escape, run)
        for piece in shown:
            room -= len(piece)
            if room < 0:
                return Markup("").join([*pieces, Markup("<i class=u>…</i>")])
            pieces.append(piece)
    return Markup("").join(pieces)


def brief(text: str) -> str:
    """The beginning of a text, or all of a text that is hardly longer."""
    if len(text) <= 1.4 * BRIEF and text.count("\n") < LINES:
        return text
    return "\n".join(text[:BRIEF].split("\n")[:LINES])


def is_link(url: str | None) -> bool:
    """Whether a URL may be a link: only http(s), and without characters that a browser would read in another way."""
    return bool(url and LINK.fullmatch(url) and all(map(is_seen, url)))


def percent(part: int, whole: int) -> str:
    return f"{100 * part / (whole or 1):.3f}"


def size(bytes: float) -> str:
    """A number of bytes in words."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if bytes < 1000:
            return f"{bytes:.3g} {unit}" if unit != "bytes" else f"{bytes:.0f} bytes"
        bytes /= 1000
    return f"{bytes:,.3g} TB"


@cache
def _template() -> Any:
    from jinja2 import DictLoader, Environment, StrictUndefined  # a run that changes nothing writes no page

    sections = {"preferences": preferences.SECTION, "rounds": rounds.SECTION, "drift": drift.SECTION}
    templates = DictLoader({"page": PAGE, **sections})
    environment = Environment(
        loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"n": "{:,}".format, "visible": visible, "brief": brief, "size": size}
    environment.globals |= {"share": share, "percent": percent, "is_link": is_link, "style": Markup(STYLE)}
    return environment.get_template("page")


def page(report: dict[str, Any]) -> str:
    """The HTML of what `pipelines.reports.report.gather` found."""
    return _template().render(report).lstrip()

"""What differs between two releases: samples, and distributions side by side. What `shardmill diff` shows.

Distributions are read from the samples themselves, because a corpus may no longer have what an old release was made
of. Of a large release some samples are read, drawn by a hash of their names: the same ones from both releases.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from statistics import quantiles
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pipelines.catalog.catalog import connect, index_files
from pipelines.engine.root import Corrupt, Root
from pipelines.text_rules.scripts import script_of
from schemas.arrow import Row
from schemas.shards import Card, Document, checked_document

DRAWN = 20_000  # samples of a release that distributions are read from
MOST = 8  # values of a distribution that are shown
SCRIPT_OF = 300  # characters of a text that decide which script it is in


class Line(NamedTuple):
    """A line of the distributions: a measure and a value or statistic of it, for both releases."""

    measure: str
    value: str
    before: str
    after: str


# Distributions


def distributions(root: Root, before: Card, after: Card, most: int = DRAWN) -> list[Line]:
    """Statistics of numbers, and the shares of the most frequent values of all else, side by side."""
    measured = _measured(root, before, most), _measured(root, after, most)
    lines = [line for name in NUMBERS for line in _statistics(name, *([one[name] for one in m] for m in measured))]
    for name in VALUES:
        lines += _shares(name, *([one[name] for one in m] for m in measured))
    return lines


def _measured(root: Root, card: Card, most: int) -> list[Row]:
    """What is measured of the samples of a release, or of `most` of them."""
    with connect(root, {"shards": index_files(root, [card])}, queries=["shards"]) as connection:
        drawn = connection.sql(f"SELECT tar, sample, members FROM shards ORDER BY md5(sample) LIMIT {most}").fetchall()
    with ThreadPoolExecutor(16) as pool:
        return [*pool.map(lambda sample: measure(*_texts(root, *sample)), drawn)]


def _texts(root: Root, tar: str, sample: str, members: Iterable[Row]) -> tuple[Document, str | None]:
    """A sample's document, and its target if that is a member of its own. Raises `Corrupt` if it has none."""
    texts = {}
    try:
        for member in members:
            if member["ext"] in ("json", "txt"):
                texts[member["ext"]] = root.read_range(f"shards/{tar}", member["byte_offset"], member["size"])
        target = texts["txt"].decode("utf-8", "replace") if "txt" in texts else None
        return checked_document(texts.get("json", b"")), target
    except (ValueError, EOFError) as error:
        raise Corrupt(f"shards/{tar}: {sample}: {error}; run `shardmill verify`") from None


def measure(document: Document, target: str | None) -> Row:
    """What is measured of one sample, by the names of NUMBERS and VALUES."""
    text = target if target is not None else " ".join(_said(document))
    url = document.get("url") or ""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    scripts = Counter(script for character in text[:SCRIPT_OF] if (script := script_of(character)))
    script = scripts.most_common(1)[0][0].replace("_", " ").capitalize() if scripts else None
    return {
        "width": document.get("width"), "height": document.get("height"), "words": len(text.split()),
        "characters": len(text), "script": script, "host": host, "source": document.get("source"),
        "task": document.get("task"), "ocr verdict": document.get("ocr_verdict"),
    }  # fmt: skip


NUMBERS = ("width", "height", "words", "characters")
VALUES = ("task", "source", "host", "script", "ocr verdict")


def _said(document: Document) -> Iterable[str]:
    """The text to learn of a sample that has it only in its document."""
    if pair := document.get("pair"):
        return [pair["chosen"]]
    turns = (document.get("conversation") or {}).get("turns", ())
    return [turn["content"] for turn in turns if turn["role"] == "assistant"]


def _statistics(name: str, before: list[Any], after: list[Any]) -> Iterable[Line]:
    values = [[value for value in some if value is not None] for some in (before, after)]
    if not any(values):
        return
    for title, statistic in STATISTICS.items():
        yield Line(name, title, *(f"{statistic(some):,.4g}" if some else "-" for some in values))


def _quantile(percent: int) -> Callable[[list[float]], float]:
    return lambda some: quantiles(some, n=100, method="inclusive")[percent - 1] if len(some) > 1 else some[0]


STATISTICS = {"5 % below": _quantile(5), "median": _quantile(50), "95 % below": _quantile(95)}


def _shares(name: str, before: list[Any], after: list[Any]) -> Iterable[Line]:
    counts = [Counter(filter(None, values)) for values in (before, after)]
    frequent = [value for value, _ in (counts[0] + counts[1]).most_common(MOST)]
    for value in frequent:
        yield Line(name, str(value), _share(counts[0][value], len(before)), _share(counts[1][value], len(after)))
    rest = [count.total() - sum(count[value] for value in frequent) for count in counts]
    if any(rest):
        others = len((counts[0] | counts[1]).keys() - {*frequent})
        yield Line(name, f"{others:,} others", _share(rest[0], len(before)), _share(rest[1], len(after)))


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"

"""The README.md of an export: a dataset card as the Hub reads it, with all that is known of where its samples are from.

Its head is YAML, written as JSON values, which YAML takes. It holds no time and no path of this machine.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.engine.commit_cache import read_commits
from pipelines.engine.manifest import MANIFEST, read_manifest
from pipelines.engine.releases import read_card
from pipelines.engine.root import Root
from pipelines.exports.columns import Column, card_feature
from pipelines.exports.entries import REASONS, Tally
from pipelines.exports.forms import FORMS
from pipelines.exports.licences import hub_licence
from schemas.arrow import Row
from schemas.selection import RECONSTRUCT
from schemas.shards import Card
from schemas.views import OF_VIEWS, PREFERENCE

SHOWN = 20  # source files and licences that are named
CATEGORIES = {
    "caption": ["image-to-text"], "ocr": ["image-to-text"], RECONSTRUCT: ["image-to-text"],
    "conversation": ["image-text-to-text"],
    PREFERENCE: ["image-text-to-text"],
}  # fmt: skip


@dataclass
class Sizes:
    """What was written."""

    files: int = 0
    disk: int = 0  # bytes of tables
    memory: int = 0  # bytes of tables, as Arrow holds them


def dataset_card(root: Root, card: Card, form: str, question: str | None, tally: Tally, sizes: Sizes) -> str:
    columns_of = FORMS[form].columns
    columns = columns_of(card["task"]) if columns_of else None
    head = {
        "pretty_name": f"{card['set']} {card['release']}",
        "license": sorted({hub_licence(name) for name in tally.licences}) or ["unknown"],
        "task_categories": CATEGORIES[card["task"]],
        "size_categories": [_size_category(tally.samples)],
        "tags": ["shardmill", "vision", card["task"]],
    }
    if columns:
        head |= {"configs": [CONFIG], "dataset_info": _dataset_info(columns, tally, sizes)}
    yaml = "\n".join(_yaml(head))
    return f"---\n{yaml}\n---\n\n" + "\n".join(_body(root, card, form, question, tally, columns))


CONFIG = {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}


def _dataset_info(columns: Sequence[Column], tally: Tally, sizes: Sizes) -> Row:
    return {
        "features": [card_feature(column.name, column.kind) for column in columns],
        "splits": [{"name": "train", "num_bytes": sizes.memory, "num_examples": tally.samples}],
        "download_size": sizes.disk,
        "dataset_size": sizes.memory,
    }


def _size_category(samples: int) -> str:
    """The Hub's category: n<1K, 1K<n<10K, …, n>1T."""
    bounds = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
    above = max(len(str(samples)) - 3, 0)  # how many of the bounds it reaches
    if not above:
        return f"n<{bounds[0]}"
    return f"{bounds[above - 1]}<n<{bounds[above]}" if above < len(bounds) else f"n>{bounds[-1]}"


def _yaml(mapping: Row) -> Iterator[str]:
    """Lines of YAML: each key with its value, lists of mappings an item a line."""
    for name, value in mapping.items():
        if isinstance(value, dict):
            yield f"{name}:"
            yield from (f"  {line}" for line in _yaml(value))
        elif isinstance(value, list):
            yield f"{name}:"
            for item in value:
                lines = list(_yaml(item)) if isinstance(item, dict) else [_scalar(item)]
                yield f"- {lines[0]}"
                yield from (f"  {line}" for line in lines[1:])
        else:
            yield f"{name}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True)


def _body(
    root: Root, card: Card, form: str, question: str | None, tally: Tally, columns: Sequence[Column] | None
) -> Iterator[str]:
    yield f"# {card['set']}"
    yield ""
    yield (
        f"{tally.samples:,} samples with {tally.pictures:,} pictures: the release `{card['set']}@{card['release']}` of "
        f"a shard set that Shardmill made for the task `{card['task']}`, in the form `{form}`."
    )
    yield ""
    yield "## How to load it"
    yield ""
    yield FORMS[form].usage
    yield ""
    if columns:
        yield from _table("Columns", ("column", "type", "what it is"), [
            (f"`{column.name}`", _type_name(column), column.meaning) for column in columns
        ])  # fmt: skip
    yield from _counts(card, question, tally)
    yield from _filters(root, card)
    yield from _sources(root)
    licences = [(name or "not stated", f"{count:,}") for name, count in tally.licences.most_common(SHOWN)]
    yield from _table("Licences, as far as the sources state them", ("licence", "samples"), licences)


def _type_name(column: Column) -> str:
    feature = card_feature("", column.kind)
    kind = next(value for name, value in feature.items() if name != "name")
    return f"`{kind}`" if "dtype" in feature else f"list of `{kind}`" if isinstance(kind, str) else "list"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A section with a table; nothing without rows."""
    if rows:
        yield from (f"## {title}", "")
        yield f"| {' | '.join(head)} |"
        yield f"|{'---|' * len(head)}"
        yield from (f"| {' | '.join(map(_cell, row))} |" for row in rows)
        yield ""


def _cell(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return text if text.startswith("`") else text.replace("<", "&lt;")


def _counts(card: Card, question: str | None, tally: Tally) -> Iterator[str]:
    counts = [("samples of the release", card["samples"]), ("samples in this export", tally.samples)]
    counts += [(f"left out: {REASONS[reason]}", count) for reason, count in sorted(tally.left_out.items())]
    counts += [("pictures", tally.pictures)]
    counts += tally.changes()
    yield from _table("Counts", ("what", "count"), [(what, f"{count:,}") for what, count in counts])
    if question:
        yield from (f"Each sample is the answer to: {_cell(question)}", "")


def _filters(root: Root, card: Card) -> Iterator[str]:
    """The settings of the set, in SQL over Shardmill's views."""
    settings = card["settings"] if card["settings"].get("task") in OF_VIEWS else _selected_by(root, card)
    told = ("where", "weight", "seed", "min_score", "min_judged")
    rows = [(name, f"`{settings[name]}`") for name in told if name in settings]
    if settings and not rows:
        rows = [("where", "`true`: all samples that no stage left out")]
    yield from _table("Filters", ("setting", "value"), rows)


def _selected_by(root: Root, card: Card) -> Row:
    """The settings by which the samples of a published release were selected; nothing is known of older ones."""
    published = read_card(root, card["set"])
    if not published or published["release"] != card["release"]:
        return {}
    commits = read_commits(root, "selection").values()
    return next((commit.settings[card["set"]] for commit in commits if card["set"] in commit.settings), {})


def _sources(root: Root) -> Iterator[str]:
    if not root.exists(MANIFEST):
        return
    files = [file.path for file in read_manifest(root) if file.split is not None]
    shown = [("images of a folder" if path == "." else f"`{path}`",) for path in files[:SHOWN]]
    shown += [(f"and {len(files) - SHOWN:,} more",)] * (len(files) > SHOWN)
    yield from _table("Sources: files of the corpus", ("file",), shown)

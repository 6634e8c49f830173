"""Writes the pages of docs/ that are made from the code: `make docs`.

tree.md: every module of the four packages, a line each, with the first sentence of its docstring.
reasons.md: the reasons that each stage declares, with their meanings.
configuration.md: every table and key of a configuration, as `shardmill keys` shows them.
inputs.md: its table of the usual names of columns.
"""

import ast
import re
from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path

from pipelines.sources import choices, conversations, embedded, instructions, laion
from pipelines.sources.folder import Folder
from schemas import captions, ocr, translations
from schemas.config.reference import reference
from schemas.stages import STAGES

PROJECT = Path(__file__).parents[1]
PACKAGES = ("schemas", "pipelines", "training", "flows")


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring, in one line."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.:]) (?=[A-Z`])", text)[0].rstrip(".:") if text else ""


def tree() -> str:
    """docs/tree.md."""
    lines = ["# The tree", "", "Made by `make docs` from the modules' docstrings.", ""]
    for package in PACKAGES:
        for folder in sorted({path.parent for path in (PROJECT / package).rglob("*.py")}):
            modules = sorted(folder.glob("*.py"))
            head = folder / "__init__.py"
            about = first_sentence(head) if head in modules else ""
            lines += ["", f"## {folder.relative_to(PROJECT)}/", ""] + ([f"{about}.", ""] if about else [])
            lines += [f"- `{path.name}`: {first_sentence(path)}" for path in modules if path != head]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


ABOUT_REASONS = """
Made by `make docs` from the reasons that each stage declares. A row that did not work out has one of these words in
`reason`, and what exactly went wrong in `detail`. `shardmill retry` makes rows with a reason marked ↻ again; the other
reasons do not pass by themselves. A row that an earlier stage left out has the reason `upstream` in later stages.
"""
ABOUT_CONFIGURATION = """
Made by `make docs`; `shardmill keys` shows the same: every table and key, with its default and its meaning. A
configuration needs `root`, `[source]` and the tables that you want to switch on. Relative paths start at the folder of
the configuration.
"""
WORDS = {  # other declared words of a stage: what they say of, and their meanings
    "ocr": ("`verdict`: whether the text of an image teaches to read. Only `good` does.", ocr.OCR_VERDICTS),
    "captions": (
        "`caption_verdict`: what the original caption is worth. All but `good` are weak.", captions.CAPTION_VERDICTS,
    ),
}  # fmt: skip


def reasons() -> str:
    """docs/reasons.md."""
    lines = ["# Reasons", "", *ABOUT_REASONS.strip().splitlines()]
    for name, stage in STAGES.items():
        again = getattr(import_module(f"schemas.{name}"), "RETRYABLE", ())
        lines += ["", f"## {name}", "", *table("reason", stage.reasons, again)]
        if name in WORDS:
            about, words = WORDS[name]
            lines += ["", about, "", *table("verdict", words)]
        if name == "captions":
            about = "`caption_answer`: what became of a model's answer. All but `taken` leave the original caption."
            lines += ["", about, "", *table("answer", captions.ANSWERS)]
        if name == "translations":
            about = "`translation_answer`: what became of a model's answers. All but `taken` leave the row as it came."
            lines += ["", about, "", *table("answer", translations.ANSWERS)]
    return "\n".join(lines) + "\n"


def table(head: str, words: Mapping[str, str], again: Collection[str] = ()) -> list[str]:
    """A table of words and their meanings; `again`: those that `retry` makes again."""
    if not words:
        return ["This stage leaves no row out."]
    rows = [f"| `{word}`{' ↻' if word in again else ''} | {meaning} |" for word, meaning in words.items()]
    return [f"| {head} | meaning |", "| --- | --- |", *rows]


def configuration() -> str:
    """docs/configuration.md."""
    return f"# Configuration\n\n{ABOUT_CONFIGURATION.strip()}\n\n```text\n{reference().strip()}\n```\n"


BEGIN, END = "<!-- made by `make docs` -->\n", "<!-- end -->\n"


def inputs() -> str:
    """docs/inputs.md, with the usual names of columns as the sources have them."""
    held = {"image_column": embedded.IMAGES} | embedded.COLUMNS | {"choices_column": choices.CHOICES}
    usual = {
        '`"folder"`, of tables': Folder.usual, '`"laion"`': laion.USUAL | laion.LOCAL,
        '`"instructions"`': instructions.Instructions.usual,
        '`"huggingface"`, and every table with images in it': held | {"the URL of an image": embedded.URLS},
        '`"conversations"`, of entries': {"turns": conversations.TURNS, "images": conversations.IMAGES},
    }  # fmt: skip
    lines = ["| `kind` | setting | usual names, the first of which is read |", "| --- | --- | --- |"]
    for kind, fields in usual.items():
        for number, (field, names) in enumerate(fields.items()):
            setting = f"`{field}`" if field.endswith("_column") else field
            lines.append(f"| {'' if number else kind} | {setting} | {', '.join(f'`{name}`' for name in names)} |")
    before, _, rest = (Path(__file__).parent / "inputs.md").read_text().partition(BEGIN)
    return before + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + rest.partition(END)[2]


def pages() -> dict[str, str]:
    """Name -> text of every page that is made, in whole or in part."""
    return {
        "tree.md": tree(), "reasons.md": reasons(), "configuration.md": configuration(), "inputs.md": inputs(),
    }  # fmt: skip


if __name__ == "__main__":
    for name, text in pages().items():
        (Path(__file__).parent / name).write_text(text)

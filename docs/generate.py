"""Writes the pages of docs/ that are made from the code: `make docs`.

docs/tree.md: every module of the four packages, a line each, with the first sentence of its docstring.
"""

import ast
import re
from pathlib import Path

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


def pages() -> dict[str, str]:
    """Name -> text of every page that is made."""
    return {"tree.md": tree()}


if __name__ == "__main__":
    for name, text in pages().items():
        (Path(__file__).parent / name).write_text(text)

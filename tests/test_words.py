"""Messages and docstrings are standard English: "'x' is not a number", never "'x' is no number"."""

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGES = ("flows", "pipelines", "schemas", "training")
GENERATED = PROJECT / "schemas" / "scenes"  # texts about pictures, which models learn: "there is no red circle"
NEGATIONS = re.compile(r"(?<![Tt]here )\b(is|are) (no (?!longer\b|more\b)|none\b(?! (%|else)))")
THERE = re.compile(r"\bthere (is|are) (no|none)\b")
TWICE_READ = re.compile(
    r"stand and fall|deaf to|what sees|at home\b|goes along|again and again|knows of|is told\b|comes out\b", re.I
)


def texts(source: str) -> tuple[list[str], list[str]]:
    """Docstrings, and all other strings of a module; what an f-string fills in is `{}`."""
    tree = ast.parse(source)
    scopes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, scopes)]
    first = {id(node.body[0].value) for node in ast.walk(tree)
             if isinstance(node, scopes) and node.body and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    others = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            others.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in first | inside:
            others.append(node.value)
    return docstrings, others


def test_texts_are_told_apart():
    module = 'def f(x):\n    """A {docstring}."""\n    raise E(f"{x!r}: is no {x}" "number")\n'
    assert texts(module) == (["", "A {docstring}."], ["{}: is no {}number"])
    assert texts('"""Top."""\nx = "a"') == (["Top."], ["a"])


@pytest.mark.parametrize("text", ["{}: is no {}", "they are no rows", "the root is none", "which are none of them"])
def test_odd_negations_are_found(text):
    assert NEGATIONS.search(text)


@pytest.mark.parametrize("text", ["is not a {}", "is no longer there", "{{ '-' if x is none else x }}", "has no {}"])
def test_standard_negations_are_not(text):
    assert not NEGATIONS.search(text)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_message_and_no_docstring_has_an_odd_negation(package):
    odd = []
    for path in sorted((PROJECT / package).rglob("*.py")):
        if GENERATED in path.parents:
            continue
        docstrings, messages = texts(path.read_text())
        where = path.relative_to(PROJECT)
        odd += [(where, text) for text in [*docstrings, *messages] if NEGATIONS.search(text)]
        odd += [(where, text) for text in messages if THERE.search(text)]
        odd += [(where, text) for text in [*docstrings, *messages] if TWICE_READ.search(text)]
    assert odd == []

"""Four rooms, one direction: flows -> pipelines -> schemas, and flows -> training -> schemas."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
ROOMS = ("schemas", "pipelines", "training", "flows")

MAY_IMPORT = {  # a room may import itself and these
    "schemas": set(),
    "pipelines": {"schemas"},
    "training": {"schemas"},
    "flows": {"pipelines", "training", "schemas"},
}
MAY_NOT_IMPORT = {
    "schemas": {"apache_beam", "torch", "torchvision", "transformers", "prefect"},
    "pipelines": {"torch", "torchvision", "transformers", "prefect", "typer"},
    "training": {"apache_beam", "prefect"},
    "flows": {"apache_beam", "torch"},
}


def imports(path: Path) -> set[str]:
    """The top-level names of everything that a module imports, anywhere in it; `.` for a relative import."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." if node.level else node.module.split(".")[0])
    return found


def modules(room: str) -> list[Path]:
    return sorted((PROJECT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room):
    assert modules(room)
    for path in modules(room):
        wrong = imports(path) & ({*ROOMS, "tests", "corpora", "."} - MAY_IMPORT[room] - {room})
        assert not wrong, f"{path.relative_to(PROJECT)} imports {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_keeps_to_its_own_tools(room):
    for path in modules(room):
        wrong = imports(path) & MAY_NOT_IMPORT[room]
        assert not wrong, f"{path.relative_to(PROJECT)} imports {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("room", ROOMS)
def test_the_modules_and_packages_of_a_room_import_each_other_in_no_circle(room):
    """Imports at the top of a module: what it imports when it is started or called comes later."""
    imported: dict[str, set[str]] = {}
    for path in modules(room):
        own = path.relative_to(PROJECT / room).parts[0].removesuffix(".py")
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == room:
                below = node.module.split(".")[1:2] or [alias.name for alias in node.names]
                imported.setdefault(own, set()).update({*below} - {own})
    TopologicalSorter(imported).prepare()  # raises CycleError, which names the circle


def test_only_one_module_imports_beam():
    users = {
        str(path.relative_to(PROJECT)) for room in ROOMS for path in modules(room) if "apache_beam" in imports(path)
    }
    assert users == {"pipelines/transform.py"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("schemas.config_file", {"apache_beam", "torch", "pipelines", "prefect", "pyarrow", "duckdb"}),
        ("schemas.views", {"apache_beam", "torch", "pipelines", "prefect"}),
        ("flows.cli", {"apache_beam", "torch", "prefect", "pyarrow", "duckdb"}),
        ("pipelines.run", {"apache_beam", "torch", "training", "prefect", "rapidocr"}),
    ],
)
def test_what_is_imported_in_the_end_is_light_too(module, heavy):
    """A process that only answers `--help` or a wrong configuration loads nothing that it does not need."""
    code = f"import sys, {module}; print(*(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not heavy & {*done.stdout.split()}


def test_imports_are_seen_wherever_they_stand(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("import a.b as c\nfrom d.e import f\ndef g():\n    from . import h\n    import torch\n")
    assert imports(path) == {"a", "d", ".", "torch"}


def tree_of_the_readme() -> set[str]:
    """The modules that the README's tree names. A folder holds for all that follows on its line."""
    text = (PROJECT / "README.md").read_text()
    found, room = set(), ""
    for line in text[text.index("## The tree") : text.index("## Measured")].splitlines():
        names = line.strip().split("  ")[0].split()
        if line.startswith("    ") and line[4:5].strip():
            room = names[0]
        elif line.startswith("      ") and line[6:7].strip():
            folder = ""
            for name in names:
                folder = f"{name.rpartition('/')[0]}/" if "/" in name else folder
                found.add(f"{room}{folder}{name.rpartition('/')[2]}")
    return {name for name in found if name.endswith(".py")}


def test_each_module_has_its_line_in_the_readme_and_no_other():
    there = {str(path.relative_to(PROJECT)) for room in ROOMS for path in modules(room)}
    assert tree_of_the_readme() == {name for name in there if not name.endswith("__init__.py")}

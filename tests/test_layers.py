"""Four rooms, one direction: flows -> pipelines -> schemas, and flows -> training -> schemas."""

import ast
import importlib.util
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from support.paths import PROJECT, TESTS

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


def imported_modules(path: Path) -> set[Path]:
    """The modules of the project that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            place = PROJECT / name.replace(".", "/")
            found |= {file for file in (place.with_suffix(".py"), place / "__init__.py") if file.exists()}
    return found - {path}


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_imports_another_in_a_circle(room):
    graph = {path: imported_modules(path) & {*modules(room)} for path in modules(room)}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


BELOW = {  # the rooms of `pipelines`, each with those that it may import
    "engine": set(),
    "text_rules": set(),
    "sources": {"engine", "text_rules"},
    "fetching": {"engine"},
    "ocr": {"engine", "text_rules"},
    "dedup": {"engine", "sources"},
    "models": {"engine", "fetching"},
    "catalog": {"engine"},
    "stages": {"engine", "text_rules", "sources", "fetching", "ocr", "dedup", "models", "catalog"},
    "reports": {"engine", "catalog"},
    "build": {"engine", "sources", "ocr", "fetching", "dedup", "models", "catalog", "stages", "reports"},
    "exports": {"engine"},
    "maintain": {"engine", "text_rules", "sources", "fetching", "dedup", "catalog", "stages", "reports", "build"},
}


def test_the_rooms_of_pipelines_import_only_those_below_them():
    """The engine knows no stage, a stage knows no run, and `build` knows all."""
    for path in modules("pipelines"):
        room = path.relative_to(PROJECT / "pipelines").parts[0]
        if room.endswith(".py"):
            continue
        for other in imported_modules(path):
            if other.is_relative_to(PROJECT / "pipelines") and other.parent != PROJECT / "pipelines":
                below = other.relative_to(PROJECT / "pipelines").parts[0]
                assert below in {*BELOW[room], room}, f"{path.relative_to(PROJECT)} imports {below}"


def test_the_rooms_are_few_and_the_modules_short():
    rooms = {
        path.relative_to(PROJECT / "pipelines").parts[0]
        for path in modules("pipelines")
        if path.parent.name != "pipelines"
    }
    lengths = sorted(
        len(path.read_text().splitlines()) for room in ROOMS for path in modules(room) if path.name != "__init__.py"
    )
    assert len(rooms) <= 13
    assert lengths[len(lengths) // 2] <= 150
    assert lengths[-1] <= 400


def test_files_of_tests_are_short():
    for path in TESTS.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, f"{path.relative_to(PROJECT)}: split it by what it tests"


def names_of(module: str) -> set[str]:
    """What can be imported from a module of the project or of `support`."""
    place = (TESTS if module.split(".")[0] == "support" else PROJECT) / module.replace(".", "/")
    if place.is_dir():
        return {path.stem for path in place.iterdir()} | names_of(f"{module}.__init__")
    names = set()
    for node in ast.walk(ast.parse(place.with_suffix(".py").read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return names


@pytest.mark.parametrize("path", sorted((TESTS / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_imports_only_what_exists(path):
    """They are run by hand, so that a name that moved would not be missed for long."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in (*ROOMS, "support"):
            lacking = {alias.name for alias in node.names} - names_of(node.module)
            assert not lacking, f"{node.module} has no {', '.join(sorted(lacking))}"


def test_only_one_module_imports_beam():
    users = {
        str(path.relative_to(PROJECT)) for room in ROOMS for path in modules(room) if "apache_beam" in imports(path)
    }
    assert users == {"pipelines/engine/beam.py"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("schemas.config.file", {"apache_beam", "torch", "pipelines", "prefect", "pyarrow", "duckdb"}),
        ("schemas.views", {"apache_beam", "torch", "pipelines", "prefect"}),
        ("flows.cli", {"apache_beam", "torch", "prefect", "pyarrow", "duckdb"}),
        ("pipelines.build.run", {"apache_beam", "torch", "training", "prefect", "rapidocr"}),
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


def test_the_pages_that_are_made_from_the_code_are_up_to_date():
    spec = importlib.util.spec_from_file_location("generate", PROJECT / "docs/generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name, text in generate.pages().items():
        assert (PROJECT / "docs" / name).read_text() == text, f"docs/{name}: run `make docs`"


@pytest.mark.parametrize("room", ROOMS)
def test_each_module_says_what_it_is_for(room):
    for path in modules(room):
        assert ast.get_docstring(ast.parse(path.read_text())), path

"""CONTRIBUTING.md is followed to the letter in a copy of the project: what it shows works as it stands."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from support.corpora import ONE_PROCESS, picture
from support.paths import PROJECT
from support.scripted_server import Scripted

TEXT = (PROJECT / "CONTRIBUTING.md").read_text()
PACKAGES = ("schemas", "pipelines", "flows", "training", "tests", "docs")


def follow(section: str, copy: Path) -> None:
    """Does what a section of CONTRIBUTING.md says: new files, lines put in a table, classes put above a name."""
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)[1]
    for place, code in re.findall(r"```python\n# (\S+?\.py(?:, above \w+)?)\n(.*?)```", text, re.S):
        name, _, above = place.partition(", above ")
        path = copy / name
        if above:
            path.write_text(path.read_text().replace(f"\n{above} = (", f"\n{code.strip()}\n\n\n{above} = (", 1))
        else:
            assert not path.exists()
            path.write_text(code)
    for name, line, below in re.findall(r"In `(\S+?)`[^`]*(?:`[^`]+`[^`]*?)*? put\s+`([^`]+)` below\s+`([^`]+)`", text):
        path = copy / name
        lines = path.read_text().splitlines()
        (at,) = (number for number, there in enumerate(lines) if there.strip() == below)
        lines.insert(at + 1, lines[at].replace(below, line))
        path.write_text("\n".join(lines) + "\n")
    for name, word, module in re.findall(r"In `(\S+?)` import `(\w+)` from `(\S+?)`", text):
        path = copy / name
        path.write_text(path.read_text().replace("\nfrom schemas.", f"\nfrom {module} import {word}\nfrom schemas.", 1))
    for name, module in re.findall(r"In `(\S+?)` import `(\w+)`, and", text):
        path = copy / name
        path.write_text(path.read_text().replace("from schemas import (", f"from schemas import (\n    {module},", 1))


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the project, with a folder of pictures, two of them dark."""
    for package in PACKAGES:
        shutil.copytree(PROJECT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "pico"))
    for name in ("README.md", "LICENSE", "pyproject.toml", "CONTRIBUTING.md"):
        shutil.copy(PROJECT / name, tmp_path / name)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(picture(number)[0])
        (folder / f"{number}.txt").write_text(f"picture {number}")
    for number in (1, 4):
        Image.new("RGB", (64, 64), (number, number, number)).save(folder / f"{number}.png")
    return tmp_path


def run(copy: Path, *words: str, module: str = "pipelines.build") -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=copy, capture_output=True, text=True, timeout=300,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{copy}:{copy / 'tests'}", "HOME": str(copy)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def ask(copy: Path, sql: str) -> list[dict]:
    """What the catalog answers, in the copy of the project."""
    code = (
        "import sys; from pipelines.catalog.catalog import query; from pipelines.engine.root import Root; "
        "from pipelines.maintain.verify import verify_root; root = Root(sys.argv[1]); "
        "print((query(root, sys.argv[2]).to_pylist(), verify_root(root).problems))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(copy / "corpus"), sql], cwd=copy, capture_output=True, text=True, timeout=120,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(copy)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows, problems = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    assert problems == []
    return rows


def packed(copy: Path) -> set[str]:
    """The captions in all shards."""
    found = set()
    for path in (copy / "corpus/shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            found |= {tar.extractfile(member).read().decode() for member in tar if member.name.endswith(".txt")}
    return found


FOLDER = '[source]\nkind = "folder"\npath = "pictures"\n'


@pytest.mark.slow
def test_a_stage(copy):
    follow("Add a stage", copy)
    toml = f'root = "corpus"\n{FOLDER}[brightness]\n[sets.train]\nwhere = "brightness > 100"\n{ONE_PROCESS}'
    (copy / "my.toml").write_text(toml)
    run(copy, "my.toml")
    rows = ask(copy, "SELECT text, reason, left_out_by FROM samples ORDER BY text")
    assert [row["reason"] for row in rows] == [None, "dark", None, None, "dark", None]
    assert {row["left_out_by"] for row in rows} == {None, "brightness"}
    assert packed(copy) == {f"picture {n}" for n in (0, 2, 3, 5)}, "what it left out is in no shard"
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(copy)}
    subprocess.run([sys.executable, "docs/generate.py"], cwd=copy, check=True, timeout=60, env=env)
    tests = ("test_layers.py", "pipelines/build/test_kills.py", "pipelines/build/test_upgrades.py")
    run(copy, "-q", "-p", "no:cacheprovider", "-m", "not slow", *(f"tests/{name}" for name in tests), module="pytest")


@pytest.mark.slow
def test_a_stage_that_asks_a_model(copy):
    follow("Add a stage that asks a model", copy)
    with Scripted() as server:
        endpoint = f'[endpoints.seer]\nmodel = "scripted"\nurl = "{server.url}"\n[tags]\nendpoint = "seer"\n'
        limits = "[duplicates]\nnear = -1\n[images]\nmin_side = 100\n"
        toml = f'root = "corpus"\n{FOLDER}{limits}{endpoint}[sets.train]\nwhere = "tags is not null"\n{ONE_PROCESS}'
        (copy / "my.toml").write_text(toml)
        run(copy, "my.toml")
        assert len(server.asked()) == 4, "no model is paid for an image that was left out"
        rows = ask(copy, "SELECT tags, reason FROM samples ORDER BY text")
        assert [row["reason"] for row in rows] == [None, "too_small", None, None, "too_small", None]
        stage = copy / "pipelines/stages/tags.py"
        stage.write_text(stage.read_text().replace("    info = STAGE\n", "    info = STAGE\n    version = 2\n"))
        run(copy, "my.toml")
        assert len(server.asked()) == 4, "an upgrade pays for nothing"
        assert ask(copy, "SELECT tags, reason FROM samples ORDER BY text") == rows


@pytest.mark.slow
def test_a_source(copy):
    follow("Add a source", copy)
    (copy / "pictures/list.txt").write_text("0.png\ta\n2.png\tb\n3.png\n")
    toml = f'root = "corpus"\n[source]\nkind = "listing"\npath = "pictures/list.txt"\n[sets.train]\n{ONE_PROCESS}'
    (copy / "my.toml").write_text(toml)
    run(copy, "my.toml")
    rows = ask(copy, "SELECT text, reason FROM samples ORDER BY text NULLS LAST")
    assert rows == [{"text": "a", "reason": None}, {"text": "b", "reason": None}, {"text": None, "reason": "no_image"}]
    assert packed(copy) == {"a", "b"}


def test_the_text_is_what_the_test_follows():
    """Every block names its file, and every table that a line is put in is there."""
    blocks = re.findall(r"```python\n(.*)\n", TEXT)
    assert len(blocks) == 6 and all(re.fullmatch(r"# \S+\.py(, above \w+)?", first) for first in blocks)
    assert len(re.findall(r"In `\S+?`[^.]*? put\s`[^`]+` below\s`[^`]+`", TEXT)) == 3

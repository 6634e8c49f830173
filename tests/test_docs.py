"""README.md and docs/ say what is so: their TOML is valid, their commands exist, and the tour is walked.

A block of TOML whose first line is `# name.toml` is a file; the `sh` blocks after it are run where it lies.
"""

import re
import shlex
import shutil
import tomllib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from PIL import Image, ImageDraw
from support.corpora import ONE_PROCESS, shardmill
from support.paths import PROJECT

from flows.cli import app
from pipelines.catalog.catalog import query
from pipelines.engine.root import Root
from schemas.config.file import read_config
from schemas.config.model import TABLES, Config
from training.recipe import read_recipe

PAGES = [PROJECT / "README.md", PROJECT / "SECURITY.md", *sorted((PROJECT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands
BASE = 'root = "corpus"\n[source]\nkind = "scenes"\n'


class Block(NamedTuple):
    language: str
    text: str


@cache
def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S)]


def commands(page: Path) -> list[list[str]]:
    """The words of each command in the `sh` blocks of a page."""
    lines = [line for block in blocks(page) if block.language == "sh" for line in block.text.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def named(page: Path) -> list[pytest.param]:
    return pytest.param(page, id=page.name)


each_page = pytest.mark.parametrize("page", [named(page) for page in PAGES])


# What is written


@each_page
def test_every_toml_is_valid(page, tmp_path):
    (tmp_path / "mine.py").write_text("def even(row):\n    return {}\n")
    (tmp_path / "opt-out.txt").write_text("example.org\n")
    for block in blocks(page):
        if block.language != "toml":
            continue
        path, table = tmp_path / "my.toml", tomllib.loads(block.text)
        if isinstance(table.get("stages"), list):
            path.write_text(block.text)
            read_recipe(path)
            continue
        assert table.keys() <= Config.model_fields.keys(), page.name
        text = block.text if "root" in table else f"{BASE if 'source' not in table else BASE[:16]}{block.text}"
        path.write_text(text)
        read_config(path)


@each_page
def test_every_command_exists_with_its_options(page):
    for words in commands(page):
        program, *arguments = words
        if program == "shardmill":
            name, *arguments = arguments
            assert name in COMMANDS, f"{page.name}: shardmill {name}"
            try:
                COMMANDS[name].make_context(name, list(arguments))
            except typer._click.exceptions.UsageError as error:
                pytest.fail(f"{page.name}: {shlex.join(words)}: {error.format_message()}")
        elif program == "make":
            assert f"\n{arguments[0]}:" in (PROJECT / "Makefile").read_text()
        elif program == "python":
            assert arguments[0] == "-m" and find_spec(arguments[1]), f"{page.name}: {shlex.join(words)}"
        else:
            assert program in ("source", "prefect", "pip", "curl"), f"{page.name}: {shlex.join(words)}"


@each_page
def test_every_file_that_is_named_exists(page):
    text = page.read_text()
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (page.parent / link).exists(), f"{page.name}: {link}"
    for path in re.findall(r"`(?:python |pytest )?((?:tests|pipelines|training|schemas|flows)/[\w/.-]+)", text):
        assert (PROJECT / path).exists(), f"{page.name}: {path}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_docs(name):
    assert any(words[:2] == ["shardmill", name] for page in PAGES for words in commands(page))


def test_every_table_is_in_the_docs():
    tables = {name for page in PAGES for block in blocks(page) if block.language == "toml"
              for name in tomllib.loads(block.text)}  # fmt: skip
    assert {name.partition(".")[0] for name in TABLES} - {"images", "beam", "claims", "pairs"} <= tables


def test_the_readme_is_short():
    assert len((PROJECT / "README.md").read_text().split()) <= 1600


# What is done


def photos(folder: Path) -> None:
    """A folder of pictures with captions, some with print."""
    folder.mkdir()
    for number in range(6):
        image = Image.new("RGB", (320, 320), (40 * number, 90, 200 - 30 * number))
        pen = ImageDraw.Draw(image)
        pen.ellipse((20 + 30 * number, 40, 200, 220), (250, 240, 30 * number))
        pen.text((160, 280), f"STATION {number}", (255, 255, 255), font_size=40, anchor="mm")
        image.save(folder / f"{number}.jpg")
        (folder / f"{number}.txt").write_text(f"A round sign of station {number} against the sky.")


def released(word: str, folder: Path) -> str:
    """A release of a page as one of the corpus: `train@3f2a` is the first one of its set, `train@9c81` the last."""
    if not (named := re.fullmatch(r"(\w+)@(3f2a|9c81)", word)):
        return word
    asked = f"SELECT release FROM releases WHERE \"set\" = '{named[1]}' ORDER BY published"
    found = query(Root(str(folder / "corpus")), asked)["release"].to_pylist()
    return f"{named[1]}@{found[0 if named[2] == '3f2a' else -1]}"


def walk(pages: list[Path], folder: Path, skip: tuple[str, ...]) -> list[str]:
    """Writes the files of some pages, and runs their commands; returns the commands."""
    done = []
    for page in pages:
        for block in blocks(page):
            if block.language == "toml" and (name := re.match(r"# ([\w.-]+\.toml)\n", block.text)):
                (folder / name[1]).write_text(block.text + ONE_PROCESS)
            elif block.language == "sh":
                for line in block.text.splitlines():
                    words = [released(word, folder) for word in shlex.split(line, comments=True)]
                    if not words or words[0] != "shardmill" or words[1] in skip:
                        continue
                    process = shardmill(*words[1:], cwd=folder)
                    assert process.returncode == 0, f"{page.name}: {line}\n{process.stdout}{process.stderr}"
                    done.append(words[1])
    return done


@pytest.mark.slow
def test_the_tour_of_the_readme_and_operating(tmp_path):
    photos(tmp_path / "photos")
    (tmp_path / "list.txt").write_text("https://example.org/nothing.jpg\n")
    (tmp_path / "bad.csv").write_text("key\n0000000000000000\n")
    skip = ("check-endpoint", "try", "schedule", "schedules", "unschedule", "init", "keys")
    done = walk([PROJECT / "README.md"], tmp_path, skip)
    (tmp_path / "photos/0.txt").write_text("A corrected caption, for a second release.")
    done += walk([PROJECT / "docs/operating.md"], tmp_path, skip)
    wanted = "plan run verify sql urls stats report clean retry takedown diff publish"
    assert {*wanted.split()} <= {*done}


@pytest.mark.slow
def test_the_pairs_of_the_page_on_models(tmp_path):
    """`pico` answers, and judges itself, as the page shows it; here about fewer pictures."""
    (tmp_path / "training").mkdir()
    shutil.copytree(PROJECT / "training/pico", tmp_path / "training/pico")
    done = walk([PROJECT / "docs/models.md"], tmp_path, ("check-endpoint", "try"))
    assert done == ["run", "export-set"]
    assert list((tmp_path / "pairs-trl/data").glob("*.parquet"))

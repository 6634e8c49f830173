"""docs/inputs.md says what is so: each input is made by the packages that people use, and its TOML is run over it.

The page is read by its headings. A function of `support.inputs` or `support.input_answers` makes the files of an input
and returns the samples that must come out. The figures are those of the table of the page.
"""

import json
import re
from typing import NamedTuple
from unittest.mock import patch

import pytest
from support import input_answers  # noqa: F401  (whose inputs are in MAKERS then)
from support.corpora import ONE_PROCESS, build, say
from support.inputs import MAKERS, PICTURES, Sample, webdataset
from support.paths import PROJECT
from support.picture_server import serving

from pipelines.catalog.catalog import query
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from schemas.config.file import read_config

PAGE = (PROJECT / "docs/inputs.md").read_text()


class Line(NamedTuple):
    """A line of the table of the page."""

    kinds: tuple[str, ...]
    rows: int
    samples: int
    left_out: dict[str, int]


# The page


def sections() -> dict[str, str]:
    """The text of each input by its heading."""
    parts = re.split(r"^### (.+)$", PAGE, flags=re.M)[1:]
    return {heading: text.partition("\n## ")[0] for heading, text in zip(parts[::2], parts[1::2], strict=False)}


def table() -> dict[str, Line]:
    lines = {}
    for line in re.findall(r"^\| \[.*\|$", PAGE, re.M):
        name, kind, rows, samples, left_out = (cell.strip() for cell in line.strip("|").split("|"))
        heading, anchor = re.fullmatch(r"\[(.+)\]\(#(.+)\)", name).groups()
        assert anchor == re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        reasons = {reason: int(count) for count, reason in re.findall(r"(\d+) `(\w+)`", left_out)}
        lines[heading] = Line(tuple(re.findall(r"`(\w+)`", kind)), int(rows), int(samples), reasons)
    return lines


def code(heading: str, language: str) -> str:
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", sections()[heading], re.M | re.S))


@pytest.fixture(scope="module", autouse=True)
def server():
    """Answers /0.png to /2.png, and all else with 404."""
    with serving(dict(enumerate(PICTURES[:3]))) as (url, _), patch("support.inputs.served", url):
        yield


# What comes out


def test_every_input_of_the_page_is_in_its_table_and_is_made_here():
    assert [*table()] == [*sections()] == [*MAKERS]
    assert len(MAKERS) >= 20


def published(root: str, name: str) -> list[Sample]:
    """The samples of a set as plain webdataset reads them, in order of what they say."""
    found = webdataset.WebDataset(say("urls", root, name).out.split(), shardshuffle=False)
    return sorted(map(sample_of, found))


def sample_of(sample: dict) -> Sample:
    images = [sample[part] for part in sorted(sample) if part.rpartition(".")[2] in ("png", "jpg")]
    value = json.loads(sample["json"])
    if "conversation" in value:
        said = tuple(turn["content"] for turn in value["conversation"]["turns"])
    elif "pair" in value:
        said = tuple(value["pair"][name] for name in ("question", "chosen", "rejected"))
    else:
        said = sample["txt"].decode()
    return said, images


def reasons(root: Root, view: str = "samples") -> dict[str | None, int]:
    """The number of entries by the reason for which they were left out."""
    where = "coalesce(part, 0) = 0" if view == "samples" else "true"  # further images of a conversation have rows, too
    found = query(root, f"select reason, count(*) as n from {view} where {where} group by all")
    return {row["reason"]: row["n"] for row in found.to_pylist()}


@pytest.mark.slow
@pytest.mark.parametrize("heading", MAKERS)
def test_an_input_comes_out_as_the_page_says(heading, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    expected, line = MAKERS[heading](tmp_path), table()[heading]
    exec(code(heading, "python"), {})
    toml = code(heading, "toml")
    assert {*re.findall(r'^kind = "(\w+)"$', toml, re.M)} == {*line.kinds}
    toml = toml.replace("[fetch]\n", '[fetch]\nallow_hosts = ["127.0.0.1"]\n')
    (tmp_path / "my.toml").write_text(f'root = "corpus"\n{toml}{ONE_PROCESS}')
    with patch("pipelines.build.run.write_report"):  # it takes a fifth of the time
        root = build(tmp_path / "my.toml")
    ((name, settings),) = read_config(tmp_path / "my.toml").sets.items()
    assert published(root.url, name) == sorted(expected)
    found = reasons(root)
    left_out = reasons(root, "pairs") if settings.task == "preference" else found
    left_out = {reason: count for reason, count in left_out.items() if reason}
    assert line == Line(line.kinds, sum(found.values()), len(expected), left_out)
    assert verify_root(root).problems == []

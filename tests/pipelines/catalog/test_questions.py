"""Every question of docs/questions.md, asked of a corpus with languages, print, two releases and a training run."""

import json
import re
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
from support.corpora import build, picture
from support.paths import PROJECT

from pipelines.catalog.catalog import query
from pipelines.engine.root import Root

PAGE = (PROJECT / "docs/questions.md").read_text()
QUESTIONS = re.findall(r"^\*\*(\d+)\. (.+?)\*\*\n\n```sql\n(.*?)```", PAGE, re.M | re.S)
WITHOUT_ROWS = {3, 4, 17}  # of a key that does not exist, of hosts and of models, which were not asked here
TEXTS = ("a dog number {} runs on the beach", "ein Hund Nummer {} läuft am Strand")
TOML = """
root = "corpus"
[[source]]
name = "web"
kind = "folder"
path = "pictures"
[[source]]
name = "talks"
kind = "conversations"
path = "talks.json"
images = "."
[ocr]
[measures]
[training]
folders = ["run"]
[sets.train]
languages = { de = 0.5, "*" = 0.5 }
[sets.talk]
task = "conversation"
[beam]
options = ["--direct_running_mode=in_memory", "--direct_num_workers=1"]
"""


def write(folder: Path, german: int) -> None:
    """Talks in English, and so many in German."""
    texts = [TEXTS[0].format(n) for n in range(30)] + [TEXTS[1].format(n) for n in range(german)]
    talks = [
        {"id": text, "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": text}]}
        for text in texts
    ]
    (folder / "talks.json").write_text(json.dumps(talks))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Root:
    folder = tmp_path_factory.mktemp("questions")
    (folder / "pictures").mkdir()
    for number in range(8):
        (folder / f"pictures/{number}.png").write_bytes(picture(number)[0])
        (folder / f"pictures/{number}.txt").write_text(TEXTS[number % 2].format(number) if number else "IMG_1234")
    (folder / "run").mkdir()
    shutil.copy(PROJECT / "training/pico/log.parquet", folder / "run/log.parquet")
    shutil.copy(PROJECT / "training/pico/evaluation.json", folder / "run/evaluation.json")
    (folder / "my.toml").write_text(TOML)
    write(folder, 6)
    with patch("support.corpora.catalogs", True):
        build(folder / "my.toml")
        write(folder, 40)
        return build(folder / "my.toml")


def test_there_are_twenty():
    assert [int(number) for number, *_ in QUESTIONS] == [*range(1, 21)]
    assert PAGE.count("```sql") == 20, "each block is a question"


@pytest.mark.parametrize(("number", "question", "sql"), QUESTIONS, ids=[number for number, *_ in QUESTIONS])
def test_a_question_has_an_answer(number, question, sql, root):
    rows = query(root, sql)
    assert rows.num_columns >= 2
    assert bool(rows.num_rows) == (int(number) not in WITHOUT_ROWS), question


@pytest.mark.slow
def test_some_answers_are_those_that_are_expected(root):
    answers = {int(number): query(root, sql).to_pylist() for number, _, sql in QUESTIONS}
    assert {(row["set"], row["language"]) for row in answers[7]} >= {("talk", "en"), ("talk", "de")}
    assert [row["text"] for row in answers[8]] == ["IMG_1234"]
    assert ("talk", "language") in {(row["set"], row["measure"]) for row in answers[13]}
    assert answers[20][0]["recall"] == pytest.approx(0.816) and answers[20][0]["steps"] > 100

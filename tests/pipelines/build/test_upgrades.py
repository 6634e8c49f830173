"""An upgrade never pays twice: corpora of version 0.1 are current, and a raised version asks, reads and pays nothing.

tests/data/corpora-0.1.tar.gz holds three small corpora that version 0.1 made, with their sources and configurations;
tests/data/identities.json the identities of its stages under many configurations. A change that is meant to make
something anew changes the second, and says so in CHANGELOG.
"""

import json
import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.corpora import build, data_files
from support.paths import TESTS

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.partition_stage import Before
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from pipelines.stages import (
    captions,
    claims,
    duplicates,
    images,
    instructions,
    ocr,
    pairs,
    responses,
    selection,
    shards,
    verdicts,
)
from pipelines.stages import rows as rows_stage

CASES = json.loads((TESTS / "data/identities.json").read_text())
NAMES = ("everything", "talks", "fetched")
STAGES = (
    rows_stage.Rows, images.CopyImages, duplicates.MarkDuplicates, ocr.ReadText, captions.Rewrite, selection.Select,
    instructions.DrawInstructions, responses.Respond, claims.Divide, verdicts.Judge, pairs.DrawPairs, shards.ShardSet,
)  # fmt: skip


@pytest.fixture
def old(tmp_path) -> Path:
    """The corpora of version 0.1, none of whose servers runs any more."""
    with tarfile.open(TESTS / "data/corpora-0.1.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture
def nobody_is_asked(monkeypatch) -> None:
    """Any request, and any engine that is opened, is an error."""

    def refuse(*args, **kwargs):
        raise AssertionError("this costs something")

    monkeypatch.setattr("pipelines.fetching.fetch.fetcher", refuse)
    monkeypatch.setattr("pipelines.stages.ocr.open_engine", refuse)
    monkeypatch.setattr("pipelines.models.chat.ChatClient.ask", refuse)


@pytest.mark.parametrize("name", CASES)
def test_the_identity_of_each_stage_is_that_of_before(name, tmp_path):
    """The golden file: nothing of a user's is made anew by accident."""
    path = tmp_path / "my.toml"
    path.write_text(f'root = "corpus"\n{CASES[name]["toml"]}')
    corpus = open_corpus(path)
    stages = {"rows": corpus.rows[None], **corpus.made, **{f"shards/{stage.set}": stage for stage in corpus.shards}}
    assert {place: stage.identity() for place, stage in stages.items()} == CASES[name]["identities"]
    reads = {stage: {k: set(columns) for k, columns in read.items()} for stage, read in CASES[name]["reads"].items()}
    assert {stage: {k: set(columns) for k, columns in corpus.made[stage].inputs.items()} for stage in reads} == reads, (
        "what earlier stages left out is inherited by rule"
    )


def test_a_new_field_at_its_default_is_in_no_identity(monkeypatch):
    from schemas.config.table import FIRST_FIELDS
    from schemas.ocr import OcrConfig

    class Newer(OcrConfig):
        angle: int = 0

    monkeypatch.setitem(FIRST_FIELDS, "Newer", FIRST_FIELDS["OcrConfig"])
    assert Newer().recorded() == OcrConfig().recorded()
    assert Newer(angle=3).recorded() == OcrConfig().recorded() | {"angle": 3}


@pytest.mark.parametrize("name", NAMES)
def test_of_a_corpus_of_before_images_and_answers_alone_are_read_again(old, name, nobody_is_asked):
    """Version 4 of `images` adds a column, which version 2 of `duplicates` reads; `ocr` and stages whose answers are
    cleaned read what is stored. Nothing that is asked, paid or published is another one."""
    root, config = old / name / "corpus", old / name / "my.toml"
    before, kept = data_files(root), rows_of(root, "images")
    answers = {stage: rows_of(root, stage) for stage in ("captions", "responses", "claims")}
    stays = ("duplicates", "ocr")
    judged = [[{**row, "dropped": None, "made_from": ""} for row in rows_of(root, stage)] for stage in stays]
    build(config)
    after, corpus = data_files(root), open_corpus(config)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    notes = {path for path in changed if path.endswith(".json")}  # of what was seen: cards, and a note of each step
    remade = ["images", *(stage for stage in ("duplicates", "ocr", *answers) if stage in corpus.made)]
    partitions = read_commits(corpus.root, "rows")
    assert changed - notes == {f"{stage}/{p:05d}.parquet" for stage in remade for p in partitions}
    for stage, rows in answers.items():
        again = rows_of(root, stage)
        assert [{**row, "made_from": "", "raw": None, "cut": row.get("cut")} for row in rows] == [
            {**row, "made_from": ""} for row in again
        ], stage
    assert judged == [[{"dropped": None, **row, "made_from": ""} for row in rows_of(root, stage)] for stage in stays]
    measured = rows_of(root, "images")
    assert [{name: row[name] for name in row.keys() - {"phash256", "made_from"}} for row in measured] == [
        {name: row[name] for name in row.keys() - {"made_from"}} for row in kept
    ]
    assert all(bool(row["phash256"]) == bool(row["size"]) for row in measured) and any(row["size"] for row in measured)
    assert plan(corpus).work() == 0
    assert verify_root(corpus.root).problems == []
    query(corpus.root, "SELECT * FROM samples")
    assert query(corpus.root, "SELECT count(*) AS n FROM ocr WHERE dropped IS NOT NULL").to_pylist() == [{"n": 0}]


def rows_of(root: Path, stage: str) -> list[dict]:
    return [row for path in sorted((root / stage).glob("0*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("name", NAMES)
def test_a_raised_version_of_every_stage_costs_nothing(old, name, nobody_is_asked, monkeypatch):
    config = old / name / "my.toml"
    root = Root(str(old / name / "corpus"))
    kept = {stage: counts_of(root, stage) for stage in open_corpus(config).made}
    for stage in STAGES:
        monkeypatch.setattr(stage, "version", stage.version + 1)
    corpus = open_corpus(config)
    whys = {why for stage in plan(corpus).stages for why in stage.todo.values()}
    assert any(why.startswith("stage version") for why in whys)
    build(config)
    assert verify_root(root).problems == []
    assert plan(corpus).work() == 0
    assert {stage: counts_of(root, stage) for stage in corpus.made} == kept
    assert all(commit.version == ocr.ReadText.version for commit in read_commits(root, "ocr").values())


def counts_of(root: Root, stage: str) -> dict:
    return {p: (commit.rows, commit.reasons) for p, commit in read_commits(root, stage).items()}


def test_old_and_new_files_of_a_stage_are_asked_together(old, nobody_is_asked, monkeypatch):
    """After one partition of two was made by this version, the other still lacks its new columns."""
    root = Root(str(old / "everything/corpus"))
    monkeypatch.setattr(ocr.ReadText, "version", 3)
    build(old / "everything/my.toml", "ocr")
    newer = (old / "everything/corpus/ocr/00001.parquet").read_bytes()
    with tarfile.open(TESTS / "data/corpora-0.1.tar.gz") as tar:
        shutil.rmtree(old / "everything")
        tar.extractall(old, filter="data")
    (old / "everything/corpus/ocr/00001.parquet").write_bytes(newer)
    assert "dropped" in read_commits(root, "ocr")[1].digests
    assert "dropped" not in read_commits(root, "ocr", write=True)[0].digests
    rows = query(root, "SELECT partition, key, dropped, text FROM ocr ORDER BY ALL").to_pylist()
    assert {row["partition"] for row in rows} == {0, 1}
    assert {row["partition"] for row in rows if row["dropped"] is None} == {0, 1}, "lines of 0.1 are taken over"
    assert verify_root(root).problems == []


def test_a_raised_version_beside_another_setting_costs_only_what_the_setting_does(old, nobody_is_asked, monkeypatch):
    """How many draws there are decides of no single one."""
    config = old / "everything/my.toml"
    config.write_text(config.read_text().replace("draws = 3", "draws = 2"))
    monkeypatch.setattr(responses.Respond, "version", responses.Respond.version + 1)
    build(config, "responses")
    root = Root(str(old / "everything/corpus"))
    assert sum(commit.kept for commit in read_commits(root, "responses").values()) == 2 * 8


def test_a_setting_that_was_taken_back_is_another_one():
    row, settings = {"reason": None}, {"model": {}, "max_tokens": 50}
    before = Before(row, 1, settings, same_input=True, same_settings=False)
    stage = ocr.ReadText(ocr.OcrConfig())
    assert not before.differs_only_in(stage)
    assert not before._replace(settings=stage.settings() | {"angle": 3}).differs_only_in(stage, ocr.JUDGING)
    assert before._replace(settings=stage.settings() | {"good_length": 9}).differs_only_in(stage, ocr.JUDGING)


def test_other_thresholds_read_no_image_again(old, monkeypatch):
    """Once this version has read it, all lines are stored."""
    config = old / "everything/my.toml"
    root = Root(str(old / "everything/corpus"))
    shutil.rmtree(old / "everything/corpus/ocr")
    build(config, "ocr")
    monkeypatch.setattr("pipelines.stages.ocr.open_engine", lambda config: pytest.fail("an engine is opened"))
    config.write_text(config.read_text().replace("[ocr]", "[ocr]\nmin_confidence = 0.99\ngood_length = 9"))
    build(config, "ocr")
    judged = {p: (old / f"everything/corpus/ocr/{p:05d}.parquet").read_bytes() for p in (0, 1)}
    monkeypatch.undo()
    shutil.rmtree(old / "everything/corpus/ocr")
    build(config, "ocr")
    assert judged == {p: (old / f"everything/corpus/ocr/{p:05d}.parquet").read_bytes() for p in (0, 1)}
    assert verify_root(root).problems == []

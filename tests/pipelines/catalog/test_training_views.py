"""Training logs and evaluations as views, read from the folders that the configuration names."""

import json
import shutil

import pytest
from support.corpora import build, say
from support.paths import PROJECT

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.build.run import note_nothing_to_do
from pipelines.catalog.catalog import query
from pipelines.engine.alignment import write_alignment
from schemas.align import Alignment, new_round

SOURCE = '[source]\nkind = "folder"\npath = "pictures"\n'


@pytest.fixture
def runs(tmp_path, pictures):
    """Two folders of training: one with a log and an evaluation, one with a log, and one that does not exist."""
    for name in ("one", "tw*o"):
        (tmp_path / name).mkdir()
        shutil.copy(PROJECT / "training/pico/log.parquet", tmp_path / name / "log.parquet")
    evaluation = {"checkpoint": "pico", "recall": 0.8, "intervals": {"recall": [0.7, 0.9]}, "whole": True}
    (tmp_path / "one/evaluation.json").write_text(json.dumps(evaluation))
    return '[training]\nfolders = ["one", "tw*o", "gone"]\n'


def test_logs_and_evaluations_are_views(runs, configure, tmp_path):
    root = build(configure(SOURCE + runs))
    counts = query(root, "select folder, count(*) as rows, max(total) as steps from training group by all order by all")
    (one, two) = counts.to_pylist()
    assert (one["folder"], two["folder"]) == (f"{tmp_path}/one", f"{tmp_path}/tw*o")
    assert one["rows"] == two["rows"] > 10 and one["steps"] > 100
    assert query(root, "from evaluations").to_pylist() == [
        {"folder": f"{tmp_path}/one", "round": None, "figure": "recall", "value": 0.8, "low": 0.7, "high": 0.9}
    ]
    assert say("sql", root.url, f"from '{tmp_path}/one/other.parquet'").code == 2, "nothing else there is read"


def test_a_corpus_without_training_has_empty_views(pictures, configure):
    root = build(configure(SOURCE))
    assert query(root, "from training").num_rows == query(root, "from evaluations").num_rows == 0


@pytest.mark.slow
def test_naming_folders_makes_nothing_anew(runs, configure):
    build(configure(SOURCE))
    corpus = open_corpus(configure(SOURCE + runs))
    assert plan(corpus).work() == 0
    note_nothing_to_do(corpus)
    assert query(corpus.root, "select distinct folder from training").num_rows == 2
    with_folders = corpus.root.read("root.json")
    build(configure(SOURCE + runs))
    assert corpus.root.read("root.json") == with_folders
    note_nothing_to_do(open_corpus(configure(SOURCE)))
    assert query(corpus.root, "from training").num_rows == 0


def test_the_rounds_of_an_alignment_are_evaluations(pictures, configure):
    root = build(configure(SOURCE))
    policy = {"model": None, "revision": None}
    figures = {"values": {"recall": 0.5}, "intervals": {}}
    rounds = [
        new_round(policy) | {"figures": {"values": {"recall": 0.6}, "intervals": {"recall": [0.5, 0.7]}}},
        new_round(policy),
    ]
    write_alignment(root, Alignment(start=figures, rounds=rounds))
    rows = query(root, "select round, value, low from evaluations").to_pylist()
    assert rows == [{"round": 0, "value": 0.5, "low": None}, {"round": 1, "value": 0.6, "low": 0.5}]


@pytest.mark.parametrize("folder", ["/" + "x" * 5000, "a\0b", "", "/dev/null", "'; drop view rows; --"])
def test_a_folder_that_cannot_be_stops_nothing(folder, pictures, configure):
    """A stranger's root.json may name any."""
    root = build(configure(SOURCE))
    manifest = json.loads(root.read("root.json"))
    root.write("root.json", json.dumps(manifest | {"training": [folder]}).encode())
    assert query(root, "from training").num_rows == query(root, "from evaluations").num_rows == 0


def test_an_evaluation_that_is_not_json_stops_nothing(runs, configure, tmp_path):
    (tmp_path / "tw*o/evaluation.json").write_text("no figures {")
    root = build(configure(SOURCE + runs))
    assert query(root, "from evaluations").num_rows == 1

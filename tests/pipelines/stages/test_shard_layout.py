"""Workers count the samples of groups, and the shards are those that one process lays out."""

from pathlib import Path

import pytest
from support.corpora import ONE_PROCESS, build, data_files, in_this_process, write_tar

from pipelines.build.corpus import open_corpus
from pipelines.engine.releases import read_card
from pipelines.engine.results import WriteResults
from pipelines.engine.workers import Workers
from pipelines.stages.shard_layout import GroupItem, lay_out
from schemas.config.model import BeamConfig
from schemas.errors import UserError


def write_config(folder: Path, settings: str, name: str = "corpus") -> Path:
    config = folder / f"{name}.toml"
    source = f'root = "{name}"\n[source]\nkind = "webdataset"\npath = "source"\n'
    config.write_text(f"{source}[sets.train]\n{settings}\n{ONE_PROCESS}")
    return config


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["samples_per_shard = 2", 'where = "width > 200"', "weight = 0.5"])
def test_workers_lay_groups_out_as_this_process_does(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.stages.shard_layout.GROUP", 1)
    for number in range(5):
        write_tar(tmp_path / f"source/{number}.tar", range(6 * number, 6 * number + 6 - number))
    written, make = [], WriteResults.make
    monkeypatch.setattr(WriteResults, "make", lambda work, item: (written.append(item.first), make(work, item)))
    root = build(config := write_config(tmp_path, settings, "by-workers"))
    assert sorted(written) == [0, 1, 2, 3, 4] and not root.folders("shards")
    corpus = open_corpus(config)
    commits = corpus.commits("rows", *corpus.made)
    layout = lay_out(root, corpus.shards[0], None, commits)
    assert [*layout.groups] == read_card(root, "train")["groups"]
    monkeypatch.setattr("pipelines.build.run.lay_out", lambda *args: lay_out(*args[:4]))
    build(write_config(tmp_path, settings, "alone"))
    assert len(written) == 5
    assert data_files(tmp_path / "alone") == data_files(tmp_path / "by-workers")


@pytest.mark.slow
def test_what_a_killed_run_counted_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.stages.shard_layout.GROUP", 1)
    for number in range(4):
        write_tar(tmp_path / f"source/{number}.tar", [number])
    config, written, make = write_config(tmp_path, ""), [], WriteResults.make

    def make_two(work: WriteResults, item: GroupItem) -> None:
        if len(written) == 2:
            raise OSError("the disk is gone")
        written.append(item.first)
        make(work, item)

    monkeypatch.setattr(WriteResults, "make", make_two)
    with pytest.raises(OSError, match="the disk is gone"):
        build(config)
    monkeypatch.setattr(WriteResults, "make", lambda work, item: (written.append(item.first), make(work, item)))
    root = build(config)
    assert sorted(written) == [0, 1, 2, 3] and not root.folders("shards")


def test_what_was_counted_for_shards_of_another_size_is_not_taken_over():
    names = {GroupItem(0, (0, 1), shards, "inputs", size).name for shards in (None, 3) for size in (10, 100)}
    assert len(names) == 4


@pytest.mark.slow
def test_a_condition_that_fails_in_a_worker_is_a_mistake_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.stages.shard_layout.GROUP", 1)
    for number in range(3):
        write_tar(tmp_path / f"source/{number}.tar", [number])
    root = build(config := write_config(tmp_path, 'where = "true"'))
    corpus = open_corpus(config)
    commits, error = corpus.commits("rows", *corpus.made), UserError("sets.train.where: cannot cast")
    monkeypatch.setattr("pipelines.stages.shard_layout.condition_error", lambda *_: error)
    wrong = "SELECT 1 AS place, 'k' AS key, key::INTEGER AS made_from"
    monkeypatch.setattr("pipelines.stages.shard_layout.members", lambda *_: wrong)
    with in_this_process(), pytest.raises(UserError, match="cannot cast"):
        lay_out(root, corpus.shards[0], None, commits, Workers(BeamConfig(), root), "shards/layouts/x")

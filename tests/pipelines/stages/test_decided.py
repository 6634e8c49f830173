"""A corpus step is decided by the driver for some partitions at a time, and written by it or by workers: the bytes are
the same."""

from pathlib import Path

import pytest
from support.corpora import ONE_PROCESS, build, data_files, write_tar

from pipelines.catalog.catalog import query
from pipelines.engine.corpus_stage import WriteDecided
from pipelines.engine.parquet import read_rows
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root

TOML = """
root = "{name}"
[[source]]
kind = "webdataset"
path = "source/*.tar"
[[source]]
name = "more"
kind = "webdataset"
path = "more/*.tar"
[duplicates]
[measures]
[sets.train]
task = "caption"
where = "{where}"
{more}
"""
WHERE = "width > 10"
CONDITIONS = (
    WHERE,
    "key IN (SELECT min(key) FROM images GROUP BY format UNION ALL SELECT max(key) FROM rows)",
    "row_number() OVER (PARTITION BY text ORDER BY partition, key) = 1",
)


def write_corpus(folder: Path, name: str, where: str = WHERE, more: str = "") -> Path:
    if not (folder / "source").exists():
        for number in range(5):
            write_tar(folder / f"source/{number}.tar", range(3 * number, 3 * number + 6))  # each repeats some
        write_tar(folder / "source/5.tar", [])
        write_tar(folder / "more/0.tar", range(4))
    config = folder / f"{name}.toml"
    config.write_text(TOML.format(name=name, where=where, more=more) + ONE_PROCESS)
    return config


def steps(root: Root) -> dict[str, str]:
    return {name: digest for name, digest in data_files(Path(root.url)).items() if name.endswith(".parquet")}


@pytest.fixture
def one_at_a_time(monkeypatch):
    for place in ("pipelines.catalog.groups.MOST", "pipelines.stages.duplicates.AT_ONCE"):
        monkeypatch.setattr(place, 1)
    monkeypatch.setattr("pipelines.engine.corpus_stage.PIECE", 2)


@pytest.mark.slow
@pytest.mark.parametrize("where", CONDITIONS)
def test_workers_write_what_the_driver_writes(where, tmp_path, monkeypatch):
    plain = build(write_corpus(tmp_path, "plain", where))
    kept = [row for p in range(7) for row in read_rows(plain, f"selection/{p:05d}.parquet") if not row["reason"]]
    reasons = {row["reason"] for row in query(plain, "SELECT reason FROM selection").to_pylist()}
    assert kept and ("upstream" in reasons or "not_selected" in reasons)
    for place in ("pipelines.catalog.groups.MOST", "pipelines.stages.duplicates.AT_ONCE"):
        monkeypatch.setattr(place, 1)
    monkeypatch.setattr("pipelines.engine.corpus_stage.PIECE", 2)
    driver = build(write_corpus(tmp_path, "driver", where))
    assert data_files(tmp_path / "driver") == data_files(tmp_path / "plain")
    monkeypatch.setattr("pipelines.build.run.SMALL", 0)
    written, make = [], WriteDecided.make
    monkeypatch.setattr(WriteDecided, "make", lambda work, piece: (written.append(piece), make(work, piece)))
    workers = build(write_corpus(tmp_path, "workers", where))
    assert data_files(tmp_path / "workers") == data_files(tmp_path / "plain")
    assert {piece.file.split("/")[0] for piece in written} == {"duplicates", "selection"}
    assert not workers.folders("selection") and not workers.folders("duplicates")
    assert verify_root(workers).problems == verify_root(driver).problems == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["duplicates", "selection"])
def test_a_step_that_was_killed_is_decided_again(stage, tmp_path, monkeypatch, one_at_a_time):
    plain = build(write_corpus(tmp_path, "plain"))
    monkeypatch.setattr("pipelines.build.run.SMALL", 0)
    config, make = write_corpus(tmp_path, "killed"), WriteDecided.make
    for most in (0, 1, 2):
        done = []

        def killed(work, piece, done=done, most=most):
            if work.name == stage and len(done) == most:
                raise KeyboardInterrupt
            if work.name == stage:
                done.append(piece)
            make(work, piece)

        monkeypatch.setattr(WriteDecided, "make", killed)
        with pytest.raises(KeyboardInterrupt):
            build(config)
        assert any(f"/{stage}/decided/" in f"/{name}" for name in verify_root(Root(str(tmp_path / "killed"))).garbage)
    monkeypatch.setattr(WriteDecided, "make", make)
    root = build(config)
    assert data_files(tmp_path / "killed") == data_files(tmp_path / "plain")
    assert verify_root(root).problems == [] and not root.folders(stage)
    work = (
        "SELECT stage, item, rows, kept FROM work WHERE stage IN ('duplicates', 'selection') GROUP BY ALL ORDER BY ALL"
    )
    assert query(root, work).to_pylist() == query(plain, work).to_pylist()


@pytest.mark.slow
def test_quotas_and_repeated_keys_are_counted_over_the_whole_corpus(tmp_path, one_at_a_time, monkeypatch):
    quotas = "languages = { en = 0.5, '*' = 0.5 }"
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    driver = build(write_corpus(tmp_path / "a", "driver", more=quotas))
    monkeypatch.undo()
    plain = build(write_corpus(tmp_path / "b", "driver", more=quotas))
    assert steps(plain) == steps(driver)


@pytest.mark.slow
def test_a_note_of_several_partitions_is_a_row_of_work_for_each(tmp_path):
    config = write_corpus(tmp_path, "corpus")
    root = build(config)
    work = query(root, "SELECT item, rows FROM work WHERE stage = 'selection' ORDER BY item").to_pylist()
    assert [row["item"] for row in work] == [f"{p:05d}" for p in range(7)]
    config.write_text(config.read_text().replace("[sets.train]", '[sets.all]\ntask = "caption"\n[sets.train]'))
    build(config)
    counted = "SELECT run, count(*) AS n, count(DISTINCT partition) AS p FROM changes"
    changed = f"{counted} WHERE stage = 'selection' GROUP BY run ORDER BY run"
    first, second = query(root, changed).to_pylist()
    assert (first["n"], second["p"]) == (34, 5)  # all of the second source are duplicates

"""A corpus that grows, shrinks and is set anew: each time only what a change touches is made again."""

import json
from pathlib import Path

import pytest
from corpora import data_files, write_tar

import pipelines.corpus as corpus_module
from pipelines.catalog import query
from pipelines.corpus import open_corpus, plan, run
from pipelines.verify import verify_root

TOML = """
[source]
kind = "webdataset"
path = "source"

[ocr]
min_confidence = {confidence}

[sets.train]
where = "{where}"
samples_per_shard = 8
"""


@pytest.fixture
def nightly(tmp_path, configure):
    """A source of three tars, built once; `build(...)` builds again and says what was made."""
    for n in range(3):
        write_tar(tmp_path / f"source/{n}.tar", range(10 * n, 10 * n + 10))
    return Nightly(tmp_path, configure)


class Nightly:
    def __init__(self, folder: Path, configure):
        self.folder, self.configure = folder, configure
        self.build()

    def build(self, confidence: float = 0.5, where: str = "width >= 64") -> dict[str, int]:
        """stage -> rows that were computed, of the last run."""
        self.config = self.configure(TOML.format(confidence=confidence, where=where))
        self.planned = {stage.stage: set(stage.todo) for stage in plan(open_corpus(self.config)).stages}
        before = data_files(self.folder / "corpus") if (self.folder / "corpus").exists() else {}
        run(self.config)
        self.root = open_corpus(self.config).root
        after = data_files(self.folder / "corpus")
        self.written = {name for name in after if before.get(name) != after[name]}
        self.gone = before.keys() - after.keys()
        assert verify_root(self.root).problems == []
        last = "run = (SELECT max(run) FROM runs)"
        self.changes = query(
            self.root, f"SELECT stage, change, list(key ORDER BY key) FROM changes WHERE {last} GROUP BY ALL"
        ).to_pylist()
        self.changes = {(row["stage"], row["change"]): list(row.values())[2] for row in self.changes}
        made = query(self.root, f"SELECT stage, sum(made)::INT AS made FROM work WHERE {last} GROUP BY ALL").to_pylist()
        return {row["stage"]: row["made"] for row in made if row["made"]}

    def keys(self, partition: int) -> list[str]:
        found = query(self.root, f"SELECT key FROM rows WHERE partition = {partition} ORDER BY key")
        return found["key"].to_pylist()


def test_nothing_changed_makes_nothing(nightly):
    before = data_files(nightly.folder / "corpus")
    assert nightly.build() == {}
    assert data_files(nightly.folder / "corpus") == before
    assert nightly.planned == {stage: set() for stage in nightly.planned}


def test_a_new_file_makes_its_own_partition_and_the_open_group(nightly):
    write_tar(nightly.folder / "source/3.tar", range(30, 40))
    made = nightly.build()
    assert (made["rows"], made["images"], made["ocr"]) == (10, 10, 10)
    stages = {name for name in nightly.written if not name.startswith("shards/")}
    assert {name for name in stages if name.endswith("parquet")} == {
        f"{stage}/00003.parquet" for stage in ("rows", "images", "ocr", "selection")
    }
    for stage in ("rows", "images", "ocr", "selection"):
        assert nightly.changes[stage, "added"] == nightly.keys(3)
        assert (stage, "changed") not in nightly.changes and (stage, "removed") not in nightly.changes
    assert nightly.changes["shards", "added"] == [f"{key}-caption" for key in nightly.keys(3)]


def test_ten_images_lost_touch_their_partition_and_compute_nothing(nightly):
    lost = nightly.keys(1)
    write_tar(nightly.folder / "source/1.tar", [])
    made = nightly.build()
    assert "images" not in made and "ocr" not in made
    assert nightly.planned["rows"] == {1}
    for stage in ("rows", "images", "ocr", "selection"):
        assert nightly.changes[stage, "removed"] == lost
    assert nightly.changes["shards", "removed"] == [f"{key}-caption" for key in lost]


def test_some_images_lost_take_the_others_over(nightly):
    write_tar(nightly.folder / "source/1.tar", [n for n in range(10, 20) if n % 3])
    made = nightly.build()
    assert "images" not in made and "ocr" not in made
    assert len(nightly.changes["images", "removed"]) == 3
    assert ("images", "changed") not in nightly.changes and ("images", "added") not in nightly.changes


def test_an_ocr_option_reads_again_but_equal_rows_stop_there(nightly):
    made = nightly.build(confidence=0.51)
    assert set(made) == {"ocr"} and made["ocr"] == 30
    assert nightly.changes == {}
    assert {name.split("/")[0] for name in nightly.written} <= {"ocr", "selection"}
    assert not any("/0" in name for name in nightly.written if name.startswith("selection"))


def test_a_caption_touches_no_image(nightly):
    write_tar(nightly.folder / "source/2.tar", range(20, 30), lambda n: "another" if n == 25 else f"picture {n}")
    made = nightly.build()
    assert "images" not in made and "ocr" not in made
    assert len(nightly.changes["rows", "changed"]) == 1
    assert len(nightly.changes["shards", "changed"]) == 1
    shards = [name for name in nightly.written if name.endswith(".tar")]
    assert len(shards) == 1


def test_a_vanished_file_takes_its_partition_along_and_comes_back_as_it_was(nightly):
    before = data_files(nightly.folder / "corpus")
    lost = nightly.keys(0)
    away = nightly.folder / "away.tar"
    (nightly.folder / "source/0.tar").rename(away)
    assert plan(open_corpus(nightly.config)).vanished == [("0.tar", [0])]
    nightly.build()
    assert nightly.changes["images", "removed"] == lost
    assert {f"{stage}/00000.parquet" for stage in ("rows", "images", "ocr", "selection")} <= nightly.gone
    away.rename(nightly.folder / "source/0.tar")
    nightly.build()
    after = data_files(nightly.folder / "corpus")
    assert {name: after[name] for name in before if "@" not in name} == {n: before[n] for n in before if "@" not in n}


def test_history_leaves_no_trace_in_the_data(nightly, tmp_path):
    """Whatever a root went through, its files are those of a root that was made at once."""
    write_tar(nightly.folder / "source/1.tar", range(10, 17))
    nightly.build(confidence=0.6, where="width >= 100 AND ocr_text LIKE '%E%'")
    grown = data_files(nightly.folder / "corpus")
    at_once = nightly.configure(nightly.config.read_text().split("\n", 1)[1], "other.toml", "other")
    run(at_once)
    other = data_files(tmp_path / "other")
    assert other.keys() <= grown.keys()
    assert {name: grown[name] for name in other if name != "selection/step.json"} == {
        name: other[name] for name in other if name != "selection/step.json"
    }


def test_a_failed_gate_leaves_the_old_set_published(nightly):
    card = (nightly.folder / "corpus/shards/train.json").read_bytes()
    write_tar(nightly.folder / "source/1.tar", [])
    config = nightly.configure(TOML.format(confidence=0.5, where="true") + "[gates]\nchange = 'changed_share < 0.2'\n")
    with pytest.raises(corpus_module.GateFailed, match=r"change: changed_share < 0\.2 does not hold .*removed = 10"):
        run(config)
    assert (nightly.folder / "corpus/shards/train.json").read_bytes() == card
    assert json.loads(card)["samples"] == 30
    run(nightly.configure(TOML.format(confidence=0.5, where="true") + "[gates]\nchange = 'changed_share < 0.5'\n"))
    assert json.loads((nightly.folder / "corpus/shards/train.json").read_bytes())["samples"] == 20

"""A corpus that grows, shrinks and is set anew: each time only what a change touches is made again."""

import json
import shutil
from pathlib import Path

import pytest
from support.corpora import ONE_PROCESS, data_files, write_tar

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.build.run import run
from pipelines.catalog.catalog import query
from pipelines.catalog.gates import GateFailed
from pipelines.maintain.verify import verify_root

TOML = """
[source]
kind = "webdataset"
path = "source"

[ocr]
min_confidence = {confidence}

[sets.train]
where = "{where}"
samples_per_shard = 5
"""

EACH = 6  # pictures a tar


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A source of three tars and the corpus made of it."""
    folder = tmp_path_factory.mktemp("nightly")
    for n in range(3):
        write_tar(folder / f"source/{n}.tar", range(EACH * n, EACH * n + EACH))
    Nightly(folder).build()
    return folder


@pytest.fixture
def nightly(built, tmp_path) -> "Nightly":
    """That corpus, to build on: a copy, as roots may move."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return Nightly(tmp_path)


class Nightly:
    def __init__(self, folder: Path):
        self.folder, self.config = folder, folder / "my.toml"
        if self.config.exists():
            self.root = open_corpus(self.config).root

    def write(self, toml: str, name: str = "my.toml", root: str = "corpus") -> Path:
        path = self.folder / name
        path.write_text(f'root = "{root}"\n{toml}\n{ONE_PROCESS}')
        return path

    def build(self, confidence: float = 0.5, where: str = "width >= 64") -> dict[str, int]:
        """stage -> rows that were computed, of the last run."""
        self.write(TOML.format(confidence=confidence, where=where))
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
    write_tar(nightly.folder / "source/3.tar", range(3 * EACH, 4 * EACH))
    made = nightly.build()
    assert (made["rows"], made["images"], made["ocr"]) == (EACH, EACH, EACH)
    stages = {name for name in nightly.written if not name.startswith("shards/")}
    assert {name for name in stages if name.endswith("parquet")} == {
        f"{stage}/00003.parquet" for stage in ("rows", "images", "ocr", "selection")
    }
    for stage in ("rows", "images", "ocr", "selection"):
        assert nightly.changes[stage, "added"] == nightly.keys(3)
        assert (stage, "changed") not in nightly.changes and (stage, "removed") not in nightly.changes
    assert nightly.changes["shards", "added"] == [f"{key}-caption" for key in nightly.keys(3)]


def test_images_lost_touch_their_partition_and_compute_nothing(nightly):
    lost = nightly.keys(1)
    write_tar(nightly.folder / "source/1.tar", [])
    made = nightly.build()
    assert "images" not in made and "ocr" not in made
    assert nightly.planned["rows"] == {1}
    for stage in ("rows", "images", "ocr", "selection"):
        assert nightly.changes[stage, "removed"] == lost
    assert nightly.changes["shards", "removed"] == [f"{key}-caption" for key in lost]


def test_some_images_lost_take_the_others_over(nightly):
    write_tar(nightly.folder / "source/1.tar", [n for n in range(EACH, 2 * EACH) if n % 3])
    made = nightly.build()
    assert "images" not in made and "ocr" not in made
    assert len(nightly.changes["images", "removed"]) == EACH // 3
    assert ("images", "changed") not in nightly.changes and ("images", "added") not in nightly.changes


def test_an_ocr_option_reads_again_but_equal_rows_stop_there(nightly):
    made = nightly.build(confidence=0.51)
    assert set(made) == {"ocr"} and made["ocr"] == 3 * EACH
    assert nightly.changes == {}
    assert {name.split("/")[0] for name in nightly.written} <= {"ocr", "selection"}
    assert not any("/0" in name for name in nightly.written if name.startswith("selection"))


def test_a_caption_touches_no_image(nightly):
    write_tar(
        nightly.folder / "source/2.tar",
        range(2 * EACH, 3 * EACH),
        lambda n: "another" if n == 2 * EACH else f"picture {n}",
    )
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
    write_tar(nightly.folder / "source/1.tar", range(EACH, 2 * EACH - 2))
    nightly.build(confidence=0.6, where="width >= 100 AND ocr_text LIKE '%E%'")
    grown = data_files(nightly.folder / "corpus")
    run(nightly.write(nightly.config.read_text().split("\n", 1)[1].replace(ONE_PROCESS, ""), "other.toml", "other"))
    other = data_files(tmp_path / "other")
    assert other.keys() <= grown.keys()
    assert {name: grown[name] for name in other if name != "selection/step.json"} == {
        name: other[name] for name in other if name != "selection/step.json"
    }


def test_a_failed_gate_leaves_the_old_set_published(nightly):
    card = (nightly.folder / "corpus/shards/train.json").read_bytes()
    write_tar(nightly.folder / "source/1.tar", [])
    gated = TOML.format(confidence=0.5, where="true") + "[gates]\nchange = 'changed_share < {}'\n"
    with pytest.raises(GateFailed, match=rf"change: changed_share < 0\.2 does not hold .*removed = {EACH}"):
        run(nightly.write(gated.format(0.2)))
    assert (nightly.folder / "corpus/shards/train.json").read_bytes() == card
    assert json.loads(card)["samples"] == 3 * EACH
    run(nightly.write(gated.format(0.5)))
    assert json.loads((nightly.folder / "corpus/shards/train.json").read_bytes())["samples"] == 2 * EACH

"""A source file is read once, however many partitions it has, and killed runs lose little of that."""

import json
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import pytest
from support.corpora import build
from support.split_sources import KINDS, LONG, ROWS, rows_of, write_corpus, write_laion

from pipelines.build.corpus import open_corpus
from pipelines.catalog.catalog import query
from pipelines.engine import commit_many
from pipelines.engine.manifest import read_manifest, sizes_of
from pipelines.engine.root import Corrupt, Root
from pipelines.engine.spill import Spill, read_spill
from pipelines.engine.split_notes import Note, splits_done
from pipelines.maintain.verify import verify_root
from pipelines.sources.conversations import Conversations
from pipelines.sources.instructions import Instructions
from pipelines.sources.tables import Tables
from pipelines.stages import rows
from pipelines.stages.rows import rows_per_partition
from schemas.errors import UserError


@pytest.fixture
def read(monkeypatch) -> Counter:
    """How many rows sources have given, by file."""
    counted = Counter()
    for kind in (Tables, Conversations, Instructions):

        def rows_of_file(source, file, of=kind.rows):
            for row in of(source, file):
                counted[file] += 1
                yield row

        monkeypatch.setattr(kind, "rows", rows_of_file)
    return counted


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_many_partitions_is_read_once_and_gives_the_same_bytes(name, read, tmp_path, monkeypatch):
    kind, write, _ = KINDS[name]
    (tmp_path / "source").mkdir()
    write(tmp_path / "source")
    build(write_corpus(tmp_path, kind, "direct"), until="rows")
    (once,) = read.values()
    monkeypatch.setattr(rows, "RANGE", 3)
    monkeypatch.setattr("pipelines.engine.spill.WAITING", 2000)
    read.clear()
    root = build(write_corpus(tmp_path, kind, "spilled"), until="rows")
    assert [*read.values()] == [once] and once >= 90
    assert len(rows_of(tmp_path / "direct")) > 20
    assert rows_of(tmp_path / "spilled") == rows_of(tmp_path / "direct")
    assert not root.files("rows/split") and verify_root(root).problems == verify_root(root).garbage == []


class Died(BaseException):
    """Ends a run as a power cut would."""


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 5, 17])
def test_a_run_that_is_killed_reads_no_file_and_writes_no_partition_again(after, read, tmp_path, monkeypatch):
    (tmp_path / "source").mkdir()
    for name in ("a.parquet", "b.parquet"):
        write_laion(tmp_path / "source", name)
    build(write_corpus(tmp_path, "laion", "plain"), until="rows")
    monkeypatch.setattr(rows, "RANGE", 3)
    config, committed = write_corpus(tmp_path, "laion", "killed"), Counter()

    def die(point: str) -> None:
        committed[point] += 1
        if committed["rows:committed"] > after:
            raise Died

    read.clear()
    with patch.object(commit_many, "point", die), pytest.raises(Died):
        build(config, until="rows")
    stamps = {name: entry for name, entry in Root(str(tmp_path / "killed")).files("rows").items() if name[0].isdigit()}
    assert len(stamps) == after + 1 and {*read.values()} == {ROWS}
    read.clear()
    splits = []
    original = rows.finished_rows
    with patch("pipelines.stages.row_splits.finished_rows", lambda *args: splits.append(args) or original(*args)):
        root = build(config, until="rows")
    assert not read, "their spills are still there"
    assert len(splits) == 2 * 10 - after // 3
    assert {name: root.files("rows")[name] for name in stamps} == stamps
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "plain")
    assert not root.files("rows/split") and verify_root(root).problems == []


def killed_after_spilling(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of a corpus whose run died when its source was read and nothing was split off."""
    monkeypatch.setattr(rows, "RANGE", 3)
    (folder / "source").mkdir()
    write_laion(folder / "source")
    config = write_corpus(folder, "laion", "killed")
    with patch("pipelines.stages.row_splits.SplitSource.make", side_effect=Died), pytest.raises(Died):
        build(config, until="rows")
    return config


def test_a_file_that_changes_after_a_kill_is_read_anew(read, tmp_path, monkeypatch):
    config = killed_after_spilling(tmp_path, monkeypatch)
    write_laion(tmp_path / "source", rows=ROWS - 2)
    read.clear()
    root = build(config, until="rows")
    assert [*read.values()] == [ROWS - 2] and not root.files("rows/split")
    assert query(root, "select count(*) as n from rows")["n"].to_pylist() == [ROWS - 2]


def test_a_damaged_spill_is_one_line(tmp_path, monkeypatch):
    config = killed_after_spilling(tmp_path, monkeypatch)
    (spill,), (ends,) = (list(tmp_path.glob(f"killed/rows/split/*.{kind}")) for kind in ("zst", "ends"))
    whole = ends.read_text()
    for text in ("[]", "[5]", '["x"]', "{", "[-1]"):
        ends.write_text(text)
        with pytest.raises(UserError, match=r"rows/split: is damaged: .*; remove the folder and run again"):
            build(config, until="rows")
    ends.write_text(whole)
    spill.write_bytes(spill.read_bytes()[:40] + b"x" * (spill.stat().st_size - 40))
    with pytest.raises(Corrupt, match=r"\.zst: is damaged; remove it and run again"):
        build(config, until="rows")
    spill.unlink()
    build(config, until="rows")


# How many rows a partition has


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([], 1000), ([None, None], 1000), ([10], 1000), ([10**6], 1000), ([10**6, 10**6, None], 2000),
     ([5_400_321], 5400), ([10**7], 10_000), ([18_000_000] * 128, 10_000)],
)  # fmt: skip
def test_a_new_source_has_about_a_thousand_partitions_of_a_bounded_size(counts, expected):
    assert rows_per_partition(counts) == expected


def settled(root: Root) -> list[tuple[str, int, int]]:
    return [(file.path, file.first, file.buckets) for file in read_manifest(root)]


@pytest.mark.slow
def test_the_size_of_partitions_is_settled_when_a_source_is_first_seen(tmp_path, monkeypatch):
    for name, value in {"FEWEST": 10, "MOST_ROWS": 40, "PARTITIONS": 10}.items():
        monkeypatch.setattr(rows, name, value)
    monkeypatch.setattr("pipelines.engine.manifest.FEWEST", 10)
    (tmp_path / "source").mkdir()
    for name in ("a.parquet", "b.parquet"):
        write_laion(tmp_path / "source", name)
    config = write_corpus(tmp_path, "laion", "corpus", "")
    root = build(config, until="rows")
    assert settled(root) == [("a.parquet", 0, 5), ("b.parquet", 5, 5)]  # 240 rows: 24 of each partition
    assert sizes_of(root) == {None: 24}
    before = rows_of(tmp_path / "corpus")

    write_laion(tmp_path / "source", "c.parquet", 1000)
    build(config, until="rows")
    assert settled(root)[2:] == [("c.parquet", 10, 42)] and sizes_of(root) == {None: 24}
    assert before.items() <= rows_of(tmp_path / "corpus").items()

    manifest = json.loads(root.read("root.json"))
    del manifest["rows_per_partition"]  # as older versions wrote it
    root.write("root.json", json.dumps(manifest).encode())
    write_laion(tmp_path / "source", "d.parquet", 1000)
    build(config, until="rows")
    assert settled(root)[3:] == [("d.parquet", 52, 100)] and sizes_of(root) == {}
    assert before.items() <= rows_of(tmp_path / "corpus").items()


def test_a_size_that_is_set_is_taken_and_not_recorded(tmp_path):
    (tmp_path / "source").mkdir()
    write_laion(tmp_path / "source")
    root = build(write_corpus(tmp_path, "laion", "corpus"), until="rows")
    assert settled(root) == [("a.parquet", 0, 30)] and "rows_per_partition" not in root.read_json("root.json")
    stage = open_corpus(write_corpus(tmp_path, "laion", "other", "")).rows[None]
    assert stage.source.config.recorded()["rows_per_partition"] == 1000, "as version 0.1 recorded it"


# Notes and spills


def test_a_file_is_split_when_its_ranges_have_no_gap():
    def done(*ranges: tuple[int, int]) -> bool:
        return (7, "s") in splits_done([Note(7, begin, count, "s") for begin, count in ranges], {7: 10})

    assert done((0, 10)) and done((0, 4), (4, 6)) and done((0, 6), (4, 6)) and done((4, 6), (0, 4))
    assert not done((0, 4), (6, 4)) and not done((0, 4), (0, 6)) and not done() and not done((5, 10))


def test_a_spill_gives_rows_back_by_range_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.engine.spill.WAITING", 500)
    root, values = Root(str(tmp_path)), [None, 0, 2**70, "", "\ud800\n", LONG, LONG + "x", [], ["a", {"file": None}]]
    added: dict[int, list] = {number: [] for number in range(4)}
    with (tmp_path / "unsorted").open("w+b") as file:
        spill = Spill(file, 4)
        for number in range(300):
            row = {"key": str(number), "value": values[number % len(values)], "long": LONG}
            added[(number * number) % 3].append(row)
            spill.add((number * number) % 3, dict(row))
        ends = spill.put(root, "spill.zst", tmp_path / "sorted")
    starts = [0, *ends]
    found = {number: [*read_spill(root, "spill.zst", starts[number], ends[number])] for number in added}
    assert found == added and not found[3]
    assert len({id(row["long"]) for row in found[0]}) == 1

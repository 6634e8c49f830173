"""Duplicates beside other stages: what OCR reads, and what plan, views and verify say."""

import shutil
from pathlib import Path

import duckdb
import fsspec
import pytest
from support.corpora import build, data_files, picture, say
from support.duplicates import exclude, like, noise, phash_of, planned

from pipelines.catalog.catalog import connect, create, query, stage_files
from pipelines.maintain.verify import verify_root
from schemas.stages import STAGES


@pytest.mark.slow
def test_roots_and_lists_in_an_object_store_come_to_the_same(pictures):
    pictures.put({"a.png": noise(1), "b.png": noise(1), "c.jpg": like(1), "d.png": noise(2), "e.png": noise(3)})
    store = fsspec.filesystem("memory")
    store.pipe("/lists/out.txt", phash_of(noise(2)).encode())
    store.pipe("/lists/shown/e.png", noise(3))
    pictures.build(exclude("memory://lists/*.txt", "memory://lists/shown"))
    toml = (pictures.folder / "my.toml").read_text()
    (pictures.folder / "there.toml").write_text(toml.replace('"corpus"', '"memory://duplicates-there"'))
    for _ in range(2):
        root = build(pictures.folder / "there.toml")
        said = [query(some, "FROM duplicates ORDER BY ALL").to_pylist() for some in (root, pictures.root)]
        assert said[0] == said[1] and verify_root(root).problems == []
        for name in ("a.png", "a.txt"):
            (pictures.folder / "pictures" / name).unlink(missing_ok=True)
        pictures.build(exclude("memory://lists/*.txt", "memory://lists/shown"))
    assert sorted(row["detail"] for row in said[1] if row["detail"]) == [
        "lists/out.txt, distance 0", "shown/e.png, distance 0",
    ]  # fmt: skip


# What reads it


@pytest.mark.slow
def test_ocr_reads_no_duplicate_and_of_what_turns_to_kept_only_that(pictures):
    one, other = (picture(n)[0] for n in (0, 2))
    pictures.put({"a.png": one, "b.png": one, "c.png": other})
    both = "[duplicates]\n[ocr]"
    pictures.build(both, each=100)
    first, second = (name for name in pictures.in_order() if name != "c.png")
    assert pictures.made()["ocr"] == 2
    left = "SELECT r.file, o.reason, o.detail FROM ocr o JOIN rows r USING (partition, key) WHERE o.reason IS NOT NULL"
    said = [tuple(row.values()) for row in query(pictures.root, left).to_pylist()]
    assert said == [(second, "upstream", "duplicates: exact_duplicate")]
    pictures.take(first)
    pictures.build(both, each=100)
    assert pictures.made()["ocr"] == 1
    assert query(pictures.root, left).num_rows == 0
    pictures.put({first: one})
    pictures.build(both, each=100)
    assert "ocr" not in pictures.made()
    assert query(pictures.root, left)["file"].to_pylist() == [first]
    pictures.build("[ocr]", each=100)  # the stage is taken out: what it left out is read, and nothing else
    assert pictures.made()["ocr"] == 1
    assert query(pictures.root, left).num_rows == 0
    pictures.build(both, each=100)
    assert "ocr" not in pictures.made() and query(pictures.root, left)["file"].to_pylist() == [first]


@pytest.mark.slow
def test_without_the_stage_all_is_as_it_was_and_its_files_are_garbage(pictures):
    pictures.put({"a.png": noise(1), "b.png": noise(1)})
    plain = pictures.folder / "plain"
    pictures.build("")
    shutil.move(pictures.folder / "corpus", plain)
    pictures.build()
    assert query(pictures.root, "FROM samples WHERE reason = 'exact_duplicate'").num_rows == 1
    pictures.build("")
    assert pictures.said() == {} and query(pictures.root, "FROM samples WHERE reason IS NULL").num_rows == 2
    garbage = [name for name in verify_root(pictures.root).garbage if name.startswith("duplicates/")]
    assert sorted(garbage) == ["duplicates/00000.parquet", "duplicates/_commits.parquet", "duplicates/step.json"]
    assert say("clean", pictures.root.url, "--grace", "0", "--keep", "1").code == 0
    assert data_files(pictures.folder / "corpus") == data_files(plain)
    assert [row[0] for row in pictures.build().values()].count("exact_duplicate") == 1


@pytest.mark.slow
def test_its_view_has_its_types_with_and_without_files(pictures):
    pictures.put({"a.png": noise(1)})
    pictures.build()
    with (
        connect(pictures.root, stage_files(pictures.root, [STAGES["duplicates"]])) as filled,
        duckdb.connect() as empty,
    ):
        create(empty, {})
        described = [connection.execute("DESCRIBE duplicates").fetchall() for connection in (filled, empty)]
    assert described[0] == described[1]
    assert [row[:2] for row in described[0]][:4] == [
        ("partition", "INTEGER"), ("key", "VARCHAR"), ("of", "VARCHAR"), ("distance", "BIGINT"),
    ]  # fmt: skip


@pytest.mark.slow
def test_plan_says_why(pictures):
    both = "[duplicates]\n[ocr]"
    pictures.put({f"{seed}.png": noise(seed) for seed in range(6)})
    pictures.build("[duplicates]")
    assert planned(pictures)["duplicates"] == (0, [], False)
    assert planned(pictures, "[duplicates]\nnear = 2")["duplicates"] == (
        2,
        ["the corpus or its settings changed"],
        False,
    )
    assert planned(pictures, "[duplicates]\nnear = 2")["selection"] == (2, ["follows duplicates"], False)
    assert planned(pictures, both)["ocr"] == (2, ["new"], False)
    build(pictures.write(both), until="ocr")
    pictures.put({"0.png": noise(7)})
    found = planned(pictures, both)
    assert found["duplicates"] == (2, ["follows images"], False)
    assert found["selection"] == (2, ["follows ocr"], False)
    Path(pictures.root.path("duplicates/00001.parquet")).unlink()
    assert planned(pictures, both)["ocr"][1] == ["follows duplicates"]


@pytest.mark.slow
def test_rows_that_turn_to_kept_may_be_read_in_partitions_that_plan_cannot_name(pictures):
    both = "[duplicates]\n[ocr]"
    pictures.put({f"{seed}.png": noise(seed) for seed in range(6)})
    pictures.build(both)
    assert planned(pictures, both + "\n")["ocr"] == (0, [], False)
    assert planned(pictures, both.replace("]\n", "]\nnear = 2\n"))["ocr"] == (0, [], True)


@pytest.mark.slow
def test_verify_sees_a_damaged_file_and_a_run_mends_it(pictures):
    pictures.put({"a.png": noise(1), "b.png": noise(1), "c.png": noise(2)})
    pictures.build()
    before = data_files(pictures.folder / "corpus")
    path = pictures.folder / "corpus/duplicates/00000.parquet"
    for damage in (path.read_bytes()[:-20], b""):
        path.write_bytes(damage)
        said = verify_root(pictures.root).problems
        assert said == ["duplicates/00000.parquet: is damaged or belongs to another partition; remove it, run again"]
        build(pictures.write())
        assert data_files(pictures.folder / "corpus") == before
    note = pictures.folder / "corpus/duplicates/step.json"
    for damage in (b"", b"[]", b"{}", b"\xff", b"[" * 100_000):
        note.write_bytes(damage)
        build(pictures.write())
        assert data_files(pictures.folder / "corpus") == before

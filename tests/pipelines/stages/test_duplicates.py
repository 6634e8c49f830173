"""Duplicates: which rows go and which stay, whatever came first, was there before, or was killed on the way."""

import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.corpora import ONE_PROCESS, build, data_files, picture, say, write_tar
from support.paths import PROJECT

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.build.run import run
from pipelines.catalog.catalog import connect, create, query, stage_files
from pipelines.dedup.decontamination import Hashes
from pipelines.maintain.verify import verify_root
from pipelines.stages.duplicates import KEPT, WORDS, ImageHashes, judge, kept_first
from schemas.errors import UserError
from schemas.stages import STAGES

# The judgement alone, against one that goes through the rows one by one

ROW = st.tuples(
    st.integers(0, 4),  # partition
    st.integers(0, 9),  # bytes
    st.integers(0, 63).map(lambda bits: bits * 0x0400200100080401 & (2**64 - 1)),  # perceptual hash
    st.integers(0, 9).map(lambda n: n > 0),  # there
    st.integers(0, 9).map(lambda n: n == 0),  # talked of
    st.booleans(),  # kept before
)
ENTRY = st.one_of(st.tuples(st.integers(0, 9), st.none()), st.tuples(st.none(), ROW.map(lambda row: row[2])))


def images_of(rows: list[tuple]) -> ImageHashes:
    partition, content, phash, there, talked_of, kept_before = zip(*sorted(rows, key=lambda row: row[0]), strict=True)
    return ImageHashes(
        np.array(partition, np.int32), np.arange(len(rows), dtype=np.uint64),
        np.array([(n, 3 * n) for n in content], np.uint64), np.array(phash, np.uint64), np.array(there),
        np.array(talked_of), np.array(kept_before), np.array([0 if some else 1 for some in there], np.int8),
        np.zeros(len(rows), np.uint64),
    )  # fmt: skip


def hashes_of(entries: list[tuple[int | None, int | None]]) -> Hashes:
    return Hashes(
        np.arange(len(entries)), np.array([(n or 0, 3 * (n or 0)) for n, _ in entries], np.uint64).reshape(-1, 2),
        np.array([n is not None for n, _ in entries], bool), np.array([phash or 0 for _, phash in entries], np.uint64),
        np.array([phash is not None for _, phash in entries], bool),
    )  # fmt: skip


def one_by_one(images: ImageHashes, entries: list[tuple], near: int) -> list[tuple]:
    """(reason, row that it duplicates, distance, excluded file) of each row."""
    rows = [n for n in range(len(images.key)) if images.present[n]]
    content = {n: int(images.sha256[n, 0]) for n in rows}
    phash = {n: min(int(images.phash[other]) for other in rows if content[other] == content[n]) for n in rows}

    def apart(a: int, b: int) -> int | None:
        if content[a] == content[b]:
            return 0
        bits = (phash[a] ^ phash[b]).bit_count()
        return bits if bits <= near else None

    said = [(None, -1, -1, -1)] * len(images.key)
    for n in rows:
        same = [(0, name) for name, (sha256, _) in enumerate(entries) if sha256 == content[n]]
        alike = [((phash[n] ^ p).bit_count(), name) for name, (_, p) in enumerate(entries) if p is not None]
        hits = same or [hit for hit in alike if hit[0] <= near]
        if hits:
            said[n] = ("benchmark_overlap", -1, *min(hits))
    left = [n for n in rows if said[n][0] is None and not images.talked_of[n]]
    kept: list[int] = []
    for n in sorted(left, key=lambda n: (not images.kept_before[n], n)):
        if all(apart(n, other) is None for other in kept):
            kept.append(n)
    for n in left:
        if n not in kept:
            distance, of = min((bits, other) for other in kept if (bits := apart(n, other)) is not None)
            said[n] = ("exact_duplicate" if content[n] == content[of] else "near_duplicate", of, distance, -1)
    return said


def said_by(verdicts) -> list[tuple]:
    lists = zip(*(column.tolist() for column in verdicts), strict=True)
    return [(WORDS[reason], of, distance, by) for reason, of, distance, by in lists]


@given(st.lists(ROW, min_size=1, max_size=40), st.lists(ENTRY, max_size=3), st.integers(-1, 4))
@settings(max_examples=400, deadline=None)
def test_rows_are_judged_as_if_one_by_one(rows, entries, near):
    images = images_of(rows)
    assert said_by(judge(images, hashes_of(entries), near)) == one_by_one(images, entries, near)


@given(
    st.lists(ROW, min_size=1, max_size=40), st.lists(ENTRY, max_size=2), st.integers(-1, 4), st.sets(st.integers(0, 4))
)
@settings(max_examples=400, deadline=None)
def test_a_step_that_was_killed_between_two_partitions_comes_to_the_same_end(rows, entries, near, done):
    """Even if what was kept before is near each other now."""
    images, excluded = images_of(rows), hashes_of(entries)
    verdicts = judge(images, excluded, near)
    written = np.isin(images.partition, list(done))
    again = images._replace(kept_before=np.where(written, verdicts.reason == KEPT, images.kept_before))
    assert said_by(judge(again, excluded, near)) == said_by(verdicts)


@given(st.lists(ROW, min_size=2, max_size=40), st.integers(0, 4), st.integers(1, 39))
@settings(max_examples=200, deadline=None)
def test_new_rows_never_evict_old_ones(rows, near, new):
    """Whichever rows come in addition, and wherever they stand. Equal bytes have one hash, as one version measures."""
    phash = {row[1]: row[2] for row in rows}
    images = images_of([(row[0], row[1], phash[row[1]], *row[3:5], False) for row in rows])
    old = np.random.default_rng(new).permutation(len(rows)) >= new
    before = judge(images._replace(present=images.present & old), hashes_of([]), near)
    kept = (before.reason == KEPT) & images.present & old
    after = judge(images._replace(kept_before=kept), hashes_of([]), near)
    assert (after.reason[kept] == KEPT).all()


def test_only_kept_rows_count_and_chains_do_not():
    assert kept_first(4, np.array([0, 1, 2]), np.array([1, 2, 3])).tolist() == [True, False, True, False]
    assert kept_first(3, np.array([], int), np.array([], int)).all()


# Pictures


def noise(seed: int, side: int = 96, kind: str = "PNG", **options: Any) -> bytes:
    """A picture of which each seed has another, far from all others; by another side or kind it is near the same."""
    buffer = io.BytesIO()
    grains(seed).resize((side, side)).save(buffer, kind, **options)
    return buffer.getvalue()


def grains(seed: int) -> Image.Image:
    return Image.frombytes("RGB", (9, 9), random.Random(seed).randbytes(3 * 81)).resize((96, 96), Image.BICUBIC)


def like(seed: int, n: int = 0, share: float = 0.0) -> bytes:
    """Nearly the picture that `noise` draws: smaller, encoded anew, and with a share of another one over it."""
    buffer = io.BytesIO()
    Image.blend(grains(seed), grains(1000 * seed + n), share).resize((88, 88)).save(buffer, "JPEG", quality=70 + n)
    return buffer.getvalue()


def apart(a: bytes, b: bytes) -> int:
    return (int(phash_of(a), 16) ^ int(phash_of(b), 16)).bit_count()


def phash_of(data: bytes) -> str:
    return str(imagehash.phash(Image.open(io.BytesIO(data)).convert("RGB")))


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


TOML = """
[source]
kind = "folder"
path = "pictures"
rows_per_partition = {each}
{tables}
[sets.train]
"""


LAST = "run = (SELECT run FROM runs ORDER BY started DESC LIMIT 1)"


class Pictures:
    """A folder of pictures and the corpus made of it."""

    def __init__(self, folder: Path):
        self.folder, self.root = folder, None
        (folder / "pictures").mkdir(exist_ok=True)

    def put(self, pictures: dict[str, bytes]) -> None:
        for name, data in pictures.items():
            path = self.folder / "pictures" / name
            path.write_bytes(data)
            path.with_suffix(".txt").write_text(f"what {name} shows")

    def take(self, *names: str) -> None:
        for name in names:
            path = self.folder / "pictures" / name
            path.unlink()
            path.with_suffix(".txt").unlink(missing_ok=True)

    def write(self, tables: str = "[duplicates]", each: int = 3) -> Path:
        config = self.folder / "my.toml"
        config.write_text('root = "corpus"\n' + TOML.format(tables=tables, each=each) + ONE_PROCESS)
        return config

    def build(self, tables: str = "[duplicates]", each: int = 3) -> dict[str, tuple]:
        """name -> (reason, name of the picture that it duplicates, distance) after a run."""
        self.root = build(self.write(tables, each))
        assert verify_root(self.root).problems == []
        return self.said()

    def said(self) -> dict[str, tuple]:
        of = "SELECT min(o.file) FROM rows o WHERE o.key = d.of"
        sql = f"SELECT r.file, d.reason, ({of}), d.distance FROM rows r JOIN duplicates d USING (partition, key)"
        return {row[0]: row[1:] for row in map(tuple, (r.values() for r in query(self.root, sql).to_pylist()))}

    def made(self) -> dict[str, int]:
        """stage -> rows that the last run made."""
        last = f"SELECT stage, sum(made)::INT AS made FROM work WHERE {LAST} GROUP BY ALL"
        return {row["stage"]: row["made"] for row in query(self.root, last).to_pylist() if row["made"]}

    def in_order(self) -> list[str]:
        return query(self.root, "SELECT file FROM rows ORDER BY partition, key")["file"].to_pylist()


@pytest.fixture
def pictures(tmp_path) -> Pictures:
    return Pictures(tmp_path)


def test_pictures_are_as_near_as_these_tests_take_them_for():
    unlike = [noise(seed) for seed in range(13)]
    assert min(apart(a, b) for n, a in enumerate(unlike) for b in unlike[:n]) > 8
    assert max(apart(noise(seed), like(seed, n)) for seed in range(13) for n in range(8)) <= 3


# The stage


def test_equal_and_near_pictures_are_left_out_and_name_the_one_that_is_kept(pictures):
    pictures.put({f"{seed}.png": noise(seed) for seed in range(6)})
    pictures.put({"again.png": noise(0), "like.jpg": like(1, 4, 0.05), "other.png": noise(9)})
    assert pictures.build().keys() == {*map("{}.png".format, range(6)), "again.png", "like.jpg", "other.png"}
    said = pictures.said()
    order = pictures.in_order()
    for one, other, reason in (("0.png", "again.png", "exact_duplicate"), ("1.png", "like.jpg", "near_duplicate")):
        first, second = sorted((one, other), key=order.index)
        assert said.pop(first) == (None, None, None)
        assert said[second][:2] == (reason, first)
        assert said.pop(second)[2] == (0 if reason == "exact_duplicate" else 2)
    assert set(said.values()) == {(None, None, None)}
    left = "SELECT reason, left_out_by, count(*) AS n FROM samples GROUP BY ALL ORDER BY ALL"
    assert [tuple(row.values()) for row in query(pictures.root, left).to_pylist()] == [
        ("exact_duplicate", "duplicates", 1), ("near_duplicate", "duplicates", 1), (None, None, 7),
    ]  # fmt: skip
    assert query(pictures.root, "SELECT count(*) AS n FROM shards").to_pylist() == [{"n": 7}]
    named = "SELECT count(*) AS n FROM samples s JOIN samples k ON k.key = s.duplicate_of AND k.reason IS NULL"
    assert query(pictures.root, named).to_pylist() == [{"n": 2}]


def test_distance_is_what_is_configured_and_equal_bytes_alone_can_be_meant(pictures):
    pictures.put({"a.png": noise(1), "b.png": noise(1), "c.jpg": like(1, 4, 0.05), "d.png": noise(1, optimize=True)})
    assert apart(noise(1), like(1, 4, 0.05)) == 2
    assert noise(1) != noise(1, optimize=True) and apart(noise(1), noise(1, optimize=True)) == 0

    def reasons(near: int) -> list[str | None]:
        return sorted(filter(None, (row[0] for row in pictures.build(f"[duplicates]\nnear = {near}").values())))

    assert reasons(-1) == ["exact_duplicate"]
    assert reasons(0) in (["exact_duplicate", "near_duplicate"], ["near_duplicate", "near_duplicate"])
    assert len(reasons(1)) == 2 and len(reasons(2)) == 3


def test_what_was_left_out_before_is_no_ones_original(pictures):
    pictures.put({"a.png": noise(1), "b.png": noise(1), "tiny.png": noise(2, 8), "broken.png": noise(3)[:300]})
    said = pictures.build()
    assert said["tiny.png"] == said["broken.png"] == ("upstream", None, None)
    details = query(pictures.root, "SELECT detail FROM duplicates WHERE reason = 'upstream' ORDER BY ALL")
    assert details["detail"].to_pylist() == ["images: too_small", "images: truncated"]
    pictures.build("[images]\nmin_side = 100\n[gates]\nempty_sets = false\n[duplicates]")
    assert {row[0] for row in pictures.said().values()} == {"upstream"}


def test_a_source_that_lost_all_its_rows_leaves_empty_partitions(tmp_path):
    for n in range(2):
        write_tar(tmp_path / f"source/{n}.tar", [n])
    (tmp_path / "my.toml").write_text(
        f'root = "corpus"\n[source]\nkind = "webdataset"\npath = "source"\n[duplicates]\n[sets.train]\n{ONE_PROCESS}'
        "[gates]\nempty_sets = false\n"
    )
    for numbers in ([], [1]):
        for n in range(2):
            write_tar(tmp_path / f"source/{n}.tar", numbers)
        root = build(tmp_path / "my.toml")
        reasons = query(root, "SELECT reason FROM duplicates ORDER BY ALL")["reason"].to_pylist()
        assert reasons == ["exact_duplicate", None] * len(numbers)
        assert verify_root(root).problems == []


def test_new_files_in_old_partitions_evict_nothing(pictures):
    """Though most of them stand before the old ones, in the order that decided among these."""
    pictures.put({f"{seed}.png": noise(seed) for seed in range(8)})
    pictures.build(each=2)
    pictures.put({f"{seed}-{n}.jpg": like(seed, n) for seed in range(8) for n in range(8)})
    said, order = pictures.build(each=2), pictures.in_order()
    assert all(said[f"{seed}.png"] == (None, None, None) for seed in range(8))
    assert sum(row[0] is not None for row in said.values()) == 64
    earlier = [name for name in said if "-" in name and order.index(name) < order.index(f"{name[0]}.png")]
    assert len(earlier) > 10
    assert {said[name][1] for name in earlier} == {f"{name[0]}.png" for name in earlier}
    shutil.rmtree(pictures.folder / "corpus")
    assert pictures.build(each=2) != said  # made at once, the first ones are kept


def test_a_kept_picture_that_vanishes_or_changes_hands_over_to_the_next(pictures):
    pictures.put({f"{n}.png": noise(1) for n in range(4)} | {"other.png": noise(2)})
    pictures.build()
    first, second, third, fourth = (name for name in pictures.in_order() if name != "other.png")
    pictures.take(first)
    assert pictures.build()[second] == (None, None, None)
    assert pictures.said()[third] == ("exact_duplicate", second, 0)
    changes = f"SELECT change, after FROM changes WHERE stage = 'duplicates' AND {LAST}"
    said = {row["change"]: row["after"] for row in query(pictures.root, changes).to_pylist() if row["after"]}
    assert said.keys() == {"changed"} and set(json.loads(said["changed"])) <= {"of", "distance", "reason"}
    pictures.put({second: noise(3)})  # the same name, but another picture: it is no old row any more
    assert pictures.build()[third] == (None, None, None)
    pictures.put({second: noise(1)})
    assert pictures.build()[second] == ("exact_duplicate", third, 0)
    assert pictures.said()[fourth] == ("exact_duplicate", third, 0)


def test_a_stricter_or_laxer_distance_judges_anew_in_order(pictures):
    pictures.put({"a.png": noise(1), "b.jpg": like(1), "c.png": noise(2)})
    assert {row[0] for row in pictures.build("[duplicates]\nnear = -1").values()} == {None}
    first, second = (name for name in pictures.in_order() if name != "c.png")
    assert pictures.build()[second][:2] == ("near_duplicate", first)
    assert pictures.build("[duplicates]\nnear = -1")[second] == (None, None, None)


def test_only_what_changes_is_written(pictures):
    pictures.put({f"{seed}.png": noise(seed) for seed in range(12)})
    pictures.build()
    assert (len(list((pictures.folder / "corpus/duplicates").glob("0*.parquet")))) == 4
    before = data_files(pictures.folder / "corpus")
    pictures.build()
    assert pictures.made() == {} and data_files(pictures.folder / "corpus") == before
    pictures.put({"new.jpg": like(5)})
    pictures.build()
    after = data_files(pictures.folder / "corpus")
    written = [name for name in after if before.get(name) != after[name] and name.startswith("duplicates/0")]
    assert len(written) == 1
    (pictures.folder / "pictures/new.txt").write_text("another caption")
    pictures.build()
    now = data_files(pictures.folder / "corpus")
    assert {n for n in now if n.startswith("duplicates")} == {n for n in after if n.startswith("duplicates")}
    assert all(now[name] == after[name] for name in now if name.startswith("duplicates"))


def test_pictures_of_conversations_are_held_only_against_what_is_excluded(tmp_path):
    (tmp_path / "seen.png").write_bytes(noise(1))
    (tmp_path / "test.png").write_bytes(noise(2))

    def talk(n: int, *names: str) -> dict:
        marks = {f"<image_{i:02d}>": name for i, name in enumerate(names)}
        turns = [{"role": "user", "content": f"{n}. " + " ".join(marks)}, {"role": "assistant", "content": "Noise."}]
        return (
            {"id": str(n), "image": marks, "conversations": turns} if marks else {"id": str(n), "conversations": turns}
        )

    talks = [talk(0, "seen.png", "seen.png"), talk(1, "seen.png"), talk(2, "test.png", "seen.png"), talk(3)]
    (tmp_path / "all.json").write_text(json.dumps(talks))
    (tmp_path / "test.txt").write_text(sha256_of(noise(2)))
    (tmp_path / "my.toml").write_text(
        'root = "corpus"\n[source]\nkind = "conversations"\npath = "all.json"\n[sets.talk]\ntask = "conversation"\n'
        f'[duplicates]\nexclude = ["test.txt"]\n{ONE_PROCESS}'
    )
    root = build(tmp_path / "my.toml")
    reasons = query(root, "SELECT reason, count(*) AS n FROM duplicates GROUP BY ALL ORDER BY ALL").to_pylist()
    assert reasons == [{"reason": "benchmark_overlap", "n": 1}, {"reason": None, "n": 5}]
    selected = query(
        root, "SELECT extra->>'id' AS id FROM samples WHERE reason IS NULL AND part_of IS NULL ORDER BY id"
    )
    assert selected["id"].to_pylist() == ["0", "1", "3"]
    assert verify_root(root).problems == []


def test_equal_keys_of_two_partitions_are_told_apart(tmp_path):
    """The same URL and text in two files: one name, and once the same bytes, once others."""
    (tmp_path / "pictures").mkdir()
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        (tmp_path / f"pictures/{name}.png").write_bytes(noise(seed))
    for n, second in enumerate("bc"):
        table = {
            "URL": ["http://x.example/1", "http://x.example/2"],
            "TEXT": ["one", "two"],
            "image": ["a.png", f"{second}.png"],
        }
        pq.write_table(pa.table(table), tmp_path / f"{n}.parquet")
    (tmp_path / "my.toml").write_text(
        'root = "corpus"\n[source]\nkind = "laion"\npath = "*.parquet"\nimages = "pictures"\nimage_column = "image"\n'
        f"[duplicates]\n[sets.train]\n{ONE_PROCESS}"
    )
    root = build(tmp_path / "my.toml")
    said = query(
        root, "SELECT partition, text, reason, left_out_by, duplicate_of = key AS itself FROM samples ORDER BY ALL"
    )
    assert [tuple(row.values()) for row in said.to_pylist()] == [
        (0, "one", None, None, None), (0, "two", None, None, None),
        (1, "one", "exact_duplicate", "duplicates", True), (1, "two", "equal_keys", "selection", None),
    ]  # fmt: skip
    assert verify_root(root).problems == []


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


def planned(pictures: Pictures, tables: str = "[duplicates]") -> dict[str, tuple]:
    stages = plan(open_corpus(pictures.write(tables))).stages
    return {stage.stage: (len(stage.todo), [why for why, _ in stage.reasons()], stage.open) for stage in stages}


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


def test_rows_that_turn_to_kept_may_be_read_in_partitions_that_plan_cannot_name(pictures):
    both = "[duplicates]\n[ocr]"
    pictures.put({f"{seed}.png": noise(seed) for seed in range(6)})
    pictures.build(both)
    assert planned(pictures, both + "\n")["ocr"] == (0, [], False)
    assert planned(pictures, both.replace("]\n", "]\nnear = 2\n"))["ocr"] == (0, [], True)


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
    for damage in (b"", b"[]", b"{}", b"\xff"):
        note.write_bytes(damage)
        build(pictures.write())
        assert data_files(pictures.folder / "corpus") == before


# Kills


class Killed(BaseException):
    pass


def killed_at(times: int) -> Callable[[str], None]:
    """A `point` that ends the run when it has put that many files of the step in place."""
    left = iter(range(times))

    def point(name: str) -> None:
        if name == "duplicates:committed" and next(left, None) is None:
            raise Killed

    return point


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    """A corpus, and its source one night later: new files in old partitions, some that are gone, another distance. So
    of the rows that were kept before, some are near each other now."""
    pictures = Pictures(tmp_path_factory.mktemp("before"))
    pictures.put(
        {f"{seed}.png": noise(seed) for seed in range(12)} | {f"{seed}.jpg": like(seed, 3, 0.04) for seed in range(8)}
    )
    pictures.build("[duplicates]\nnear = -1")
    pictures.put({f"{seed}-{n}.jpg": like(seed, n, 0.07) for seed in range(4, 12) for n in range(1, 3)})
    pictures.take("0.png", "5.png")
    pictures.write()
    return pictures.folder


@pytest.fixture(scope="module")
def clean(before, tmp_path_factory) -> dict[str, str]:
    """The files that a run makes of it which nobody disturbs."""
    pictures = Pictures(Path(shutil.copytree(before, tmp_path_factory.mktemp("clean") / "corpus")))
    said = pictures.build()
    assert sum(row[0] == "near_duplicate" for row in said.values()) > 16
    return data_files(pictures.folder / "corpus")


@pytest.mark.parametrize("times", range(7))
def test_a_run_killed_after_any_of_its_commits_ends_in_the_same_bytes(times, before, clean, tmp_path, monkeypatch):
    folder = shutil.copytree(before, tmp_path / "copy")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("pipelines.engine.commit.point", killed_at(times))
        build(folder / "my.toml")
    written = [name for name, sha256 in data_files(folder / "corpus").items() if clean.get(name) == sha256]
    assert sum(name.startswith("duplicates/0") for name in written) == times + 1
    build(folder / "my.toml")
    assert data_files(folder / "corpus") == clean


def test_a_run_killed_at_each_of_its_commits_ends_in_the_same_bytes(before, clean, tmp_path, monkeypatch):
    folder, kills = shutil.copytree(before, tmp_path / "copy"), 0
    while True:
        with monkeypatch.context() as patch:
            patch.setattr("pipelines.engine.commit.point", killed_at(0))
            try:
                build(folder / "my.toml")
                break
            except Killed:
                kills += 1
    assert kills == 7 and data_files(folder / "corpus") == clean


@pytest.mark.slow
def test_a_process_killed_again_and_again_ends_in_the_same_bytes(before, clean, tmp_path):
    folder, codes = shutil.copytree(before, tmp_path / "copy"), []
    for point in ("duplicates:recorded", "duplicates:committed", "duplicates:committed", "duplicates:step", ""):
        codes.append(
            subprocess.run(
                [sys.executable, "-m", "pipelines.build", folder / "my.toml"], cwd=PROJECT, start_new_session=True,
                env=os.environ | {"SHARDMILL_KILL_AT": point}, capture_output=True, timeout=300,
            ).returncode
        )  # fmt: skip
    assert codes == [-signal.SIGKILL] * 4 + [0]
    assert data_files(folder / "corpus") == clean


# What is to be kept out


def exclude(*places: str, near: int = 3) -> str:
    return f"[duplicates]\nnear = {near}\nexclude = {json.dumps(places)}"


@pytest.fixture
def lists(pictures) -> Pictures:
    """Eight pictures, of which lists of each kind hold one."""
    pictures.put({f"{seed}.png": noise(seed) for seed in range(8)})
    folder = pictures.folder
    (folder / "bench/deep").mkdir(parents=True)
    (folder / "bench/deep/test.jpg").write_bytes(like(0, 1, 0.05))
    (folder / "bench/unlike.png").write_bytes(noise(100))
    (folder / "bench/answers.txt").write_text("of no interest")
    (folder / "one.png").write_bytes(noise(1))
    (folder / "bytes.sha256").write_text(f"# taken down\n\n{sha256_of(noise(2)).upper()}  2.png\n")
    (folder / "looks.txt").write_text(f"{phash_of(like(3, 2, 0.05))}, a test set's\n{'0' * 16}\n")
    table = {"sha256": [sha256_of(noise(4)), None, None], "phash": [None, phash_of(noise(5)), None], "n": [1, 2, 3]}
    pq.write_table(pa.table(table), folder / "hashes.parquet")
    return pictures


LISTS = {  # what is excluded -> the picture that goes, and what its row says
    "bench": ("0.png", "bench/deep/test.jpg, distance {near}"),
    "bench/**/*.jpg": ("0.png", "bench/deep/test.jpg, distance {near}"),
    "one.png": ("1.png", "one.png, distance 0"),
    "bytes.sha256": ("2.png", "bytes.sha256, distance 0"),
    "l*s.txt": ("3.png", "{folder}/looks.txt, distance {near}"),
    "hashes.parquet": ("4.png 5.png", "hashes.parquet, distance 0"),
}


@pytest.mark.parametrize("place", LISTS)
def test_what_a_list_holds_is_kept_out(place, lists):
    names, detail = LISTS[place]
    near = 2 if "{near}" in detail else 0
    said = lists.build(exclude(place))
    assert {name for name, row in said.items() if row[0]} == {*names.split()}
    assert said[names.split()[0]] == ("benchmark_overlap", None, near)
    (found,) = query(lists.root, "SELECT DISTINCT detail FROM duplicates WHERE reason IS NOT NULL").to_pylist()
    assert found["detail"] == detail.format(near=near, folder=lists.folder.name)


def test_all_copies_of_what_is_excluded_go_and_it_is_no_ones_original(lists):
    lists.put({"like.jpg": like(1, 9), "again.png": noise(1)})
    said = lists.build(exclude("one.png"))
    assert {name for name, row in said.items() if row[0] == "benchmark_overlap"} == {"1.png", "like.jpg", "again.png"}
    said = lists.build(exclude("one.png", near=-1))
    assert {name for name, row in said.items() if row[0] == "benchmark_overlap"} == {"1.png", "again.png"}
    assert said["like.jpg"] == (None, None, None)


def test_the_images_of_another_corpus_can_be_excluded(lists, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    benchmark = Pictures(other)
    benchmark.put({"a.jpg": like(6), "b.png": noise(200), "broken.png": noise(7)[:300]})
    benchmark.build()
    said = lists.build(exclude("other/corpus/images/*.parquet"))
    assert [name for name, row in said.items() if row[0]] == ["6.png"]


def test_the_content_of_lists_decides_and_not_where_they_lie(lists):
    lists.build(exclude("bench", "bytes.sha256"))
    before = data_files(lists.folder / "corpus")
    (lists.folder / "elsewhere").mkdir()
    for name in ("bench", "bytes.sha256"):
        shutil.move(lists.folder / name, lists.folder / "elsewhere" / name)
    lists.build(exclude("elsewhere/bytes.sha256", "elsewhere/bench"))
    assert lists.made() == {} and data_files(lists.folder / "corpus") == before
    (lists.folder / "elsewhere/bytes.sha256").write_text(sha256_of(noise(3)))
    assert planned(lists, exclude("elsewhere/bytes.sha256", "elsewhere/bench"))["duplicates"][0] == 3
    said = lists.build(exclude("elsewhere/bytes.sha256", "elsewhere/bench"))
    assert {name for name, row in said.items() if row[0]} == {"0.png", "3.png"}


WRONG = {  # what is excluded -> what the one line says
    "nothing.txt": "{here}/nothing.txt: no such file or folder",
    "*.lst": "{here}/*.lst: no such file or folder",
    "text": "{here}/text: has no images; name lists of hashes by their files",
    "s4://a/b": "s4://a/b: Protocol not known: s4",
    "text/word.txt": "word.txt: line 2: 'not a hash' is not a SHA-256 (64 hex digits) or perceptual hash (16)",
    "text/short.txt": "short.txt: line 1: 'abc' is not a SHA-256 (64 hex digits)",
    "text/comments.txt": "comments.txt: has no line with a SHA-256",
    "text/binary": "binary: is not an image, Parquet or text",
    "text/none.parquet": "none.parquet: has neither a column sha256 nor a column phash",
    "text/short.parquet": "short.parquet: row 2: 'abc' is not a SHA-256",
    "text/numbers.parquet": "numbers.parquet: row 1: '1' is not a SHA-256",
    "text/broken.parquet": "broken.parquet: is not Parquet with hashes: ",
    "broken": "broken/a.png: cannot be decoded as an image (",
}


@pytest.fixture
def here(lists) -> Path:
    folder = lists.folder
    (folder / "text").mkdir()
    (folder / "broken").mkdir()
    (folder / "text/word.txt").write_text(f"{'a' * 64}\nnot a hash\n")
    (folder / "text/short.txt").write_text("abc")
    (folder / "text/comments.txt").write_text("# to come\n")
    (folder / "text/binary").write_bytes(b"\xff\xfe\x00")
    pq.write_table(pa.table({"hash": ["a" * 64]}), folder / "text/none.parquet")
    pq.write_table(pa.table({"phash": ["a" * 16, "abc"]}), folder / "text/short.parquet")
    pq.write_table(pa.table({"sha256": [1]}), folder / "text/numbers.parquet")
    (folder / "text/broken.parquet").write_bytes(b"PAR1 and then nothing")
    (folder / "broken/a.png").write_bytes(noise(1)[:300])
    return folder


@pytest.mark.parametrize("place", WRONG)
def test_what_is_wrong_with_a_list_is_said_in_one_line_and_nothing_is_written(place, here, lists):
    with pytest.raises(UserError) as error:
        run(lists.write(exclude(place)))
    assert f"duplicates.exclude: {WRONG[place].format(here=here)}" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (here / "corpus").exists()


def test_perceptual_hashes_are_refused_where_only_equal_bytes_count(lists):
    with pytest.raises(UserError) as error:
        run(lists.write(exclude("one.png", "bytes.sha256", "looks.txt", near=-1)))
    assert str(error.value) == (
        "duplicates.exclude: looks.txt: holds perceptual hashes, which duplicates.near = -1 does not look at; "
        "set it to 0 or more"
    )


def test_the_command_line_says_so_too(lists):
    config = lists.write(exclude("nothing.txt"))
    said = say("plan", config)
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        f"shardmill: {config}: duplicates.exclude: {lists.folder}/nothing.txt: no such file or folder\n"
    )
    for tables, answer in (
        ("[duplicates]\nneer = 3", "duplicates.neer: unknown; did you mean `near`?"),
        ("[duplicates]\nnear = 9", "duplicates.near: input should be less than or equal to 8, not '9'"),
        ("[duplicates]\nexclude = 'a.txt'", "duplicates.exclude: write a list: [\"…\"], not 'a.txt'"),
    ):
        assert answer in say("plan", lists.write(tables)).err


# Several captions of an image


CAPTIONS = """
[source]
kind = "folder"
path = "pictures"
captions = "all"
[duplicates]
[sets.train]
"""


@pytest.mark.parametrize("near", [-1, 3])
def test_captions_of_one_image_are_no_duplicates_of_each_other(near, tmp_path, configure):
    (tmp_path / "pictures").mkdir()
    for name, number in (("0", 0), ("copy", 0), ("1", 1)):
        (tmp_path / f"pictures/{name}.png").write_bytes(picture(number)[0])
    lines = [("0.png", ["one", "two", "three"]), ("copy.png", ["four", "five"]), ("1.png", ["six"])]
    (tmp_path / "pictures/a.jsonl").write_text(
        "".join(json.dumps({"image": image, "text": texts}) + "\n" for image, texts in lines)
    )
    root = build(configure(CAPTIONS.replace("[duplicates]", f"[duplicates]\nnear = {near}")))
    said = {row["text"]: row["reason"] for row in query(root, "select text, reason from samples").to_pylist()}
    kept = {text for text, reason in said.items() if not reason}
    assert kept in ({"one", "two", "three", "six"}, {"four", "five", "six"}), "those of the file that comes first"
    assert {reason for reason in said.values() if reason} == {"exact_duplicate"}
    before = data_files(Path(root.url))
    build(tmp_path / "my.toml")
    assert data_files(Path(root.url)) == before and verify_root(root).problems == []
    one = tmp_path / "one.toml"
    one.write_text((tmp_path / "my.toml").read_text().replace('"all"', '"first"').replace('"corpus"', '"one"'))
    rows = query(build(one), "select reason, count(*) as n from samples group by all order by n").to_pylist()
    assert [(row["reason"], row["n"]) for row in rows] == [("exact_duplicate", 1), (None, 2)]

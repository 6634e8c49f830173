"""Which pictures go and which stay, whatever came first or was there before."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import ONE_PROCESS, build, data_files, picture, write_tar
from support.duplicates import LAST, apart, like, noise, sha256_of

from pipelines.catalog.catalog import query
from pipelines.maintain.verify import verify_root


def test_pictures_are_as_near_as_these_tests_take_them_for():
    unlike = [noise(seed) for seed in range(13)]
    assert min(apart(a, b) for n, a in enumerate(unlike) for b in unlike[:n]) > 8
    assert max(apart(noise(seed), like(seed, n)) for seed in range(13) for n in range(8)) <= 3


# The stage


@pytest.mark.slow
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


@pytest.mark.slow
def test_distance_is_what_is_configured_and_equal_bytes_alone_can_be_meant(pictures):
    pictures.put({"a.png": noise(1), "b.png": noise(1), "c.jpg": like(1, 4, 0.05), "d.png": noise(1, optimize=True)})
    assert apart(noise(1), like(1, 4, 0.05)) == 2
    assert noise(1) != noise(1, optimize=True) and apart(noise(1), noise(1, optimize=True)) == 0

    def reasons(near: int) -> list[str | None]:
        return sorted(filter(None, (row[0] for row in pictures.build(f"[duplicates]\nnear = {near}").values())))

    assert reasons(-1) == ["exact_duplicate"]
    assert reasons(0) in (["exact_duplicate", "near_duplicate"], ["near_duplicate", "near_duplicate"])
    assert len(reasons(1)) == 2 and len(reasons(2)) == 3


@pytest.mark.slow
def test_what_was_left_out_before_is_no_ones_original(pictures):
    pictures.put({"a.png": noise(1), "b.png": noise(1), "tiny.png": noise(2, 8), "broken.png": noise(3)[:300]})
    said = pictures.build()
    assert said["tiny.png"] == said["broken.png"] == ("upstream", None, None)
    details = query(pictures.root, "SELECT detail FROM duplicates WHERE reason = 'upstream' ORDER BY ALL")
    assert details["detail"].to_pylist() == ["images: too_small", "images: truncated"]
    pictures.build("[images]\nmin_side = 100\n[gates]\nempty_sets = false\n[duplicates]")
    assert {row[0] for row in pictures.said().values()} == {"upstream"}


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_stricter_or_laxer_distance_judges_anew_in_order(pictures):
    pictures.put({"a.png": noise(1), "b.jpg": like(1), "c.png": noise(2)})
    assert {row[0] for row in pictures.build("[duplicates]\nnear = -1").values()} == {None}
    first, second = (name for name in pictures.in_order() if name != "c.png")
    assert pictures.build()[second][:2] == ("near_duplicate", first)
    assert pictures.build("[duplicates]\nnear = -1")[second] == (None, None, None)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [256, 1])
def test_equal_keys_of_two_partitions_are_told_apart(at_once, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.catalog.groups.MOST", at_once)
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


# Several captions of an image


CAPTIONS = """
[source]
kind = "folder"
path = "pictures"
captions = "all"
[duplicates]
[sets.train]
"""


@pytest.mark.slow
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

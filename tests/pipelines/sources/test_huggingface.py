"""Tables that hold their images, made by the real `datasets`: read once, in order, their bytes never in `rows/`."""

import io
import json
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.corpora import build, data_files, facts, rows_of, say
from support.hub import CAPTIONED, IMAGE, PICTURES, TEXT, TOML, dataset, datasets, held, pixels

from pipelines.catalog.catalog import query
from pipelines.engine.commit import key_of
from pipelines.maintain.verify import verify_root
from pipelines.sources.tables import Tables


@pytest.mark.slow
@pytest.mark.parametrize("form", ["parquet", "disk", "splits"])
def test_a_data_set_of_images_and_captions_comes_out_whole(form, hub, configure):
    data = dataset(CAPTIONED, image=held(0, 1, 2, 3), caption=["zero", "one", "two", None], score=[0.5, 1, 2, 3])
    if form == "parquet":
        data.to_parquet(hub / "train-00000-of-00001.parquet", batch_size=2)
    elif form == "disk":
        data.save_to_disk(hub / "train", num_shards=2)
    else:
        datasets.DatasetDict({"train": data.select(range(3)), "test": data.select([3])}).save_to_disk(hub / "all")
    root = build(configure(TOML))
    rows = query(root, "select text, reason, extra, sha256, file, byte_offset from rows order by text").to_pylist()
    assert [(row["text"], row["reason"]) for row in rows] == [
        ("one", None),
        ("two", None),
        ("zero", None),
        (None, None),
    ]
    assert json.loads(rows[2]["extra"]) == {"score": 0.5}
    found = query(root, "select text, i.* from images i join rows r using (partition, key)").to_pylist()
    commits = {path.name[:5]: path.name for path in (Path(root.url) / "images").glob("*.tar")}
    kept = {row["text"]: pixels(root, row | {"payload": commits[f"{row['partition']:05d}"]}) for row in found}
    assert kept == {"zero": PICTURES[0], "one": PICTURES[1], "two": PICTURES[2], None: PICTURES[3]}
    assert query(root, "select count(*) as n from shards").to_pylist() == [{"n": 3}]
    assert verify_root(root).problems == []
    before = data_files(Path(root.url))
    build(configure(TOML))
    assert data_files(Path(root.url)) == before


@pytest.mark.slow
def test_a_key_names_file_and_row_and_a_text_that_changes_touches_no_image(hub, configure):
    dataset(CAPTIONED, image=held(0, 1), caption=["zero", "one"], score=[0, 1]).to_parquet(hub / "a.parquet")
    root = build(configure(TOML))
    rows = query(root, "select key from rows order by byte_offset").to_pylist()
    assert [row["key"] for row in rows] == [key_of("a.parquet", "0"), key_of("a.parquet", "1")]
    before = data_files(Path(root.url))
    dataset(CAPTIONED, image=held(0, 1), caption=["zero", "another"], score=[0, 1]).to_parquet(hub / "a.parquet")
    build(configure(TOML))
    changed = {name.split("/")[0] for name, _ in before.items() ^ data_files(Path(root.url)).items()}
    assert changed == {"root.json", "rows", "shards"} or changed == {"root.json", "rows", "selection", "shards"}


def test_bytes_as_img2dataset_writes_them_and_their_urls(hub, configure):
    table = {
        "key": ["000", "001", "002"], "status": ["success", "success", "failed_to_download"],
        "url": [f"http://{host}.example/a.jpg" for host in "abc"], "caption": ["zero", "one", "two"],
        "jpg": [PICTURES[0], b"no image", None], "width": [224, 0, None],
    }  # fmt: skip
    pq.write_table(pa.table(table), hub / "00000.parquet")
    root = build(configure(TOML))
    question = "select url, host, text, left_out_by, reason, extra from samples order by url"
    rows = query(root, question).to_pylist()
    assert [(row["host"], row["text"], row["left_out_by"], row["reason"]) for row in rows] == [
        ("a.example", "zero", None, None), ("b.example", "one", "images", "not_an_image"),
        ("c.example", None, "rows", "no_image"),
    ]  # fmt: skip
    assert json.loads(rows[0]["extra"]) == {"key": "000", "status": "success", "url": rows[0]["url"], "width": 224}
    (row,) = (row for row in rows_of("laion", hub) if row["text"] == "zero")
    assert (row["url"], row["member"], row["reason"]) == ("http://a.example/a.jpg", "jpg/0", None)


@pytest.mark.parametrize("kind", ["folder", "laion", "instructions"])
def test_other_kinds_read_images_inside_tables_too(kind, hub):
    columns = {"image": held(0, 1), "question": ["What?", "Who?"], "text": ["zero", "one"], "url": ["u", "v"]}
    pq.write_table(pa.table(columns), hub / "a.parquet")
    rows = rows_of(kind, hub, **({"text_column": "text"} if kind != "instructions" else {}))
    assert facts(rows, "file", "member", "byte_offset", "reason") == [
        ("a.parquet", "image/0", 0, None), ("a.parquet", "image/0", 1, None),
    ]  # fmt: skip
    assert [row["text"] for row in rows] == ([None, None] if kind == "instructions" else ["zero", "one"])


@pytest.mark.slow
def test_bytes_never_enter_rows(hub, configure):
    """12 MB in, under 1 MB of rows; nothing of an image in any text."""
    draws = np.random.default_rng(0)
    images = []
    for _ in range(80):
        buffer = io.BytesIO()
        Image.fromarray(draws.integers(0, 256, (224, 224, 3), np.uint8)).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
    table = pa.table({"image": images, "mask": images[::-1], "text": [f"text {n}" for n in range(80)]})
    pq.write_table(table, hub / "a.parquet", row_group_size=10)
    assert (hub / "a.parquet").stat().st_size > 12_000_000
    root = build(configure(TOML), "rows")
    written = sum(path.stat().st_size for path in (Path(root.url) / "rows").iterdir())
    assert written < 100_000
    assert query(root, "select max(length(extra)) as n from rows").to_pylist() == [{"n": 2}]


@pytest.mark.slow
def test_a_file_is_read_once_by_each_stage_and_in_its_order(hub, configure, monkeypatch):
    columns = {"image": held(*[n % 4 for n in range(40)]), "text": [f"text {n}" for n in range(40)]}
    pq.write_table(pa.table(columns), hub / "a.parquet", row_group_size=5)
    root = build(configure(TOML), "rows")
    reads = Counter()
    numbered = Tables._numbered

    def counted(self, file, *more):
        reads[file] += 1
        return numbered(self, file, *more)

    monkeypatch.setattr(Tables, "_numbered", counted)
    build(configure(TOML))
    assert reads == {"a.parquet": 1}
    assert query(root, "select count(*) as n from images where reason is null").to_pylist() == [{"n": 40}]


@pytest.mark.slow
def test_a_damaged_row_group_leaves_the_others(hub, configure):
    columns = {"image": held(*[n % 4 for n in range(40)]), "text": [f"text {n}" for n in range(40)]}
    pq.write_table(
        pa.table(columns), hub / "a.parquet", row_group_size=10, compression="zstd", write_page_checksum=True
    )
    data = bytearray((hub / "a.parquet").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    (hub / "a.parquet").write_bytes(data)
    root = build(configure(TOML))
    reasons = query(root, "select reason, count(*) as n from samples group by reason").to_pylist()
    said = {row["reason"]: row["n"] for row in reasons}
    assert said.keys() == {None, "damaged"} and 0 < said["damaged"] <= 20 and sum(said.values()) == 40
    assert verify_root(root).problems == []


def test_a_damaged_arrow_file_is_read_up_to_there_and_kills_nothing(hub):
    data = dataset({"image": IMAGE, "text": TEXT}, image=held(0, 1, 2, 3) * 5, text=[f"text {n}" for n in range(20)])
    data.save_to_disk(hub / "whole", max_shard_size="1GB")
    (path,) = (hub / "whole").glob("*.arrow")
    whole, draws = path.read_bytes(), random.Random(0)
    said = Counter()
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(draws.choice((1, 4))):
            place = draws.randrange(len(broken))
            broken[place : place + 8] = draws.randbytes(8)
        path.write_bytes(broken[: draws.randrange(len(broken))] if draws.random() < 0.3 else broken)
        said.update(row["reason"] for row in rows_of("huggingface", path))
    assert said["unreadable_file"] > 5 and said[None] > 100


def test_a_file_that_changed_under_the_rows_is_told(hub, configure):
    pq.write_table(pa.table({"image": held(0, 1), "text": ["a", "b"]}), hub / "a.parquet")
    root = build(configure(TOML), "rows")
    stamp = (hub / "a.parquet").stat()
    pq.write_table(pa.table({"image": held(0, 2), "text": ["a", "b"]}), hub / "b.parquet")
    data = (hub / "b.parquet").read_bytes()
    (hub / "b.parquet").unlink()
    from pipelines.build.corpus import open_corpus

    images = open_corpus(configure(TOML)).made["images"].ready(root, None)
    (hub / "a.parquet").write_bytes(data)
    os.utime(hub / "a.parquet", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    rows = query(root, "from rows order by byte_offset").to_pylist()
    loaded = [data for _, data in images.sources.loads(rows)]
    assert loaded == [PICTURES[0], PICTURES[2]]
    made = dict(images.make([{"rows": row, "before": None} for row in rows], root))
    assert made[rows[0]["key"]]["format"] == "PNG" and made[rows[1]["key"]].reason == "changed_in_source"


def test_images_by_path_and_rows_without_one(hub):
    (hub / "0.png").write_bytes(PICTURES[0])
    images = [
        {"bytes": None, "path": "0.png"},
        {"bytes": None, "path": "/etc/hostname"},
        None,
        {"bytes": PICTURES[1], "path": None},
    ]
    pq.write_table(pa.table({"image": images, "text": ["a", "b", "c", "d"]}), hub / "a.parquet")
    rows = rows_of("huggingface", hub)
    assert facts(rows, "file", "member", "reason") == [
        ("0.png", None, None), (None, None, "no_image"), (None, None, "no_image"), ("a.parquet", "image/0", None),
    ]  # fmt: skip
    assert rows[2]["detail"] == "a.parquet, row 2: image holds no image"


def test_what_is_not_clear_is_asked_for(hub, configure):
    pq.write_table(pa.table({"url": ["http://a.example/1.jpg"], "text": ["a"]}), hub / "a.parquet")
    assert say("plan", configure(TOML)).err == (
        "shardmill: source.image_column: a.parquet has no column of images; it has url, text. For URLs write "
        'kind = "laion", for paths of files kind = "folder"\n'
    )
    pq.write_table(pa.table({"left": held(0), "right": held(1), "text": ["a"]}), hub / "a.parquet")
    said = say("plan", configure(TOML))
    assert said.err == "shardmill: source.image_column: a.parquet has images in left, right; write which one\n"
    (row,) = rows_of("huggingface", hub, image_column="right")
    assert (row["member"], row["extra"]) == ("right/0", "{}")
    said = say("plan", configure(TOML.replace("[sets", 'text_column = "words"\n[sets')))
    assert said.err.startswith("shardmill: source.image_column: ")
    pq.write_table(pa.table({"image": held(0), "images": [held(1, 2)], "mask": held(3)}), hub / "a.parquet")
    assert say("plan", configure(TOML)).err == (
        "shardmill: source.image_column: a.parquet has images in image, images; write which one\n"
    )
    pq.write_table(pa.table({"left": held(0), "right": held(1), "text": ["a"]}), hub / "a.parquet")
    said = say("plan", configure(TOML.replace("[sets", 'image_column = "left"\ntext_column = "words"\n[sets')))
    assert said.err == "shardmill: source.text_column: a.parquet has no column 'words'; it has left, right, text\n"

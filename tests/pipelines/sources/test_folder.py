"""A folder of images, or of captions that name images: every row, and what is wrong with it."""

import json
import os
from hashlib import sha256

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import build, facts, picture, rows_of, write_captions

from pipelines.catalog.catalog import query
from pipelines.engine.commit import digest, key_of
from pipelines.maintain.verify import verify_root
from pipelines.sources import open_source
from pipelines.sources.source import FileStamp
from pipelines.stages.rows import Rows, settle
from schemas.config.sources import SOURCES
from schemas.errors import UserError

PICTURES = [picture(number)[0] for number in range(6)]


# A folder of images


def test_a_folder_has_a_row_an_image_with_the_text_beside_it(pictures):
    (pictures / "0.txt").write_text("zero")
    (pictures / "1.txt").write_bytes(b"\xff one")
    (pictures / "sub").mkdir()
    (pictures / "sub/0.JPG").write_bytes(PICTURES[5])
    (pictures / "sub/0.TXT").write_text("another zero")
    (pictures / "alone.txt").write_text("beside nothing")
    (pictures / "notes.md").write_text("no image")
    (pictures / "empty.webp").write_bytes(b"")
    rows = rows_of("folder", pictures)
    assert facts(rows, "file", "text", "reason") == [
        ("0.png", "zero", None), ("1.png", None, "bad_text"), ("2.png", None, None), ("3.png", None, None),
        ("alone.txt", None, "no_image"), ("empty.webp", None, None), ("sub/0.JPG", "another zero", None),
    ]  # fmt: skip
    assert [row["key"] for row in rows] == [key_of(row["file"]) for row in rows]
    assert rows[6]["sha256"] == sha256(PICTURES[5]).hexdigest() and rows[6]["size"] == len(PICTURES[5])
    assert rows[1]["detail"] == "1.txt: is not UTF-8 at byte 0; write source.encoding if it is in another"


@pytest.mark.slow
def test_a_caption_that_nobody_can_see_is_no_caption(pictures, configure):
    for number, text in enumerate(["\u00a0\n", "\u200b", "\r\n\u2028", "\u00a0a\u200b"]):
        (pictures / f"{number}.txt").write_text(text)
    root = build(configure('[source]\nkind = "folder"\npath = "pictures"\n[sets.train]'))
    rows = query(root, "select text, reason from samples order by reason nulls first").to_pylist()
    assert [row["reason"] for row in rows] == [None, "no_caption", "no_caption", "no_caption"]
    assert rows[0]["text"] == "\u00a0a\u200b", "as it came"
    assert query(root, "select count(*) as n from shards").to_pylist() == [{"n": 1}]


@pytest.mark.parametrize("name", ["photos [2024]", "what?", "a*b"])
def test_what_is_there_is_no_pattern(name, pictures):
    here = pictures.rename(pictures.parent / name)
    assert facts(rows_of("folder", here), "file") == [(f"{number}.png",) for number in range(4)]
    write_captions(here / "captions.csv", [("0.png", "one")])
    assert facts(rows_of("folder", here / "captions.csv"), "file", "text") == [("0.png", "one")]


def test_a_name_that_is_not_utf_8_is_a_reason(pictures):
    os.rename(pictures / "0.png", os.fsencode(pictures) + b"/\xff.png")
    rows = rows_of("folder", pictures)
    (strange,) = (row for row in rows if row["reason"])
    assert (strange["reason"], strange["detail"]) == ("unsafe_name", r"'\udcff.png' is not UTF-8")
    assert [row["reason"] for row in rows].count(None) == 3


@pytest.mark.parametrize("ext", ["jfif", "jpe", "pjpeg", "avif", "heic", "heif", "jxl", "JFIF"])
def test_every_suffix_of_images_is_a_row(ext, tmp_path):
    (tmp_path / f"0.{ext}").write_bytes(PICTURES[0])
    (tmp_path / "0.txt").write_text("a field")
    assert facts(rows_of("folder", tmp_path), "file", "text", "reason") == [(f"0.{ext}", "a field", None)]


def test_files_that_nobody_reads_are_rows_with_a_reason(pictures):
    for name in ("a.xyz", "clip.mp4", "more/00000.tar", "labels.xml", "odd.json", "none"):
        (pictures / name).parent.mkdir(exist_ok=True)
        (pictures / name).write_text("{}")
    for name in ("README.md", ".gitattributes", ".cache/a.xyz", "._0.png", "LICENSE", "Thumbs.db", "_SUCCESS"):
        (pictures / name).parent.mkdir(exist_ok=True)
        (pictures / name).write_text("{}")
    left_out = {row["file"]: row["reason"] for row in rows_of("folder", pictures) if row["reason"]}
    assert left_out == dict.fromkeys(["a.xyz", "clip.mp4", "more/00000.tar", "labels.xml", "none"], "not_read") | {
        "odd.json": "no_image"
    }


def test_a_pattern_of_images_brings_what_stands_beside_them(pictures):
    (pictures / "0.txt").write_text("zero")
    (pictures / "1.json").write_text('{"url": "http://x.example/1"}')
    (pictures / "alone.txt").write_text("beside nothing")
    rows = rows_of("folder", f"{pictures}/[01].png")
    assert facts(rows, "file", "text", "url") == [("0.png", "zero", None), ("1.png", None, "http://x.example/1")]


def test_a_json_beside_an_image_is_kept_and_one_of_its_fields_may_be_the_caption(pictures):
    said = {"url": "http://x.example/0.png", "caption": "a field", "LICENSE": "?", "NSFW": "UNLIKELY"}
    (pictures / "0.json").write_text(json.dumps(said))
    (pictures / "0.txt").write_text("zero")
    (pictures / "1.json").write_text('{"caption": ["a", "b"]}')
    (pictures / "2.json").write_text('{"other": 1}')
    (pictures / "2.txt").write_bytes(b"\xef\xbb\xbftwo")
    first, *_ = rows_of("folder", pictures)
    assert (first["text"], first["url"], first["host"], json.loads(first["extra"])) == (
        "zero", "http://x.example/0.png", "x.example", said
    )  # fmt: skip
    assert facts(rows_of("folder", pictures, text_field="caption"), "text", "reason") == [
        ("a field", None), (None, "bad_text"), ("two", None), (None, None),
    ]  # fmt: skip


def test_texts_in_other_encodings(pictures):
    (pictures / "0.txt").write_bytes("Käse".encode("latin-1"))
    (pictures / "1.txt").write_bytes("Käse".encode("utf-16"))
    assert facts(rows_of("folder", pictures), "text", "reason")[:2] == [(None, "bad_text"), ("Käse", None)]
    assert facts(rows_of("folder", pictures, encoding="latin-1"), "text")[:2] == [("Käse",), ("Käse",)]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_text_of_utf_16_without_its_mark_is_not_read_as_utf_8(pictures, encoding):
    (pictures / "0.txt").write_bytes("a house".encode(encoding))
    first, *_ = rows_of("folder", pictures)
    assert (first["text"], first["reason"]) == (None, "bad_text")
    assert first["detail"].endswith("; write source.encoding if it is in another")
    assert rows_of("folder", pictures, encoding=encoding)[0]["text"] == "a house"


@pytest.mark.parametrize("kind", ["hole", "text", "pipe", "device", "broken link", "a text that is a pipe"])
def test_files_without_end_are_rows_that_nobody_reads(kind, tmp_path):
    for n in range(2):
        (tmp_path / f"{n}.jpg").write_bytes(PICTURES[n])
        (tmp_path / f"{n}.txt").write_text("good")
    odd = tmp_path / ("1.txt" if "text" in kind else "h.jpg")
    odd.unlink(missing_ok=True)
    if kind in ("hole", "text"):
        odd.touch()
        os.truncate(odd, 20 << 30)
    elif "pipe" in kind:
        os.mkfifo(odd)
    else:
        odd.symlink_to("/dev/zero" if kind == "device" else "gone")
    rows = rows_of("folder", tmp_path)
    last = {
        "hole": ("h.jpg", None),
        "text": ("1.jpg", "text_too_long"),
        "a text that is a pipe": ("1.jpg", "unreadable_file"),
    }
    assert facts(rows, "file", "reason")[0] == ("0.jpg", None)
    assert facts(rows, "file", "reason")[-1] == last.get(kind, ("h.jpg", "no_image"))
    if kind == "hole":
        assert (rows[-1]["size"], rows[-1]["sha256"]) == (20 << 30, None)


def test_an_image_that_is_too_large_is_left_out_before_it_is_read(pictures, configure):
    (pictures / "h.png").touch()
    os.truncate(pictures / "h.png", 20 << 30)
    root = build(configure('[source]\nkind = "folder"\npath = "pictures"\n[sets.train]'), "images")
    found = query(root, "SELECT reason, detail FROM images WHERE reason IS NOT NULL").to_pylist()
    assert found == [{"reason": "too_large", "detail": f"{20 << 30} bytes"}]
    assert query(root, "FROM images WHERE reason IS NULL").num_rows == 4 and verify_root(root).problems == []


# A folder of captions

CAPTIONS = [
    ("0.png", "zero"),
    ("0.png", "zero"),
    ("0.png", "zero in other words"),
    ("gone.png", "no such file"),
    ("/etc/hostname", "an absolute path"),
    ("../0.png", "out of the folder"),
    ("a/../0.png", "out and in again"),
    ("1.png", None),
    (None, "no name"),
    ("2.png", 'quotes " and, commas\nand lines'),
]
EXPECTED = {  # caption -> reason
    "zero": None, "zero in other words": None, "no such file": "no_image", "an absolute path": "no_image",
    "out of the folder": "no_image", "out and in again": "no_image", None: None, "no name": "no_image",
    'quotes " and, commas\nand lines': None,
}  # fmt: skip


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl"])
def test_captions_say_which_images_and_bad_ones_have_reasons(name, pictures):
    write_captions(pictures / name, CAPTIONS)
    rows = rows_of("folder", pictures)
    again = [row for row in rows if row["reason"] == "equal_keys"]
    assert {row["text"]: row["reason"] for row in rows if row not in again} == EXPECTED
    assert facts(again, "text", "detail") == [("zero", f"the same name as {key_of('0.png', 'zero')}")]
    assert len(rows) == len(CAPTIONS)
    for row in rows:
        if row["reason"] is None:
            assert row["sha256"] == sha256((pictures / row["file"]).read_bytes()).hexdigest()
            assert row["key"] == key_of(row["file"], str(row["text"]))
        else:
            assert row["sha256"] is None or row["reason"] == "equal_keys"


def test_the_three_formats_give_the_same_rows(pictures):
    def said(name: str) -> list[tuple]:
        write_captions(pictures / name, CAPTIONS)
        found = facts(rows_of("folder", pictures / name), "key", "text", "file", "reason", "sha256", "extra")
        (pictures / name).unlink()
        return found

    assert said("a.parquet") == said("a.csv") == said("a.jsonl")


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl"])
def test_columns_are_found_by_their_usual_names_or_as_configured(name, pictures):
    write_captions(pictures / name, [("0.png", "zero")], image="file_name", text="caption")
    assert facts(rows_of("folder", pictures), "file", "text") == [("0.png", "zero")]
    write_captions(pictures / name, [("0.png", "zero")], image="bild", text="wort")
    rows = rows_of("folder", pictures, image_column="bild", text_column="wort")
    assert facts(rows, "file", "text") == [("0.png", "zero")]
    stage = Rows(open_source(SOURCES["folder"](path=str(pictures))))
    with pytest.raises(UserError, match=rf"source.image_column: {name} has none of the columns .*; it has bild, wort"):
        settle([stage], (), ())


def test_a_caption_may_be_a_number_or_a_date(pictures):
    columns = {"image": ["0.png", "1.png"], "text": [1.5, 2.0], "when": pa.array([1, 2], pa.timestamp("us")),
               "bytes": [b"\xff", b""], "nan": [float("nan"), 1.0]}  # fmt: skip
    pq.write_table(pa.table(columns), pictures / "a.parquet")
    rows = rows_of("folder", pictures)
    assert [row["text"] for row in rows] == ["1.5", "2.0"]
    assert json.loads(rows[0]["extra"])["nan"] is None and json.loads(rows[1]["extra"])["nan"] == 1.0
    (pictures / "a.parquet").unlink()
    (pictures / "a.csv").write_text("image,text\n0.png,007\n1.png,1e5\n2.png,\n")
    assert [row["text"] for row in rows_of("folder", pictures)] == ["007", "1e5", None]


def test_image_columns_may_hold_numbers(pictures):
    pq.write_table(pa.table({"image": [0, 1], "text": ["a", "b"]}), pictures / "a.parquet")
    assert facts(rows_of("folder", pictures), "reason", "detail") == [
        ("no_image", "0 does not exist"), ("no_image", "1 does not exist"),
    ]  # fmt: skip


def test_what_one_line_says_changes_no_other(pictures):
    """Readers that guess types from the whole file turn every caption into quoted JSON when one is a list."""
    lines = ['{"image": "0.png", "text": "2024-01-02"}', '{"image": "1.png", "text": "plain"}']
    table = pictures / "a.jsonl"
    table.write_text("\n".join(lines))
    before = rows_of("folder", pictures, captions="first")
    odd = ['{"image": "2.png", "text": ["a", "b"], "more": 1}', "", "not JSON", '{"image": "3.png"}', "[1]"]
    table.write_text("\n".join([*lines, *odd]))
    after = rows_of("folder", pictures, captions="first")
    assert after[:2] == before
    assert facts(after[2:], "file", "text", "reason", "extra") == [
        ("2.png", "a", None, '{"more": 1}'), (None, None, "no_image", '{"json": "not JSON"}'),
        ("3.png", None, None, "{}"), (None, None, "no_image", '{"json": "[1]"}'),
    ]  # fmt: skip


def test_a_table_without_rows_is_an_empty_partition(pictures, configure):
    (pictures / "a.csv").write_text("image,text\n")
    gates = "[gates]\nempty_sets = false"
    root = build(configure(f'[source]\nkind = "folder"\npath = "pictures"\n[sets.train]\n{gates}'))
    assert query(root, "from rows").num_rows == 0 and verify_root(root).problems == []


# Images and tables in one folder


def test_images_with_texts_that_no_table_names_are_rows_and_others_are_named_by_plan(pictures):
    (pictures / "sub").mkdir()
    for name in ("sub/a.png", "sub/b.png"):
        (pictures / name).write_bytes(PICTURES[4])
    (pictures / "sub/a.txt").write_text("beside")
    (pictures / "0.txt").write_text("named by the table too")
    write_captions(pictures / "c.csv", [("0.png", "zero"), ("1.png", "one")])
    assert facts(rows_of("folder", pictures), "file", "text") == [
        ("sub/a.png", "beside"), ("0.png", "zero"), ("1.png", "one"),
    ]  # fmt: skip
    assert open_source(SOURCES["folder"](path=str(pictures))).notes() == [
        "3 images are in no caption table and without a text: not read; the first is 2.png"
    ]
    write_captions(pictures / "d.jsonl", [(f"{name}.png", name) for name in ("2", "3", "sub/b")])
    assert open_source(SOURCES["folder"](path=str(pictures))).notes() == []


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "more/metadata.parquet"])
def test_tables_in_folders_name_files_of_their_own_folder(name, tmp_path):
    for folder in ("train", "test"):
        table = tmp_path / folder / name
        table.parent.mkdir(parents=True)
        (table.parent / "0.png").write_bytes(PICTURES[folder == "test"])
        write_captions(table, [("0.png", "the same words")], image="file_name")
    rows = rows_of("folder", tmp_path)
    assert sorted(row["sha256"] for row in rows) == sorted(sha256(PICTURES[n]).hexdigest() for n in range(2))
    assert len({row["key"] for row in rows}) == 2, "equal names in two folders are two images"


def test_captions_of_coco_and_lists_of_records_beside_images_are_tables(pictures):
    coco = {"images": [{"id": n, "file_name": f"{n}.png"} for n in range(2)],
            "annotations": [{"image_id": n, "id": n, "caption": f"coco {n}"} for n in range(2)]}  # fmt: skip
    boxes = coco | {"annotations": [{"image_id": 0, "bbox": [1, 2, 3, 4]}]}
    (pictures / "captions.json").write_text(json.dumps({"info": {}} | coco, indent=1))
    (pictures / "instances.json").write_text(json.dumps(boxes))
    (pictures / "list.json").write_text(json.dumps([{"caption": "listed", "image": "2.png"}]))
    (pictures / "shards_stats.json").write_text("{}")
    rows = rows_of("folder", pictures, captions="first")
    assert facts(rows, "file", "text", "reason") == [
        ("instances.json", None, "no_image"), ("0.png", "coco 0", None), ("1.png", "coco 1", None),
        ("2.png", "listed", None),
    ]  # fmt: skip


def test_absolute_paths_in_tables(pictures, tmp_path):
    write_captions(tmp_path / "a.csv", [(f"{pictures}/0.png", "zero"), ("/etc/hostname", "no")])
    assert facts(rows_of("folder", tmp_path / "a.csv"), "file", "reason") == [
        ("pictures/0.png", None), (None, "no_image"),
    ]  # fmt: skip
    (tmp_path / "away").mkdir()
    (tmp_path / "a.csv").rename(tmp_path / "away/a.csv")
    outside, _ = rows_of("folder", tmp_path / "away/a.csv")
    assert f'write images = "{pictures}" or a folder above it in [source]' in outside["detail"]
    for images in (pictures, "/"):
        rows = rows_of("folder", tmp_path / "away/a.csv", images=str(images))
        assert rows[0]["sha256"] == sha256(PICTURES[0]).hexdigest()


def test_what_was_read_before_keeps_its_stamp(pictures):
    """So that nothing is made anew."""
    (pictures / "0.txt").write_text("zero")
    source = open_source(SOURCES["folder"](path=str(pictures)))
    first = [FileStamp(path, f"{(stat := (pictures / path).stat()).st_size}-{stat.st_mtime}")
             for path in ("0.png", "0.txt", "1.png", "2.png", "3.png")]  # fmt: skip
    (pictures / "README.md").write_text("about")
    assert source.files() == [(".", digest(first))]
    (pictures / "4.jfif").write_bytes(PICTURES[4])
    assert source.files() != [(".", digest(first))]


def test_a_folder_of_an_object_store(pictures):
    fs = fsspec.filesystem("memory")
    for n in range(2):
        fs.pipe_file(f"/photos/sub/{n}.png", PICTURES[n])
    fs.pipe_file("/photos/sub/0.txt", b"zero")
    fs.pipe_file("/photos/sub/metadata.csv", b"file_name,text\n1.png,one\n")
    rows = rows_of("folder", "memory://photos")
    assert facts(rows, "file", "text", "sha256") == [
        (f"sub/{n}.png", text, sha256(PICTURES[n]).hexdigest()) for n, text in enumerate(("zero", "one"))
    ]


@pytest.mark.parametrize("kind", ["broken link", "pipe", "hole"])
def test_a_table_that_cannot_be_read_is_a_row_and_stops_no_other(kind, pictures):
    write_captions(pictures / "a.csv", [("0.png", "zero")])
    odd = pictures / "b.csv"
    if kind == "hole":
        odd.touch()
        os.truncate(odd, 20 << 30)
    else:
        os.mkfifo(odd) if kind == "pipe" else odd.symlink_to("gone")
    assert facts(rows_of("folder", pictures), "text", "reason") == [("zero", None), (None, "unreadable_file")]
    assert facts(rows_of("folder", odd), "reason") == [("unreadable_file",)]

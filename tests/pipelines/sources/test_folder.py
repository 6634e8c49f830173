"""A folder of images, or of captions that name images: every row, and what is wrong with it."""

import json
import os
from hashlib import sha256

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import build, facts, picture, rows_of, write_captions

from pipelines.catalog.catalog import query
from pipelines.engine.commit import key_of
from pipelines.maintain.verify import verify_root
from pipelines.sources import open_source
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
        ("0.png", "zero", None), ("1.png", "\ufffd one", None), ("2.png", None, None), ("3.png", None, None),
        ("empty.webp", None, None), ("sub/0.JPG", "another zero", None),
    ]  # fmt: skip
    assert [row["key"] for row in rows] == [key_of(row["file"]) for row in rows]
    assert rows[5]["sha256"] == sha256(PICTURES[5]).hexdigest() and rows[5]["size"] == len(PICTURES[5])


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
        ("no_image", "0 is not there"), ("no_image", "1 is not there"),
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
    root = build(configure('[source]\nkind = "folder"\npath = "pictures"\n[sets.train]'))
    assert query(root, "from rows").num_rows == 0 and verify_root(root).problems == []

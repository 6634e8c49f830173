"""Cells of tables: each is a text or a reason, and none that is bad stops another."""

import csv
import io
import json
import os
import random
import subprocess
import sys
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.corpora import build, facts, rows_of, say
from support.paths import PROJECT

from pipelines.catalog.catalog import query
from pipelines.engine.commit import key_of
from pipelines.maintain.verify import verify_root
from pipelines.sources.cells import BadCell, choose, named, plain, text_of
from pipelines.sources.columnar import BATCH_BYTES, open_parquet, parquet_records
from pipelines.sources.files import Unreadable
from pipelines.sources.lines import Lost
from pipelines.stages.rows import json_of
from schemas.parquet_pages import Chunk, Pages, read_footer, read_pages


def write(path: Path, **options) -> Path:
    """A table of columns, in the format that the name says."""
    columns = options.pop("columns")
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path, **options)
    else:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# Texts


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("a", "a"), ("", ""), (None, None), (b"K\xc3\xa4se", "Käse"), (b"", ""), (7, "7"), (1.5, "1.5"), (2.0, "2.0"),
        (float("nan"), None), (Decimal("1.50"), "1.50"), (date(2024, 1, 2), "2024-01-02"), (True, "true"),
        (datetime(2024, 1, 2, 3), "2024-01-02 03:00:00"),
    ],
)  # fmt: skip
def test_what_is_a_text_is_that_text(cell, text):
    assert text_of(cell) == text


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (b"\xff", "not UTF-8, at byte 0"), (["a"], "is a list, not a text"), ({"a": 1}, "is an object, not a text"),
        ([("a", 1)], "is a list"), ("x" * 200_001, "has 200001 characters"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_named(cell, why):
    with pytest.raises(BadCell, match=why):
        text_of(cell)


cells = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates() | st.timedeltas(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(cells)
@settings(max_examples=500, deadline=None)
def test_any_cell_is_its_text_or_a_reason_and_strict_json_in_extra(cell):
    try:
        text = text_of(cell)
    except BadCell as error:
        assert isinstance(cell, list | dict | bytes) and str(error)
    else:
        assert not isinstance(cell, list | dict)
        assert text == {str: lambda: cell, bytes: lambda: cell.decode()}.get(type(cell), lambda: text)()
    assert named(cell) == named(cell)
    assert "b'" not in json_of(plain(b"b'\xff")) and json.loads(json_of({"cell": plain(cell)})).keys() == {"cell"}


columns = st.one_of(
    st.lists(st.none() | st.binary(max_size=5), min_size=1, max_size=5).map(lambda v: pa.array(v, pa.binary())),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5).flatmap(
        lambda v: st.sampled_from(
            [pa.int64(), pa.timestamp("us"), pa.timestamp("ns", "UTC"), pa.timestamp("us", "Mars/Base"),
             pa.duration("s"), pa.date64(), pa.duration("ns")]
        ).map(lambda kind: pa.array(v, pa.int64()).view(kind))
    ),
    st.lists(st.none() | st.floats(), min_size=1, max_size=5).map(lambda v: pa.array(v, pa.float64())),
    st.lists(st.none() | st.lists(st.none() | st.text(max_size=3), max_size=3), min_size=1, max_size=5).map(
        lambda v: pa.array(v, pa.list_(pa.string()))
    ),
)  # fmt: skip


@given(columns)
@settings(max_examples=200, deadline=None)
def test_any_column_of_parquet_is_read_and_stops_nothing(column):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"odd": column, "text": ["plain"] * len(column)}), buffer)
    table = open_parquet(io.BytesIO(buffer.getvalue()), "a.parquet")
    read = list(parquet_records(table, "a.parquet"))
    assert [record["text"] for record in read] == ["plain"] * len(column)
    for record, cell in zip(read, column, strict=False):
        assert (record["odd"] is None) == (not cell.is_valid)
        json_of(plain(record["odd"]))


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_lists_of_captions_are_asked_for(name, pictures, configure):
    write(pictures / name, columns={"image": ["0.png"], "caption": [["one", "the second"]]})
    said = say("plan", configure('[source]\nkind = "folder"\npath = "pictures"'))
    assert said.code == 2
    assert said.err == (
        f"shardmill: source.captions: {name} has lists in the column 'caption'; "
        'write captions = "first", "longest", "random" or "all"\n'
    )


LISTS = {"image": ["0.png", "1.png", "2.png"], "caption": [["one", "the second", "x" * 10], ["alone"], []]}


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_one_caption_of_a_list_or_all_of_them(name, pictures):
    write(pictures / name, columns=LISTS)
    said = {how: facts(rows_of("folder", pictures, captions=how), "file", "text") for how in ("first", "longest")}
    assert said == {
        "first": [("0.png", "one"), ("1.png", "alone"), ("2.png", None)],
        "longest": [("0.png", "the second"), ("1.png", "alone"), ("2.png", None)],
    }
    rows = rows_of("folder", pictures, captions="all")
    texts = [("0.png", "one"), ("0.png", "the second"), ("0.png", "x" * 10), ("1.png", "alone"), ("2.png", None)]
    assert facts(rows, "file", "text") == texts
    assert [row["key"] for row in rows] == [key_of(file, str(text)) for file, text in texts], "as if it were exploded"


def test_a_random_caption_follows_from_the_seed_and_the_key():
    texts = ["a", "b", "c"]
    empty = ["", "\u200b", "a", "bb"]
    assert [choose(empty, how, 0, "") for how in ("first", "longest")] == ["a", "bb"]
    assert {choose(empty, "random", 0, f"{n:016x}") for n in range(30)} == {"a", "bb"}
    assert choose(["", " "], "first", 0, "") == "" and choose([], "first", 0, "") is None
    drawn = [choose(texts, "random", 0, f"{n:016x}") for n in range(3000)]
    assert drawn == [choose(texts, "random", 0, f"{n:016x}") for n in range(3000)]
    assert all(900 < drawn.count(text) < 1100 for text in texts)
    assert drawn != [choose(texts, "random", 1, f"{n:016x}") for n in range(3000)]


def test_the_seed_changes_no_key(pictures):
    write(pictures / "a.jsonl", columns=LISTS)
    of_seeds = [rows_of("folder", pictures, captions="random", seed=seed) for seed in range(8)]
    assert len({tuple(row["key"] for row in rows) for rows in of_seeds}) == 1
    assert len({rows[0]["text"] for rows in of_seeds}) > 1


def test_texts_names_and_urls_in_binary_columns(pictures, tmp_path):
    binary = pa.array([b"0.png", b"1.png", b"\xff.png"], pa.binary())
    words = pa.array(["Käse".encode(), b"\xff\xfe", b"ok"], pa.binary())
    write(pictures / "a.parquet", columns={"image": binary, "caption": words, "id": pa.array([b"\xff", b"a", None])})
    rows = rows_of("folder", pictures)
    assert facts(rows, "file", "text", "reason", "detail", "extra") == [
        ("0.png", "Käse", None, None, '{"id": null}'),
        ("1.png", None, "bad_text", "a.parquet: caption holds bytes that are not UTF-8, at byte 0", '{"id": "a"}'),
        (None, "ok", "bad_text", "a.parquet: image holds bytes that are not UTF-8, at byte 0", '{"id": null}'),
    ]
    write(tmp_path / "wide/a.parquet", columns={"image": [b"0.png"], "caption": ["one".encode("utf-16-le")]})
    (row,) = rows_of("folder", tmp_path / "wide", images=str(pictures))
    assert (row["reason"], row["detail"]) == ("bad_text", "a.parquet: caption holds a null character, at byte 1")
    assert rows[0]["key"] == key_of("0.png", "Käse")
    urls = pa.array([b"http://a.example/1.jpg", b"\xff"], pa.binary())
    write(tmp_path / "laion/a.parquet", columns={"url": urls, "caption": pa.array([b"one", b"two"])})
    assert facts(rows_of("laion", tmp_path / "laion"), "url", "text", "reason") == [
        ("http://a.example/1.jpg", "one", None), (None, "two", "bad_text"),
    ]  # fmt: skip
    write(tmp_path / "asked/a.parquet", columns={"image": binary, "question": words, "id": [b"q", b"r", b"s"]})
    rows = rows_of("instructions", tmp_path / "asked", images=str(pictures))
    assert [row["reason"] for row in rows] == ["bad_text", "bad_text", None]
    assert json.loads(rows[2]["extra"]) == {"instructions": [{"name": "q", "question": "Käse"}]}


@pytest.mark.parametrize(
    ("cell", "kind"), [({"a": "b"}, "an object"), ([["a"]], "a list"), ([{"a": 1}], "an object"), ([b"\xff"], "bytes")]
)
def test_structures_are_refused_wherever_they_are(cell, kind, pictures):
    write(pictures / "a.parquet", columns={"image": ["0.png"], "caption": [cell]})
    (row,) = rows_of("folder", pictures, captions="first")
    assert (row["text"], row["reason"]) == (None, "bad_text") and kind in row["detail"]


def test_a_list_is_no_url_no_name_and_no_question(tmp_path, pictures):
    write(tmp_path / "laion/a.parquet", columns={"url": [["http://a.example"]], "text": ["a"]})
    (row,) = rows_of("laion", tmp_path / "laion")
    assert (row["reason"], row["detail"]) == ("bad_text", "a.parquet: url is a list, not a text")
    write(tmp_path / "asked/a.jsonl", columns={"image": ["0.png", ["1.png"]], "question": [["What?"], "What?"]})
    rows = rows_of("instructions", tmp_path / "asked", images=str(pictures))
    assert [row["detail"] for row in rows] == [
        "a.jsonl: question is a list, not a text", "a.jsonl: image is a list, not a text",
    ]  # fmt: skip


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json"])
def test_a_byte_order_mark_says_which_unicode_it_is(name, encoding, pictures):
    texts = {
        "a.csv": 'image,text\n0.png,"Käse, Öl"\n', "a.tsv": "image\ttext\n0.png\tKäse, Öl\n",
        "a.jsonl": '{"image": "0.png", "text": "Käse, Öl"}\n', "a.json": '[{"image": "0.png", "text": "Käse, Öl"}]',
    }  # fmt: skip
    (pictures / name).write_bytes(texts[name].encode(encoding))
    assert facts(rows_of("folder", pictures / name), "file", "text", "extra") == [("0.png", "Käse, Öl", "{}")]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_another_encoding_is_asked_for_and_never_guessed(name, pictures, configure):
    lines = {
        "a.csv": ["image,text", "0.png,Käse", "1.png,plain"], "a.tsv": ["image\ttext", "0.png\tKäse", "1.png\tplain"],
        "a.jsonl": ['{"image": "0.png", "text": "Käse"}', '{"image": "1.png", "text": "plain"}'],
    }[name]  # fmt: skip
    (pictures / name).write_bytes("\n".join(lines).encode("latin-1"))
    toml = '[source]\nkind = "folder"\npath = "pictures"\n'
    said = say("plan", configure(toml))
    line = 1 if name == "a.jsonl" else 2
    assert (said.code, said.err) == (
        2,
        f'shardmill: source.encoding: {name}, line {line}, is not UTF-8; write encoding = "latin-1" or whatever it '
        'is; with "utf-8", such rows are left out\n',
    )
    assert facts(rows_of("folder", pictures, encoding="latin-1"), "text") == [("Käse",), ("plain",)]
    rows = rows_of("folder", pictures, encoding="utf-8")
    assert facts(rows, "text", "reason", "detail") == [
        (None, "bad_text", f"{name}, line {line}, has 1 characters that are not utf-8"), ("plain", None, None),
    ]  # fmt: skip
    said = say("plan", configure(f'{toml}encoding = "klingon"'))
    assert said.code == 2 and "source.encoding: unknown encoding; write one of Python's" in said.err


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_utf_16_without_its_mark_is_not_read_as_utf_8(pictures, configure, name, encoding):
    text = {
        "a.csv": "image,text\n0.png,one\n", "a.tsv": "image\ttext\n0.png\tone\n",
        "a.jsonl": '{"image": "0.png", "text": "one"}\n',
    }[name]  # fmt: skip
    (pictures / name).write_bytes(text.encode(encoding))
    said = say("plan", configure('[source]\nkind = "folder"\npath = "pictures"\n'))
    why = f'{name}, line 1, has null characters; write encoding = "utf-16-le" or what it is'
    assert (said.code, said.err) == (2, f"shardmill: source.encoding: {why}\n")
    assert facts(rows_of("folder", pictures, encoding=encoding), "text") == [("one",)]


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", "image,text\n0.png,o\0ne\n1.png,two\n"), ("a.tsv", "image\ttext\n0.png\to\0ne\n1.png\ttwo\n"),
     ("a.jsonl", '{"image": "2.png", "text": "three"}\n{"image": "0.png", "text": "o\0ne"}\n')],
)  # fmt: skip
def test_a_null_character_loses_its_line_only(pictures, name, text):
    (pictures / name).write_text(text)
    kept, lost = sorted(rows_of("folder", pictures), key=lambda row: row["reason"] or "")
    assert kept["reason"] is None and (lost["text"], lost["reason"]) == (None, "bad_text")
    assert lost["detail"] == f"{name}, line 2, has null characters"


# Lines


def test_lines_of_csv_with_other_fields_than_the_first_have_a_reason(pictures):
    (pictures / "a.csv").write_bytes(
        b'\xef\xbb\xbfimage,text\n0.png,a\n1.png,b,c,d\n2.png\n\n3.png,"x" y\n0.png,"a ""b"", c"\n1.png,say "hi"\n'
        b'2.png,"two\nlines"\n3.png,"no end\n0.png,found\n'
    )
    rows = rows_of("folder", pictures)
    assert facts(rows, "file", "text", "reason") == [
        ("0.png", "a", None), (None, None, "wrong_fields"), (None, None, "wrong_fields"), (None, None, "wrong_fields"),
        ("0.png", 'a "b", c', None), ("1.png", 'say "hi"', None), ("2.png", "two\nlines", None),
        (None, None, "wrong_fields"), ("0.png", "found", None),
    ]  # fmt: skip
    assert [row["detail"] for row in rows if row["detail"]] == [
        "a.csv, line 3: 4 fields, the first line has 2", "a.csv, line 4: 1 fields, the first line has 2",
        "a.csv, line 6: ',' expected after '\"'", "a.csv, line 11: unexpected end of data",
    ]  # fmt: skip


SWALLOWED = {  # a quote that opens in one line and closes in another, though each line is a record of its own
    "closes": (['0.png,"Hello', '1.png,world"', "2.png,plain"], [None, 'world"', "plain"]),
    "closes later": (['0.png,"Hello', "1.png,a", "2.png,b", '3.png,c"', "4.png,d"], [None, "a", "b", 'c"', "d"]),
    "ends nowhere": (['0.png,"Hello', "1.png,a", "2.png,b"], [None, "a", "b"]),
    "another opens": (['0.png,"Hello', '1.png,"world"', "2.png,b"], [None, "world", "b"]),
    "numbers": (['7,"Hello', '8,world"', "9,b"], [None, 'world"', "b"]),
    "URLs": (['http://a.example/1,"Hello', 'http://a.example/2,world"'], [None, 'world"']),
}


@pytest.mark.parametrize("case", SWALLOWED)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_quote_that_does_not_close_loses_no_other_line(name, case, tmp_path):
    lines, texts = SWALLOWED[case]
    text = "\n".join(["image,text", *lines]) + "\n"
    (tmp_path / name).write_text(text.replace(",", "\t") if name == "a.tsv" else text)
    rows = rows_of("folder", tmp_path / name)
    assert {row["reason"] for row in rows} <= {"wrong_fields", "no_image"}
    if name == "a.tsv":  # where quotes are plain characters
        assert [row["text"] for row in rows] == ['"Hello', *texts[1:]]
        return
    assert [row["text"] for row in rows] == texts
    (bad,) = (row for row in rows if row["reason"] == "wrong_fields")
    assert bad["detail"].startswith("a.csv, line 2: ")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_texts_of_several_lines_are_read_whole(name, tmp_path):
    rows = [("image", "text", "n"), ("0.png", "two\nlines", "1"), ("1.png", 'a "b",\n\n\tc', "2"), ("2.png", "\n", "3")]
    rows += [("3.png", "1, 2\n3, 4\n", "4"), ("4.png", "See 4.png, and\n5.png\r\nhere", "5")]
    with open(tmp_path / name, "w", newline="") as file:
        csv.writer(file, delimiter="\t" if name == "a.tsv" else ",").writerows(rows)
    read = rows_of("folder", tmp_path / name)
    assert [row["text"] for row in read] == [row[1] for row in rows[1:]]


def test_a_quote_runs_over_a_bounded_number_of_lines(tmp_path):
    (tmp_path / "a.csv").write_text('image,text\n0.png,"' + "\n" * 2000 + "1.png,b\n")
    first, second = rows_of("folder", tmp_path / "a.csv")
    assert first["detail"] == "a.csv, line 2: a quote runs over more than 1000 lines" and second["text"] == "b"


@pytest.mark.parametrize(
    ("line", "text"), [('0.png\t"Hello" he said', '"Hello" he said'), ('0.png\t5" wide', '5" wide'),
                       ('0.png\t"a ""b"""', 'a "b"'), ('0.png\t"a\tb"', "a\tb"), ('"0.png\tb"', 'b"')],
)  # fmt: skip
def test_quotes_in_tsv_are_those_of_csv_where_they_fit(line, text, tmp_path):
    (tmp_path / "a.tsv").write_text(f"image\ttext\n{line}\n")
    (row,) = rows_of("folder", tmp_path / "a.tsv")
    assert row["text"] == text


@pytest.mark.parametrize(
    ("head", "line", "extra"),
    [(",image,text", "0,0.png,a", {"": "0"}), (",image,text,", "0,0.png,a,z", {"": "0", "column 4": "z"}),
     ("image,text,,,n", "0.png,a,x,y,1", {"": "x", "column 4": "y", "n": "1"})],
)  # fmt: skip
def test_columns_without_a_name_are_all_kept(head, line, extra, tmp_path):
    (tmp_path / "a.csv").write_text(f"{head}\n{line}\n")
    (row,) = rows_of("folder", tmp_path / "a.csv")
    assert json.loads(row["extra"]) == extra and row["text"] == "a"
    names, cells = head.split(","), [[cell] for cell in line.split(",")]
    pq.write_table(pa.table(cells, names=names), tmp_path / "a.parquet")
    (row,) = rows_of("folder", tmp_path / "a.parquet")
    assert json.loads(row["extra"]) == extra and row["text"] == "a"


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=5), st.sampled_from([",", "\t"]))
@settings(max_examples=200, deadline=None)
def test_what_python_writes_as_csv_is_read_as_it_was(tmp_path_factory, rows, delimiter):
    from pipelines.sources.csv_lines import csv_records

    rows = [(a.replace("\0", ""), b.replace("\0", "")) for a, b in rows]
    rows = [row for row in rows if all(c < "\ud800" or c > "\udfff" for cell in row for c in cell)]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("one", "two"), *rows])
    raw = io.BytesIO(text.getvalue().encode())
    assert list(csv_records(raw, "a.csv", None, delimiter)) == [{"one": a or None, "two": b or None} for a, b in rows]


def test_a_line_without_end_is_a_reason(pictures, monkeypatch):
    monkeypatch.setattr("pipelines.sources.lines.MAX_LINE", 100)
    (pictures / "a.jsonl").write_text(
        '{"image": "0.png", "text": "%s"}\n{"image": "1.png", "text": ""}\n' % ("x" * 1000)
    )
    assert facts(rows_of("folder", pictures), "file", "reason") == [(None, "bad_text"), ("1.png", None)]


def test_a_column_of_texts_that_are_not_utf_8_is_a_reason_for_each(pictures):
    words = pa.array([b"ok", b"\xff", None]).view(pa.string())
    pq.write_table(pa.table({"image": ["0.png", "1.png", "2.png"], "text": words}), pictures / "a.parquet")
    rows = rows_of("folder", pictures)
    assert facts(rows, "text", "reason") == [("ok", None), (None, "bad_text"), (None, None)]


# JSON of COCO

COCO = {
    "info": {"year": 2017},
    "images": [
        {"id": 5, "file_name": "0.png", "license": 3}, {"id": 7, "file_name": "1.png"},
        {"id": 9, "file_name": "gone.png"},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "caption": "one"}, {"id": 2, "image_id": 5, "caption": "zero"},
        {"id": 3, "image_id": 7, "caption": "another one"}, {"id": 4, "image_id": 11, "caption": "of nothing"},
    ],
}  # fmt: skip


def test_captions_of_coco_are_asked_for_and_read(pictures, tmp_path, configure):
    (tmp_path / "captions_val.json").write_text(json.dumps(COCO))
    toml = f'[source]\nkind = "folder"\npath = "captions_val.json"\nimages = "{pictures}"\n'
    said = say("plan", configure(toml))
    assert said.code == 2 and said.err.startswith("shardmill: source.captions: captions_val.json has lists in")
    rows = rows_of("folder", tmp_path / "captions_val.json", images=str(pictures), captions="all")
    assert facts(rows, "file", "text", "reason") == [
        ("0.png", "zero", None), ("1.png", "one", None), ("1.png", "another one", None),
        ("gone.png", None, "no_image"), (None, "of nothing", "no_image"),
    ]  # fmt: skip
    assert json.loads(rows[0]["extra"]) == {"id": 5, "license": 3}
    rows = rows_of("folder", tmp_path / "captions_val.json", images=str(pictures), captions="longest")
    assert [row["text"] for row in rows] == ["zero", "another one", None, "of nothing"]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"images": [], "annotations": [{"bbox": [0, 0, 1, 1]}]}, "has annotations of COCO, but no captions"),
        ({"a": 1}, "holds neither a list of records nor captions of COCO"), ("text", "holds neither"),
    ],
)  # fmt: skip
def test_other_json_is_refused(value, complaint, tmp_path, configure):
    (tmp_path / "a.json").write_text(json.dumps(value))
    said = say("plan", configure('[source]\nkind = "folder"\npath = "a.json"\n'))
    assert said.code == 2 and complaint in said.err


# Parquet


def test_a_cell_that_nobody_asks_for_stops_nothing(pictures, configure):
    far = pa.array([1700000000000000, 9223371331200000000, None], pa.int64())
    odd = {
        "date": far.view(pa.timestamp("us")), "zone": far.view(pa.timestamp("us", "Mars/Base")),
        "took": far.view(pa.duration("s")), "price": pa.array([Decimal("1.50"), None, Decimal("-2.25")]),
        "day": pa.array([1, 2**31 - 1, None], pa.int32()).view(pa.date32()), "raw": pa.array([b"\xff", b"a", None]),
        "both": pa.array([{"at": 1}, {"at": 2}, None], pa.struct([("at", pa.date64())])),
    }  # fmt: skip
    write(pictures / "a.parquet", columns={"image": ["0.png", "1.png", "2.png"], "text": ["a", "b", "c"], **odd})
    root = build(configure('[source]\nkind = "folder"\npath = "pictures"\n[sets.train]'))
    rows = query(root, "select text, reason, extra from rows order by text").to_pylist()
    assert [(row["text"], row["reason"]) for row in rows] == [("a", None), ("b", None), ("c", None)]
    extra = [json.loads(row["extra"]) for row in rows]
    assert extra[0]["date"] == "2023-11-14 22:13:20" and extra[1]["date"] is None
    assert (
        extra[0]["zone"].startswith("2023-11-14 22:13:20") and extra[0]["price"] == "1.50" and extra[0]["raw"] is None
    )
    assert query(root, "select count(*) as n from shards").to_pylist() == [{"n": 3}]
    assert verify_root(root).problems == []


def damaged(path: Path, at: int = 2, **options) -> Path:
    """A Parquet file of 5,000 captions with 64 zeroed bytes at a half, a third, … of it."""
    texts = [f"text number {i * 7919 % 5000} of all" for i in range(5000)]
    write(path, columns={"URL": [f"http://a.example/{i}.jpg" for i in range(5000)], "TEXT": texts}, **options)
    data = bytearray(path.read_bytes())
    data[len(data) // at : len(data) // at + 64] = bytes(64)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("options", "at", "lost"),
    [
        ({"compression": "zstd", "row_group_size": 500}, 2, 500),
        ({"compression": "snappy", "row_group_size": 1000}, 3, 1000),
        (
            {"use_dictionary": False, "data_page_size": 999, "write_batch_size": 50, "write_page_checksum": True},
            2,
            5000,
        ),
    ],
)  # fmt: skip
def test_a_damaged_page_costs_its_row_group_from_there_on(options, at, lost, tmp_path):
    damaged(tmp_path / "src/a.parquet", at, **options)
    write(tmp_path / "src/b.parquet", columns={"URL": ["http://b.example/1.jpg"], "TEXT": ["good"]})
    rows = rows_of("laion", tmp_path / "src")
    assert len(rows) == 5001 and rows[-1]["text"] == "good"
    bad = [row for row in rows if row["reason"]]
    assert 0 < len(bad) <= lost and {row["reason"] for row in bad} == {"damaged"}
    assert bad[0]["detail"].startswith("a.parquet, row group ") and "column " in bad[0]["detail"]
    whole = {f"http://a.example/{i}.jpg": f"text number {i * 7919 % 5000} of all" for i in range(5000)}
    assert all(whole[row["url"]] == row["text"] for row in rows[:-1] if not row["reason"])


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not Parquet", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_a_file_that_is_no_table_has_one_row_that_says_so(data, tmp_path, configure):
    write(tmp_path / "src/b.parquet", columns={"URL": ["http://b.example/1.jpg"], "TEXT": ["good"]})
    (tmp_path / "src/a.parquet").write_bytes(data)
    rows = rows_of("laion", tmp_path / "src")
    assert facts(rows, "text", "reason") == [(None, "unreadable_file"), ("good", None)]
    assert rows[0]["detail"].startswith("a.parquet: ")
    root = build(configure('[source]\nkind = "laion"\npath = "src"'), "rows")
    assert query(root, "select count(*) as n from rows").to_pylist() == [{"n": 2}]


def test_a_text_that_all_rows_share_is_in_memory_once(tmp_path):
    """200,000 rows of a text of 1 MB, in a file of some KB."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), ["x" * 1_000_000])
    path = write(tmp_path / "src/a.parquet", columns={"URL": column, "TEXT": column})
    assert path.stat().st_size < 100_000
    with path.open("rb") as raw:
        table = open_parquet(raw, "a.parquet")
        assert sum(batch.nbytes < BATCH_BYTES for batch in table.iter_batches(10_000)) == 20
        before = pa.total_allocated_bytes()
        for record in parquet_records(table, "a.parquet"):
            with pytest.raises(BadCell, match="has 1000000 characters"):
                text_of(record["TEXT"])
            assert pa.total_allocated_bytes() - before < BATCH_BYTES


def test_a_footer_that_claims_more_than_there_is_is_damage(tmp_path, monkeypatch):
    path = write(tmp_path / "src/a.parquet", columns={"a": pa.nulls(1_000_000, pa.int32())})
    with path.open("rb") as raw:
        assert sum(1 for _ in parquet_records(open_parquet(raw, "a"), "a")) == 1_000_000
    monkeypatch.setattr("pipelines.sources.columnar.ROWS_A_BYTE", 1)
    with path.open("rb") as raw, pytest.raises(Unreadable, match=r"a: claims 1000000 rows in \d+ bytes"):
        open_parquet(raw, "a")


def test_a_page_that_becomes_much_more_than_it_is_is_damage(tmp_path):
    texts = ["x" * 100_000] * 3_000
    options = {"use_dictionary": False, "compression": "zstd", "data_page_size": 2**30}
    path = write(tmp_path / "src/a.parquet", columns={"URL": texts, "TEXT": texts}, **options)
    assert path.stat().st_size < 100_000
    (row,) = rows_of("laion", path)
    assert row["reason"] == "unreadable_file" and "bytes, which become 300" in row["detail"]


PAGES = [
    {"compression": "zstd", "data_page_size": 2**30}, {"compression": "gzip", "data_page_version": "2.0"},
    {"compression": "snappy"}, {"compression": "brotli", "data_page_size": 1000}, {"compression": "lz4"},
    {"compression": "zstd", "dictionary_pagesize_limit": 2**30, "use_dictionary": True, "row_group_size": 150},
]  # fmt: skip


def lying(path: Path) -> None:
    """Makes a footer say that each column chunk and row group has 100 bytes in memory."""

    def number(value: int, length: int) -> bytes:
        return bytes(value * 2 >> 7 * n & 127 | (128 if n < length - 1 else 0) for n in range(length))

    data, footer = path.read_bytes(), pq.read_metadata(path)
    start = len(data) - 8 - footer.serialized_size
    groups = [footer.row_group(n) for n in range(footer.num_row_groups)]
    sizes = {g.total_byte_size for g in groups} | {g.column(n).total_uncompressed_size for g in groups for n in (0, 1)}
    foot = data[start:]
    for size in sizes:
        length = -(-(size * 2).bit_length() // 7)
        foot = foot.replace(number(size, length), number(100, length))
    path.write_bytes(data[:start] + foot)


@pytest.mark.parametrize("options", PAGES, ids=lambda options: options["compression"])
def test_a_page_that_becomes_more_than_its_footer_says_is_damage(options, tmp_path, monkeypatch):
    texts = [f"{n} " + "x" * 10_000 for n in range(300)]
    plain = {"use_dictionary": False, "write_statistics": False} | options
    path = write(tmp_path / "src/a.parquet", columns={"URL": texts, "TEXT": texts}, **plain)
    beside = {"URL": [f"http://b.example/{n}.jpg" for n in range(10)], "TEXT": [f"a picture {n}" for n in range(10)]}
    write(tmp_path / "src/b.parquet", columns=beside)
    before = rows_of("laion", tmp_path / "src")
    with path.open("rb") as raw:
        for group in read_footer(raw):
            for chunk in group.chunks:
                pages = read_pages(raw, chunk)
                assert 0.99 * chunk.unpacked < pages.unpacked <= chunk.unpacked
                assert pages.values == chunk.values == group.rows
    lying(path)
    monkeypatch.setattr("pipelines.sources.columnar.UNPACKED", 1 << 20)
    rows = rows_of("laion", tmp_path / "src")
    lost = [row for row in rows if row["reason"] == "damaged"]
    assert [row for row in rows if row not in lost] == before[300:] and len(before) == 310
    assert len(lost) == 300 and {row["reason"] for row in lost} == {"damaged"}
    assert all("a.parquet" in row["detail"] and "the footer says 200" in row["detail"] for row in lost)


@pytest.mark.parametrize("data", [b"", b"\x15", b"\x15\x04\x15\xfe\xff\xff\xff\x0f\x15", b"\xff" * 100,
                                  b"\x0c" * 10_000, b"\x19\xff\xff\xff\xff\xff\x0f" * 9, b"\x18\xff\xff\xff\xff\x0f",
                                  b"\x1b\xff\xff\xff\xff\x0f\x33"])  # fmt: skip
def test_what_is_no_header_of_a_page_ends_the_count(data):
    chunk = Chunk(values=1, unpacked=1, stored=1 << 40, start=0, path="a", encodings=frozenset())
    assert read_pages(io.BytesIO(data), chunk) == Pages(0, 0, 0, frozenset())


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_texts_written_as_differences_are_read(encoding, version, tmp_path):
    columns = {"URL": [f"http://a.example/{n}.jpg" for n in range(3000)], "TEXT": [f"text {n}" for n in range(3000)]}
    options = {"use_dictionary": False, "data_page_version": version, "row_group_size": 1000, "data_page_size": 5000}
    write(tmp_path / "a.parquet", columns=columns, column_encoding=dict.fromkeys(columns, encoding), **options)
    rows = rows_of("laion", tmp_path / "a.parquet")
    assert facts(rows, "url", "text", "reason") == [(*row, None) for row in zip(*columns.values(), strict=True)]


def test_equal_texts_written_as_differences_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    """200 rows of a text of 500 KB, in a file of some KB."""
    monkeypatch.setattr("pipelines.sources.columnar.BATCH_BYTES", 4 << 20)
    options = {"use_dictionary": False, "write_statistics": False, "compression": "zstd", "data_page_size": 1 << 30}
    path = write(
        tmp_path / "a.parquet", columns={"a": ["x" * 500_000] * 200}, column_encoding="DELTA_BYTE_ARRAY", **options
    )
    assert path.stat().st_size < 10_000
    before, most = pa.total_allocated_bytes(), 0
    with path.open("rb") as raw:
        for record in parquet_records(open_parquet(raw, "a"), "a"):
            assert record["a"] == "x" * 500_000
            most = max(most, pa.total_allocated_bytes() - before)
    assert most < 16 << 20


@pytest.mark.parametrize(("name", "delimiter", "fix"), [
    ("a.csv", "|", "|"), ("a.csv", ";", ";"), ("a.csv", "\t", r"\t"), ("a.tsv", ",", ","),
])  # fmt: skip
def test_another_delimiter_is_asked_for(name, delimiter, fix, tmp_path, configure):
    lines = [("image_name", " comment_number", " comment"), ("0.png", " 0", " One, two, three"), ("1.png", " 0", " A")]
    (tmp_path / name).write_text("".join(delimiter.join(line) + "\n" for line in lines))
    toml = f'[source]\nkind = "folder"\npath = "{name}"\nimage_column = "image_name"\ntext_column = " comment"\n'
    setting = f'delimiter = "{fix}"'
    said = f'shardmill: source.delimiter: {name} has "{fix}" between its columns; write {setting} in [source]\n'
    assert say("plan", configure(toml)) == (2, "", said)
    assert say("plan", configure(toml + setting)).code == 0
    names = {"image_column": "image_name", "text_column": " comment"}
    rows = rows_of("folder", tmp_path / name, delimiter=delimiter, **names)
    assert facts(rows, "text", "reason") == (
        [(None, "wrong_fields"), (" A", "no_image")] if delimiter == "," else
        [(" One, two, three", "no_image"), (" A", "no_image")]
    )  # fmt: skip


def test_two_columns_of_one_name_are_asked_for(tmp_path, configure):
    table = pa.table([["0.png"], ["a"], ["b"]], names=["image", "text", "text"])
    (tmp_path / "src").mkdir()
    pq.write_table(table, tmp_path / "src/a.parquet")
    config = configure('[source]\nkind = "folder"\npath = "src"')
    said = say("plan", config)
    assert (said.code, said.err) == (2, "shardmill: source.text_column: a.parquet has two columns 'text'; rename one\n")
    (tmp_path / "src/a.parquet").unlink()
    (tmp_path / "src/a.csv").write_text("image,text,text\n0.png,a,b\n")
    assert say("plan", config).err == "shardmill: source.path: a.csv has two columns 'text'; rename one\n"


@pytest.mark.parametrize(("kind", "columns", "note"), [
    ("folder", {"image": "0.png", "text": "a", "caption": "b"}, "text_column is 'text' in {}, before 'caption'"),
    ("folder", {"path": "1.png", "image_path": "0.png", "TEXT": "a"},
     "image_column is 'image_path' in {}, before 'path'"),
    ("laion", {"URL": "u", "url": "v", "caption": "b"}, "url_column is 'url' in {}, before 'URL'"),
    ("huggingface", {"image": [{"bytes": b"\xff", "path": None}], "messages": "[]", "conversations": "[]"},
     "conversations_column is 'conversations' in {}, before 'messages'"),
    ("huggingface", {"image": {"bytes": b"\xff", "path": None}, "question": "Q?", "answers": ["a", "b"]},
     "{} asks questions without answers; answer_column or text_column names what is meant"),
    ("huggingface", {"image": {"bytes": b"\xff", "path": None}, "reference": "a"},
     "{} has no column of captions with a usual name; text_column names it"),
    ("folder", {"image": "0.png", "text": "a"}, None),
])  # fmt: skip
def test_which_of_several_columns_is_read_is_told(kind, columns, note, tmp_path, configure):
    for name in ("a.parquet", "b.parquet"):
        write(tmp_path / "src" / name, columns={name: [cell] for name, cell in columns.items()})
    said = say("plan", configure(f'[source]\nkind = "{kind}"\npath = "src"'))
    assert said.code == 0 and (note is None or f"source: {note.format('a.parquet')}" in " ".join(said.out.split()))
    assert note or "before" not in said.out
    if note and kind == "folder":
        write(tmp_path / "src/a.jsonl", columns={name: [cell] for name, cell in columns.items()})
        said = say("plan", configure(f'[source]\nkind = "{kind}"\npath = "src/a.jsonl"'))
        assert f"source: {note.format('a.jsonl')}" in " ".join(said.out.split())
        field, column = note.split()[0], note.split()[-1].strip("'")
        said = say("plan", configure(f'[source]\nkind = "{kind}"\npath = "src"\n{field} = "{column}"'))
        assert said.code == 0 and "before" not in said.out


@pytest.mark.parametrize("make", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 2), pa.list_view])
def test_lists_of_any_kind_are_lists(make, tmp_path, configure):
    captions = pa.array([["a", "b"]], make(pa.string()))
    (tmp_path / "src").mkdir()
    with pa.OSFile(str(tmp_path / "src/a.arrow"), "wb") as file:
        held = pa.array(
            [[{"bytes": b"x", "path": None}] * 2], make(pa.struct([("bytes", pa.binary()), ("path", "string")]))
        )
        turns = pa.array([[{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]],
                         make(pa.struct([("role", "string"), ("content", "string")])))  # fmt: skip
        table = pa.table({"images": held, "caption": captions, "messages": turns})
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    (first, second) = rows_of("huggingface", tmp_path / "src")
    assert (first["reason"], first["member"], second["member"]) == (None, "images/0", "images/1")
    assert [turn["content"] for turn in json.loads(first["conversation"])["turns"]] == ["Q?", "A."]
    said = say("plan", configure('[source]\nkind = "huggingface"\npath = "src"\ntext_column = "caption"'))
    assert said.err.startswith("shardmill: source.captions: a.arrow has lists in the column 'caption'")


# Fuzz


def test_mutated_parquet_is_read_as_it_was_or_has_a_reason():
    texts = [f"text {i * 7919 % 300} of all" for i in range(300)]
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": texts, "n": range(300)}), buffer, row_group_size=100, compression="zstd",
                   write_page_checksum=True)  # fmt: skip
    whole, draws = buffer.getvalue(), random.Random(0)
    lost = whole_files = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(draws.randint(1, 4)):
            data[draws.randrange(len(data))] = draws.randrange(256)
        if draws.random() < 0.2:
            data = data[: draws.randrange(len(data))]
        try:
            read = list(parquet_records(open_parquet(io.BytesIO(bytes(data)), "a"), "a"))
        except Unreadable:
            whole_files += 1
            continue
        lost += sum(isinstance(record, Lost) for record in read)
    assert lost > 100 and whole_files > 30


def test_a_small_file_that_asks_for_100_gb_is_made_in_bounds(tmp_path):
    """100,000 rows of a caption of 1 MB: each is a reason, in little time and memory."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), ["x" * 1_000_000])
    urls = [f"http://a.example/{n % 1000}" for n in range(100_000)]
    path = write(tmp_path / "src/a.parquet", columns={"URL": urls, "TEXT": column, "more": column})
    assert path.stat().st_size < 300_000
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from support.corpora import rows_of\n"
        "from pathlib import Path\n"
        f"rows = rows_of('laion', Path({str(path)!r}))\n"
        "assert {row['reason'] for row in rows} == {'bad_text'}\n"
        "assert len(rows) == 100_000\n"
        "status = dict(line.split(':') for line in open('/proc/self/status'))\n"
        "print(int(status['VmHWM'].split()[0]) // 1024)"  # the peak of getrusage is that of the parent, too
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, timeout=300,
                          env={**os.environ, "PYTHONPATH": str(PROJECT)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1000, "MB"

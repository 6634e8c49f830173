"""Cells of tables: each is a text or a reason, and none that is bad stops another."""

import io
import json
from datetime import date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.corpora import build, facts, rows_of, say
from support.tables import write

from pipelines.catalog.catalog import query
from pipelines.engine.commit import key_of
from pipelines.maintain.verify import verify_root
from pipelines.sources.cells import BadCell, named, plain, text_of
from pipelines.sources.columnar import open_parquet, parquet_records
from pipelines.stages.rows import json_of


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


@pytest.mark.slow
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


@pytest.mark.slow
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
    why = "caption holds 3 null characters among 6, as UTF-16 does without its mark"
    assert (row["reason"], row["detail"]) == ("bad_text", f"a.parquet: {why}")
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


# Parquet


@pytest.mark.slow
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

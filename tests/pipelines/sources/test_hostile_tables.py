"""Small tables that would take much memory, hours, or the whole run: they become rows with reasons, beside others."""

import gzip
import io
import json
import random
import re
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import picture, rows_of
from support.tars import END, header, member

from pipelines.sources import opening, webdataset
from pipelines.sources.arrow_claims import claims
from pipelines.sources.columnar import MAX_INSIDE, distinct, open_parquet
from pipelines.sources.csv_lines import CELL_LINES, csv_records
from pipelines.sources.files import Unreadable
from pipelines.sources.source import MOST_VALUES
from schemas.errors import UserError

PICTURE = picture(0)[0]
TALK = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]
HELD = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


def reasons(kind: str, folder, **options) -> Counter:
    return Counter(row["reason"] for row in rows_of(kind, folder, **options))


# Levels: what Python reads, and what recurses over it, depends on how deep its own stack is


@pytest.mark.parametrize("levels", [60, 300, 500, 700, 900, 990, 5_000])
@pytest.mark.parametrize("what", ["extra", "text", "image"])
def test_a_line_of_many_levels_is_a_row_with_a_reason(what, levels, pictures):
    line = {"image": '"0.png"', "text": '"one"', "extra": "1"} | {what: deep(levels)}
    odd = ",".join(f'"{name}":{value}' for name, value in line.items())
    (pictures / "a.jsonl").write_text(f'{{{odd}}}\n{{"image":"0.png","text":"good"}}\n')
    assert reasons("folder", pictures) == {"bad_text": 1, None: 1}


@pytest.mark.parametrize("levels", [60, 300, 500, 700, 900, 5_000])
def test_the_json_beside_an_image_may_have_any_levels(levels, pictures, tmp_path):
    (pictures / "0.json").write_text(deep(levels))
    rows = rows_of("folder", pictures)
    assert {row["reason"] for row in rows} == {None} and json.loads(rows[0]["extra"]) == {"json": deep(levels)}
    (tmp_path / "a.tar").write_bytes(member("0.png", PICTURE) + member("0.json", deep(levels).encode()) + END)
    assert reasons("webdataset", tmp_path / "a.tar") == {None: 1}


@pytest.mark.parametrize("levels", [60, 300, 500, 700, 900])
@pytest.mark.parametrize("field", ["id", "image", "conversations", "extra"])
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_conversation_of_many_levels_is_a_row_with_a_reason(suffix, field, levels, pictures):
    good = {"id": "good", "image": "0.png", "conversations": TALK}
    odd = json.dumps(good | {field: "DEEP"}).replace('"DEEP"', deep(levels))
    lines = [odd, json.dumps(good)]
    (pictures / f"a.{suffix}").write_text("\n".join(lines) if suffix == "jsonl" else f"[{','.join(lines)}]")
    assert reasons("conversations", pictures) == {"bad_text": 1, None: 1}


@pytest.mark.parametrize("levels", [60, 300, 500, 700, 900, 100_000])
@pytest.mark.parametrize("opens", ['{"label":', "["])
def test_notes_of_features_of_many_levels_are_none(levels, opens, tmp_path):
    table = pa.table({"image": pa.array([{"bytes": PICTURE, "path": None}], HELD), "text": ["one"]})
    closes = "}" if opens[0] == "{" else "]"
    note = f'{{"info":{{"features":{opens * levels}1{closes * levels}}}}}'
    pq.write_table(table.replace_schema_metadata({"huggingface": note}), tmp_path / "a.parquet")
    assert reasons("huggingface", tmp_path) == {None: 1}


# Values: an empty list takes two bytes of a file, and seventy of memory


@pytest.mark.parametrize("value", ["[]", "{}", "1", '"ab"', '{"a":[]}'])
def test_a_line_of_many_values_is_not_parsed(value, pictures):
    values = ",".join([value] * (MOST_VALUES + 1))
    line = f'{{"image":"0.png","text":"one","more":[{values}]}}\n{{"image":"0.png","text":"good"}}\n'
    (pictures / "a.jsonl.gz").write_bytes(gzip.compress(line.encode(), 1))
    rows = rows_of("folder", pictures)
    assert [row["reason"] for row in rows] == ["bad_text", None]
    assert rows[0]["detail"] == f"a.jsonl.gz, line 1: has more than {MOST_VALUES} values"


LISTS: dict[str, Callable[[int], pa.Array]] = {
    "lists in a list": lambda count: pa.array([[[[]] * count]], pa.list_(pa.list_(pa.list_(pa.int64())))),
    "lists in an object": lambda count: pa.array([{"a": [[]] * count}]),
    "lists in a map": lambda count: pa.array(
        [[("a", [[]] * count)]], pa.map_(pa.string(), pa.list_(pa.list_(pa.int8())))),
    "views of lists": lambda count: pa.array([[[]] * count], pa.large_list(pa.large_list(pa.int64()))),
}  # fmt: skip


@pytest.mark.parametrize("kind", LISTS)
def test_a_cell_of_many_values_is_null(kind, pictures):
    for count, expected in ((3, 3), (MAX_INSIDE + 1, 0)):
        table = pa.table({"image": ["0.png"], "text": ["one"], "more": LISTS[kind](count)})
        pq.write_table(table, pictures / "a.parquet", compression="zstd")
        (row,) = rows_of("folder", pictures)
        assert row["reason"] is None and row["extra"].count("[]") == expected


@pytest.mark.parametrize("unit", [b"[],", b"[", b'"",', b" "])
def test_a_small_compressed_json_does_not_fill_memory(unit, pictures, monkeypatch):
    monkeypatch.setattr("pipelines.sources.lines.SMALL", 1 << 20)
    monkeypatch.setattr("pipelines.sources.lines.MOST_VALUES", 100_000)
    (pictures / "a.json.gz").write_bytes(gzip.compress(b"[" + unit * 3_000_000 + b"0]", 9))
    (pictures / "b.json").write_text(json.dumps([{"id": 1, "image": "0.png", "conversations": TALK}]))
    tracemalloc.start()
    assert reasons("conversations", pictures) == {"unreadable_file": 1, None: 1}
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()


def test_honest_compressed_json_is_read(pictures):
    entries = [{"id": n, "image": "0.png", "conversations": TALK} for n in range(1_000)]
    (pictures / "a.json.gz").write_bytes(gzip.compress(json.dumps(entries).encode(), 9))
    assert reasons("conversations", pictures) == {None: 1_000}


@pytest.mark.parametrize("kind", [b"0", b"2", b"S"])
def test_a_small_compressed_tar_of_many_members_is_cut(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "MEMBERS", 50)
    good = member("good.png", PICTURE)
    data = good + b"".join(header(f"{n}.png", 0, kind) for n in range(2_000)) + END
    for name, packed in {
        "a.tar.gz": gzip.compress(data, 9),
        "b.tar.zst": pa.compress(data, "zstd", asbytes=True),
    }.items():
        (tmp_path / name).write_bytes(packed)
        rows = rows_of("webdataset", tmp_path / name)
        assert rows[0]["reason"] is None and rows[-1]["reason"] == "cut_tar" and len(rows) < 1_500
        assert f"compressed bytes; {opening.PLAIN_FIX}" in rows[-1]["detail"] and name in rows[-1]["detail"]
    (tmp_path / "a.tar").write_bytes(data)
    assert len(rows_of("webdataset", tmp_path / "a.tar")) == 2_001


# Arrow and Parquet: equal values and null ones need next to no bytes


def arrow(table: pa.Table, compression: str | None, is_file: bool) -> bytes:
    buffer, options = io.BytesIO(), pa.ipc.IpcWriteOptions(compression=compression)
    writer = pa.ipc.new_file if is_file else pa.ipc.new_stream
    with writer(buffer, table.schema, options=options) as file:
        file.write_table(table)
    return buffer.getvalue()


def with_image(**columns) -> pa.Table:
    count = len(next(iter(columns.values())))
    return pa.table({"image": pa.nulls(count, HELD), "text": pa.nulls(count, pa.string()), **columns})


CLAIMS = {
    "rows of nothing": lambda: with_image(more=pa.nulls(3_000_000)),
    "a long text": lambda: with_image(more=pa.array(["x" * 3_000_000])),
    "zeros": lambda: with_image(more=pa.array([0] * 400_000)),
    "a long value of a dictionary": lambda: with_image(more=pa.array(["x" * 3_000_000]).dictionary_encode()),
}


@pytest.mark.parametrize("is_file", [True, False])
@pytest.mark.parametrize("kind", CLAIMS)
def test_an_arrow_file_that_claims_far_more_than_it_holds_is_not_read(kind, is_file, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.sources.columnar.UNPACKED", 1_000_000)
    monkeypatch.setattr("pipelines.sources.columnar.RATIO", 10)
    good = pa.table({"image": pa.array([{"bytes": PICTURE, "path": None}], HELD), "text": ["one"]})
    (tmp_path / "a.arrow").write_bytes(arrow(CLAIMS[kind](), "zstd", is_file))
    for name, compression in (("b", None), ("c", "zstd"), ("d", "lz4")):
        (tmp_path / f"{name}.arrow").write_bytes(arrow(good, compression, is_file))
    rows = rows_of("huggingface", tmp_path)
    assert [row["reason"] for row in rows] == ["unreadable_file", None, None, None]
    assert rows[0]["detail"].startswith("a.arrow: claims ")


def test_claims_are_what_arrow_reads():
    values = pa.array(["a", "b", None] * 500)
    for column in (values, values.dictionary_encode(), pa.array([[1, 2]] * 1_500)):
        table = with_image(more=column)
        for is_file in (True, False):
            found = list(claims(io.BytesIO(arrow(table, "zstd", is_file))))
            assert found[-1].rows == 1_500 and found[-1].size > 1_500
            assert {claim.size for claim in claims(io.BytesIO(arrow(table, None, is_file)))} == {0}


@pytest.mark.parametrize("seed", range(4))
def test_broken_arrow_files_claim_something_or_nothing(seed):
    draws, whole = random.Random(seed), arrow(with_image(more=pa.array(["a"] * 50)), "zstd", seed % 2 == 0)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(draws.choice((1, 4, 30))):
            data[draws.randrange(len(data))] = draws.choice((0, 255, draws.randrange(256)))
        assert len(list(claims(io.BytesIO(data[: draws.randrange(len(data))])))) < 10_000


@pytest.mark.parametrize("encoding", ["RLE_DICTIONARY", "DELTA_BYTE_ARRAY", "PLAIN"])
def test_a_parquet_file_of_far_more_rows_than_bytes_is_not_read(encoding, tmp_path):
    options = {} if encoding[0] == "R" else {"use_dictionary": False, "column_encoding": {"text": encoding}}
    odd = pa.table({"text": ["one"] * 600_000})
    pq.write_table(odd, tmp_path / "a.parquet", compression="zstd", compression_level=9, **options)
    with (tmp_path / "a.parquet").open("rb") as raw, pytest.raises(Unreadable, match="a: claims 600000 rows in"):
        open_parquet(raw, "a")


# Columns


@pytest.mark.parametrize("names", [["image", "text", "text"], ["image", "chosen", "chosen"], ["png", "png", "text"]])
def test_columns_of_one_name_are_asked_about(names, tmp_path):
    columns = [pa.array([{"bytes": PICTURE, "path": None}], HELD) for _ in range(names.count("png"))]
    columns = columns or [pa.array([{"bytes": PICTURE, "path": None}], HELD)]
    columns += [pa.array(["one"])] * (3 - len(columns))
    pq.write_table(pa.Table.from_arrays(columns, names=names), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"two columns|images in png, png"):
        rows_of("huggingface", tmp_path)


@pytest.mark.parametrize("names", [["bytes", "bytes"], ["bytes", "path", "bytes"], ["path", "bytes", "bytes"]])
def test_an_object_of_two_fields_of_one_name_holds_no_image(names, pictures):
    fields = [pa.array([b"x"], pa.binary()) for _ in names]
    odd = pa.StructArray.from_arrays(fields, names=names)
    columns = [pa.array(["0.png"]), pa.array(["one"]), odd]
    pq.write_table(pa.Table.from_arrays(columns, names=["image", "text", "odd"]), pictures / "a.parquet")
    assert reasons("folder", pictures) in ({None: 1}, {"unreadable_file": 1})


def test_names_of_many_columns_take_time_of_their_number():
    began = time.process_time()
    assert distinct(["", "", "a", "a", "a 4"]) == ["", "column 2", "a", "a 4'", "a 4"]
    assert len({*distinct(["a"] * 200_000)}) == 200_000
    with pytest.raises(UserError, match="two columns 'a'"):
        list(csv_records(io.BytesIO(b"image" + b",a" * 500_000 + b"\n"), "a.csv", None, ","))
    assert time.process_time() - began < 5


@pytest.mark.parametrize("footer", [1 << 20, 100])
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_file_of_very_many_columns_is_not_read(suffix, footer, tmp_path, monkeypatch):
    """Also where its footer is so large that it is read before Arrow opens the file."""
    for module in ("schemas.parquet_pages", "pipelines.sources.columnar"):
        monkeypatch.setattr(f"{module}.COLUMNS", 50)
    monkeypatch.setattr("schemas.parquet.FOOTER", footer)
    for more in (40, 60):
        table, buffer = with_image(**{f"c{n}": ["x"] * 100 for n in range(more)}), io.BytesIO()
        pq.write_table(table, buffer)
        data = arrow(table, None, True) if suffix == "arrow" else buffer.getvalue()
        (tmp_path / f"a.{suffix}").write_bytes(data)
        rows = rows_of("huggingface", tmp_path / f"a.{suffix}")
        assert (rows[0]["reason"] == "unreadable_file") is (more == 60)
    assert len(rows) == 1 and re.fullmatch(rf"a\.{suffix}: has \d+ columns; at most 50 are read", rows[0]["detail"])


# Quotes


QUOTES = {
    "each line opens one": b'a","d\n' * 20_000,
    "a long line among short ones": (b'a","d\n' * CELL_LINES + b'x",' + b"y" * 2_000_000 + b"\n") * 3,
    "every second line": b'a","d\nb,c\n' * 10_000,
}


@pytest.mark.parametrize("kind", QUOTES)
def test_quotes_that_do_not_close_are_read_in_time_of_the_file(kind, monkeypatch):
    monkeypatch.setattr("pipelines.sources.csv_lines.AGAIN", 1_000_000)
    data = b"image,text\n0.png,first\n" + QUOTES[kind] + b"0.png,last\n"
    began = time.process_time()
    records = list(csv_records(io.BytesIO(data), "a.csv", None, ","))
    assert time.process_time() - began < 3
    assert records[0]["text"] == "first" and records[-1] == {"image": "0.png", "text": "last"}


def test_quotes_over_many_lines_that_close_are_read_after_some_that_do_not():
    said = "\n".join(["a word", *["another"] * (CELL_LINES - 100)])
    data = f'image,text\n0.png,"no end\n1.png,b\n2.png,"{said}"\n'.encode()
    assert list(csv_records(io.BytesIO(data), "a.csv", None, ","))[-1] == {"image": "2.png", "text": said}

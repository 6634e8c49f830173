"""Parquet files of a root whose footers and pages claim anything: read in bounded memory, or refused in one line."""

import io
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.thrift_trees import find, read, written

from schemas.parquet import BATCH, MOST, ParquetTable, checked_table
from schemas.parquet_pages import FILE, read_footer
from schemas.thrift import Struct


def parquet(columns: dict, **options) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **{"compression": "zstd"} | options)
    return buffer.getvalue()


def with_footer(data: bytes, change) -> bytes:
    """The file with another footer."""
    size = struct.unpack("<I", data[-8:-4])[0]
    footer = read(data[-8 - size : -8])[0]
    change(footer)
    made = written(footer)
    return data[: -8 - size] + made + struct.pack("<I", len(made)) + b"PAR1"


def rows_in(data: bytes, *columns: str) -> list[dict]:
    with ParquetTable(io.BytesIO(data)) as file:
        return checked_table(file, columns or None).to_pylist()


BIG = "x" * 1_000_000
ONE_TEXT = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), [BIG])
SMALL = {"use_dictionary": False, "write_statistics": False}
DELTAS = SMALL | {"column_encoding": {"a": "DELTA_BYTE_ARRAY"}}
BOMBS = {
    "texts": lambda: parquet({"a": ONE_TEXT}),
    "texts in a list": lambda: parquet({"a": pa.ListArray.from_arrays([0, 20_000], ONE_TEXT)}),
    "texts in a struct": lambda: parquet({"a": pa.StructArray.from_arrays([ONE_TEXT], ["b"])}),
    "texts as differences": lambda: parquet({"a": [BIG] * 80}, **DELTAS),
    "pages": lambda: with_footer(parquet({"a": ["x" * 40_000_000] * 2}, **SMALL), lying),
    "values": lambda: parquet({"a": [[None] * 10_000_000]}),
}  # fmt: skip


def lying(footer: list) -> None:
    """Makes a footer say that its column chunks have 100 bytes in memory."""
    for group in find(footer, 4)[1]:
        for column in find(group.value, 1)[1]:
            next(field for field in find(column.value, 3) if field.number == 6).value = 100


@pytest.mark.parametrize("kind", BOMBS)
def test_a_few_bytes_that_stand_for_many_are_refused(kind, monkeypatch):
    """With bounds of a sixteenth, so that the test itself takes little memory."""
    data = BOMBS[kind]()
    assert len(data) < 200_000
    monkeypatch.setattr("schemas.parquet.MOST", MOST // 16)
    monkeypatch.setattr("schemas.parquet.BATCH", BATCH // 16)
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match="its rows have more than 67,108,864 bytes"):
        rows_in(data)
    assert pa.total_allocated_bytes() - before < MOST // 16


def test_what_is_read_in_parts_is_what_was_written():
    texts = [[f"{n} of all " * 30, "shared" * 100] for n in range(12_000)]
    columns = {"key": [str(n) for n in range(12_000)], "lines": [[{"text": a, "n": 1}, {"text": b, "n": None}]
               for a, b in texts], "none": [None] * 12_000}  # fmt: skip
    rows = pa.table(columns).to_pylist()
    assert rows_in(parquet(columns)) == rows
    assert rows_in(parquet(columns, row_group_size=5000), "lines") == [{"lines": row["lines"]} for row in rows]


def test_rows_of_another_file_can_be_joined_whether_its_columns_may_be_empty_or_not():
    schema = pa.schema([pa.field("a", pa.int64(), nullable=False), pa.field("b", pa.string())])
    other = pa.schema([pa.field("b", pa.string(), nullable=False), pa.field("a", pa.int64())])
    tables = []
    for written_as in (schema, other):
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([{"a": 1, "b": "x"}], written_as), buffer)
        with ParquetTable(buffer) as file:
            tables.append(checked_table(file, schema.names, schema))
    assert tables[0].schema == tables[1].schema == schema
    assert pa.concat_tables(tables).to_pylist() == [{"a": 1, "b": "x"}] * 2


FAULTS = {
    "a missing chunk": lambda footer: chunks(footer).pop(),
    "a chunk more": lambda footer: chunks(footer).append(chunks(footer)[0]),
    "a chunk without its fields": lambda footer: chunks(footer)[0].value.clear(),
    "rows below 0": lambda footer: set_number(find(footer, 4)[1][0].value, 3, -1),
    "more rows": lambda footer: set_number(footer, 3, 1 << 40),
    "a place behind the end": lambda footer: [set_number(first_chunk(footer), n, 1 << 62) for n in (9, 11)],
    "values without end": lambda footer: set_number(first_chunk(footer), 5, (1 << 31) - 1),
    "bytes below 0": lambda footer: set_number(first_chunk(footer), 7, -5),
}  # fmt: skip


def chunks(footer: list) -> list:
    return find(find(footer, 4)[1][0].value, 1)[1]


def first_chunk(footer: list) -> list:
    return find(chunks(footer)[0].value, 3)


def set_number(fields: list, number: int, value: int) -> None:
    next(field for field in fields if field.number == number).value = value


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_footer_is_refused(fault):
    data = with_footer(parquet({"a": ["b"], "c": [1]}), FAULTS[fault])
    before = pa.total_allocated_bytes()
    with pytest.raises((ValueError, pa.ArrowException, OSError)):
        rows_in(data)
    assert pa.total_allocated_bytes() - before < 1 << 20


def test_a_footer_is_read_as_arrow_reads_it():
    data = parquet({"a": [str(n) for n in range(1000)], "b": [[{"c": n}] for n in range(1000)]}, row_group_size=300)
    metadata = pq.read_metadata(io.BytesIO(data))
    for number, group in enumerate(read_footer(io.BytesIO(data))):
        told = metadata.row_group(number)
        assert (group.rows, group.size) == (told.num_rows, told.total_byte_size)
        for at, chunk in enumerate(group.chunks):
            column = told.column(at)
            assert chunk[:3] == (column.num_values, column.total_uncompressed_size, column.total_compressed_size)
            assert chunk.path == column.path_in_schema and chunk.start == column.dictionary_page_offset


@pytest.mark.parametrize(
    "data",
    [b"\x19" + b"\xfc" + b"\xff" * 4 + b"\x0f", b"\x49\xfc\xff\xff\xff\xff\x0f" + b"\0" * 600_000, b"\x4c" * 100_000,
     b"\x1c" * 100_000, b"\x1b\xff\xff\xff\xff\x0f\xcc" + b"\0" * 100],
)  # fmt: skip
def test_a_struct_that_claims_more_than_it_has_ends_at_once(data):
    with pytest.raises((ValueError, EOFError)):
        Struct(data).read(FILE)


def test_more_parts_than_any_writer_makes_are_refused_before_arrow_reads_them(monkeypatch):
    """Each of them is four bytes here, and a KB in Arrow."""
    data = parquet({"a": [1]})
    monkeypatch.setattr("schemas.thrift.MOST", 1_000)
    monkeypatch.setattr("schemas.parquet.FOOTER", 1_000)
    monkeypatch.setattr(pq.ParquetFile, "__init__", lambda *_, **__: pytest.fail("Arrow was asked"))
    many = with_footer(data, lambda footer: chunks(footer).extend(chunks(footer) * 1_000))
    with pytest.raises(pa.ArrowInvalid, match="has more than 1,000 parts"):
        rows_in(many)

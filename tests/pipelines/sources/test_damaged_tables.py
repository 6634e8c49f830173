"""Damaged tables cost the rows that are damaged, and memory within bounds."""

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import build, facts, rows_of
from support.paths import PROJECT
from support.tables import write

from pipelines.catalog.catalog import query
from pipelines.sources.cells import BadCell, text_of
from pipelines.sources.columnar import BATCH_BYTES, FREE_ROWS, open_parquet, parquet_records
from pipelines.sources.files import Unreadable
from pipelines.sources.lines import Lost
from schemas.parquet_pages import Chunk, Pages, read_footer, read_pages


def test_a_column_of_texts_that_are_not_utf_8_is_a_reason_for_each(pictures):
    words = pa.array([b"ok", b"\xff", None]).view(pa.string())
    pq.write_table(pa.table({"image": ["0.png", "1.png", "2.png"], "text": words}), pictures / "a.parquet")
    rows = rows_of("folder", pictures)
    assert facts(rows, "text", "reason") == [("ok", None), (None, "bad_text"), (None, None)]


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


@pytest.mark.slow
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


def test_a_footer_that_claims_more_than_there_is_is_damage(tmp_path):
    path = write(tmp_path / "src/a.parquet", columns={"a": pa.nulls(FREE_ROWS, pa.int32())})
    with path.open("rb") as raw:
        assert sum(1 for _ in parquet_records(open_parquet(raw, "a"), "a")) == FREE_ROWS
    write(path, columns={"a": pa.nulls(1_000_000, pa.int32())})
    with path.open("rb") as raw, pytest.raises(Unreadable, match=r"a: claims 1000000 rows in \d+ bytes"):
        open_parquet(raw, "a")


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_small_file_that_asks_for_20_gb_is_made_in_bounds(tmp_path):
    """20,000 rows of a caption of 1 MB: each is a reason, in little time and memory."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), ["x" * 1_000_000])
    urls = [f"http://a.example/{n % 1000}" for n in range(20_000)]
    path = write(tmp_path / "src/a.parquet", columns={"URL": urls, "TEXT": column, "more": column})
    assert path.stat().st_size < 300_000
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from support.corpora import rows_of\n"
        "from pathlib import Path\n"
        f"rows = rows_of('laion', Path({str(path)!r}))\n"
        "assert {row['reason'] for row in rows} == {'bad_text'}\n"
        "assert len(rows) == 20_000\n"
        "status = dict(line.split(':') for line in open('/proc/self/status'))\n"
        "print(int(status['VmHWM'].split()[0]) // 1024)"  # the peak of getrusage is that of the parent, too
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, timeout=300,
                          env={**os.environ, "PYTHONPATH": str(PROJECT)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1000, "MB"


def test_a_list_that_a_few_bytes_claim_to_be_long_is_damage(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.sources.columnar.FREE_VALUES", 1_000)
    path = write(tmp_path / "a.parquet", columns={"a": [[None] * 1_000_000]}, compression="zstd")
    with path.open("rb") as raw:
        (lost,) = parquet_records(open_parquet(raw, "a"), "a")
    assert lost.reason == "damaged" and "claims 1000000 values in " in lost.detail

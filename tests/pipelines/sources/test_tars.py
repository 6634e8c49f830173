"""Tars as other people's tools write them, and headers that claim what is not there: see `support.tars`."""

import gzip
import io
import os
import subprocess
import tarfile
import threading
from collections import Counter
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from support.corpora import build, facts, picture, rows_of
from support.tars import END, header, member, record

from pipelines.catalog.catalog import query
from pipelines.maintain.verify import verify_root
from pipelines.sources import open_source
from pipelines.sources.tar_reader import Reader
from schemas.config.sources import WebDatasetConfig

PICTURES = [picture(number)[0] for number in range(4)]


def good(number: int) -> bytes:
    return member(f"{number}.png", PICTURES[number]) + member(f"{number}.txt", b"a picture")


def rows_in(folder: Path, data: bytes, name: str = "0.tar") -> list[dict]:
    (folder / name).write_bytes(data)
    return rows_of("webdataset", folder / name)


# Headers that claim what is not there


ODD = {
    "a size of 2^62": header("h.png", 1 << 62) + bytes(512),
    "a size of 2^80": header("h.png", 1 << 80) + bytes(512),
    "a size below zero": header("h.png", -512) + END,
    "a size that is no number": header("h.png", b"0000000x000\0") + END,
    "a size with an underscore": header("h.png", b"0000000_100\0") + bytes(1024),
    "a PAX size of 10^15": member("p", record("size", "1000000000000000"), b"x") + member("h.png", b"abc") + END,
    "a PAX size of 5,000 digits": member("p", record("size", "1" * 5000), b"x") + member("h.png", b"abc") + END,
    "a PAX size below zero": member("p", record("size", "-5"), b"x") + member("h.png", b"abc") + END,
    "PAX records longer than they are": member("p", b"99 path=h.png\n", b"x") + member("h.png", b"abc") + END,
    "PAX records of length 0": member("p", b"0 path=h.png\n", b"x") + member("h.png", b"abc") + END,
    "PAX records of 2 MB": member("p", record("comment", "x" * (2 << 20)), b"x") + member("h.png", b"abc") + END,
    "a PAX size for all members": member("p", record("size", "3"), b"g") + member("h.png", b"abc") + END,
    "two PAX sizes": member("p", record("size", "-1"), b"X") + member("p", record("size", "3"), b"x")
        + member("h.png", b"abc") + END,
    "two PAX names": member("p", record("path", "h.png"), b"x") + member("p", record("path", "g.png"), b"x")
        + member("h.png", b"abc") + END,
    "a long name and another PAX name": member("././@LongLink", b"g.png\0", b"L")
        + member("p", record("path", "h.png"), b"x") + member("h.png", b"abc") + END,
    "a long name of 2^40 bytes": header("././@LongLink", 1 << 40, b"L") + bytes(512),
    "3,000 long names": member("././@LongLink", b"x" * 10, b"L") * 3000 + member("h.png", b"abc") + END,
    "3,000 PAX headers": member("p", record("path", "h.png"), b"x") * 3000 + member("h.png", b"abc") + END,
    "a long name and no member": member("././@LongLink", b"x" * 10, b"L") + END,
    "a wrong checksum": b"x" + header("h.png", 3)[1:] + bytes(512),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_what_stands_before_an_odd_header_is_kept_and_one_row_says_where_the_tar_is_cut(kind, tmp_path):
    rows = rows_in(tmp_path, good(1) + ODD[kind])
    assert facts(rows, "text", "reason") == [("a picture", None), (None, "cut_tar")]
    assert rows[0]["sha256"] == sha256(PICTURES[1]).hexdigest()
    assert rows[1]["detail"].startswith("0.tar: ") and rows[1]["size"] is None


@pytest.mark.slow
def test_ten_rows_beside_each_odd_header_are_made_with_their_bytes(tmp_path, configure):
    """All in one run, which none of them stops."""
    ten = b"".join(member(f"{n}/good.png", PICTURES[n % 4]) + member(f"{n}/good.txt", b"%d" % n) for n in range(10))
    (tmp_path / "tars").mkdir()
    for number, odd in enumerate(ODD.values()):
        (tmp_path / f"tars/{number:02}.tar").write_bytes(ten + odd)
    (tmp_path / "tars/broken.tar").symlink_to("gone")
    os.mkfifo(tmp_path / "tars/pipe.tar")
    root = build(configure('[source]\nkind = "webdataset"\npath = "tars"\n[sets.train]'), "images")
    kept = query(root, "SELECT text, i.sha256 FROM rows JOIN images i USING (partition, key) WHERE i.reason IS NULL")
    expected = {(str(n), sha256(PICTURES[n % 4]).hexdigest()): len(ODD) for n in range(10)}
    assert Counter((row["text"], row["sha256"]) for row in kept.to_pylist()) == expected
    reasons = query(root, "SELECT reason, count(*) AS n FROM rows WHERE reason IS NOT NULL GROUP BY 1 ORDER BY 1")
    assert reasons.to_pylist() == [{"reason": "cut_tar", "n": len(ODD)}, {"reason": "unreadable_file", "n": 2}]
    assert verify_root(root).problems == []


LONG = {
    "a long name": header("././@LongLink", 100_000, b"L"), "a long link": header("././@LongLink", 100_000, b"K"),
    "PAX records": header("p", 100_000, b"x"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LONG)
def test_a_name_that_is_longer_than_the_tar_is_not_asked_for(kind, tmp_path, monkeypatch):
    asked, read = [], Reader.read
    monkeypatch.setattr(Reader, "read", lambda self, at, size: asked.append(size) or read(self, at, size))
    rows = rows_in(tmp_path, good(1) + LONG[kind] + bytes(1024))
    assert rows[-1]["detail"].endswith("a name or its PAX records have 100000 bytes") and 100_000 not in asked


@pytest.mark.parametrize(("at", "size", "found"), [
    (0, 5, b"01234"), (8, 5, b"89"), (0, 1 << 62, b"0123456789"), (9, 1 << 80, b"9"), (10, 1, b""), (1 << 62, 1, b""),
    (3, 0, b""), (3, -1, b""),
])  # fmt: skip
def test_a_reader_asks_for_no_more_than_the_file_has(at, size, found, tmp_path):
    class Asked(io.BytesIO):
        def read(self, size=-1):
            assert 0 < size <= 10
            return super().read(size)

    (tmp_path / "file").write_bytes(b"0123456789")
    with open(tmp_path / "file", "rb") as file:
        assert Reader(file).read(at, size) == Reader(Asked(b"0123456789")).read(at, size) == found


def test_a_sparse_map_without_an_end_reads_no_further_than_the_file(tmp_path):
    rows = rows_in(tmp_path, good(1) + header("h.png", 5, b"S", real=1 << 50, more=True) + (b"\1" * 512) * 1000)
    assert facts(rows, "member", "reason") == [("1.png", None), ("h.png", "sparse")]


def test_a_text_beyond_the_bound_is_not_read(tmp_path):
    with open(tmp_path / "0.tar", "wb") as file:
        file.write(member("0.png", PICTURES[0]) + header("0.txt", 20 << 30))
        file.seek(20 << 30, os.SEEK_CUR)
        file.write(member("1.png", PICTURES[1]) + END)
    rows = rows_of("webdataset", tmp_path / "0.tar")
    assert facts(rows, "text", "reason", "detail") == [
        (None, "text_too_long", "0.tar: 0.txt has 21474836480 bytes"), (None, None, None),
    ]  # fmt: skip


def test_the_hole_behind_a_tar_is_not_read(tmp_path):
    with open(tmp_path / "0.tar", "wb") as file:
        file.write(good(0) + END)
        file.truncate(200 << 30)
    assert facts(rows_of("webdataset", tmp_path / "0.tar"), "reason") == [(None,)]


# Tars that tools write


def tar(folder: Path, *words: str) -> None:
    subprocess.run(["tar", *words], cwd=folder, check=True, env={**os.environ, "COPYFILE_DISABLE": "1"})


@pytest.mark.parametrize("how", [["--format=gnu"], ["--format=pax", "--sparse-version=0.0"],
                                 ["--format=pax", "--sparse-version=0.1"], ["--format=pax", "--sparse-version=1.0"]],
                         ids=["gnu", "pax 0.0", "pax 0.1", "pax 1.0"])  # fmt: skip
@pytest.mark.parametrize("holes", [1, 40])
def test_members_with_holes_have_a_reason_and_those_after_them_are_whole(how, holes, tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        for _ in range(holes):
            file.write(PICTURES[0][:4096].ljust(4096, b"x"))
            file.seek(65536, os.SEEK_CUR)
        file.write(b"end")
    (tmp_path / "b.png").write_bytes(PICTURES[1])
    (tmp_path / "a.txt").write_text("a picture")
    tar(tmp_path, "-S", *how, "-cf", "0.tar", "a.png", "a.txt", "b.png")
    rows = rows_of("webdataset", tmp_path / "0.tar")
    assert facts(rows, "member", "text", "reason") == [("a.png", "a picture", "sparse"), ("b.png", None, None)]
    assert rows[1]["sha256"] == sha256(PICTURES[1]).hexdigest()


@pytest.mark.parametrize("format", ["v7", "ustar", "gnu", "oldgnu", "pax"])
def test_every_format_of_gnu_tar_is_read(format, tmp_path):
    names = ["a.png", "d/e/b.png"] + (["x" * 200 + "/" + "y" * 120 + ".png"] if format not in ("v7", "ustar") else [])
    for name, data in zip(names, PICTURES, strict=False):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    tar(tmp_path, f"--format={format}", "-cf", "0.tar", *names)
    assert facts(rows_of("webdataset", tmp_path / "0.tar"), "member", "sha256") == [
        (name, sha256(data).hexdigest()) for name, data in zip(names, PICTURES, strict=False)
    ]


def test_tars_put_together_by_cat_are_read_to_the_end(tmp_path):
    rows = rows_in(tmp_path, good(0) + bytes(10240) + good(1) + END + good(2) + bytes(20 * 512))
    assert facts(rows, "member", "reason") == [(f"{n}.png", None) for n in range(3)]
    assert [row["sha256"] for row in rows] == [sha256(PICTURES[n]).hexdigest() for n in range(3)]
    rows = rows_in(tmp_path, good(0) + END + b"something else" * 100)
    assert facts(rows, "reason") == [(None,), ("cut_tar",)]


@pytest.mark.parametrize("name", ["0.tar", "0.tar.gz", "0.tgz", "0.tar.zst"])
@pytest.mark.parametrize("compress", [gzip.compress, lambda data: pa.Codec("zstd").compress(data, asbytes=True)])
def test_compressed_tars_are_expanded(name, compress, tmp_path):
    rows = rows_in(tmp_path, compress(good(0) + good(1) + END), name)
    assert facts(rows, "text", "reason") == [("a picture", None)] * 2
    source = open_source(WebDatasetConfig(path=str(tmp_path)))
    assert [source.load(row) for row in reversed(rows)] == [PICTURES[1], PICTURES[0]]
    whole = compress(good(0) + good(1) + END)
    rows = rows_in(tmp_path, whole[: len(whole) - 8], name)
    assert rows[-1]["reason"] == "cut_tar" and f"{name}: is cut or damaged" in rows[-1]["detail"]
    assert all(row["sha256"] == sha256(PICTURES[n]).hexdigest() for n, row in enumerate(rows[:-1]))


@pytest.mark.slow
def test_a_compressed_tar_that_expands_without_end_stops_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.sources.opening.SMALL", 1 << 20)
    rows = rows_in(tmp_path, gzip.compress(good(0) + header("h.txt", 1 << 30) + bytes(1 << 28), 9))
    assert facts(rows, "reason")[0] == (None,) and rows[-1]["reason"] == "cut_tar"
    assert "expands to more than" in rows[-1]["detail"]


def test_a_field_of_the_json_may_be_the_caption(tmp_path):
    said = [(b'{"caption": "a field"}', b"zero"), (b'{"caption": null}', b"one"), (b'{"caption": {"en": "x"}}', b"two"),
            (b"[]", "K\u00e4se".encode("latin-1"))]  # fmt: skip
    data = b"".join(
        member(f"{n}.png", PICTURES[n]) + member(f"{n}.json", one) + member(f"{n}.txt", text)
        for n, (one, text) in enumerate(said)
    )
    assert facts(rows_in(tmp_path, data + END), "text", "reason") == [
        ("zero", None), ("one", None), ("two", None), (None, "bad_text"),
    ]  # fmt: skip
    rows = rows_of("webdataset", tmp_path / "0.tar", text_field="caption", encoding="latin-1")
    assert facts(rows, "text", "reason") == [("a field", None), ("one", None), (None, "bad_text"), ("K\u00e4se", None)]


class NoRanges(BaseHTTPRequestHandler):
    """A server that always sends the whole file."""

    data = good(0) + good(1) + END

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.data)

    def log_message(self, *args: object) -> None:
        pass


def test_a_tar_on_a_server_without_ranges_is_read_whole():
    with ThreadingHTTPServer(("127.0.0.1", 0), NoRanges) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        rows = rows_of("webdataset", f"http://127.0.0.1:{server.server_port}/0.tar")
        server.shutdown()
    assert [row["sha256"] for row in rows] == [sha256(PICTURES[n]).hexdigest() for n in range(2)]


@pytest.mark.parametrize("name", ["0.tar", "0.tar.gz"])
def test_tars_of_an_object_store(name):
    data = good(0) + good(1) + END
    fsspec.filesystem("memory").pipe_file(f"/store/{name}", gzip.compress(data) if name.endswith("gz") else data)
    rows = rows_of("webdataset", f"memory://store/{name}")
    assert [row["sha256"] for row in rows] == [sha256(PICTURES[n]).hexdigest() for n in range(2)]


def test_copies_of_attributes_that_macos_adds_are_no_members(tmp_path):
    copies = [member(f"d/._0.{ext}", b"\0\5\x16\7" + bytes(100)) for ext in ("png", "txt")]
    data = copies[0] + member("d/0.png", PICTURES[0]) + copies[1] + member("d/0.txt", b"a picture") + END
    assert facts(rows_in(tmp_path, data), "member", "text", "reason") == [("d/0.png", "a picture", None)]


def test_a_stem_that_stands_in_many_places_takes_no_longer_than_the_tar_is(tmp_path):
    rows = rows_in(tmp_path, b"".join(member(f"0.{n}", b"") + member("1.png", b"") for n in range(3000)) + END)
    assert {row["reason"] for row in rows} == {"interleaved", "equal_keys", None} and len(rows) == 6000


@pytest.mark.parametrize("kind", ["broken link", "pipe", "device"])
def test_what_is_no_file_is_a_row_with_a_reason(kind, tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as file:
        file.add(__file__, "0.txt")
    path = tmp_path / "1.tar"
    {"pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero"),
     "broken link": lambda: path.symlink_to("gone")}[kind]()  # fmt: skip
    assert facts(rows_of("webdataset", tmp_path), "reason") == [("no_image",), ("unreadable_file",)]

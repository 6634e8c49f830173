"""Files of a source: found through links, opened whatever their compression, named by relative and absolute paths."""

import bz2
import gzip
import lzma
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from pipelines.sources.files import TooLarge, Unreadable, find, suffix
from pipelines.sources.opening import read_file
from pipelines.sources.source import FileSource as Source
from schemas.config.sources import ConversationsConfig, FolderConfig
from schemas.errors import UserError

LOCAL = fsspec.filesystem("file")
TEXT = b"".join(b"line %d\n" % n for n in range(50_000))


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


CODECS = {"gz": gzip.compress, "zst": zstd}


def source(path: Path | str) -> Source:
    return Source(FolderConfig(path=str(path)))


def names(path: Path | str, *suffixes: str) -> list[str]:
    return [file.path for file in source(path).find(suffixes)]


# Finding


def test_links_to_files_and_folders_are_what_they_lead_to(tmp_path):
    src, away = tmp_path / "src", tmp_path / "away"
    (src / "sub").mkdir(parents=True)
    away.mkdir()
    (src / "a.tar").write_bytes(b"a")
    (away / "blob").write_bytes(b"bb")
    (away / "d.tar").write_bytes(b"d")
    (src / "b.tar").symlink_to("../away/blob")
    (src / "c.tar").symlink_to(src / "b.tar")
    (src / "sub/more").symlink_to(away)
    assert names(src, "tar") == ["a.tar", "b.tar", "c.tar", "sub/more/d.tar"]
    assert names(f"{src}/*.tar", "tar") == ["a.tar", "b.tar", "c.tar"]
    assert names(f"{src}/**/*.tar", "tar") == ["a.tar", "b.tar", "c.tar", "sub/more/d.tar"]
    before = dict(source(src).find(("tar",)))
    (away / "blob").write_bytes(b"ccc")
    changed = {path for path, stamp in source(src).find(("tar",)) if before[path] != stamp}
    assert changed == {"b.tar", "c.tar"}, "a link changes when its file does"


def test_a_plain_file_has_the_stamp_that_it_always_had(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"abc")
    os.utime(tmp_path / "a.tar", ns=(0, 1_700_000_000_123_456_789))
    assert source(tmp_path).find(("tar",)) == [("a.tar", "3-1700000000.1234567")]


@pytest.mark.parametrize("target", [".", "..", "sub", "loop"])
def test_loops_of_links_are_cut(target, tmp_path):
    (tmp_path / "src/sub").mkdir(parents=True)
    (tmp_path / "src/a.tar").write_bytes(b"a")
    (tmp_path / "src/sub/loop").symlink_to(tmp_path / "src" if target == "sub" else target)
    (tmp_path / "src/sub/b.tar").write_bytes(b"b")
    assert names(tmp_path / "src", "tar") == ["a.tar", "sub/b.tar"]


def test_folders_that_link_to_each_other_are_refused_where_they_multiply(tmp_path):
    for n in range(12):
        (tmp_path / f"src/{n}").mkdir(parents=True)
    for n in range(12):
        for other in range(12):
            (tmp_path / f"src/{n}/{other}").symlink_to(f"../{other}")
    with pytest.raises(UserError, match="links lead to this folder more than 100 times"):
        names(tmp_path / "src", "tar")


def test_a_broken_link_a_pipe_and_a_device_are_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a.tar").symlink_to("gone")
    (tmp_path / "b.tar").symlink_to("b.tar")
    (tmp_path / "c.tar").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "d.tar")
    assert names(tmp_path, "tar") == ["a.tar", "b.tar", "c.tar", "d.tar"]
    for name, said in (("a.tar", "a.tar: .*broken link"), ("c.tar", "c.tar: is not a regular file"),
                       ("d.tar", "d.tar: is not a regular file")):  # fmt: skip
        with pytest.raises(Unreadable, match=said):
            source(tmp_path).open(name)


def test_suffixes_of_compressed_files_and_of_copies_of_attributes(tmp_path):
    for name in (
        "a.jsonl",
        "b.JSONL.GZ",
        "c.jsonl.zst",
        "d.tgz",
        "e.gz",
        "._a.jsonl",
        ".export.json",
        "my.export.json",
    ):
        (tmp_path / name).write_bytes(b"")
    assert names(tmp_path, "jsonl") == ["a.jsonl", "b.JSONL.GZ", "c.jsonl.zst"]
    assert names(tmp_path, "tar") == ["d.tgz"] and names(tmp_path, "gz") == ["e.gz"]
    assert names(tmp_path, "json") == ["my.export.json"]
    assert [suffix(name) for name in ("a", "a.b/c.gz", "x.tar.gz", ".gz")] == ["a", "gz", "tar", "gz"]


def test_folders_that_a_pattern_matches_are_read(tmp_path):
    """Spark writes a folder t.parquet of files."""
    (tmp_path / "t.parquet").mkdir()
    for name in ("_SUCCESS", "part-0.snappy.parquet", ".part-0.snappy.parquet.crc"):
        (tmp_path / "t.parquet" / name).write_bytes(b"x")
    for path in (tmp_path, f"{tmp_path}/*.parquet"):
        assert names(path, "parquet") == ["t.parquet/part-0.snappy.parquet"]
    assert names(tmp_path / "t.parquet", "parquet") == ["part-0.snappy.parquet"]


def test_remote_folders_and_patterns_are_found_alike():
    fs = fsspec.filesystem("memory")
    for name in ("a.tar", "b.tar", "t.tar/c.tar"):
        fs.pipe_file(f"/found/{name}", b"x")
    assert [*find(fs, "/found")] == [*find(fs, "/found/*.tar", pattern=True)]
    assert names("memory://found/*.tar", "tar") == ["a.tar", "b.tar", "t.tar/c.tar"]


# Opening


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_compressed_files_are_read_by_their_first_bytes_and_to_their_end(kind, name, tmp_path):
    compress = CODECS[kind]
    (tmp_path / name).write_bytes(compress(TEXT) + compress(TEXT[:1000]) + compress(b""))
    with source(tmp_path).open(name) as file:
        assert file.read() == TEXT + TEXT[:1000]
    with source(tmp_path).open(name) as file:
        assert list(file)[:2] == [b"line 0\n", b"line 1\n"]


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("damage", ["cut", "changed", "followed by other bytes"])
def test_a_compressed_file_that_is_damaged_says_so_where_it_ends(kind, damage, tmp_path):
    if (kind, damage) == ("zst", "changed"):
        pytest.skip("a zstd frame need not have a checksum")
    data = CODECS[kind](TEXT)
    half = len(data) // 2
    damaged = {"cut": data[:-5], "changed": data[:half] + b"\xff" * 40 + data[half + 40 :],
               "followed by other bytes": data + b"something else"}[damage]  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(damaged)
    with source(tmp_path).open("a.jsonl") as file, pytest.raises(Unreadable, match="is cut or damaged"):
        file.read()


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress])
def test_other_compressions_are_named(compress, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(compress(TEXT))
    with pytest.raises(Unreadable, match=r"a.jsonl: is an archive or compression"):
        source(tmp_path).open("a.jsonl")


def test_files_are_looked_at_before_they_are_read(tmp_path):
    with open(tmp_path / "hole.jpg", "wb") as file:
        file.truncate(20 << 30)
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "fits.jpg").write_bytes(b"12345")
    with pytest.raises(TooLarge, match="21474836480 bytes"):
        read_file(LOCAL, f"{tmp_path}/hole.jpg", "hole.jpg", 1 << 28)
    for name in ("zero.jpg", "pipe.jpg"):
        with pytest.raises(Unreadable, match=f"{name}: is not a regular file"):
            read_file(LOCAL, f"{tmp_path}/{name}", name, 1 << 28)
    assert read_file(LOCAL, f"{tmp_path}/fits.jpg", "fits.jpg", 5) == b"12345"
    with pytest.raises(TooLarge):
        read_file(LOCAL, f"{tmp_path}/fits.jpg", "fits.jpg", 4)
    with pytest.raises(FileNotFoundError):
        read_file(LOCAL, f"{tmp_path}/gone.jpg", "gone.jpg", 4)


def test_a_table_that_is_a_hole_or_expands_without_end_is_not_read_to_its_end(tmp_path, monkeypatch):
    with open(tmp_path / "hole.csv", "wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(Unreadable, match=r"hole.csv: is almost entirely a hole of 21474836480 bytes"):
        source(tmp_path).open("hole.csv")
    monkeypatch.setattr("pipelines.sources.opening.SMALL", 1 << 20)
    for kind, compress in CODECS.items():
        (tmp_path / f"bomb.csv.{kind}").write_bytes(compress(bytes(1 << 26)))
        with source(tmp_path).open(f"bomb.csv.{kind}") as file, pytest.raises(Unreadable, match="expands to more than"):
            file.read()


def test_all_images_of_the_machine_may_be_allowed(tmp_path):
    Source(ConversationsConfig(path=str(tmp_path), images="/")).check_images()
    with pytest.raises(UserError, match=r"source.images: .*/gone does not exist"):
        Source(ConversationsConfig(path=str(tmp_path), images=f"{tmp_path}/gone")).check_images()


@pytest.mark.parametrize("name", ["a.parquet", "folder/", "{00..02}.parquet"])
def test_a_web_server_that_does_not_answer_is_not_a_missing_file(name):
    with socket.socket() as deaf:  # a port of ours on which nothing listens
        deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/{name}"
        with pytest.raises(UserError, match=r"source.path: http.* cannot be read: Cannot connect"):
            _ = source(url).listing


class NoRanges(BaseHTTPRequestHandler):
    """A server that always sends the whole file."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(TEXT)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(TEXT)

    def log_message(self, *args: object) -> None:
        pass


def test_a_server_without_ranges_is_read_whole():
    with ThreadingHTTPServer(("127.0.0.1", 0), NoRanges) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.jsonl"
        with source(address).open("a.jsonl") as file:
            file.seek(len(TEXT) - 10)
            assert file.read() == TEXT[-10:]
            file.seek(0)
            assert file.read() == TEXT
        http = fsspec.filesystem("http")
        assert read_file(http, address, "a.jsonl", 1 << 28) == TEXT
        with pytest.raises(TooLarge):
            read_file(http, address, "a.jsonl", 1000)
        server.shutdown()


def test_a_file_that_a_web_server_does_not_have_is_missing():
    class Answers(NoRanges):
        def do_HEAD(self) -> None:
            self.send_error(404)

        do_GET = do_HEAD

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match="does not exist"):
            _ = source(f"http://127.0.0.1:{server.server_port}/a.parquet").listing
        server.shutdown()


# Paths of images


def test_relative_paths_start_at_the_folder_of_their_own_file_or_at_that_of_the_source(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("0.jpg", "train/0.jpg", "1.jpg"):
        (tmp_path / name).write_bytes(b"")
    folder = source(tmp_path)
    assert folder.resolve("0.jpg", "captions.csv") == "0.jpg"
    assert folder.resolve("0.jpg", "train/metadata.csv") == "train/0.jpg"
    assert folder.resolve("1.jpg", "train/metadata.csv") == "1.jpg"
    assert folder.resolve("train/0.jpg", "train/metadata.csv") == "train/0.jpg"
    assert folder.resolve("gone.jpg", "train/metadata.csv") == "gone.jpg"


def test_absolute_paths_and_file_urls_lie_in_the_folder_of_images(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a b.jpg").write_bytes(b"")
    (tmp_path / "link").symlink_to("real")
    here = ConversationsConfig(path=str(tmp_path / "real"))
    for path in (f"{tmp_path}/real/a b.jpg", f"file://{tmp_path}/real/a%20b.jpg", f"{tmp_path}/link/a b.jpg"):
        assert Source(here).resolve(path, "a.json") == "a b.jpg"
        assert Source(here.model_copy(update={"images": "/"})).resolve(path, "a.json").endswith("/a b.jpg")
    elsewhere = Source(here.model_copy(update={"path": "/elsewhere", "images": str(tmp_path / "link")}))
    assert elsewhere.resolve(f"{tmp_path}/real/a b.jpg", "a.json") == "a b.jpg"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/etc/hostname", r"is not in the folder .*; write images = \"/etc\" or a folder above it"),
        ("file:///etc/hostname", "is not in the folder"), ("../0.jpg", r"leaves its folder by \.\."),
        ("a/../0.jpg", r"leaves its folder by \.\."), (None, "is None"), ("", "is ''"),
    ],
)  # fmt: skip
def test_other_paths_say_what_to_do(path, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        source(tmp_path).resolve(path, "a.csv")

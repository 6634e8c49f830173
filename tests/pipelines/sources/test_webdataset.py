"""Tars as img2dataset writes them, and as they come when something went wrong."""

import io
import json
import tarfile
import time
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import pytest
from support.corpora import facts, picture, rows_of

from pipelines.engine.commit import key_of
from pipelines.sources import open_source
from schemas.config.sources import WebDatasetConfig

PICTURES = [picture(number)[0] for number in range(6)]


def write_members(path: Path, members: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def of_tar(tmp_path: Path, *members: tuple[str | tarfile.TarInfo, bytes], cut: int | None = None) -> list[dict]:
    """The rows of a tar of these members, cut after some bytes."""
    path = write_members(tmp_path / "0.tar", members)
    if cut is not None:
        path.write_bytes(path.read_bytes()[:cut])
    return rows_of("webdataset", path)


def test_img2dataset_tars(tmp_path):
    said = b'{"url": "http://x.example/0", "key": "0", "status": "success", "width": 224}'
    rows = of_tar(
        tmp_path, ("0.jpg", PICTURES[0]), ("0.json", said), ("0.txt", b"zero"), ("d/1.PNG", PICTURES[1]),
        ("d/1.TXT", b"one"), ("2.webp", PICTURES[2]),
    )  # fmt: skip
    assert facts(rows, "member", "text", "url", "reason") == [
        ("0.jpg", "zero", "http://x.example/0", None), ("d/1.PNG", "one", None, None), ("2.webp", None, None, None),
    ]  # fmt: skip
    assert json.loads(rows[0]["extra"]) == json.loads(said)
    assert [row["key"] for row in rows] == [key_of("0.tar", stem) for stem in ("0", "d/1", "2")]
    data = (tmp_path / "0.tar").read_bytes()
    for row, expected in zip(rows, PICTURES, strict=False):
        assert data[row["byte_offset"] : row["byte_offset"] + row["size"]] == expected
        assert row["sha256"] == sha256(expected).hexdigest()


def test_samples_without_an_image_say_what_they_have(tmp_path):
    rows = of_tar(tmp_path, ("0.txt", b"zero"), ("0.json", b"{}"), ("1.png", PICTURES[1]), ("no-suffix", b"x"))
    assert facts(rows, "text", "reason", "detail") == [
        ("zero", "no_image", "0 has only json, txt"), (None, None, None), (None, "no_image", "no-suffix has only "),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("suffixes", "told"),
    [(["jpg", "png", "txt"], "jpg, png"), (["0.jpg", "1.jpg", "json"], "0.jpg, 1.jpg"),
     (["txt", "png", "1.png"], "png, 1.png"), (["jpg", "jpeg", "webp"], "jpg, jpeg, webp")],
)  # fmt: skip
def test_a_second_image_of_a_sample_is_never_lost_in_silence(suffixes, told, tmp_path):
    members = [(f"a.{suffix}", b"{}" if suffix in ("json", "txt") else PICTURES[0]) for suffix in suffixes]
    (row, other) = of_tar(tmp_path, *members, ("b.jpg", PICTURES[1]))
    assert (row["reason"], row["detail"], row["sha256"]) == (
        "several_images", f"a has {told}; a sample has one image", None
    )  # fmt: skip
    assert other["reason"] is None


def test_a_caption_may_have_the_suffix_that_folders_have(tmp_path):
    rows = of_tar(tmp_path, ("a.png", PICTURES[0]), ("a.caption", b"zero"), ("b.png", PICTURES[1]), ("b.caption", b"1"),
                  ("b.txt", b"one"), ("c.png", PICTURES[2]), ("c.CAPTION", "\u00e4".encode("utf-16")))  # fmt: skip
    assert facts(rows, "text", "reason") == [("zero", None), ("one", None), ("\u00e4", None)]


def test_masks_and_the_like_beside_an_image_are_not_read(tmp_path):
    (row,) = of_tar(tmp_path, ("a.mask.png", PICTURES[1]), ("a.png", PICTURES[0]), ("a.txt", b"zero"))
    assert (row["member"], row["text"], row["reason"]) == ("a.png", "zero", None)


def test_what_a_json_holds_is_kept_whatever_it_is(tmp_path):
    jsons = [b"[1, 2]", b"not JSON", b"[" * 100_000, b"", b"\xff\xfe", b'{"url": 5}', b"9" * 5000]
    members = [(f"{n}.{e}", d) for n, data in enumerate(jsons) for e, d in (("png", PICTURES[0]), ("json", data))]
    rows = of_tar(tmp_path, *members)
    assert [row["reason"] for row in rows] == [None] * 7 and [row["url"] for row in rows] == [None] * 7
    texts = [json.loads(row["extra"]).get("json") for row in rows]
    assert texts == ["[1, 2]", "not JSON", "[" * 100_000, "", "\ufffd\ufffd", None, "9" * 5000]


def test_equal_stems_are_two_rows_and_the_second_has_a_reason(tmp_path):
    twice = [("0.png", PICTURES[0]), ("0.txt", b"first"), ("0.png", PICTURES[1]), ("0.txt", b"second")]
    first, second = of_tar(tmp_path, *twice)
    assert (first["text"], first["reason"], first["sha256"]) == ("first", None, sha256(PICTURES[0]).hexdigest())
    assert (second["text"], second["reason"]) == ("second", "equal_keys")
    first, between, second = of_tar(tmp_path, *twice[:2], ("1.png", PICTURES[2]), *twice[2:])
    assert (first["reason"], between["reason"], second["reason"]) == (None, None, "equal_keys")


@pytest.mark.slow
def test_a_tar_of_one_name_takes_as_long_as_it_is(tmp_path):
    def seconds(members: int) -> float:
        write_members(tmp_path / "0.tar", [("0.png", b"")] * members)
        source, began = open_source(WebDatasetConfig(path=str(tmp_path / "0.tar"))), time.process_time()
        assert len(list(source.rows("0.tar"))) == members
        return time.process_time() - began

    assert seconds(16_000) < 16 * seconds(2_000) + 0.5, "64 times as long if each sample is held against all others"


def test_interleaved_members_have_a_reason(tmp_path):
    rows = of_tar(tmp_path, ("0.png", PICTURES[0]), ("1.png", PICTURES[1]), ("0.txt", b"zero"), ("1.txt", b"one"))
    assert facts(rows, "text", "reason", "detail") == [
        (text, "interleaved", f"{stem} is in two places of 0.tar")
        for stem, text in (("0", None), ("1", None), ("0", "zero"), ("1", "one"))
    ]


@pytest.mark.parametrize("name", ["../0.png", "/abs/0.png", "a/../../0.png"])
def test_names_that_leave_the_archive_have_a_reason(name, tmp_path):
    rows = of_tar(tmp_path, (name, PICTURES[0]), ("fine.png", PICTURES[1]))
    assert facts(rows, "member", "reason") == [(name, "unsafe_name"), ("fine.png", None)]


def test_names_may_be_long_strange_and_not_utf_8(tmp_path):
    names = ["Ünïcode ☃.png", "x" * 150 + ".png", "\"q'<b>;.png", "new\nline.png", "./dot.png"]
    rows = of_tar(tmp_path, *((name, PICTURES[n]) for n, name in enumerate(names)))
    assert facts(rows, "member", "reason") == [(name, None) for name in names]
    path = write_members(tmp_path / "0.tar", [("abc.png", PICTURES[0]), ("abc.txt", b"text")])
    data = path.read_bytes().replace(b"abc", b"a\xffc")
    for at in (0, data.index(b"a\xffc.txt")):  # the checksum of a header is over its bytes, itself as blanks
        head = data[at : at + 148] + b" " * 8 + data[at + 156 : at + 512]
        data = data[: at + 148] + b"%06o\0 " % sum(head) + data[at + 156 :]
    path.write_bytes(data)
    (row,) = rows_of("webdataset", path)
    assert (row["member"], row["text"], row["reason"]) == ("a\ufffdc.png", "text", None)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def test_links_lead_to_members_of_their_tar_and_folders_are_no_members(tmp_path):
    folder = tarfile.TarInfo("d")
    folder.type = tarfile.DIRTYPE
    rows = of_tar(
        tmp_path, (folder, b""), link("a.png", "/etc/hostname"), ("0.png", PICTURES[0]), ("0.txt", b"zero"),
        link("d/1.png", "../0.png"), link("d/1.txt", "0.txt", tarfile.LNKTYPE), link("2.png", "d/1.png"),
        ("3.png", PICTURES[3]), link("3.txt", "gone.txt"), link("4.png", "4.png"),
    )  # fmt: skip
    assert facts(rows, "member", "text", "reason") == [
        ("a.png", None, "broken_link"), ("0.png", "zero", None), ("d/1.png", "zero", None), ("2.png", None, None),
        (None, None, "broken_link"), ("4.png", None, "broken_link"),
    ]  # fmt: skip
    assert {rows[n]["sha256"] for n in (1, 2, 3)} == {sha256(PICTURES[0]).hexdigest()}
    assert rows[0]["detail"] == "0.tar: a.png is a link to '/etc/hostname', which is not in the tar"


WHOLE = [("0.png", PICTURES[0]), ("0.txt", b"t" * 1000), ("1.png", PICTURES[1]), ("1.txt", b"one")]


def size_of(members: list[tuple[str, bytes]]) -> int:
    return sum(512 + len(data) + -len(data) % 512 for _, data in members)


@pytest.mark.parametrize(
    ("where", "cut", "expected"),
    [
        ("in an image", size_of(WHOLE[:2]) + 600, [("0", None), ("1", "cut_tar")]),
        ("in a text", size_of(WHOLE[:1]) + 512 + 700, [("0", "cut_tar")]),
        ("in a header", size_of(WHOLE[:2]) + 100, [("0", None), ("/", "cut_tar")]),
        ("in the first header", 100, [("/", "cut_tar")]),
        ("between members", size_of(WHOLE[:2]), [("0", None)]),
        ("in the end of the archive", size_of(WHOLE) + 100, [("0", None), ("1", None)]),
        ("at the start", 0, [("/", "cut_tar")]),
    ],
)
def test_a_cut_tar_keeps_what_is_whole_and_says_where_it_is_cut(where, cut, expected, tmp_path):
    rows = of_tar(tmp_path, *WHOLE, cut=cut)
    assert facts(rows, "key", "reason") == [(key_of("0.tar", stem), reason) for stem, reason in expected]
    assert all(row["detail"].startswith("0.tar: ") and row["sha256"] is None for row in rows if row["reason"])


@pytest.mark.parametrize("data", [b"hello", b"\x1f\x8b" + b"x" * 2000, b"x" * 512], ids=["short", "gzip", "block"])
def test_a_file_that_is_no_tar_is_a_row_with_a_reason(data, tmp_path):
    (tmp_path / "0.tar").write_bytes(data)
    (row,) = rows_of("webdataset", tmp_path)
    assert row["reason"] == "cut_tar" and row["detail"].startswith("0.tar: ")


def test_a_tar_that_makes_no_sense_from_some_byte_on_keeps_what_is_before(tmp_path):
    path = write_members(tmp_path / "0.tar", WHOLE)
    data, at = bytearray(path.read_bytes()), size_of(WHOLE[:2])
    data[at : at + 20] = b"\xff" * 20
    path.write_bytes(data)
    rows = rows_of("webdataset", path)
    assert facts(rows, "reason", "detail") == [
        (None, None), ("cut_tar", f"0.tar: no member can be read from byte {at} on"),
    ]  # fmt: skip


def test_an_empty_tar_has_no_rows(tmp_path):
    assert of_tar(tmp_path) == []

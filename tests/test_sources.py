"""Sources: whatever a folder or a tar holds becomes rows, each with its reason, and a row stays where it once was."""

import csv
import io
import json
import os
import tarfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import ONE_PROCESS, build, picture, write_tar
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.catalog import query
from pipelines.commit import bucket_of, key_of
from pipelines.corpus import open_corpus, plan
from pipelines.root import Root
from pipelines.rows import Rows, Settled, json_of, read_rows_of, read_settled, settle, unicode
from pipelines.sources import open_source
from pipelines.sources.source import object_of
from pipelines.verify import verify_root
from schemas.config import SOURCES, UserError
from schemas.rows import REASONS

PICTURES = [picture(number)[0] for number in range(6)]


def rows_of(kind: str, path: Path, **fields) -> list[dict]:
    """The rows of a source, in its order. Each has a declared reason or none, and a key of its own."""
    stage = Rows(open_source(SOURCES[kind](path=str(path), **fields)))
    rows = []
    for name, _ in stage.source.files():
        rows += read_rows_of(stage, Settled(name, 0, 1, None), {0: None})
    assert len({row["key"] for row in rows}) == len(rows)
    assert {row["reason"] for row in rows} <= {None, *REASONS}
    return rows


def facts(rows: Iterable[dict], *names: str) -> list[tuple]:
    return [tuple(row[name] for name in names) for row in rows]


# A folder of images


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder with 0.png to 3.png."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(PICTURES[number])
    return folder


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


def write_captions(path: Path, captions: list[tuple], image: str = "image", text: str = "text") -> None:
    """A caption table in the format that its name says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({image: [i for i, _ in captions], text: [t for _, t in captions]}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({image: i, text: t}) + "\n" for i, t in captions))
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([(image, text), *captions])


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
        settle(Root(str(pictures / "nowhere")), stage)


def test_a_caption_may_be_a_number_a_date_or_a_list(pictures):
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
    before = rows_of("folder", pictures)
    odd = ['{"image": "2.png", "text": ["a", "b"], "more": 1}', "", "not JSON", '{"image": "3.png"}', "[1]"]
    table.write_text("\n".join([*lines, *odd]))
    after = rows_of("folder", pictures)
    assert after[:2] == before
    assert facts(after[2:], "file", "text", "reason", "extra") == [
        ("2.png", "['a', 'b']", None, '{"more": 1}'), (None, None, "no_image", '{"json": "not JSON"}'),
        ("3.png", None, None, "{}"), (None, None, "no_image", '{"json": "[1]"}'),
    ]  # fmt: skip


def test_a_ragged_csv_keeps_its_columns(pictures):
    (pictures / "a.csv").write_bytes(b"\xef\xbb\xbfimage,text\n0.png,a\n1.png,b,c,d\n2.png\n3.png,\xff\n")
    assert facts(rows_of("folder", pictures), "file", "text", "extra") == [
        ("0.png", "a", "{}"), ("1.png", "b", '{"more": ["c", "d"]}'), ("2.png", None, "{}"), ("3.png", "\ufffd", "{}"),
    ]  # fmt: skip


def test_a_table_without_rows_is_an_empty_partition(pictures, configure):
    (pictures / "a.csv").write_text("image,text\n")
    root = build(configure('[source]\nkind = "folder"\npath = "pictures"\n[sets.train]'))
    assert query(root, "from rows").num_rows == 0 and verify_root(root).problems == []


# Tars


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


def test_interleaved_members_have_a_reason(tmp_path):
    rows = of_tar(tmp_path, ("0.png", PICTURES[0]), ("1.png", PICTURES[1]), ("0.txt", b"zero"), ("1.txt", b"one"))
    assert facts(rows, "text", "reason", "detail") == [
        (text, "interleaved", f"{stem} stands in two places of 0.tar")
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


def test_links_and_folders_in_a_tar_are_no_members(tmp_path):
    folder, link = tarfile.TarInfo("folder.png"), tarfile.TarInfo("link.png")
    folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "/etc/hostname"
    rows = of_tar(tmp_path, (folder, b""), (link, b""), ("0.png", PICTURES[0]))
    assert facts(rows, "member", "reason") == [("0.png", None)]


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


# Text


@given(st.text(st.characters(), max_size=50))
@settings(max_examples=200, deadline=None)
def test_any_text_becomes_utf_8_and_what_is_utf_8_stays(text):
    made = unicode(text)
    assert unicode(made) == made and made.encode().decode() == made
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert made == text


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), values, max_size=3))
@settings(max_examples=200, deadline=None)
def test_any_object_becomes_strict_json(value):
    def refuse(word: str):
        raise AssertionError(f"{word} is no JSON")

    text = json_of(value)
    made = json.loads(text, parse_constant=refuse)
    assert json_of(made) == text and made.keys() == value.keys()
    assert object_of(text) == made


# Where a row stands


def test_keys_do_not_depend_on_where_the_source_is(pictures, tmp_path):
    (pictures / "0.txt").write_text("zero")
    tar = write_tar(tmp_path / "tars/0.tar", range(3))
    before = rows_of("folder", pictures), rows_of("webdataset", tar.parent)
    pictures.rename(tmp_path / "moved")
    (tmp_path / "deep/down").mkdir(parents=True)
    tar.parent.rename(tmp_path / "deep/down/tars")
    assert rows_of("folder", tmp_path / "moved") == before[0]
    for path in ("tars", "tars/*.tar", "tars/0.tar"):
        assert rows_of("webdataset", tmp_path / "deep/down" / path) == before[1]


TARS = f'[source]\nkind = "webdataset"\npath = "source"\n[sets.train]\n{ONE_PROCESS}'


def settled(root: Root) -> list[tuple[str, int, int, bool]]:
    return [(file.path, file.first, file.buckets, file.split is not None) for file in read_settled(root)]


def test_numbers_are_settled_when_a_file_is_first_seen(configure, tmp_path):
    for name, numbers in (("b.tar", range(2)), ("d.tar", range(2, 4))):
        write_tar(tmp_path / "source" / name, numbers)
    config = configure(TARS)
    root = build(config)
    assert settled(root) == [("b.tar", 0, 1, True), ("d.tar", 1, 1, True)]
    keys = query(root, "select partition, key from rows order by all").to_pylist()

    for name in ("a.tar", "c.tar"):  # new files come behind, whatever they are called
        write_tar(tmp_path / "source" / name, range(4, 6))
    assert plan(open_corpus(config)).stages[0].todo == {2: "new file", 3: "new file"}
    build(config)
    order = [("b.tar", 0, 1, True), ("d.tar", 1, 1, True), ("a.tar", 2, 1, True), ("c.tar", 3, 1, True)]
    assert settled(root) == order
    assert query(root, "select partition, key from rows where partition < 2 order by all").to_pylist() == keys

    write_tar(tmp_path / "source/d.tar", range(2, 5))  # a changed file keeps its number
    assert plan(open_corpus(config)).stages[0].todo == {1: "file changed"}
    build(config)
    assert settled(root) == order
    assert query(root, "select count(*) as n from rows where partition = 1").to_pylist() == [{"n": 3}]

    away = tmp_path / "away.tar"  # a vanished one leaves its number free, and finds it again
    (tmp_path / "source/b.tar").rename(away)
    assert plan(open_corpus(config)).vanished == [("b.tar", [0])]
    build(config)
    assert settled(root) == [("b.tar", 0, 1, False), *order[1:]]
    assert query(root, "select distinct partition as p from rows order by p")["p"].to_pylist() == [1, 2, 3]
    write_tar(tmp_path / "source/e.tar", range(6, 7))
    build(config)
    assert settled(root)[-1] == ("e.tar", 4, 1, True)
    away.rename(tmp_path / "source/b.tar")
    assert plan(open_corpus(config)).stages[0].todo == {0: "file changed"}
    build(config)
    assert settled(root) == [*order, ("e.tar", 4, 1, True)]
    assert query(root, "select partition, key from rows where partition = 0 order by all").to_pylist() == keys[:2]
    assert verify_root(root).problems == []


def test_a_table_that_grows_keeps_every_old_row_in_its_partition(pictures, configure):
    table = pictures / "a.csv"
    write_captions(table, [(f"{n % 4}.png", f"caption {n}") for n in range(1000)])
    config = configure('[source]\nkind = "folder"\npath = "pictures"\nrows_per_partition = 300')
    root = build(config, until="rows")
    assert settled(root) == [("a.csv", 0, 4, True)]
    question = "select key, partition from rows"
    before = {row["key"]: row["partition"] for row in query(root, question).to_pylist()}
    assert len(before) == 1000
    sizes = [list(before.values()).count(partition) for partition in range(4)]
    assert min(sizes) > 150 and max(sizes) < 350
    assert all(bucket_of(key, 4) == partition for key, partition in before.items())

    write_captions(table, [(f"{n % 4}.png", f"caption {n}") for n in range(1010)])
    build(config, until="rows")
    after = {row["key"]: row["partition"] for row in query(root, question).to_pylist()}
    assert settled(root) == [("a.csv", 0, 4, True)] and len(after) == 1010
    assert before.items() <= after.items()

    write_captions(table, [(f"{n % 4}.png", f"caption {n}") for n in range(990)])
    build(config, until="rows")
    fewer = {row["key"]: row["partition"] for row in query(root, question).to_pylist()}
    assert len(fewer) == 990 and fewer.items() <= before.items()


def test_only_partitions_with_changed_rows_are_written_again(pictures, configure):
    table = pictures / "a.csv"
    write_captions(table, [(f"{n % 4}.png", f"caption {n}") for n in range(100)])
    config = configure('[source]\nkind = "folder"\npath = "pictures"\nrows_per_partition = 10')
    root = build(config, until="rows")
    stamps = root.files("rows")
    write_captions(table, [(f"{n % 4}.png", f"caption {n}") for n in range(101)])
    build(config, until="rows")
    after = root.files("rows")
    changed = {name for name in after if after[name] != stamps[name] and name[0].isdigit()}
    assert changed == {f"{bucket_of(key_of('0.png', 'caption 100'), 10):05d}.parquet"}

"""Rows beside hostile ones: they are made, with the bytes that they have in a corpus without the attacks."""

import gzip
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import build, picture
from support.hostile_server import Hostile
from support.images import jpeg_of_scans, names_itself, png, with_exif
from support.parquet_fuzzing import broken, small
from support.tars import END, header, member, record

from pipelines.catalog.catalog import query
from pipelines.maintain.verify import verify_root

pytestmark = pytest.mark.slow  # two corpora are made for them

TOML = """
root = "corpus"
[[source]]
name = "tars"
kind = "webdataset"
path = "tars"
[[source]]
name = "pictures"
kind = "folder"
path = "pictures"
[[source]]
name = "tables"
kind = "folder"
path = "tables"
images = "good"
captions = "first"
image_column = "image"
text_column = "text"
[[source]]
name = "inside"
kind = "huggingface"
path = "inside"
[[source]]
name = "urls"
kind = "laion"
path = "urls"
[fetch]
contact = "data@example.org"
allow_hosts = ["localhost"]
connect_seconds = 1.0
read_seconds = 0.5
deadline = 2.0
tries = 1
"""


def sample(number: int) -> bytes:
    return member(f"{number:03d}.png", picture(number)[0]) + member(f"{number:03d}.txt", b"text %d" % number)


TARS: dict[str, bytes] = {
    "a size of 2^62": header("x.png", 1 << 62), "a size below 0": header("x.png", -512),
    "a size of 2^80": header("x.png", 1 << 80), "a sparse member": header("x.png", 512, b"S", real=1 << 40),
    "a PAX size": member("p", record("size", str(1 << 62)), b"x") + member("x.png", b"x"),
    "long names": member("././@LongLink", b"n" * 3000, b"L") * 3000, "a link": header("x.png", 0, b"2"),
    "a device": header("x.png", 0, b"3"), "a path that leads out": member("../../x.png", picture(99)[0]),
    "noise": bytes(range(256)) * 4,
    "a text of 2^40": member("x.png", picture(98)[0]) + header("x.txt", 1 << 40),
    "a text of 20 MB": member("x.png", picture(97)[0]) + member("x.txt", bytes(20 << 20)),
    "a JSON of 2^62": member("x.png", picture(96)[0]) + header("x.json", 1 << 62),
    "a sparse PAX member": member("p", record("GNU.sparse.size", str(1 << 40)), b"x") + member("x.png", bytes(512)),
    "a name beyond the end": header("././@LongLink", 1 << 20, b"L"),
    "a map without end": header("x.png", 5, b"S", 9, True),
}  # fmt: skip
SAID = {"a long one": "aaaaaaaaaaaaaaaaaaaa"}  # where the name is not in the row
NO_SAMPLES = {"a device"}  # neither files nor links
PICTURES: dict[str, Callable[[Path], object]] = {
    "pixels.png": lambda path: path.write_bytes(png(60_000, 60_000, pixels=b"x")),
    "scans.jpg": lambda path: path.write_bytes(jpeg_of_scans(2_000)),
    "tags.jpg": lambda path: path.write_bytes(with_exif(jpeg_of_scans(1), names_itself(100, 60_000))),
    "pipe.png": os.mkfifo, "device.png": lambda path: path.symlink_to("/dev/zero"),
    "outside.png": lambda path: path.symlink_to("/etc/passwd"), "itself.png": lambda path: path.symlink_to(path.name),
    "hole.png": lambda path: os.truncate(path, 20 << 30) if path.touch() is None else None,
    "thin.png": lambda path: path.write_bytes(png(1, 60_000)),
    "wide.png": lambda path: path.write_bytes(png(60_000, 2)),
    "cut.jxl": lambda path: path.write_bytes(b"\xff\x0a" + bytes(99)),
    "one.png": lambda path: path.write_bytes(png(1, 1)),
    "text.png": lambda path: path.write_text("<html>"), "cut.png": lambda path: path.write_bytes(picture(0)[0][:300]),
}  # fmt: skip
REPEATED = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000, pa.int32()), ["x" * 1_000_000])
FIRST = b'{"image": "0.png", "text": "one"}\n'
TABLES: dict[str, Callable[[], bytes]] = {
    "quote.csv": lambda: b'image,text\n0.png,"no end\n' + b"x,y\n" * 1000,
    "binary.csv": lambda: b"image,text\n" + bytes(999),
    "deep.jsonl": lambda: FIRST + b'{"image": "deep.jsonl", "text": ' + b"[" * 100_000,
    "numbers.jsonl": lambda: FIRST + b'{"image": "numbers.jsonl", "text": 1e999}\n',
    "packed.jsonl.gz": lambda: gzip.compress(FIRST + b"{" * (100 << 20)),
    "cut.jsonl.gz": lambda: gzip.compress(FIRST * 99)[:-9],
    "footer.parquet": lambda: broken_in("footer"),
    "length.parquet": lambda: broken_in("length"),
    "claims.parquet": lambda: b"PAR1" + bytes(99) + b"\xff\xff\xff\x7fPAR1",
    "columns.parquet": lambda: table(**{f"c{number}": [number] for number in range(10_001)}),
    "repeats.parquet": lambda: table(image=REPEATED, text=REPEATED),
}  # fmt: skip
URLS = {
    "endless": "/endless/1", "drip": "/drip/1", "reset": "/reset-inside/1", "loop": "/loop/1",
    "head": "/endless-head/1",
    "packed": "/bomb/1", "no HTTP": "/no-http/1", "a file": "file:///etc/passwd", "this machine": "http://127.0.0.1:1/x",
    "metadata": "http://169.254.169.254/latest", "a long one": "http://a.example/" + "a" * 20_000,
}  # fmt: skip
TEN = range(10)


def table(**columns) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.getvalue()


def broken_in(part: str) -> bytes:
    made = (broken(small(number), random.Random(number)) for number in range(99))
    return next(data for data, changed in made if changed == part)


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def make(folder: Path, server: Hostile, attacked: bool) -> list[dict]:
    """The rows of a corpus with ten good rows beside each kind of attack, and with the attacks if it is `attacked`."""
    for kind, attack in TARS.items():
        first, last = (b"".join(map(sample, numbers)) for numbers in (TEN[:5], TEN))
        write(folder / f"tars/{kind}.tar", first + attack * attacked + END)
        write(folder / f"tars/{kind} beside.tar", last + END)
    images = {f"{number}.png": picture(number)[0] for number in TEN}
    for name, data in images.items():
        write(folder / f"pictures/{name}", data)
        write(folder / f"pictures/{name[:-4]}.txt", f"text {name}".encode())
        write(folder / f"good/{name}", data)
    columns = {"image": [*images], "text": [f"text {name}" for name in images]}
    write(folder / "tables/good.parquet", table(**columns))
    write(folder / "tables/good.jsonl", "".join(
        json.dumps({"image": name, "text": f"line {name}"}) + "\n" for name in images).encode())  # fmt: skip
    held = [{"bytes": data, "path": name} for name, data in images.items()]
    write(folder / "inside/good.parquet", table(image=held, text=columns["text"]))
    urls = [server.url(f"/good/{number}", f"good{number}") for number in TEN]
    if attacked:
        for name, plant in PICTURES.items():
            plant(folder / "pictures" / name)
        for name, data in TABLES.items():
            write(folder / "tables" / name, data())
        for number in range(20):
            write(folder / f"inside/{number}.parquet", broken(small(number), random.Random(number))[0])
        urls += [url if ":" in url else server.url(url, f"bad{n}") for n, url in enumerate(URLS.values())]
    write(folder / "urls/urls.parquet", table(URL=urls, TEXT=[f"of {url}"[:60] for url in urls]))
    (folder / "my.toml").write_text(TOML)
    root = build(folder / "my.toml", "images")
    assert verify_root(root).problems == []
    asked = """
        select rows.source, file, member, url, key, text, extra, part_of,
            coalesce(images.reason, rows.reason) as reason, images.sha256, images.size, width, height, format, phash,
            concat_ws(' ', rows.detail, images.detail) as detail
        from rows left join images using (partition, key) order by key"""
    return query(root, asked).to_pylist()


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> tuple[dict[str, dict], dict[str, dict]]:
    """Those without the attacks, and those with them, by their keys."""
    with Hostile() as server:
        alone, beside = (make(tmp_path_factory.mktemp("corpus"), server, attacked) for attacked in (False, True))
    return {row["key"]: row for row in alone}, {row["key"]: row for row in beside}


def named(row: dict) -> str:
    return " ".join(str(row[name]) for name in ("file", "member", "url", "detail"))


def test_rows_beside_attacks_have_equal_bytes(rows):
    alone, beside = rows
    assert {row["reason"] for row in alone.values()} == {None}
    assert len(alone) == 15 * len(TARS) + 5 * len(TEN)
    assert {key: row for key, row in beside.items() if key in alone} == alone
    assert {row["reason"] for key, row in beside.items() if key not in alone} - {None, "duplicate"}


def is_beside(row: dict, attack: str) -> bool:
    """Whether a row is one of the good ones beside an attack: in the same tar and one more, or of the same source."""
    if attack in TARS:
        return row["file"] in (f"{attack}.tar", f"{attack} beside.tar")
    kinds = {"pictures": PICTURES, "tables": TABLES, "urls": URLS}
    return attack in kinds.get(row["source"], ())


@pytest.mark.parametrize("attack", [*TARS, *PICTURES, *TABLES, *URLS])
def test_ten_rows_beside_each_attack_have_equal_bytes(attack, rows):
    alone, beside = rows
    good = {key: row for key, row in alone.items() if is_beside(row, attack)}
    assert len(good) >= 10 and {row["reason"] for row in good.values()} == {None}
    assert all(len(row["sha256"]) == 64 for row in good.values())
    assert {key: beside.get(key) for key in good} == good


@pytest.mark.parametrize("attack", [*(name for name in TARS if name not in NO_SAMPLES), *PICTURES, *TABLES, *URLS])
def test_each_attack_is_a_row_with_a_reason(attack, rows):
    alone, beside = rows
    said = SAID.get(attack, URLS.get(attack, attack)[:1_000])
    assert {row["reason"] for key, row in beside.items() if key not in alone and said in named(row)} - {None}

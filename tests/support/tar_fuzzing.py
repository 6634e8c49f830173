"""Tars with headers that claim anything, and which of their rows are neither intact nor have a reason.

The headers are real ones of every format, of which fields were overwritten; most are given a right checksum again, so
that readers believe them.
"""

import gzip
import io
import random
import resource
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from support.corpora import all_rows
from support.tars import END, header, member, number, record, sealed

from pipelines.engine.commit import key_of
from pipelines.sources import open_source
from pipelines.stages.rows import Rows
from schemas.config.sources import WebDatasetConfig

BLOCK = 512
SIZES = (
    0,
    1,
    511,
    512,
    513,
    4096,
    1 << 20,
    8**11 - 1,
    1 << 33,
    1 << 40,
    1 << 62,
    1 << 63,
    1 << 80,
    -1,
    -512,
    -(1 << 40),
)
TYPES = b"01234567\0xgXLKSNVMDA~"
TEXTS = (
    "",
    "1" * 30,
    "-1",
    "1e9",
    "0x10",
    "\u0661",
    "1" * 5000,
    "9" * 18,
    "512",
    "../../x.png",
    "a/" * 2000,
    "/etc/passwd",
    "0.png",
)
WORDS = ("path", "linkpath", "size", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.realsize", "GNU.sparse.major",
         "GNU.sparse.minor", "GNU.sparse.name", "GNU.sparse.numblocks", "mtime", "hdrcharset", "comment")  # fmt: skip


class Tar(NamedTuple):
    data: bytes
    whole: dict[str, tuple[bytes, str]]  # stem -> image and text, of the samples that stand before anything odd
    untouched: bool


def make(draws: random.Random, whole: bool = False) -> Tar:
    """A tar, whole or with one to three odd places."""
    parts: list[tuple[str, bytes]] = []  # stem or "", bytes of all of a sample or of something odd
    samples: dict[str, tuple[bytes, str]] = {}
    for n in range(draws.randint(1, 6)):
        stem = draws.choice((f"{n}", f"d/{n}", "x" * 90 + f"/{n}", "y" * 300 + f"/{n}", f"\u00e4/{n}"))
        image, text = draws.randbytes(draws.choice((0, 1, 511, 512, 513, 3000))), f"text {n} " * draws.randint(0, 90)
        samples[stem] = image, text
        parts.append((stem, _packed(draws, stem, image, text)))
        if draws.random() < 0.1:
            parts.append(("", bytes(BLOCK * draws.randint(2, 40))))  # as `cat` of tars leaves it
    if whole:
        return Tar(b"".join(data for _, data in parts) + END, samples, True)
    first = len(parts)
    for _ in range(draws.randint(1, 3)):
        place = draws.randrange(len(parts) + 1)
        if place < len(parts) and draws.random() < 0.6:
            parts[place] = ("", _changed(draws, parts[place][1]))
        else:
            parts.insert(place, ("", _odd(draws)))
        first = min(first, place)
    data = b"".join(data for _, data in parts) + END
    if draws.random() < 0.1:
        cut = draws.randrange(len(data))
        kept, size = 0, 0
        for n, (_, part) in enumerate(parts):
            size += len(part)
            if size <= cut:
                kept = n + 1
        data, first = data[:cut], min(first, kept)
    return Tar(data, {stem: samples[stem] for stem, _ in parts[:first] if stem}, False)


def _packed(draws: random.Random, stem: str, image: bytes, text: str) -> bytes:
    """The members of a sample, in one of tar's formats, without the end of a tar."""
    buffer, format = io.BytesIO(), draws.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for ext, data in (("png", image), ("txt", text.encode())):
            info = tarfile.TarInfo(f"{stem}.{ext}")
            info.size = len(data)
            if draws.random() < 0.1:
                info.mtime = draws.random() * 1e9  # a PAX record, where the format has them
            tar.addfile(info, io.BytesIO(data))
        return buffer.getvalue()[: tar.offset]


def _changed(draws: random.Random, data: bytes) -> bytes:
    """A sample with a block of it changed: a field of its header, mostly."""
    if not data:
        return data
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    headers = [n for n, block in enumerate(blocks) if block[257:262] == b"ustar"]
    place = draws.choice(headers or range(len(blocks)))
    block = bytearray(blocks[place])
    start, end = draws.choice(
        (
            (0, 100),
            (124, 136),
            (124, 136),
            (124, 136),
            (148, 156),
            (156, 157),
            (156, 157),
            (157, 257),
            (257, 265),
            (345, 500),
        )
    )
    if (start, end) == (124, 136):
        block[start:end] = number(draws.choice(SIZES)) if draws.random() < 0.8 else draws.randbytes(12)
    elif (start, end) == (156, 157):
        block[156] = draws.choice(TYPES)
    else:
        block[start:end] = draws.randbytes(end - start)
    blocks[place] = bytes(block) if draws.random() < 0.2 else sealed(block)
    if draws.random() < 0.1:
        del blocks[draws.randrange(len(blocks))]
    return b"".join(blocks)


def _odd(draws: random.Random) -> bytes:
    """Headers that no tool writes."""
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: header("h.png", draws.choice(SIZES)) + bytes(BLOCK * draws.randint(0, 3)),
        lambda: header("h.png", draws.choice(SIZES), bytes([draws.choice(TYPES)])),
        lambda: header("././@LongLink", draws.choice(SIZES), draws.choice((b"L", b"K"))) + bytes(BLOCK),
        lambda: member("././@LongLink", b"n" * draws.randint(0, 3000), b"L") * draws.choice((1, 2, 70, 1000)),
        lambda: member(
            "p", b"".join(_record(draws) for _ in range(draws.randint(1, 5))), draws.choice((b"x", b"g", b"X"))
        ),
        lambda: member("p", record("size", draws.choice(TEXTS)), b"x") + member("h.png", draws.randbytes(40)),
        lambda: (
            header("h.png", draws.choice((5, 700)), b"S", real=draws.choice(SIZES), more=draws.random() < 0.5)
            + draws.randbytes(BLOCK * draws.randint(0, 4))
        ),
        lambda: draws.randbytes(BLOCK * draws.randint(1, 4)),
        lambda: member("h.png", b"", draws.choice((b"1", b"2"))) * draws.randint(1, 3),
        lambda: bytes(BLOCK * draws.randint(1, 30)),
        lambda: member("._0.png", draws.randbytes(60)) + member("h", b"x"),
    )
    return draws.choice(kinds)()


def _record(draws: random.Random) -> bytes:
    made = record(draws.choice(WORDS), draws.choice(TEXTS))
    if draws.random() < 0.3:
        made = draws.choice((b"0", b"-5", b"1", b"99999999999", b"7" * 400)) + made[made.index(b" ") :]
    return made[: draws.randrange(len(made))] if draws.random() < 0.1 else made


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz_headers(folder: Path, count: int | None = None, seconds: float = 0, seed: int = 0) -> dict:
    """Reads so many odd tars, or for so long. Gives what became of them, and under `wrong` what should not have."""
    before = peak()
    stage = Rows(open_source(WebDatasetConfig(path=str(folder))))
    began, number_of_tars, rows, reasons, wrong, slowest = time.monotonic(), 0, 0, Counter(), [], 0.0
    while (number_of_tars < count) if count else (time.monotonic() - began < seconds):
        draws = random.Random(f"{seed}/{number_of_tars}")
        tar = make(draws, whole=draws.random() < 0.15)
        packed = draws.random() < 0.1
        codec = draws.choice((gzip.compress, lambda data: pa.Codec("zstd").compress(data, asbytes=True)))
        (folder / "0.tar").write_bytes(codec(tar.data) if packed else tar.data)
        started = time.monotonic()
        try:
            found = list(all_rows(stage, "0.tar"))
            wrong += [f"{number_of_tars}: {problem}" for problem in _problems(tar, found, stage)]
        except Exception as error:  # whatever it is, it ends a run
            wrong.append(f"{number_of_tars}: {error!r}")
            found = []
        slowest = max(slowest, time.monotonic() - started)
        rows += len(found)
        reasons.update(row["reason"] or "kept" for row in found)
        number_of_tars += 1
    return {
        "runs": number_of_tars, "rows": rows, "wrong": wrong, "reasons": dict(reasons.most_common()),
        "slowest": round(slowest, 3), "memory": peak() - before,
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def _problems(tar: Tar, found: list[dict], stage: Rows) -> list[str]:
    """What is wrong with the rows of a tar."""
    by_key = {row["key"]: row for row in found}
    problems = []
    for stem, (image, text) in tar.whole.items():
        row = by_key.get(key_of("0.tar", stem))
        allowed = (None,) if tar.untouched else (None, "interleaved")
        if row is None or row["reason"] not in allowed:
            problems.append(f"{stem}: untouched, but {row['reason'] if row else 'not there'}")
        elif row["reason"] is None and (row["text"], row["sha256"]) != (text, sha256(image).hexdigest()):
            problems.append(f"{stem}: kept, but not as it was put there")
    if tar.untouched and len(found) != len(tar.whole):
        problems.append(f"{len(found)} rows of {len(tar.whole)} samples")
    there = _by_tarfile(tar.data)
    for row in found:
        if row["reason"] is None:
            place = row["byte_offset"], row["size"]
            data = stage.source.load(row)
            if data != tar.data[place[0] : sum(place)] or sha256(data).hexdigest() != row["sha256"]:
                problems.append(f"{row['member']}: kept, but with other bytes than the tar's")
            if there.get(place[0], place[1]) != place[1]:
                problems.append(f"{row['member']}: {place[1]} bytes, but tarfile says {there[place[0]]}")
    return problems


def _by_tarfile(data: bytes) -> dict[int, int]:
    """Where Python's own reader sees the data of plain files, and how long they are: offset -> size."""
    seen: dict[int, int] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for info in tar:
                if len(tar.members) > 5000:  # it reads a header with a negative size for ever
                    break
                if info.isfile() and not info.issparse():
                    seen.setdefault(info.offset_data, info.size)
    except Exception:  # it ends where ours goes on with a reason
        return seen
    return seen

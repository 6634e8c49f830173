"""A corpus of mutated images and tars, and which of its rows are neither intact nor have a reason."""

import io
import random
import tarfile
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image
from support.corpora import ONE_PROCESS, build

from pipelines.catalog.catalog import query
from pipelines.engine.commit import key_of
from pipelines.engine.payload import read_payload
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root

SIDE, EACH = 48, 4  # pixels; samples a tar


def originals() -> list[bytes]:
    """Small images of every format and of many kinds within it."""
    ramp = np.add.outer(np.arange(SIDE), np.arange(SIDE))[..., None] * [2, 1, 3] % 256
    rgb = Image.fromarray((ramp + np.random.default_rng(0).integers(0, 40, ramp.shape)).clip(0, 255).astype(np.uint8))
    grey, exif = rgb.convert("L"), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    kinds = [
        (rgb, "JPEG", {}), (rgb, "JPEG", {"progressive": True, "exif": exif}), (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "PNG", {}), (rgb.quantize(16), "PNG", {"transparency": 3}), (rgb.convert("RGBA"), "PNG", {}),
        (Image.fromarray(np.asarray(grey).astype(np.uint16) << 8), "PNG", {}), (rgb, "WEBP", {}),
        (rgb, "WEBP", {"lossless": True}), (rgb.convert("P"), "GIF", {}), (rgb, "BMP", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}), (grey.convert("1"), "TIFF", {"compression": "group4"}),
        (rgb, "GIF", {"save_all": True, "append_images": [grey.convert("RGB")]}),
    ]  # fmt: skip
    found = []
    for image, kind, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        found.append(buffer.getvalue())
    return found


def mutated(data: bytes, draws: random.Random) -> tuple[bytes, int]:
    """The bytes after one to four flips, cuts, swaps, doublings or overwritings, and the first byte that differs."""
    new = bytearray(data)
    for _ in range(draws.choice((1, 1, 1, 2, 4))):
        size = len(new)
        if not size:
            break
        one, other = sorted(draws.randrange(size) for _ in range(2))
        length = draws.randint(1, max(1, min(600, size // 3)))
        kind = draws.choice(("bits", "bits", "cut", "remove", "swap", "double", "fill", "noise"))
        if kind == "bits":
            for _ in range(draws.choice((1, 1, 3, 30))):
                new[draws.randrange(size)] ^= 1 << draws.randrange(8)
        elif kind == "cut":
            del new[one:]
        elif kind == "remove":
            del new[one : one + length]
        elif kind == "swap":
            new[one : one + length], new[other : other + length] = new[other : other + length], new[one : one + length]
        elif kind == "double":
            new[one:one] = new[one : one + length]
        elif kind == "fill":
            new[one : one + length] = bytes([draws.choice((0, 255))]) * len(new[one : one + length])
        else:
            new[one : one + length] = draws.randbytes(len(new[one : one + length]))
    first = next((n for n, (a, b) in enumerate(zip(data, new, strict=False)) if a != b), min(len(data), len(new)))
    return bytes(new), first


def tar_of(samples: list[tuple[str, bytes]]) -> tuple[bytes, dict[str, int]]:
    """A tar of images, each with a text and a JSON, and where each sample ends."""
    buffer, ends = io.BytesIO(), {}
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for stem, data in samples:
            for ext, payload in (("jpg", data), ("txt", f"text {stem}".encode()), ("json", b'{"a": 1}')):
                info = tarfile.TarInfo(f"{stem}.{ext}")
                info.size = len(payload)
                tar.addfile(info, io.BytesIO(payload))
            ends[stem] = tar.offset
    return buffer.getvalue(), ends


def fuzz(folder: Path, images: int, tars: int, seed: int = 0) -> dict:
    """Makes a corpus of so many mutated images, each between whole ones, and of so many mutated tars.

    Gives what became of them, and under `wrong` each row that is neither intact nor has a reason.
    """
    draws, whole, wrong = random.Random(seed), originals(), []
    source = folder / "source"
    source.mkdir()
    expected: dict[str, tuple[bytes, str]] = {}  # key -> bytes and text that must come out, if the row is kept
    certain: set[str] = set()  # keys of rows whose bytes nobody has been at: they must be kept
    for number in range(-(-images // (EACH - 1))):
        samples = [(f"m{n}", mutated(draws.choice(whole), draws)[0]) for n in range(EACH - 1)] + [("w", whole[3])]
        name = f"i{number:05d}.tar"
        (source / name).write_bytes(tar_of(samples)[0])
        expected |= {key_of(name, stem): (data, f"text {stem}") for stem, data in samples}
        certain.add(key_of(name, "w"))
    still = [data for n, data in enumerate(whole) if n != len(whole) - 1]  # the last one moves, and is left out
    for number in range(tars):
        samples = [(f"s{n}", draws.choice(still)) for n in range(EACH)]
        data, ends = tar_of(samples)
        data, first = mutated(data, draws)
        name = f"t{number:05d}.tar"
        (source / name).write_bytes(data)
        for stem, image in samples:
            if ends[stem] <= first:
                certain.add(key_of(name, stem))
                expected[key_of(name, stem)] = image, f"text {stem}"
    config = folder / "my.toml"
    config.write_text(f'root = "corpus"\n[source]\nkind = "webdataset"\npath = "source"\n[sets.all]\n{ONE_PROCESS}')
    started = time.monotonic()
    root = build(config)
    seconds = time.monotonic() - started
    found = {row["key"]: row for row in query(root, ROWS).to_pylist()}
    for key in certain:
        if key not in found or found[key]["reason"] not in (None, "interleaved"):
            wrong.append(f"{key}: untouched, but {found.get(key, {}).get('reason', 'not there')}")
    for key, row in found.items():
        if row["reason"] is None:
            wrong += check_kept(root, source, row, expected.get(key))
    problems = verify_root(root).problems
    reasons = Counter(row["reason"] or "kept" for row in found.values())
    return {
        "images": images, "tars": tars, "rows": len(found), "untouched": len(certain), "wrong": wrong,
        "problems": problems, "reasons": dict(reasons.most_common()), "seconds": round(seconds, 1),
    }  # fmt: skip


ROWS = """
SELECT s.key, s.reason, s.text, i.byte_offset, i.size, i.sha256, r.file, r.member, r.byte_offset AS start, s.partition
FROM candidates s JOIN rows r USING (partition, key) JOIN images i USING (partition, key)
"""


def check_kept(root: Root, source: Path, row: dict, expected: tuple[bytes, str] | None) -> list[str]:
    """What is wrong with a kept row: its bytes are those of the source, and decode, and are what was put there."""
    payload = next(name for name in root.files("images") if name.startswith(f"{row['partition']:05d}-"))
    data = read_payload(root, "images", {**row, "payload": payload})
    with open(source / row["file"], "rb") as file:
        file.seek(row["start"])
        there = file.read(row["size"])
    if data != there or sha256(data).hexdigest() != row["sha256"]:
        return [f"{row['key']}: kept, but with other bytes than the source's"]
    with Image.open(io.BytesIO(data)) as image:
        image.load()
    if expected and (data, row["text"]) != expected:
        return [f"{row['key']}: kept, but not as it was put there"]
    return []

"""Small published shard sets, and what the loader needs beside them."""

import io
import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

from PIL import Image, ImageDraw

from pipelines.engine.parquet import parquet_bytes
from pipelines.engine.tar import TarWriter
from schemas.shards import SAMPLES
from training.tokenizer import Tokenizer, save, train

INDEX = SAMPLES.remove(SAMPLES.get_field_index("pictures"))  # of sets without bounds

RELEASE = "3f2a9c81d04e"  # of every set here, whatever is in it

LINES = ["A large red square on the left and two small stars.", "OPEN 24 HOURS\nNO PARKING", "What is written there?"]


def small_tokenizer(folder: Path, lines: Iterable[str] = LINES, vocab: int = 400) -> Tokenizer:
    save(train(lines, vocab), folder)
    return Tokenizer(folder)


def publish(root: Path, name: str, samples: Iterable[tuple[str, Mapping[str, bytes]]], each: int) -> Path:
    """A set of samples, {member: bytes} by name, in shards of so many; written as the pipeline writes them."""
    folder, samples, shards = root / "shards", list(samples), []
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(samples), each)):
        file, index = io.BytesIO(), []
        tar = TarWriter(file)
        for sample, members in samples[start : start + each]:
            begin, found = tar.size, []
            for ext, data in members.items():
                at, digest = tar.add(f"{sample}.{ext}", data), sha256(data).hexdigest()
                found.append({"ext": ext, "byte_offset": at, "size": len(data), "sha256": digest})
            key, _, task = sample.partition("-")
            index.append({
                "sample": sample, "key": key, "task": task, "byte_offset": begin, "size": tar.size - begin,
                "members": found, "made_from": "",
            })  # fmt: skip
        digest = tar.close()
        stem, rows = f"{name}-{number:06d}-{digest[:16]}", parquet_bytes(index, INDEX)
        (folder / f"{stem}.tar").write_bytes(file.getvalue())
        (folder / f"{stem}.parquet").write_bytes(rows)
        shards.append({
            "number": number, "tar": f"{stem}.tar", "index": f"{stem}.parquet", "sha256": digest,
            "index_sha256": sha256(rows).hexdigest(), "samples": len(index), "bytes": tar.size, "fingerprint": "",
        })  # fmt: skip
    total, task = sum(shard["bytes"] for shard in shards), samples[0][0].partition("-")[2] if samples else ""
    card = {
        "set": name, "release": RELEASE, "task": task, "samples": len(samples), "bytes": total,
        "samples_per_shard": each, "settings": {}, "groups": [], "shards": shards,
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(card))
    return root


def drawn(number: int) -> bytes:
    """A PNG of some size."""
    image = Image.new("RGB", (40 + 37 * number % 400, 40 + 61 * number % 300), (number * 5 % 256, 80, 160))
    ImageDraw.Draw(image).rectangle((5, 5, 20 + number % 100, 30), "white", "black")
    return encoded(image, "PNG")


def captions(count: int) -> Iterable[tuple[str, dict[str, bytes]]]:
    """Samples of pictures with captions of very different lengths."""
    for number in range(count):
        text = " ".join([f"Picture {number}:", *LINES[: number % 3]])
        yield f"{number:016x}-caption", {"png": drawn(number), "json": b"{}", "txt": text.encode()}


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def flip(path: Path, at: int) -> None:
    """Changes one bit of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))

"""Shard sets published without a run: samples of any task, as the stage packs them, older ones among them."""

import io
import json
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from PIL import Image

from pipelines.engine.commit import Commit, commit_json
from pipelines.engine.parquet import parquet_bytes
from pipelines.engine.releases import release_of
from pipelines.engine.root import Root
from pipelines.engine.tar import TarWriter
from pipelines.stages.samples import SampleImage, add_sample
from schemas.selection import STAGE, SetConfig
from schemas.shards import SAMPLES, Card, SampleRow, ShardEntry

SCHEMA = pa.schema(
    [field for field in SAMPLES if field.name not in SampleRow.__optional_keys__]
)  # of sets without bounds
FILES = [{"path": "a/first.parquet", "first": 0, "buckets": 1, "split": "0"}]  # of the source, as root.json has them


class Packed(NamedTuple):
    document: dict
    text: str | None = None
    images: Sequence[tuple[str, bytes]] = ()  # format, bytes


def image(number: int, format: str = "PNG", **options) -> bytes:
    """A picture whose size and pixels say its number."""
    file = io.BytesIO()
    Image.new("RGB", (20 + number % 50, 16), (number * 7 % 256, 80, number // 36 % 256)).save(file, format, **options)
    return file.getvalue()


def key_of(name: object) -> str:
    return sha256(str(name).encode()).hexdigest()[:16]


def caption(
    name: object, text: str, data: bytes | None = None, task: str = "caption", alt: str | None = None, **more
) -> Packed:
    said = {"key": key_of(name), "task": task, "url": None, "text": alt or text, "extra": {}, "width": 20, "height": 16}
    lines = [{"text": text, "confidence": 0.9, "box": [0.0] * 8}]
    said |= {"sha256": "00", "phash": "0" * 16, "ocr": lines, "ocr_verdict": "good"} | more
    return Packed(said, text, [("PNG", data or image(int(key_of(name)[:4], 16)))])


def talk(name: object, turns: Sequence[tuple[str, str]], images: Sequence[tuple[str, bytes]] = (), **more) -> Packed:
    """A conversation; `images`: the mark and the bytes of each."""
    said = [{"role": role, "content": text} for role, text in turns]
    talk = {"turns": said, "images": [mark for mark, _ in images]}
    document = {"key": key_of(name), "task": "conversation", "url": None, "conversation": talk, "extra": {"id": name}}
    return Packed(document | {"ocr": None, "ocr_verdict": None} | more, None, [("PNG", data) for _, data in images])


def pair(name: object, question: str, chosen: str, rejected: str, data: bytes | None = None, **more) -> Packed:
    said = {"question": question, "chosen": chosen, "rejected": rejected}
    said |= {"chosen_score": 0, "rejected_score": -2, "margin": 2, "agreement": 0.5}
    document = {"key": f"{key_of(name)}_0_1", "task": "preference", "url": None, "pair": said, "image": key_of(name)}
    document |= {"instruction": "q", "extra": None, "width": 20, "height": 16, "sha256": "00", "phash": "0" * 16}
    return Packed(document | more, None, [("PNG", data or image(int(key_of(name)[:4], 16)))])


def publish(
    folder: Path, name: str, samples: Iterable[Packed], each: int = 4, settings: dict | None = None,
    selected: dict | None = None, stable_json: bool = False,
) -> Root:  # fmt: skip
    """Publishes a set in shards of so many samples; `selected`: the settings by which its samples were selected."""
    root, samples, entries = Root(str(folder)), list(samples), []
    root.create()
    task = samples[0].document["task"]
    for number, start in enumerate(range(0, len(samples), each)):
        file, index = io.BytesIO(), []
        tar = TarWriter(file)
        for packed in samples[start : start + each]:
            images = [SampleImage(data, ext.lower(), sha256(data).hexdigest()) for ext, data in packed.images]
            row = {"key": packed.document["key"], "task": task, "target": packed.text, "made_from": ""}
            row["document"] = json.dumps(packed.document, ensure_ascii=False)
            index.append(add_sample(tar, row, images, SetConfig(task=task, stable_json=stable_json)))
        digest = tar.close()
        stem, rows = f"{name}-{number:06d}-{digest[:16]}", parquet_bytes(index, SCHEMA)
        root.write(f"shards/{stem}.tar", file.getvalue())
        root.write(f"shards/{stem}.parquet", rows)
        entries.append(ShardEntry(
            number=number, tar=f"{stem}.tar", index=f"{stem}.parquet", sha256=digest,
            index_sha256=sha256(rows).hexdigest(), bytes=tar.size, samples=len(index), fingerprint=digest,
        ))  # fmt: skip
    card = Card(
        set=name, release=release_of(entries), task=task, samples=len(samples), bytes=sum(e["bytes"] for e in entries),
        samples_per_shard=each, settings=settings or {"set": name, "task": task}, groups=[], shards=entries,
    )  # fmt: skip
    root.write("root.json", json.dumps({"makes": [], "sets": [name], "files": FILES}).encode())
    data = json.dumps(card).encode()
    root.write(f"shards/{name}@{card['release']}.json", data)
    root.write(f"shards/{name}.json", data)
    if selected:
        commit = Commit("selection", 0, 2, {name: selected}, {}, "0")
        root.write("selection/00000.parquet", parquet_bytes([], STAGE.schema, commit_json(commit)))
    return root

"""A sample as members of a shard's tar: its images, `.json`, and `.txt`."""

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from pipelines.engine.tar import TarWriter
from schemas.arrow import Row
from schemas.selection import SetConfig
from schemas.shards import VARYING, Picture
from schemas.views import PREFERENCE

NUMBERS = ("width", "height")  # columns of `.json` that may be missing; all others that may be are texts


class SampleImage(NamedTuple):
    data: bytes
    ext: str
    sha256: str
    picture: Picture | None = None  # in a set with bounds


def add_sample(tar: TarWriter, sample: Row, images: Sequence[SampleImage], config: SetConfig) -> Row:
    """Appends one sample's members; returns its row of the index. A conversation's images are 0.jpg, 1.png, …

    Its target is its `.txt`; conversations and pairs have it only in their `.json`.
    """
    start, name, several = tar.size, f"{sample['key']}-{sample['task']}", sample["task"] == "conversation"
    exts = [image.ext.replace("jpeg", "jpg") for image in images]
    exts = [f"{number}.{ext}" for number, ext in enumerate(exts)] if several else exts
    pictures: list[Picture] = [
        {**image.picture, "ext": ext} for image, ext in zip(images, exts, strict=True) if image.picture
    ]
    document = sample["document"]
    if config.encodes or config.stable_json:
        told = json.loads(document)
        told = with_pictures(told, images, pictures) if config.encodes else told
        document = as_json(stable(told) if config.stable_json else told)
    texts = {"json": document} | ({} if sample["task"] in ("conversation", PREFERENCE) else {"txt": sample["target"]})
    files = [(ext, image.data, image.sha256) for ext, image in zip(exts, images, strict=True)]
    files += [(ext, text.encode(), sha256(text.encode()).hexdigest()) for ext, text in texts.items()]
    members = [
        {"ext": ext, "byte_offset": tar.add(f"{name}.{ext}", data), "size": len(data), "sha256": digest}
        for ext, data, digest in files
    ]
    row = {
        "sample": name, "key": sample["key"], "task": sample["task"], "byte_offset": start, "size": tar.size - start,
        "members": members, "made_from": sample["made_from"],
    }  # fmt: skip
    return row | {"pictures": pictures} if config.encodes else row


def with_pictures(document: Row, images: Sequence[SampleImage], pictures: Sequence[Picture]) -> Row:
    """A document with `pictures`: the size, format and digest of each image in the shard, and those it came with.

    `width`, `height` and the boxes of `ocr` are then in pixels of the image in the shard. `sha256` and `phash` remain
    those of the original, by which takedowns and other lists name it.
    """
    own = next((picture for picture in pictures[:1] if picture["original_sha256"] == document["sha256"]), None)
    if own:
        document = document | {"width": own["width"], "height": own["height"]}
        if document.get("ocr"):
            document["ocr"] = [line | {"box": _scaled(line["box"], own)} for line in document["ocr"]]
    return document | {"pictures": [_told(*pair) for pair in zip(images, pictures, strict=True)]}


def _scaled(box: Sequence[float], picture: Picture) -> list[float]:
    """The x and y of a box's corners, in pixels of the image in the shard."""
    ratios = picture["width"] / picture["original_width"], picture["height"] / picture["original_height"]
    if ratios == (1, 1):
        return list(box)
    return [round(value * ratios[place % 2], 2) for place, value in enumerate(box)]


def _told(image: SampleImage, picture: Picture) -> Row:
    was = {
        "sha256": picture["original_sha256"], "size": picture["original_size"], "format": picture["original_format"],
        "width": picture["original_width"], "height": picture["original_height"],
    }  # fmt: skip
    return {
        "member": picture["ext"], "sha256": image.sha256, "size": len(image.data), "format": picture["format"],
        "width": picture["width"], "height": picture["height"], "original": was,
    }  # fmt: skip


def stable(document: Row) -> Row:
    """A document whose columns have one type in all samples, as `datasets` and the like need it: what differs in type
    from row to row is JSON text, a missing text is empty, a missing number is 0."""
    return {name: _stable(name, value) for name, value in document.items()}


def _stable(name: str, value: Any) -> Any:
    if name in VARYING:
        return as_json(value)
    if value is None:
        return 0 if name in NUMBERS else ""
    return value


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

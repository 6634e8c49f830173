"""What the public trainers make of an export, by the documented rules of their formats.

Each gives for every entry its images, as bytes, and its turns: a role, and texts between the numbers of images. Each
fails where its trainer would, or would count an image wrongly.
"""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from PIL import Image


class Read(NamedTuple):
    images: list[bytes]
    turns: list[tuple[str, list[str | int]]]


TOKENS = re.compile(r"</?(?:image|slice|image_id|unk)>|<image_\d+>|<\|\w+_pad\|>|<video>")  # that readers replace


def turn(role: str, pieces: list[str | int]) -> tuple[str, list[str | int]]:
    """A turn without empty texts, and without the line break behind an image, which readers put there or not."""
    parts: list[str | int] = []
    for piece in pieces:
        if isinstance(piece, str):
            assert not TOKENS.search(piece), piece
            piece = piece.removeprefix("\n") if parts and isinstance(parts[-1], int) else piece
        if piece != "":
            parts.append(piece)
    return role, parts


def minicpm_v(folder: Path) -> list[Read]:
    """`<image>` in the first turn is the only image; of several, each numbered mark is one of the entry's."""
    entries = []
    for entry in json.loads((folder / "conversations.json").read_text("utf-8")):
        turns, image = entry["conversations"], entry.get("image", {})
        roles = [said["role"] for said in turns]
        assert roles == (["user", "assistant"] * len(roles))[: len(roles)]
        assert len(roles) > 1
        paths = {"<image>": image} if isinstance(image, str) else image
        marks, numbers, parsed = [*paths], [], []
        for place, said in enumerate(turns):
            if isinstance(image, str):
                pieces = re.split("(<image>)", said["content"]) if place == 0 else [said["content"]]
            else:
                pieces = re.split(r"(<image_\d+>)", said["content"]) if marks else [said["content"]]
            parts = [marks.index(piece) if number % 2 else piece for number, piece in enumerate(pieces)]
            numbers += [part for part in parts if isinstance(part, int)]
            parsed.append(turn(said["role"], parts))
        assert numbers == [*range(len(marks))]  # each once, in the order of the images
        entries.append(Read([opened(folder / path) for path in paths.values()], parsed))
    return entries


def llava(folder: Path) -> list[Read]:
    """Each `<image>` is the next image; people and the model take turns, people first."""
    entries = []
    for entry in json.loads((folder / "conversations.json").read_text("utf-8")):
        senders = [said["from"] for said in entry["conversations"]]
        assert senders == (["human", "gpt"] * len(senders))[: len(senders)]
        image = entry.get("image", [])
        paths, parsed, number = [image] if isinstance(image, str) else image, [], 0
        for said in entry["conversations"]:
            parts: list[str | int] = []
            for place, piece in enumerate(said["value"].split("<image>")):
                if place:
                    parts.append(number)
                    number += 1
                parts.append(piece)
            parsed.append(turn({"human": "user", "gpt": "assistant"}[said["from"]], parts))
        assert number == len(paths)
        entries.append(Read([opened(folder / path) for path in paths], parsed))
    return entries


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("data/*.parquet")):
        yield from pq.read_table(file).to_pylist()


def trl(folder: Path) -> list[Read]:
    """By TRL's own function, which puts images into messages and counts them."""
    from trl.data_utils import prepare_multimodal_messages

    entries = []
    for row in rows(folder):
        images = [image["bytes"] for image in row["images"]]
        messages = row["messages"] if "messages" in row else row["prompt"] + row["chosen"]
        parsed = []
        for said in prepare_multimodal_messages(messages, images):
            parts = [images.index(part["image"]) if "image" in part else part["text"] for part in said["content"]]
            parsed.append(turn(said["role"], parts))
        entries.append(Read(images, parsed))
    return entries


def huggingface(folder: Path) -> list[Read]:
    """Of conversations and pairs: each `<image>` is the next image."""
    entries = []
    for row in rows(folder):
        if "messages" not in row:
            answers = [turn("user", [0, row["question"]]), turn("assistant", [row["chosen"]])]
            entries.append(Read([row["image"]["bytes"]], answers))
            continue
        number, parsed = 0, []
        for said in row["messages"]:
            pieces = said["content"].split("<image>")
            parts = [part for n, piece in enumerate(pieces) for part in ([number + n - 1] if n else []) + [piece]]
            number += len(pieces) - 1
            parsed.append(turn(said["role"], parts))
        assert number == len(row["images"])
        entries.append(Read([image["bytes"] for image in row["images"]], parsed))
    return entries


def rlaif_v(folder: Path) -> list[Read]:
    """The image stands in front of the question."""
    return [
        Read([row["image"]["bytes"]], [turn("user", [0, row["question"]]), turn("assistant", [row["chosen"]])])
        for row in rows(folder)
    ]


READERS = {"minicpm-v": minicpm_v, "llava": llava, "trl": trl, "huggingface": huggingface, "rlaif-v": rlaif_v}


def opened(path: Path) -> bytes:
    """The bytes of an image that a reader can open, upright without EXIF."""
    data = path.read_bytes()
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.getexif().get(274, 1) == 1
    return data

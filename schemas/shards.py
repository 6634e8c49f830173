"""The index of a shard, and the card that names the shards of a set: the contract with all readers of shards."""

import json
from collections.abc import Iterator
from hashlib import sha256
from itertools import groupby
from typing import Any, NotRequired, TypedDict

from schemas.arrow import arrow_schema


class Damaged(Exception):
    """Bytes of a shard differ from what was published."""


class Member(TypedDict):
    ext: str
    byte_offset: int             # of the payload in the tar, bytes
    size: int               # bytes
    sha256: str


class Picture(TypedDict):
    """An image of a sample in a set with bounds: what it is in the shard, and what it was when it came."""
    ext: str                # of its member
    format: str             # JPEG, PNG, WEBP, …
    width: int              # pixels
    height: int             # pixels
    original_sha256: str    # the member's own, if the image was copied as it came
    original_size: int      # bytes
    original_format: str
    original_width: int     # pixels, upright
    original_height: int    # pixels, upright


class SampleRow(TypedDict):
    sample: str             # <key>-<task>: the name in the tar
    key: str
    task: str
    byte_offset: int             # of the sample's first header in the tar, bytes
    size: int               # to the end of its last member's padding, bytes
    members: list[Member]
    made_from: str          # hash of all that the sample says
    pictures: NotRequired[list[Picture] | None]     # of a set with bounds: its images, in the order of their members


SAMPLES = arrow_schema(SampleRow)


class ShardEntry(TypedDict):
    number: int             # of the shard in its set
    tar: str                # file name beside the card
    index: str              # file name beside the card
    sha256: str             # of the tar
    index_sha256: str
    bytes: int              # of the tar
    samples: int
    fingerprint: str        # what it was made from


class Group(TypedDict):
    first: int              # number of the group's first partition
    shards: int             # how many shards its samples are spread over
    settled: bool           # full: that number stays
    inputs: str             # fingerprint of all that the group was made from


class Card(TypedDict):
    set: str
    release: str            # digest of the shards' digests: names this content
    task: str
    samples: int
    bytes: int
    samples_per_shard: int
    settings: dict[str, object]     # what the set was made with
    groups: list[Group]
    shards: list[ShardEntry]        # in order


# A sample's .json. With `stable_json` each of these is a JSON text, since its content differs in type from row to row

VARYING = ("extra", "conversation", "ocr", "stages", "pictures")


def document_of(data: str | bytes) -> dict[str, Any]:
    """A sample's .json as it is without `stable_json`. Raises `ValueError` if it is not a JSON object."""
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    texts = {name: json.loads(document[name]) for name in VARYING if isinstance(document.get(name), str)}
    return document | texts


# What training plans for a release stands beside it, in shards/packs/<what it was planned for>/<name of a unit>

PACKS = "packs"
UNIT = 10_000               # samples


def units_of(card: Card) -> Iterator[tuple[tuple[int, ...], str]]:
    """Units of shards whose packs are planned together: their places on the card, and the name of their file of packs.

    Units follow the numbers of shards, so that an empty or new shard changes no other unit.
    """
    entries, together = card["shards"], -(-UNIT // card["samples_per_shard"])
    for number, group in groupby(range(len(entries)), lambda place: entries[place]["number"] // together):
        places = tuple(group)
        made_of = [[entries[place][name] for name in ("number", "sha256", "index_sha256")] for place in places]
        digest = sha256(json.dumps(made_of).encode()).hexdigest()[:16]
        yield places, f"{card['set']}-{number:06d}-{digest}.arrows"

"""A shard's index, and the card that names a set's shards: the contract with every reader of shards."""

import json
from collections.abc import Iterator
from hashlib import sha256
from itertools import groupby
from typing import TypedDict

from schemas.arrow import arrow_schema


class Damaged(Exception):
    """Bytes of a shard differ from what was published."""


class Member(TypedDict):
    ext: str
    byte_offset: int             # of the payload in the tar, bytes
    size: int               # bytes
    sha256: str


class SampleRow(TypedDict):
    sample: str             # <key>-<task>: the name in the tar
    key: str
    task: str
    byte_offset: int             # of the sample's first header in the tar, bytes
    size: int               # to the end of its last member's padding, bytes
    members: list[Member]
    made_from: str          # hash of all that the sample says


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


# What training plans for a release stands beside it, in shards/packs/<what it was planned for>/<name of a unit>

PACKS = "packs"
UNIT = 10_000               # samples


def units_of(card: Card) -> Iterator[tuple[tuple[int, ...], str]]:
    """Groups of shards whose packs are planned together: their places on the card, and the name of the file of packs.

    Units follow the numbers of shards, so that an empty or new shard changes no other unit.
    """
    entries, together = card["shards"], -(-UNIT // card["samples_per_shard"])
    for number, group in groupby(range(len(entries)), lambda place: entries[place]["number"] // together):
        places = tuple(group)
        made_of = [[entries[place][name] for name in ("number", "sha256", "index_sha256")] for place in places]
        digest = sha256(json.dumps(made_of).encode()).hexdigest()[:16]
        yield places, f"{card['set']}-{number:06d}-{digest}.arrows"

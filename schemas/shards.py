"""The index of a shard, and the card that names the shards of a set: the contract with all readers of shards."""

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import groupby
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from schemas.arrow import arrow_schema
from schemas.checked import Count, FileName, Whole, checked, is_name, plain_json


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
    original_sha256: str    # the member's own, if the image was copied unchanged
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
    number: Count           # of the shard in its set
    tar: FileName           # beside the card
    index: FileName         # beside the card
    sha256: str             # of the tar
    index_sha256: str
    bytes: Count            # of the tar
    samples: Count
    fingerprint: str        # what it was made from


class Group(TypedDict):
    first: Count            # number of the group's first partition
    shards: Count           # how many shards its samples are spread over
    settled: bool           # full: that number stays
    inputs: str             # fingerprint of all that the group was made from


@with_config(ConfigDict(extra="allow"))
class Card(TypedDict):
    set: FileName
    release: FileName       # digest of the shards' digests: names this content
    task: str
    samples: Count
    bytes: Count
    samples_per_shard: Annotated[Count, Field(ge=1)]
    settings: dict[str, object]     # what the set was made with
    groups: list[Group]
    shards: list[ShardEntry]        # in order


def wrong_member(sample: str, member: Member) -> str | None:
    """Why a member of an index that a stranger may have written is in no tar; None if it can be."""
    if not is_name(f"{sample}.{member['ext']}"):
        return f"{member['ext']!r:.100} is not the suffix of a file's name"
    if not (0 <= member["byte_offset"] < 1 << 53 and 0 <= member["size"] < 1 << 53):
        return f"{member['size']} bytes at {member['byte_offset']} are in no tar"
    return None


class Turn(TypedDict):
    role: Literal["system", "user", "assistant"]
    content: str


class Conversation(TypedDict):
    turns: Annotated[list[Turn], Field(min_length=1)]
    images: list[str]       # the mark of each image, in order


class Pair(TypedDict):
    question: str
    chosen: str
    rejected: str
    chosen_score: Whole | None
    rejected_score: Whole | None
    margin: Whole | None
    agreement: float | None


class Line(TypedDict):
    text: str
    confidence: float
    box: list[float]        # x and y of its corners, pixels


class Corrupted(TypedDict):
    """A line of text that is corrupted in the image of the shard."""
    line: Count             # its place in `ocr`, from 0 on
    level: str


class Original(TypedDict):
    sha256: str


class Told(TypedDict):
    """What a document says of an image of a set with bounds, as far as readers here use it."""
    member: str
    sha256: str
    original: Original


@with_config(ConfigDict(extra="allow"))
class Document(TypedDict):
    """A sample's .json, as far as readers here use it."""
    key: str
    task: NotRequired[str]
    url: NotRequired[str | None]
    text: NotRequired[str | None]
    extra: NotRequired[dict[str, object] | None]
    source: NotRequired[str | None]
    width: NotRequired[Count | None]                    # pixels
    height: NotRequired[Count | None]                   # pixels
    sha256: NotRequired[str | None]
    phash: NotRequired[str | None]
    ocr: NotRequired[list[Line] | None]
    ocr_verdict: NotRequired[str | None]
    corrupted: NotRequired[list[Corrupted]]             # of the task reconstruct
    conversation: NotRequired[Conversation]
    pair: NotRequired[Pair]
    image: NotRequired[str | None]                      # key of a pair's image
    pictures: NotRequired[list[Told]]


# A sample's .json. With `stable_json` each of these is a JSON text, since its content differs in type from row to row

VARYING = ("extra", "conversation", "ocr", "corrupted", "stages", "pictures")


def document_of(data: str | bytes) -> dict[str, Any]:
    """A sample's .json as it is without `stable_json`. Raises `ValueError` if it is not a JSON object."""
    try:
        return _with_values(json.loads(data))
    except RecursionError:
        raise ValueError("has too many levels") from None


def checked_document(data: bytes) -> Document:
    """A sample's .json as a stranger may have written it. Raises `ValueError` that names the field that is wrong."""
    return checked(Document, _with_values(plain_json(data), plain_json))


def _with_values(document: Any, parsed: Callable[[str], Any] = json.loads) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    return document | {name: parsed(document[name]) for name in VARYING if isinstance(document.get(name), str)}


# The plans of training for a release are beside it, in shards/packs/<what it was planned for>/<name of a unit>

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

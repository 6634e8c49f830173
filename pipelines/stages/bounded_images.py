"""The images of a shard set with bounds: each is encoded once, and from then on taken from the shards that have it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pipelines.engine.commit import read_commit
from pipelines.engine.payload import read_payload
from pipelines.engine.releases import read_index
from pipelines.engine.root import Corrupt, Root
from pipelines.engine.tar import TarWriter
from pipelines.stages.corruption import CORRUPTOR, Region
from pipelines.stages.encoding import ENCODER, Encoded, encode, is_within
from pipelines.stages.samples import SampleImage
from schemas.arrow import Row
from schemas.selection import BOUNDS, CORRUPTING, FORMATS, RECONSTRUCT, SetConfig
from schemas.shards import Picture, ShardEntry


class Place(NamedTuple):
    """Where an encoded image is, and what it is."""

    tar: str | None  # None: the tar that is being written
    byte_offset: int
    size: int  # bytes
    sha256: str
    format: str
    width: int  # pixels
    height: int
    original_width: int
    original_height: int


EXTS = {format: ext for ext, format in FORMATS.items()}
MEASURED = Place._fields[4:]


def encoded_with(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What encoded images depend on, among a set's settings."""
    return {name: settings[name] for name in ("encoder", "corruption", *BOUNDS) if name in settings}


def settings_of(config: SetConfig) -> dict[str, Any]:
    """The settings of encoders, as a set's fingerprint holds them: none if all images are copied unchanged."""
    settings = config.recorded(include=BOUNDS) | {"encoder": ENCODER} if config.encodes else {}
    if config.task == RECONSTRUCT:
        settings["corruption"] = config.recorded(include=("seed", *CORRUPTING)) | {"corruptor": CORRUPTOR}
    return settings


class BoundedImages:
    """The images of one shard that is being packed. `earlier` shards may have some of them already, the first ones most
    likely; an index is read when an image was in none before it."""

    def __init__(self, root: Root, config: SetConfig, tar: TarWriter, earlier: Iterable[ShardEntry]):
        self.root, self.config, self.tar, self.unread = root, config, tar, iter(earlier)
        self.places: dict[str, Place] = {}  # by the SHA-256 of originals; of corrupted ones, by what samples say

    def fit(self, picture: Row) -> SampleImage:
        """An image within the bounds. `picture`: where its original is, and what it is."""
        format, sha256 = picture["ext"].upper(), picture["sha256"]
        record = Picture(
            ext=picture["ext"], format=format, width=picture["width"], height=picture["height"],
            original_sha256=sha256, original_size=picture["size"], original_format=format,
            original_width=picture["width"], original_height=picture["height"],
        )  # fmt: skip
        regions = regions_of(picture, self.config)
        if not regions and is_within(format, picture["width"], picture["height"], self.config):
            return SampleImage(read_payload(self.root, "images", picture), record["ext"], sha256, record)
        place = self._place(picture["made_from"] if regions else sha256)
        if place and (data := self._read(place)):
            return SampleImage(data, EXTS[place.format], place.sha256, _measured(record, place.format, place))
        encoded = encode(read_payload(self.root, "images", picture), self.config, regions)
        record = _measured(record, FORMATS[encoded.ext], encoded)
        return SampleImage(encoded.data, encoded.ext, hashlib.sha256(encoded.data).hexdigest(), record)

    def packed(self, sample: Row, tar: str | None = None) -> None:
        """Remembers the images of a sample that were encoded: of one that was written into this shard, or into an
        earlier one, whose tar is named. `sample`: its row of the index."""
        for member, picture in zip(sample["members"], sample.get("pictures") or (), strict=False):
            if member["sha256"] != picture["original_sha256"]:
                place = (member["byte_offset"], member["size"], member["sha256"], *(picture[name] for name in MEASURED))
                made_from = sample["made_from"] if self.config.task == RECONSTRUCT else picture["original_sha256"]
                self.places[made_from] = Place(tar, *place)

    def _place(self, made_from: str) -> Place | None:
        while made_from not in self.places and (entry := next(self.unread, None)):
            name = f"shards/{entry['index']}"
            commit = read_commit(self.root, name)
            if commit and encoded_with(commit.settings) == settings_of(self.config):
                for row in read_index(self.root, entry):
                    self.packed(row, entry["tar"])
        return self.places.get(made_from)

    def _read(self, place: Place) -> bytes | None:
        """The bytes at a place, or None if they are gone or have changed: then the image is encoded again."""
        if place.tar is None:
            return self.tar.read(place.byte_offset, place.size)
        try:
            data = self.root.read_range(f"shards/{place.tar}", place.byte_offset, place.size)
        except (FileNotFoundError, EOFError, Corrupt):
            return None
        return data if hashlib.sha256(data).hexdigest() == place.sha256 else None


def regions_of(sample: Row, config: SetConfig) -> list[Region]:
    """The lines of text that a sample has corrupted, by its document."""
    if config.task != RECONSTRUCT:
        return []
    document = json.loads(sample["document"])
    lines = ((line["line"], line["level"]) for line in document["corrupted"])
    return [
        Region(tuple(document["ocr"][line]["box"]), level, f"{config.seed}/{sample['key']}/{line}")
        for line, level in lines
    ]


def _measured(record: Picture, format: str, encoded: Place | Encoded) -> Picture:
    """The record of an image with the format and the sizes of what it was encoded as."""
    return {
        **record, "format": format, "width": encoded.width, "height": encoded.height,
        "original_width": encoded.original_width, "original_height": encoded.original_height,
    }  # fmt: skip

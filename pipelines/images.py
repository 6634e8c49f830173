"""Copies each image's bytes as they came, and measures them: `python -m pipelines.images my.toml`."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import imagehash

from pipelines.partition import PartitionStage, Rejected
from pipelines.root import Root
from pipelines.sources import Source
from schemas.arrow import Row
from schemas.config import ImagesConfig
from schemas.images import IMAGES, REASONS, RETRYABLE
from schemas.pictures import MODES, open_image, upright

ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND", b"GIF8": b";"}  # how files of a format begin and end


def inspect(data: bytes, config: ImagesConfig) -> Row:
    """Format, width, height and perceptual hash of an image that decodes; else raises `Rejected`."""
    if len(data) > config.max_bytes:
        raise Rejected("too_large", f"{len(data)} bytes")
    try:
        image = open_image(data)
    except Exception as error:  # decoders raise whatever they like on bytes from strangers
        raise undecodable(data, f"starts with {data[:16]!r}") from error
    (width, height), format = image.size, "JPEG" if image.format == "MPO" else image.format
    if width * height > config.max_pixels:
        raise Rejected("too_many_pixels", f"{width}x{height}")
    if min(width, height) < config.min_side:
        raise Rejected("too_small", f"{width}x{height}")
    if max(width, height) > config.max_aspect_ratio * min(width, height):
        raise Rejected("extreme_aspect_ratio", f"{width}x{height}")
    if image.mode not in MODES:
        raise Rejected("unsupported_mode", image.mode)
    try:
        if image.format != "MPO" and getattr(image, "is_animated", False):  # an MPO is a JPEG with previews behind it
            raise Rejected("animated", f"{image.n_frames} frames")
        image.load()
        phash = str(imagehash.phash(upright(image)))
    except Rejected:
        raise
    except Exception as error:
        raise undecodable(data, str(error)) from error
    return {"format": format, "width": width, "height": height, "phash": phash}


def undecodable(data: bytes, detail: str) -> Rejected:
    """What is wrong with bytes that do not decode."""
    if b"<html" in data[:1000].lower() or data[:1000].lstrip().lower().startswith(b"<!doctype html"):
        return Rejected("web_page", detail)
    end = next((end for begin, end in ENDS.items() if data.startswith(begin)), b"")
    short = data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 > len(data)
    return Rejected("truncated" if short or end not in data[-32:] or "truncated" in detail else "unreadable", detail)


@dataclass(frozen=True)
class CopyImages(PartitionStage):
    source: Source
    config: ImagesConfig

    name = "images"
    version = 2
    schema = IMAGES
    reasons = REASONS
    retryable = frozenset(RETRYABLE)
    reads = {"rows": ("key", "url", "sha256", "reason")}
    finds = {"rows": ("file", "member", "byte_offset", "size")}
    places = frozenset({"byte_offset"})
    payload = True

    def settings(self) -> dict[str, Any]:
        return self.config.model_dump()

    def make(self, rows: Iterable[dict[str, Row]], root: Root) -> Iterator[tuple[str, Row | Rejected]]:
        for row in rows:
            try:
                yield row["rows"]["key"], self._copy(row["rows"])
            except Rejected as rejected:
                yield row["rows"]["key"], rejected

    def _copy(self, row: Row) -> Row:
        if row["file"] is None and row["member"] is None:
            if row["url"]:
                raise Rejected("not_fetched", row["url"])
            return {}  # a conversation without an image
        try:
            data = self.source.load(row)
        except (FileNotFoundError, EOFError) as error:
            raise Rejected("missing_in_source", str(error)) from error
        sha256 = hashlib.sha256(data).hexdigest()
        if row["sha256"] and sha256 != row["sha256"]:
            raise Rejected("changed_in_source", f"its SHA-256 was {row['sha256'][:16]}…, is {sha256[:16]}…")
        return {**inspect(data, self.config), "sha256": sha256, "bytes": data}


if __name__ == "__main__":
    from pipelines.corpus import main

    main("images")

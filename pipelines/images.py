"""Copies each image's bytes as they came, and measures them: `python -m pipelines.images my.toml`."""

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import imagehash
from PIL import Image, ImageOps

from pipelines.partition import PartitionStage, Rejected
from pipelines.root import Root
from pipelines.sources import Source
from schemas.arrow import Row
from schemas.config import ImagesConfig
from schemas.images import IMAGES, REASONS, RETRYABLE

Image.MAX_IMAGE_PIXELS = None  # `inspect` has its own limit, looked at before decoding
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def inspect(data: bytes, config: ImagesConfig) -> Row:
    """Format, width, height and perceptual hash of an image that decodes; else raises `Rejected`."""
    if len(data) > config.max_bytes:
        raise Rejected("too_large", f"{len(data)} bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # decoders raise whatever they like on bytes from strangers
        raise Rejected("unreadable", f"starts with {data[:16]!r}") from error
    width, height = image.size
    if width * height > config.max_pixels:
        raise Rejected("too_many_pixels", f"{width}x{height}")
    if min(width, height) < config.min_side:
        raise Rejected("too_small", f"{width}x{height}")
    try:
        image.load()
        phash = str(imagehash.phash(upright(image)))
    except Exception as error:
        cut = isinstance(error, OSError) and "truncated" in str(error)
        raise Rejected("truncated" if cut else "unreadable", str(error)) from error
    return {"format": image.format, "width": width, "height": height, "phash": phash}


def upright(image: Image.Image) -> Image.Image:
    """Any image as RGB, turned as its EXIF says; what is transparent becomes white."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("P", "PA", "LA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True)
class CopyImages(PartitionStage):
    source: Source
    config: ImagesConfig

    name = "images"
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

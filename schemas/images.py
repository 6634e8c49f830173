"""One image as it came: measured, kept or not."""

from typing import TypedDict

from schemas.arrow import arrow_schema


class ImageRow(TypedDict):
    key: str
    byte_offset: int | None      # of the bytes in the partition's tar; null, and all else, if the row has no image
    size: int | None        # bytes
    sha256: str | None      # of the bytes
    format: str | None      # as its content says: JPEG, PNG, WEBP, …
    width: int | None       # pixels, as stored
    height: int | None      # pixels, as stored
    phash: str | None       # 64-bit perceptual hash (DCT), 16 hex digits
    reason: str | None
    detail: str | None
    made_from: str


IMAGES = arrow_schema(ImageRow)

REASONS = {
    "unreadable": "no decoder knows these bytes",
    "truncated": "the image ends too early",
    "web_page": "HTML, as servers send where an image was",
    "too_small": "a side is shorter than images.min_side",
    "too_large": "more bytes than images.max_bytes",
    "too_many_pixels": "more pixels than images.max_pixels; found before decoding",
    "extreme_aspect_ratio": "a side is more than images.max_aspect_ratio times the other",
    "animated": "more than one frame or page",
    "unsupported_mode": "pixels that have no plain reading as RGB",
    "not_fetched": "only a URL is known, no bytes are here",
    "changed_in_source": "the bytes are not those that were seen when the source was split",
    "missing_in_source": "the source no longer has the bytes",
}
RETRYABLE = {"not_fetched", "changed_in_source", "missing_in_source"}

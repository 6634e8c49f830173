"""One image as it came: measured, kept or not."""

from typing import TypedDict

from schemas import takedown
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
    robots_tag: str | None  # the X-Robots-Tag headers that came with the bytes
    reason: str | None
    detail: str | None
    made_from: str


IMAGES = arrow_schema(ImageRow)

OF_BYTES = {
    "not_an_image": "no image of a format that is read here; HTML, mostly",
    "unreadable": "begins like an image, but no decoder makes sense of it",
    "truncated": "the image ends too early",
    "animated": "more than one frame or page",
    "unsupported_mode": "pixels that have no plain reading as RGB",
}
OF_SETTINGS = {
    "too_small": "a side is shorter than images.min_side",
    "too_large": "more bytes than images.max_bytes",
    "too_many_pixels": "more pixels than images.max_pixels; found before decoding",
    "extreme_aspect_ratio": "a side is more than images.max_aspect_ratio times the other",
    "hash_mismatch": "the bytes are not those whose SHA-256 or MD5 the source names",
    "opt_out": "its owner, or a list of fetch.opt_out, does not want it to be used; the detail says who",
    "blocked_address": "the host is not on the public internet, nor below one of fetch.allow_hosts",
    "not_fetched": "only a URL is known, and there is no table [fetch]",
}
OF_SERVERS = {
    "http_403": "the server refuses",
    "http_404": "there is nothing (any more)",
    "http_410": "there is nothing any more",
    "http_429": "too many requests, more than once or for longer than fetch.deadline",
    "http_4xx": "any other fault of the request; the status is in the detail",
    "http_5xx": "any fault of the server; the status is in the detail",
    "timeout": "no connection, no byte, or no end within the limits of [fetch]",
    "connection": "refused, reset, or closed before the end",
    "dns": "no such name, or nobody who knows it",
    "tls": "no connection that can be trusted",
    "redirect_loop": "sent on in a circle, or too often",
    "bad_url": "no address of the web",
    "bad_answer": "no HTTP, a status that gives no image, a compression that was not asked for",
}
OF_SOURCES = {
    "changed_in_source": "the bytes are not those that were seen when the source was split",
    "missing_in_source": "the source no longer has the bytes",
}
REASONS = OF_BYTES | OF_SETTINGS | OF_SERVERS | OF_SOURCES | {takedown.REASON: takedown.MEANING}
RETRYABLE = {*OF_SOURCES, "not_fetched", "http_429", "http_5xx", "timeout", "connection", "dns", "tls"}

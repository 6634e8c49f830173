"""One image as it came: measured, kept or not."""

import re
from typing import Annotated, NotRequired, TypedDict

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from schemas import takedown
from schemas.config.table import Location, Table
from schemas.stage import stage_info


class ImageRow(TypedDict):
    key: str
    byte_offset: int | None      # of the bytes in the partition's tar; null, and all else, if the row has no image
    size: int | None        # bytes
    sha256: str | None      # of the bytes
    format: str | None      # as its content says: JPEG, PNG, WEBP, …
    width: int | None       # pixels, of the upright picture; as stored, before version 4
    height: int | None      # the same
    phash: str | None       # 64-bit perceptual hash (DCT), 16 hex digits
    robots_tag: str | None  # the X-Robots-Tag headers that came with the bytes
    reason: str | None
    detail: str | None
    made_from: str
    phash256: NotRequired[str | None]   # 256-bit perceptual hash, 64 hex digits; from version 4 on


OF_BYTES = {
    "not_an_image": "no JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC or JPEG XL; HTML, mostly",
    "unreadable": "begins like an image, but no decoder makes sense of it",
    "truncated": "the image ends too early",
    "animated": "more than one frame or page",
    "unsupported_mode": "pixels that have no plain reading as RGB",
    "too_many_scans": "a JPEG that is sent in more than 100 passes, each of which takes as long as a whole picture",
    "too_complex": "more parts or metadata than any picture needs, which would take long or fill memory",
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


class ImagesConfig(Table):
    """Limits; an image beyond one is left out."""

    min_side: int = Field(default=10, ge=1)             # pixels; smaller images are left out
    max_bytes: int = Field(default=50_000_000, ge=1)    # of a file
    max_pixels: int = Field(default=100_000_000, ge=1)  # looked at before decoding
    max_aspect_ratio: float = Field(default=20, ge=1)   # of the longer side to the shorter one


def _is_contact(text: str) -> str:
    if not re.fullmatch(r"[!-~]*(@|://)[!-~]+", text):
        raise PydanticCustomError("contact", "write a mail address or page where the owners of servers can reach you")
    return text


class FetchConfig(Table):
    """Without it, no URL is asked for."""

    contact: Annotated[str, AfterValidator(_is_contact)]        # goes out with every request
    in_flight: int = Field(default=256, ge=1)           # URLs asked at once, a worker process
    per_host: int = Field(default=4, ge=1)              # of those, of one host
    connect_seconds: float = Field(default=5, gt=0)     # to find and reach a server
    read_seconds: float = Field(default=10, gt=0)       # in which not one byte comes
    deadline: float = Field(default=30, gt=0)           # seconds that one try may take, redirects included
    tries: int = Field(default=2, ge=1)                 # of one URL
    honour_robots_tag: bool = True                      # X-Robots-Tag: noai, noimageai, noindex, noimageindex
    robots_txt: bool = False                            # ask for it, and do as it says
    opt_out: tuple[Location, ...] = ()                  # files with a host or pattern of URLs a line, left alone
    check_hash: bool = True                             # against the source's columns sha256, md5 or hash
    allow_hosts: tuple[str, ...] = ()                   # that may be at private addresses, with all below them


STAGE = stage_info(
    "images", ImageRow, REASONS, reads={"rows": ("key", "url", "sha256", "checksum")},
    samples={name: f"images.{name}" for name in ("format", "width", "height", "size", "sha256", "phash", "phash256")},
)

"""An image's original bytes and measurements, or the reason why it is left out."""

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
    "not_an_image": "not JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC or JPEG XL; often an HTML page",
    "unreadable": "begins like an image, but cannot be decoded",
    "truncated": "the image ends too early",
    "animated": "more than one frame or page",
    "unsupported_mode": "its pixels cannot be converted to RGB",
    "too_many_scans": "a JPEG of more than 100 scans, each of which takes as long to decode as a whole picture",
    "too_complex": "so many parts or so much metadata that decoding would take too long or too much memory",
}
OF_SETTINGS = {
    "too_small": "a side is shorter than images.min_side",
    "too_large": "more bytes than images.max_bytes",
    "too_many_pixels": "more pixels than images.max_pixels, or decoding takes over a GB; checked before it",
    "extreme_aspect_ratio": "a side is more than images.max_aspect_ratio times the other",
    "hash_mismatch": "the bytes are not those whose SHA-256 or MD5 the source names",
    "opt_out": "its owner or a list of fetch.opt_out forbids its use; the detail says which",
    "blocked_address": "the host is not on the public internet and not named in fetch.allow_hosts",
    "not_fetched": "the row has only a URL, and the table [fetch] is missing",
}
OF_SERVERS = {
    "http_403": "the server refuses access",
    "http_404": "the server does not have it",
    "http_410": "the server no longer has it",
    "http_429": "too many requests, more than once or for longer than fetch.deadline",
    "http_4xx": "any other status 4xx; the detail has the status",
    "http_5xx": "any status 5xx; the detail has the status",
    "timeout": "no connection, no byte, or no end within the limits of [fetch]",
    "connection": "the connection was refused, reset, or closed too early",
    "dns": "the host's name does not exist, or cannot be looked up",
    "tls": "the server's certificate or encryption is not valid",
    "redirect_loop": "redirected in a loop, or too often",
    "bad_url": "not an http or https URL",
    "bad_answer": "not HTTP, a status without an image, or a compression that was not requested",
}
OF_SOURCES = {
    "changed_in_source": "the bytes have changed since the source was split",
    "missing_in_source": "the source no longer has the bytes",
}
REASONS = OF_BYTES | OF_SETTINGS | OF_SERVERS | OF_SOURCES | {takedown.REASON: takedown.MEANING}
RETRYABLE = {*OF_SOURCES, "not_fetched", "http_429", "http_5xx", "timeout", "connection", "dns", "tls"}


class ImagesConfig(Table):
    """Limits on images. An image beyond a limit is left out."""

    min_side: int = Field(default=10, ge=1)             # pixels; smaller images are left out
    max_bytes: int = Field(default=50_000_000, ge=1)    # size of a file
    max_pixels: int = Field(default=100_000_000, ge=1)  # width times height, checked before decoding
    max_aspect_ratio: float = Field(default=20, ge=1)   # longer side divided by shorter side


def _is_contact(text: str) -> str:
    if not re.fullmatch(r"[!-~]*(@|://)[!-~]+", text):
        raise PydanticCustomError("contact", "write a mail address or page where the owners of servers can reach you")
    return text


class FetchConfig(Table):
    """Fetches images from URLs. Without this table, no URL is requested."""

    contact: Annotated[str, AfterValidator(_is_contact)]        # your mail address or page, sent with every request
    in_flight: int = Field(default=256, ge=1)           # requests at the same time, per worker process
    per_host: int = Field(default=4, ge=1)              # requests at a time to one host, by all workers together
    connect_seconds: float = Field(default=5, gt=0)     # time to look up and reach a server
    read_seconds: float = Field(default=10, gt=0)       # time without a single byte
    deadline: float = Field(default=30, gt=0)           # seconds that one try may take, redirects included
    tries: int = Field(default=2, ge=1)                 # tries per URL
    honour_robots_tag: bool = True                      # respects X-Robots-Tag: noai, noimageai, noindex, noimageindex
    robots_txt: bool = False                            # requests robots.txt and follows it
    opt_out: tuple[Location, ...] = ()                  # files with one host or URL pattern per line: not requested
    check_hash: bool = True                             # compares with the source's columns sha256, md5 or hash
    allow_hosts: tuple[str, ...] = ()                   # hosts, with their subdomains, that may have private addresses


STAGE = stage_info(
    "images", ImageRow, REASONS, reads={"rows": ("key", "url", "sha256", "checksum")},
    samples={name: f"images.{name}" for name in ("format", "width", "height", "size", "sha256", "phash", "phash256")},
)

"""Kinds of images by their first bytes, and what makes an image unsafe to decode."""

from typing import NamedTuple

MAGIC = {
    b"\xff\xd8": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"BM": "BMP",
    b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF", b"MM*\0": "TIFF", b"II\0*": "TIFF",
    b"\xff\x0a": "JXL", b"\0\0\0\x0cJXL \r\n\x87\n": "JXL",
}
AVIF = {b"avif", b"avis"}       # brands, as a file of boxes names them
HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}


class UnsafeImage(ValueError):
    """An image that must not be decoded: it would take too long, or too much memory. `reason` is one of those of the
    stage `images`."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Header(NamedTuple):
    kind: str | None                        # JPEG, PNG, …; None for what is not read as an image
    size: tuple[int, int] | None = None     # width and height, where they must be known before the decoder is opened
    frames: int = 1                         # as far as they are counted


def kind_of(data: bytes) -> str | None:
    """The kind of image that these bytes begin like."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        end = min(int.from_bytes(data[:4], "big"), 256)
        brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
        return "AVIF" if brands & AVIF else "HEIC" if brands & HEIC else None
    return next((kind for magic, kind in MAGIC.items() if data.startswith(magic)), None)

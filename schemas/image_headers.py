"""How much work an image makes for its decoder, read from its bytes before anything is decoded.

Decoders bound neither their time nor their memory by the length of what they read: a progressive JPEG of 900 KB can
have 5,000 scans of 100 megapixels, and Pillow reads metadata in loops that are slow or quadratic. The bounds here are
of scans, parts and bytes, never of time, so that every machine refuses the same images.
"""

import re
from collections.abc import Callable

from schemas.exif import MOST_TAGS, blocks, burden
from schemas.image_boxes import look_avif, look_heic, look_jxl
from schemas.image_kinds import Header, UnsafeImage, kind_of

MAX_SCANS = 100             # of a JPEG; encoders write about ten. libtiff has the same bound
MAX_SEGMENTS = 10_000       # of a JPEG; 50 MB of metadata are 763
MAX_EXIF_SEGMENTS = 64      # of a JPEG, 64 KB each: Pillow joins them again each time
MAX_CHUNKS = 100_000        # of a PNG
MAX_BLOCKS = 1_000_000      # of a GIF, up to 255 bytes each
MAX_GIF_TEXT = 1_000_000    # bytes of a GIF's comments and other extensions: Pillow joins them again each time
MAX_VALUES = 1_000_000      # numbers in the tags of a TIFF: 390,000 tiles of 16 x 16 are 100 megapixels
MAX_FRACTIONS = 10_000      # of those
MAX_PAGES = 1_000           # of a TIFF, that are counted
MAX_TILE_PIXELS = 4_194_304     # of a TIFF's tile, unless the picture is as large: each is decoded whole
MAX_RLE_PIXELS = 25_000_000     # of a run-length encoded BMP, which Pillow unpacks pixel by pixel in Python
MAX_RLE_BYTES = 10_000_000

MARKER = re.compile(rb"\xff[^\0\xd0-\xd7\xff]")     # what entropy-coded data cannot hold; FF FF is padding
BYTES, FRACTIONS = {1, 2, 6, 7}, {5, 10}     # types of tags
LONE = {0x01, 0xD8}         # JPEG markers without a length
START_OF_SCAN, END, APP1 = 0xDA, 0xD9, 0xE1


def look(data: bytes) -> Header:
    """The kind of an image and the facts in its header. Raises `UnsafeImage` for one that must not be decoded."""
    kind = kind_of(data)
    return LOOKS[kind](data) if kind in LOOKS else Header(kind)


def look_jpeg(data: bytes) -> Header:
    """Counts scans: markers outside segments (a thumbnail lies in one) and outside entropy-coded data."""
    place, scans, segments, exif = 2, 0, 0, []
    while (marker := MARKER.search(data, place)) and (code := data[marker.end() - 1]) != END:
        start, segments = marker.end(), segments + 1
        length = 0 if code in LONE else int.from_bytes(data[start : start + 2], "big")
        scans += code == START_OF_SCAN
        if scans > MAX_SCANS:
            raise UnsafeImage("too_many_scans", f"more than {MAX_SCANS}")
        if code == APP1 and not scans and data[start + 2 : start + 8] == b"Exif\0\0":
            exif.append(data[start + 8 : start + length])
        if segments > MAX_SEGMENTS or len(exif) > MAX_EXIF_SEGMENTS:
            raise UnsafeImage("too_complex", f"more than {MAX_SEGMENTS} segments, or {MAX_EXIF_SEGMENTS} of EXIF")
        if code == 0xE2 and not scans and data[start + 2 : start + 6] == b"MPF\0":
            _check_tags(data[start + 6 : start + length])
        place = start + length
    _check_tags(b"".join(exif))
    return Header("JPEG")


def look_png(data: bytes) -> Header:
    place, chunks = 8, 0
    while place + 8 <= len(data) and data[place + 4 : place + 8] != b"IEND":
        place, chunks = place + 12 + int.from_bytes(data[place : place + 4], "big"), chunks + 1
        if chunks > MAX_CHUNKS:
            raise UnsafeImage("too_complex", f"more than {MAX_CHUNKS} chunks")
    return Header("PNG")


def look_gif(data: bytes) -> Header:
    """Counts frames, as far as `MAX_BLOCKS` blocks hold them."""
    place = 13 + _palette(data, 10)
    blocks, texts, frames = 0, 0, 0
    while place < len(data) and blocks <= MAX_BLOCKS:
        mark, place = data[place], place + 1
        if mark == 0x2C:
            frames, place = frames + 1, place + 10 + _palette(data, place + 8)
        elif mark == 0x21:
            place += 1
        elif mark == 0x3B:
            break
        else:               # Pillow skips what it does not know, byte by byte
            blocks += 1
            continue
        while place < len(data) and (size := data[place]):
            place, blocks = place + 1 + size, blocks + 1
            texts += size if mark == 0x21 else 0
            if blocks > MAX_BLOCKS:
                break
        place += 1
        if texts > MAX_GIF_TEXT and frames < 2:
            raise UnsafeImage("too_complex", f"more than {MAX_GIF_TEXT} bytes of comments")
    if blocks > MAX_BLOCKS and frames < 2:
        raise UnsafeImage("too_complex", f"more than {MAX_BLOCKS} blocks")
    return Header("GIF", frames=frames)


def _palette(data: bytes, place: int) -> int:
    """Bytes of the palette that the flags at a place announce."""
    flags = data[place] if place < len(data) else 0
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def look_webp(data: bytes) -> Header:
    """The size of the canvas, for which the decoder takes memory when it is opened."""
    kind, body = data[12:16], data[20:50]
    if kind == b"VP8X":
        size = (1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little"))
    elif kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        size = (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    else:
        size = (int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF)
    place, chunks = 12, 0
    while place + 8 <= len(data):
        size_of = int.from_bytes(data[place + 4 : place + 8], "little")
        place, chunks = place + 8 + size_of + size_of % 2, chunks + 1
        if chunks > MAX_CHUNKS:
            raise UnsafeImage("too_complex", f"more than {MAX_CHUNKS} chunks")
    return Header("WEBP", size)


def look_tiff(data: bytes) -> Header:
    """Counts pages, as far as `MAX_PAGES`."""
    _check_tags(data)
    pages = list(blocks(data, MAX_PAGES, folders=False))
    tags = pages[0].tags if pages else []
    if sum(tag.count for tag in tags if tag.type not in BYTES) > MAX_VALUES:
        raise UnsafeImage("too_complex", f"more than {MAX_VALUES} numbers in its tags")
    if sum(tag.count for tag in tags if tag.type in FRACTIONS) > MAX_FRACTIONS:
        raise UnsafeImage("too_complex", f"more than {MAX_FRACTIONS} fractions in its tags")
    values = {number: [tag.value for tag in tags if tag.number == number] or [0] for number in (256, 257, 322, 323)}
    width, height, tile_width, tile_height = min(values[256]), min(values[257]), max(values[322]), max(values[323])
    if tile_width * tile_height > max(MAX_TILE_PIXELS, 2 * width * height):
        raise UnsafeImage("too_complex", f"tiles of {tile_width}x{tile_height} for a picture of {width}x{height}")
    return Header("TIFF", frames=len(pages))


def look_bmp(data: bytes) -> Header:
    width, height = (abs(int.from_bytes(data[at : at + 4], "little", signed=True)) for at in (18, 22))
    packed = int.from_bytes(data[14:18], "little") >= 40 and data[30:34] in (b"\1\0\0\0", b"\2\0\0\0")
    if packed and (width * height > MAX_RLE_PIXELS or len(data) > MAX_RLE_BYTES):
        raise UnsafeImage("too_complex", f"run-length encoding of more than {MAX_RLE_PIXELS} pixels")
    return Header("BMP")


def _check_tags(exif: bytes) -> None:
    """Raises `UnsafeImage` for EXIF whose tags name far more bytes than there are."""
    tags, size = burden(exif, MAX_PAGES)
    if tags > MOST_TAGS or size > 2 * len(exif) + 65_536:
        raise UnsafeImage("too_complex", f"{tags} tags of {size} bytes in {len(exif)} bytes of EXIF")


LOOKS: dict[str, Callable[[bytes], Header]] = {
    "JPEG": look_jpeg, "PNG": look_png, "GIF": look_gif, "WEBP": look_webp, "TIFF": look_tiff, "BMP": look_bmp,
    "AVIF": look_avif, "HEIC": look_heic, "JXL": look_jxl,
}

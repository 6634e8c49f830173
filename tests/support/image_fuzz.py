"""Images broken along their structure: segments, chunks, boxes and tags are moved, repeated, cut, given odd sizes."""

import random
import struct
import zlib
from collections.abc import Callable
from functools import cache

from PIL import Image
from support.images import KINDS, NOISE, chunk, encoded, exif, jpeg_of_scans, segment, tag, with_exif

ODD = (0, 1, 2, 7, 8, 255, 256, 32_767, 32_768, 65_535, 65_536, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


@cache
def seeds(kind: str) -> tuple[bytes, ...]:
    """Whole images of a kind, of several modes and with metadata."""
    block = exif(tag(0x0112, 3, 1, 6), tag(0x010F, 2, 8, 200), tag(0x8769, 4, 1, 120), behind=bytes(200))
    modes = [NOISE] if kind in ("JPEG", "BMP") else [NOISE, NOISE.convert("RGBA"), NOISE.convert("L")]
    images = [encoded(image, kind) for image in modes]
    if kind == "JPEG":
        images += [encoded(NOISE, kind, progressive=True), with_exif(images[0], block), jpeg_of_scans(20)]
        images += [encoded(NOISE.convert("CMYK"), kind), encoded(NOISE, "MPO", save_all=True, append_images=[NOISE])]
    if kind in ("PNG", "WEBP", "AVIF", "HEIC"):
        images.append(encoded(NOISE, kind, exif=block))
    if kind in ("PNG", "GIF", "WEBP", "TIFF", "AVIF"):
        images.append(encoded(NOISE, kind, save_all=True, append_images=[NOISE.rotate(90)] * 2))
    if kind == "TIFF":
        images += [encoded(NOISE, kind, compression=name) for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")]
        images.append(encoded(Image.new("I;16", (64, 48), 700), kind))
    if kind == "PNG":
        images.append(encoded(NOISE.quantize(9), kind, transparency=1))
    return tuple(images)


def broken_image(draws: random.Random) -> bytes:
    """An image of any kind, broken in one to four places."""
    kind = draws.choice(KINDS)
    data = draws.choice(seeds(kind))
    for _ in range(draws.randint(1, 4)):
        data = draws.choice((*BREAKS.get(kind, ()), flipped, odd_number, cut, repeated))(data, draws)[:3_000_000]
    return data


def flipped(data: bytes, draws: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(draws.choice((1, 1, 2, 8))):
        if out:
            out[draws.randrange(min(len(out), draws.choice((40, 400, len(out)))))] = draws.randrange(256)
    return bytes(out)


def odd_number(data: bytes, draws: random.Random) -> bytes:
    """A number of the header becomes another."""
    size, at = draws.choice((1, 2, 4)), draws.randrange(max(1, min(len(data), 600)))
    number = (draws.choice(ODD) & (1 << 8 * size) - 1).to_bytes(size, draws.choice(("big", "little")))
    return data[:at] + number + data[at + size :]


def cut(data: bytes, draws: random.Random) -> bytes:
    return data[: draws.randrange(len(data) + 1)]


def repeated(data: bytes, draws: random.Random) -> bytes:
    """A part stands there many times."""
    start = draws.randrange(max(1, len(data)))
    part = data[start : start + draws.choice((1, 4, 12, 100))]
    return data[:start] + part * draws.choice((2, 30, 3_000)) + data[start:]


def shuffled(parts: list[bytes], draws: random.Random) -> bytes:
    """The first part, and the others moved, repeated or left out."""
    rest, at = parts[1:], draws.randrange(max(1, len(parts) - 1))
    how = draws.randrange(4)
    if how == 0:
        draws.shuffle(rest)
    elif how == 1 and rest:
        rest[at:at] = [rest[at]] * draws.choice((1, 5, 200))
    elif how == 2 and rest:
        del rest[at]
    elif rest:
        rest[at] = flipped(rest[at], draws)
    return b"".join(parts[:1] + rest)


def jpeg_segments(data: bytes, draws: random.Random) -> bytes:
    parts, place = [data[:2]], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        parts.append(data[place:end])
        place = end
    parts += [b"\xff\xda" + scan for scan in data[place:].split(b"\xff\xda")[1:]]
    if draws.random() < 0.3:
        parts.insert(1, segment(draws.choice((0xE1, 0xE2, 0xFE)), odd_tags(draws)))
    return shuffled(parts, draws)


def odd_tags(draws: random.Random) -> bytes:
    """EXIF whose tags have odd types, counts and places."""
    numbers = (0x0112, 0x8769, 0x8825, 0x011A, 0x010F, 256, 257, 258, 273, 279, 322)
    tags = [
        tag(draws.choice(numbers), draws.randrange(19), draws.choice(ODD), draws.choice((8, 20, 99, *ODD)))
        for _ in range(draws.choice((1, 3, 40)))
    ]
    return draws.choice((b"Exif\0\0", b"MPF\0", b"")) + exif(*tags, behind=bytes(draws.choice((0, 50, 4_000))))


def png_chunks(data: bytes, draws: random.Random) -> bytes:
    parts, place = [data[:8]], 8
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        parts.append(data[place:end])
        place = end
    head = bytearray(parts[1][8:21] if len(parts) > 1 else bytes(13))
    how = draws.randrange(4)
    if how == 0 and len(head) == 13:
        at = draws.randrange(13)
        head[at : at + 1] = bytes([draws.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))])
        parts[1:2] = [chunk(b"IHDR", bytes(head))]
    elif how == 1:
        text = zlib.compress(bytes(draws.choice((10, 2_000_000))))
        kind, begin = draws.choice(((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")))
        parts[2:2] = [chunk(kind, begin + text)] * draws.choice((1, 40))
    elif how == 2:
        parts[2:2] = [chunk(draws.choice((b"eXIf", b"tRNS", b"PLTE", b"acTL", b"fcTL")), odd_tags(draws)[:300])]
    return shuffled(parts, draws)


def riff_chunks(data: bytes, draws: random.Random) -> bytes:
    parts, place = [data[:12]], 12
    while place + 8 <= len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        end = place + 8 + size + size % 2
        parts.append(data[place:end])
        place = end
    if draws.random() < 0.3:
        block = odd_tags(draws)
        parts.append(b"EXIF" + struct.pack("<I", len(block)) + block + bytes(len(block) % 2))
    return shuffled(parts, draws)


def boxes(data: bytes, draws: random.Random) -> bytes:
    """Boxes, one level inside another, with odd sizes, kinds and contents."""
    parts, place = [], 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        end = place + max(8, size if size > 1 else len(data) - place)
        parts.append(data[place:end])
        place = end
    at = draws.randrange(max(1, len(parts)))
    if draws.random() < 0.5 and parts and parts[at][4:8] in (b"meta", b"iprp", b"ipco"):
        inner = 12 if parts[at][4:8] == b"meta" else 8
        body = boxes(parts[at][inner:], draws)
        parts[at] = struct.pack(">I", inner + len(body)) + parts[at][4:inner] + body
        return b"".join(parts)
    if draws.random() < 0.3 and parts:
        odd = draws.choice((b"iloc", b"iref", b"iinf", b"moov", b"idat", b"free", b"Exif"))
        parts[at] = parts[at][:4] + odd + parts[at][8:]
    return shuffled(parts, draws) if parts else data


BREAKS: dict[str, tuple[Callable[[bytes, random.Random], bytes], ...]] = {
    "JPEG": (jpeg_segments,) * 3, "PNG": (png_chunks,) * 3, "WEBP": (riff_chunks,) * 3, "AVIF": (boxes,) * 3,
    "HEIC": (boxes,) * 3, "TIFF": (odd_number,) * 2, "GIF": (odd_number, repeated), "JXL": (odd_number, boxes),
}  # fmt: skip

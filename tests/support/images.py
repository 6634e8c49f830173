"""Images of every format, and hostile ones: small files that would keep a decoder busy, or fill its memory."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIC", "JXL")
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((64, 48))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """An image's bytes in any of KINDS."""
    import pillow_heif
    import pillow_jxl  # noqa: F401

    pillow_heif.register_heif_opener()
    buffer = io.BytesIO()
    image.save(buffer, "HEIF" if kind == "HEIC" else kind, **options)
    return buffer.getvalue()


# Metadata


def tag(number: int, type: int, count: int, value: int) -> bytes:
    return struct.pack("<HHLL", number, type, count, value)


def exif(*tags: bytes, behind: bytes = b"") -> bytes:
    """A block of tags, as a TIFF begins."""
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4) + behind


def names_itself(tags: int, size: int) -> bytes:
    """Tags that all name the same bytes."""
    return exif(*(tag(40_000 + n % 25_000, 7, size, 0) for n in range(tags)), behind=bytes(size))


def turned_by(orientation: int) -> bytes:
    return exif(tag(0x0112, 3, 1, orientation))


# JPEG


def segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def with_exif(jpeg: bytes, block: bytes) -> bytes:
    return jpeg[:2] + segment(0xE1, b"Exif\0\0" + block) + jpeg[2:]


def jpeg_of_scans(scans: int, width: int = 640, height: int = 480) -> bytes:
    """A progressive JPEG whose scans say that nothing changes: the first, and so many more."""
    blocks = ((width + 7) // 8) * ((height + 7) // 8)
    tables = b"".join(segment(0xC4, bytes([kind, 1, *[0] * 15, n])) for kind, n in ((0, 0), (0x10, 0xE0)))  # of one bit
    bits = ("0" + "1" * 14) * -(-blocks // 32767)
    bits += "1" * (-len(bits) % 8)
    nothing = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
    head = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    head += segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0") + tables
    first = segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes((blocks + 7) // 8)
    more = (segment(0xDA, bytes([1, 1, 0, 1 + n % 63, 1 + n % 63, 0])) + nothing for n in range(scans))
    return head + first + b"".join(more) + b"\xff\xd9"


# PNG


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes, channels: int = 3, pixels: bytes | None = None) -> bytes:
    """A PNG in one colour, unless compressed pixels are given; `more` are chunks before them."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
    if pixels is None:
        packer, rows = zlib.compressobj(9), max(1, min(50, height))
        line = b"\0" + bytes(width * channels)
        pixels = b"".join(packer.compress(line * min(rows, height - top)) for top in range(0, height, rows))
        pixels += packer.flush()
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


# Files of boxes


def box(kind: bytes, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return struct.pack(">I", len(data) + 8) + kind + data


def avif_of(*obus: bytes) -> bytes:
    """An AVIF whose one item has these coded units: a header, as far as `look` reads it."""
    coded = b"".join(obus)
    info = box(b"iinf", bytes(4), b"\0\1", box(b"infe", b"\2\0\0\0", b"\0\1\0\0", b"av01", b"\0"))
    begin = box(b"ftyp", b"avif", bytes(4), b"avif")
    extent = struct.pack(">II", len(begin) + 8, len(coded))
    iloc = box(b"iloc", bytes(4), b"\x44\0", b"\0\1", b"\0\1\0\0", b"\0\1", extent)
    return begin + box(b"mdat", coded) + box(b"meta", bytes(4), info, iloc)


def sequence_of_av1(width: int, height: int, still: bool = True, timed: bool = False, points: int = 1) -> bytes:
    """An OBU that says how large the frames after it are."""
    bits = "000" + f"{int(still)}" * 2
    if still:
        bits += "0" * 5
    else:
        clock = "0" * 64 + "1" + "00101"  # a number of variable length: two zeros, a one, two bits
        bits += "1" + clock + "1" + f"{4:05b}" + "0" * 42 if timed else "0"
        bits += "1" + f"{points - 1:05b}"
        for point in range(points):
            bits += "0" * 12 + (f"{8:05b}1" if point else "00000") + ("1" + "0" * 11 if timed else "") + "10000"
    bits += f"{15:04b}" * 2 + f"{width - 1:016b}{height - 1:016b}"
    bits += "0" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return bytes([1 << 3 | 2, len(data)]) + data


FRAME = bytes([6 << 3 | 2, 1, 0])  # an OBU of a frame, of one byte

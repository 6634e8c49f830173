"""The orientation that EXIF or XMP gives a picture, read by hand: damaged metadata never stops a picture.

Pillow reads every tag of a block, wherever it points: a block of 64 KB can name the same 64 KB five thousand times.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

ORIENTATION = 0x0112
MOST_TAGS = 65_536      # that are read
FOLDERS = {0x8769, 0x8825, 0xA005}      # tags that hold the place of another block: EXIF, GPS, interoperability
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
NUMBERS = {3: "H", 4: "L", 8: "h", 9: "l", 13: "L", 16: "Q"}
XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


class Tag(NamedTuple):
    number: int
    type: int
    count: int
    size: int       # bytes of its values
    value: int      # the first one, of whole numbers; else 0


class Block(NamedTuple):
    tags: list[Tag]
    next: int       # place of the next block; 0 for none


def orientation(exif: bytes | None, xmp: bytes | str | None = None) -> int:
    """The orientation from 1 to 8: 1 is upright. Also 1 if it is missing, damaged or not valid."""
    xmp = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
    turned = [tag.value for block in blocks(_bare(exif or b""), 1) for tag in block.tags if tag.number == ORIENTATION]
    if not turned and (match := XMP.search(xmp or b"")):
        turned = [int(match[1])]
    return turned[-1] if turned and 1 <= turned[-1] <= 8 else 1


def burden(exif: bytes, most: int) -> tuple[int, int]:
    """The tags in the blocks of EXIF or of a TIFF, and the bytes that they name. Reads at most so many blocks."""
    tags = [tag for block in blocks(_bare(exif), most) for tag in block.tags]
    return len(tags), sum(tag.size for tag in tags if tag.size <= len(exif))


def blocks(data: bytes, most: int, folders: bool = True) -> Iterator[Block]:
    """At most so many blocks of tags of a TIFF in their order, and those that tags point to; none is read twice."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return
    big = data[2:4] in (b"+\0", b"\0+")
    place = _number(data, order + "Q", 8) if big else _number(data, order + "L", 4)
    waiting, seen, tags = [place], {0}, 0
    while waiting and len(seen) <= most and tags <= MOST_TAGS:
        if (place := waiting.pop(0)) in seen:
            continue
        seen.add(place)
        block = _block(data, place, order, big)
        yield block
        tags += len(block.tags)
        waiting += [block.next, *(tag.value for tag in block.tags if folders and tag.number in FOLDERS)]


def _block(data: bytes, place: int, order: str, big: bool) -> Block:
    """The tags at a place, up to the first that is cut."""
    step, head, counts, number = (20, "Q", "Q", "HHQ") if big else (12, "H", "L", "HHL")
    first = place + struct.calcsize(order + head)
    count = min(_number(data, order + head, place), max(0, len(data) - first) // step)
    tags = []
    for at in range(first, first + count * step, step):
        name, kind, values = struct.unpack_from(order + number, data, at)
        size, inline = values * SIZES.get(kind, 0), at + step - struct.calcsize(order + counts)
        where = inline if size <= struct.calcsize(order + counts) else _number(data, order + counts, inline)
        value = _number(data, order + NUMBERS[kind], where) if kind in NUMBERS and values else 0
        tags.append(Tag(name, kind, values, size, value))
    return Block(tags, _number(data, order + counts, first + count * step))


def _number(data: bytes, format: str, place: int) -> int:
    """The number at a place; 0 beyond the end."""
    return struct.unpack_from(format, data, place)[0] if place + struct.calcsize(format) <= len(data) else 0


def _bare(exif: bytes) -> bytes:
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    return exif

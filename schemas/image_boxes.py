"""Headers of AVIF, HEIC and JPEG XL, seen before anything is decoded.

AVIF and HEIC are files of boxes (ISO/IEC 14496-12 and 23008-12). One picture of theirs can hold many coded frames that
are never shown, or refer to another picture thousands of times: each is decoded.
"""

from collections.abc import Iterator
from typing import NamedTuple

from schemas.image_kinds import Header, UnsafeImage

MAX_BOXES = 10_000          # of a file, one inside another counted apart
MAX_UNITS = 100_000         # of coded data (OBUs of AVIF, NAL units of HEIC); a picture of 100 megapixels has hundreds
MAX_FRAMES = 8              # of one picture: AV1 has up to four layers
MAX_REFERENCES = 65_536     # to pictures; a grid of 64 x 64 tiles in 100 megapixels has 24,000
SHAPES = (1 / 1, 12 / 10, 4 / 3, 3 / 2, 16 / 9, 5 / 4, 2 / 1)       # of JPEG XL: width to height, from code 1 on


class Box(NamedTuple):
    kind: bytes
    start: int      # of its content
    end: int


def boxes(data: bytes, start: int, end: int) -> list[Box]:
    """The boxes that lie side by side in a part of a file; the last may be cut."""
    found: list[Box] = []
    while start + 8 <= end:
        size, head = int.from_bytes(data[start : start + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        size = size or end - start
        if len(found) >= MAX_BOXES:
            raise UnsafeImage("too_complex", f"more than {MAX_BOXES} boxes")
        if size < head:
            break
        found.append(Box(data[start + 4 : start + 8], start + head, min(start + size, end)))
        start += size
    return found


def is_cut(data: bytes) -> bool:
    """Whether the last box of a file ends beyond the file."""
    start = 0
    while start + 8 <= len(data):
        size = int.from_bytes(data[start : start + 4], "big")
        size = int.from_bytes(data[start + 8 : start + 16], "big") if size == 1 else size
        if size < 8:
            return False
        start += size
    return start != len(data)


def look_avif(data: bytes) -> Header:
    return _look_at_items(data, "AVIF")


def look_heic(data: bytes) -> Header:
    return _look_at_items(data, "HEIC")


def _look_at_items(data: bytes, kind: str) -> Header:
    """Raises `UnsafeImage` if a file codes or refers to more items than one picture needs."""
    outer = boxes(data, 0, len(data))
    meta = next((box for box in outer if box.kind == b"meta"), None)
    inner = boxes(data, meta.start + 4, meta.end) if meta else []
    named = {box.kind: box for box in inner}
    kinds = dict(_kinds_of_items(data, named[b"iinf"])) if b"iinf" in named else {}
    if b"iovl" in kinds.values():
        raise UnsafeImage("too_complex", "a picture that lays others over each other")
    references = _references(data, named[b"iref"]) if b"iref" in named else 0
    if references > MAX_REFERENCES:
        raise UnsafeImage("too_complex", f"{references} references to pictures")
    coders = [box.start + 21 for box in _properties(data, named) if box.kind == b"hvcC" and box.end > box.start + 21]
    lengths = {data[place] & 3 for place in coders}
    if len(lengths) > 1:
        raise UnsafeImage("too_complex", "pictures whose units have lengths of several sizes")
    prefix, units, used, largest = max(lengths, default=3) + 1, 0, 0, None
    for item, parts in _places(data, named[b"iloc"], named.get(b"idat")) if b"iloc" in named else ():
        used += sum(end - start for start, end in parts)
        if used > 2 * len(data):
            raise UnsafeImage("too_complex", "its pictures hold more bytes than the file")
        if kinds.get(item) not in (b"av01", b"hvc1", b"hev1"):
            continue
        coded, frames = b"".join(data[start:end] for start, end in parts), 0
        for shown, size in _units_of_av1(coded) if kinds[item] == b"av01" else _units_of_hevc(coded, prefix):
            units, frames = units + 1, frames + shown
            largest = max(largest or size, size or largest, key=_pixels)
            if units > MAX_UNITS or frames > MAX_FRAMES:
                raise UnsafeImage("too_complex", f"a picture of more than {MAX_FRAMES} frames or {MAX_UNITS} units")
    return Header(kind, largest, frames=2 if any(box.kind == b"moov" for box in outer) else 1)


def _pixels(size: tuple[int, int] | None) -> int:
    return size[0] * size[1] if size else 0


def without_exif(data: bytes) -> bytes:
    """The same file of boxes, with its items of EXIF renamed to a kind that decoders ignore."""
    meta = next((box for box in boxes(data, 0, len(data)) if box.kind == b"meta"), None)
    if meta is None:
        return data
    return data[: meta.start] + data[meta.start : meta.end].replace(b"Exif", b"free") + data[meta.end :]


def _properties(data: bytes, named: dict[bytes, Box]) -> Iterator[Box]:
    for outer in boxes(data, named[b"iprp"].start, named[b"iprp"].end) if b"iprp" in named else ():
        if outer.kind == b"ipco":
            yield from boxes(data, outer.start, outer.end)


def _kinds_of_items(data: bytes, iinf: Box) -> Iterator[tuple[int, bytes]]:
    for box in boxes(data, iinf.start + (6 if data[iinf.start] == 0 else 8), iinf.end):
        wide = 4 if data[box.start : box.start + 1] == b"\3" else 2
        at = box.start + 4
        yield int.from_bytes(data[at : at + wide], "big"), data[at + wide + 2 : at + wide + 6]


def _references(data: bytes, iref: Box) -> int:
    """The number of references, counted from the sizes of their boxes."""
    wide = 2 if data[iref.start] == 0 else 4
    return sum((box.end - box.start) // wide for box in boxes(data, iref.start + 4, iref.end))


def _places(data: bytes, iloc: Box, idat: Box | None) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """(item, start and end of each of its parts). Ends where the box does."""
    at = iloc.start

    def number(size: int) -> int:
        nonlocal at
        at += size
        return int.from_bytes(data[at - size : min(at, iloc.end)], "big")

    version, _ = number(1), number(3)
    sizes, bases = number(1), number(1)
    wide = 2 if version < 2 else 4
    for _ in range(number(wide)):
        if at >= iloc.end:
            return
        item = number(wide)
        method = number(2) & 15 if version else 0
        number(2)
        base = number(bases >> 4)
        parts = []
        for _ in range(number(2)):
            if at >= iloc.end:
                break
            number(bases & 15 if version else 0)
            offset, length = base + number(sizes >> 4), number(sizes & 15)
            start = offset + (idat.start if method == 1 and idat else 0)
            parts.append((min(start, len(data)), min(start + length, len(data)) if length else len(data)))
        yield item, parts if method < 2 else []


def _units_of_av1(coded: bytes) -> Iterator[tuple[bool, tuple[int, int] | None]]:
    """For each OBU, whether it begins a frame, and the size of the frames after it if it says so: libavif decodes
    frames of any size, and scales them to that of the file's boxes. (AV1, 5.3)"""
    at = 0
    while at < len(coded):
        head, at = coded[at], at + 1 + (coded[at] >> 2 & 1)
        size = len(coded) - at
        if head & 2:
            size = shift = 0
            while at < len(coded):
                size, shift, at = size | (coded[at] & 127) << shift, shift + 7, at + 1
                if coded[at - 1] < 128 or shift > 49:
                    break
        kind = head >> 3 & 15
        yield kind in (3, 6), _size_of_av1(coded[at : at + min(size, 2_000)]) if kind == 1 else None
        at += size


def _size_of_av1(sequence: bytes) -> tuple[int, int]:
    """The largest size of a frame that a sequence header names. (AV1, 5.5)"""
    read = Bits(int.from_bytes(sequence, "big"), 8 * len(sequence))
    read(4)                         # profile, and whether it is a still picture
    if read(1):                     # a reduced header
        read(5)
    else:
        model = _model_of_av1(read) if read(1) else 0
        delays, points = read(1), read(5) + 1
        for _ in range(points):
            read(12)
            if read(5) > 7:
                read(1)
            if model and read(1):
                read(2 * model + 1)
            if delays and read(1):
                read(4)
    width, height = read(4) + 1, read(4) + 1
    return read(width) + 1, read(height) + 1


def _model_of_av1(read: "Bits") -> int:
    """Reads the timing of a sequence header. Returns how many bits the delays of its decoder model have."""
    read(64)
    if read(1):
        zeros = 0
        while read.left > 0 and not read(1):
            zeros += 1
        read(zeros)
    if not read(1):
        return 0
    bits = read(5) + 1
    read(42)
    return bits


class Bits:
    """Reads numbers of some bits from a number, the highest bits first. Beyond its end are zeros."""

    def __init__(self, value: int, left: int):
        self.value, self.left = value, left

    def __call__(self, count: int) -> int:
        self.left -= count
        return (self.value >> self.left if self.left >= 0 else self.value << -self.left) & ((1 << count) - 1)


def _units_of_hevc(coded: bytes, prefix: int) -> Iterator[tuple[bool, None]]:
    """For each NAL unit, whether it begins a frame; libheif looks at the sizes itself. (HEVC, 7.3.1)"""
    at = 0
    while at + prefix + 2 < len(coded):
        size, at = int.from_bytes(coded[at : at + prefix], "big"), at + prefix
        yield coded[at] >> 1 & 63 < 32 and coded[at + 2] >= 128, None
        at += size


def look_jxl(data: bytes) -> Header:
    """The size in the header, which the decoder itself checks too late. (ISO/IEC 18181-1, Annex D)"""
    stream = data[:64]
    if stream[:2] != b"\xff\x0a":
        box = next((box for box in boxes(data, 0, len(data)) if box.kind in (b"jxlc", b"jxlp")), None)
        start = box.start + (4 if box.kind == b"jxlp" else 0) if box else len(data)
        stream = data[start : start + 64]
    bits, place = int.from_bytes(stream[2:], "little"), 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        return bits >> (place - count) & ((1 << count) - 1)

    def length(small: int) -> int:
        return 8 * (read(5) + 1) if small else read((9, 13, 18, 30)[read(2)]) + 1

    def size() -> tuple[int, int]:
        small = read(1)
        height, shape = length(small), read(3)
        return (int(height * SHAPES[shape - 1]) if shape else length(small)), height

    full, frames = size(), 1
    if not read(1) and read(1):     # metadata other than the default, with extra fields
        read(3)                     # orientation
        if read(1):
            size()                  # for which the picture is meant
        frames = 1 if read(1) else 1 + read(1)      # behind a preview the flag is not looked for
    return Header("JXL", full, frames)

"""Reads the headers of other people's tars: ustar, GNU, PAX and old V7, one after another, concatenated ones included.

Sizes and offsets are checked against the size of the file before anything is read, long names and PAX records have
bounds, and nothing recurses. At a header that is not valid, reading stops with `CutTar`; members before it are good.
"""

import errno
import os
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BLOCK = 512
CHUNK = 1 << 20
LONGEST = 1 << 20  # bytes of a long name, or of the PAX records of a member
EXTENSIONS = 64  # headers that may describe one member
SPARSE = b"S"
FILES = (b"0", b"\0", b"7", SPARSE)
LINKS = {b"1": "hard link", b"2": "link"}
WITHOUT_DATA = (b"3", b"4", b"5", b"6")  # devices, folders and pipes, whatever their size says
EXTENDED = (b"x", b"X", b"g", b"L", b"K")  # headers that say more about the member after them
RECORD = re.compile(rb"(\d{1,9}) ([^=]{1,1000})=")


class CutTar(ValueError):
    """No member can be read from here on."""


class Member(NamedTuple):
    """A file or a link in a tar."""

    name: str
    kind: str  # "file", "sparse", "link" or "hard link"
    offset: int  # of its data
    size: int  # of its data as the header says; it may lie beyond the end of the file
    target: str | None  # of a link


class Reader:
    """The bytes of a file, wherever it is."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        try:
            self.descriptor = file.fileno()
        except (OSError, AttributeError):
            self.descriptor = None
        self.size = file.seek(0, os.SEEK_END)

    def read(self, offset: int, size: int) -> bytes:
        """The bytes from an offset, fewer where the file ends."""
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        if self.descriptor is not None:
            return os.pread(self.descriptor, size, offset)
        self.file.seek(offset)
        return self.file.read(size)

    def after_zeros(self, offset: int) -> int:
        """The offset of the next block that is not all zeros, or the size of the file."""
        while offset < self.size:
            if self.descriptor is not None:
                try:  # a hole is not read
                    data = os.lseek(self.descriptor, offset, os.SEEK_DATA)
                except OSError as error:
                    if error.errno == errno.ENXIO:  # it reaches to the end
                        return self.size
                    data = offset  # this file system does not know its holes
                offset = max(offset, data // BLOCK * BLOCK)
            chunk = self.read(offset, CHUNK)
            rest = chunk.lstrip(b"\0")
            if rest:
                return offset + (len(chunk) - len(rest)) // BLOCK * BLOCK
            offset += max(len(chunk), 1)
        return self.size


def members(reader: Reader) -> Iterator[Member]:
    """The files and links of a tar, to the end of the file. Raises `CutTar` where no member can be read."""
    offset = 0
    if not reader.size:
        raise CutTar("the file is empty")
    while offset < reader.size:
        member, offset = _next(reader, offset)
        if member is not None:
            yield member


def _next(reader: Reader, start: int) -> tuple[Member | None, int]:
    """The next member if it is a file or a link, and where the header after it begins."""
    said: dict[str, str] = {}
    offset = start
    for _ in range(EXTENSIONS):
        header = reader.read(offset, BLOCK)
        if offset == start and not header.strip(b"\0"):  # the end of the tar; another may follow
            return None, reader.after_zeros(offset)
        if len(header) < BLOCK:
            raise _cut(start)
        kind, size = _checked(header, start)
        offset += BLOCK
        if kind not in EXTENDED:
            return _described(reader, header, size, offset, said, start)
        if size > LONGEST or offset + size > reader.size:
            raise _cut(start, f"a name or its PAX records have {size} bytes")
        more = _said(kind, reader.read(offset, size), start)
        if twice := next((word for word in more if said.get(word, more[word]) != more[word]), None):
            raise _cut(start, f"its headers give it two values of {twice}")  # readers do not agree on which counts
        said |= more
        offset += _padded(size)
    raise _cut(start, f"more than {EXTENSIONS} headers describe one member")


def _cut(start: int, why: str = "") -> CutTar:
    return CutTar(f"no member can be read from byte {start} on" + (f": {why}" if why else ""))


def _described(
    reader: Reader, header: bytes, size: int, data: int, said: dict[str, str], start: int
) -> tuple[Member | None, int]:
    """The member of a header and of what was said before it, and where the next header begins."""
    kind = header[156:157]
    if kind in WITHOUT_DATA or (kind == b"\0" and _text(header[:100]).endswith("/")):  # a folder in old tars
        return None, data
    name = said.get("GNU.sparse.name") or said.get("path") or _name_in(header)
    if kind in LINKS:
        return Member(name, LINKS[kind], data, 0, said.get("linkpath") or _text(header[157:257])), data
    if "size" in said:
        if not re.fullmatch("[0-9]{1,18}", said["size"]):
            raise _cut(start, f"its size is {said['size'][:50]!r}")
        size = int(said["size"])
    more = kind == SPARSE and header[482]
    while more:  # its map goes on in the next block
        block = reader.read(data, BLOCK)
        data, more = data + BLOCK, len(block) == BLOCK and block[504]
    after = data + _padded(size)
    if kind not in FILES:
        return None, after
    is_sparse = kind == SPARSE or any(word.startswith("GNU.sparse.") for word in said)
    return Member(name, "sparse" if is_sparse else "file", data, size, None), after


def _checked(header: bytes, start: int) -> tuple[bytes, int]:
    """The type and the size in a header whose checksum is right."""
    try:
        checksum, size = _number(header[148:156]), _number(header[124:136])
    except ValueError:
        raise _cut(start) from None
    rest = header[:148] + b" " * 8 + header[156:]
    unsigned = sum(rest)
    if checksum != unsigned and checksum != unsigned - 256 * sum(byte > 127 for byte in rest):
        raise _cut(start)
    if size < 0:
        raise _cut(start, f"its size is {size}")
    return header[156:157], size


def _number(field: bytes) -> int:
    """A number in a header: octal digits, or binary as GNU tar writes large ones. Raises `ValueError`."""
    if field[0] in (0o200, 0o377):
        value = int.from_bytes(field[1:], "big")
        return value - (1 << 8 * (len(field) - 1)) if field[0] == 0o377 else value
    digits = field.partition(b"\0")[0].strip()
    if not re.fullmatch(b"[0-7]*", digits):
        raise ValueError(digits)
    return int(digits or b"0", 8)


def _name_in(header: bytes) -> str:
    prefix, name = _text(header[345:500]), _text(header[:100])
    return f"{prefix}/{name}" if prefix and header[156:157] != SPARSE else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _said(kind: bytes, data: bytes, start: int) -> dict[str, str]:
    """What a header says about the member after it, as PAX names it."""
    if kind in (b"L", b"K"):
        return {"path" if kind == b"L" else "linkpath": _text(data)}
    said = _records(data, start)
    if kind == b"g" and said:
        raise _cut(start, f"a header sets {', '.join(sorted(said))[:100]} for all members")
    return said


def _records(data: bytes, start: int) -> dict[str, str]:
    """PAX records, `length keyword=value\n`, of those keywords on which a member's name and place depend."""
    records, place = {}, 0
    while place < len(data) and data[place]:
        match = RECORD.match(data, place)
        end = place + int(match[1]) if match else 0
        if not match or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise _cut(start, "its PAX records are damaged")
        word = match[2].decode("utf-8", "replace")
        if word in ("path", "linkpath", "size") or word.startswith("GNU.sparse."):
            records[word] = data[match.end() : end - 1].decode("utf-8", "surrogateescape")
        place = end
    return records


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK

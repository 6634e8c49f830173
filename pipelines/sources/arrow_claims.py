"""What an Arrow file says of its batches: rows, and bytes before compression. Nothing of it is decoded.

Arrow takes memory for whatever a compressed buffer says that it becomes, and makes rows of columns that have no bytes.
(Arrow's format: File.fbs, Message.fbs)
"""

import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

LARGEST = 1 << 24  # bytes of the metadata of one message
DICTIONARY, BATCH = 2, 3  # kinds of messages
MARK = b"\xff\xff\xff\xff"  # before the length of a message's metadata


class Claim(NamedTuple):
    """What a message says of itself."""

    rows: int
    size: int  # bytes of its compressed buffers, unpacked


class Table:
    """A table of a flatbuffer. A field that is not there is 0."""

    def __init__(self, data: bytes, place: int):
        self.data, self.place = data, place
        self.fields = place - self._at(place, 4, signed=True)

    def _at(self, place: int, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.data[place : place + size] if place >= 0 else b"", "little", signed=signed)

    def _place(self, field: int) -> int:
        known = 4 + 2 * field < self._at(self.fields, 2)
        offset = self._at(self.fields + 4 + 2 * field, 2) if known else 0
        return self.place + offset if offset else -1

    def number(self, field: int, size: int) -> int:
        return self._at(self._place(field), size, signed=size == 8)

    def table(self, field: int) -> "Table | None":
        place = self._place(field)
        return Table(self.data, place + self._at(place, 4)) if place >= 0 else None

    def structs(self, field: int, size: int) -> Iterator[bytes]:
        """The structs in a vector, as far as there are bytes."""
        place = self._place(field)
        if place < 0:
            return
        start = place + self._at(place, 4)
        count = min(self._at(start, 4), max(0, len(self.data) - start) // size)
        yield from (self.data[start + 4 + n * size : start + 4 + (n + 1) * size] for n in range(count))


def claims(raw: BinaryIO) -> Iterator[Claim]:
    """What each batch of a file or a stream says. Ends where a message is not valid, as Arrow does."""
    size = raw.seek(0, os.SEEK_END)
    for start in _places(raw, size):
        head = _read(raw, start, 8)
        skip, length = (8, _number(head[4:])) if head[:4] == MARK else (4, _number(head[:4]))
        if 0 < length <= LARGEST:
            yield from _claim(raw, _read(raw, start + skip, length), start + skip + length)


def _places(raw: BinaryIO, size: int) -> Iterator[int]:
    """Where the messages of a file begin, as its footer says, or those of a stream, one after another."""
    if _read(raw, 0, 6) == b"ARROW1":
        length = _number(_read(raw, size - 10, 4))
        footer = _read(raw, size - 10 - length, length) if 0 < length <= size else b""
        table = Table(footer, _number(footer[:4]))
        yield from (int.from_bytes(block[:8], "little") for field in (2, 3) for block in table.structs(field, 24))
        return
    place = 0
    while place < size:
        yield place
        head = _read(raw, place, 8)
        skip, length = (8, _number(head[4:])) if head[:4] == MARK else (4, _number(head[:4]))
        if not 0 < length <= LARGEST:
            return
        metadata = _read(raw, place + skip, length)
        place += skip + length + max(0, Table(metadata, _number(metadata[:4])).number(3, 8))


def _claim(raw: BinaryIO, metadata: bytes, body: int) -> Iterator[Claim]:
    message = Table(metadata, _number(metadata[:4]))
    kind, header = message.number(1, 1), message.table(2)
    batch = header.table(1) if header and kind == DICTIONARY else header if kind == BATCH else None
    if batch is None:
        return
    unpacked = 0
    if batch.table(3):  # its buffers are compressed: each begins with its length before that
        for buffer in batch.structs(2, 16):
            offset, length = (int.from_bytes(buffer[at : at + 8], "little") for at in (0, 8))
            if length >= 8:
                said = int.from_bytes(_read(raw, body + offset, 8), "little", signed=True)
                unpacked += said if said >= 0 else length  # -1: this one is not compressed
    yield Claim(batch.number(0, 8), unpacked)


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _read(raw: BinaryIO, place: int, size: int) -> bytes:
    if not 0 <= place < 1 << 60:
        return b""
    raw.seek(place)
    return raw.read(size)

"""How much memory the pages of a Parquet file take, by their own headers: what a footer says of them may be a lie.

A page's header is a struct of Thrift's compact protocol; of its fields, the sizes of the page are read.
"""

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow.parquet as pq

HEAD, LARGEST = 1 << 12, 16 << 20       # bytes of a header that are read first, and at most, as Arrow does
UNCOMPRESSED, COMPRESSED = 2, 3         # numbers of fields
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)


def unpacked(raw: BinaryIO, column: pq.ColumnChunkMetaData) -> int:
    """Bytes that the pages of a column chunk have in memory. Headers behind a damaged one are not counted: Arrow stops
    there too."""
    return sum(size for size, _ in _pages(raw, column))


def _pages(raw: BinaryIO, column: pq.ColumnChunkMetaData) -> Iterator[tuple[int, int]]:
    """The bytes of each page, uncompressed and compressed."""
    at = column.data_page_offset
    if column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < at:
        at = column.dictionary_page_offset
    end = at + column.total_compressed_size
    while 0 <= at < end:
        for most in (HEAD, LARGEST):
            raw.seek(at)
            header = _Struct(raw.read(min(most, end - at)))
            try:
                header.read()
                break
            except (IndexError, RecursionError):
                if most == LARGEST:
                    return
            except ValueError:
                return
        sizes = header.sizes.get(UNCOMPRESSED, -1), header.sizes.get(COMPRESSED, -1)
        if min(sizes) < 0:
            return
        yield sizes
        at += header.at + sizes[1]


class _Struct:
    """A struct of Thrift's compact protocol. Raises `IndexError` if it is cut, `ValueError` if it is not one."""

    def __init__(self, data: bytes):
        self.data, self.at, self.sizes = data, 0, dict[int, int]()

    def read(self, top: bool = True) -> None:
        field = 0
        while (kind := self._byte()) & 15:
            field = field + (kind >> 4) if kind >> 4 else self._number()
            if top and kind & 15 == I32:
                self.sizes[field] = ((self._number() & 0xFFFFFFFF) ^ 1 << 31) - (1 << 31)
            elif kind & 15 not in (TRUE, FALSE):    # their value is their type
                self._skip(kind & 15)

    def _skip(self, kind: int) -> None:
        if kind in (BYTE, TRUE, FALSE):
            self.at += 1
        elif kind in (I16, I32, I64):
            self._varint()
        elif kind == DOUBLE:
            self.at += 8
        elif kind == BINARY:
            self.at += self._varint() & 0xFFFFFFFF
        elif kind in (LIST, SET):
            head = self._byte()
            for _ in range(self._varint() & 0xFFFFFFFF if head >> 4 == 15 else head >> 4):
                self._skip(head & 15)
        elif kind == MAP:
            count = self._varint() & 0xFFFFFFFF
            kinds = self._byte() if count else 0
            for _ in range(count):
                self._skip(kinds >> 4)
                self._skip(kinds & 15)
        elif kind == STRUCT:
            self.read(top=False)
        else:
            raise ValueError("is not a type of Thrift")
        if self.at > len(self.data):
            raise IndexError("ends early")

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("is a number without end")

    def _number(self) -> int:
        """A signed number."""
        value = self._varint() & 0xFFFFFFFFFFFFFFFF
        return value >> 1 ^ -(value & 1)

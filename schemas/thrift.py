"""Structs of Thrift's compact protocol, in which Parquet writes its footers and the headers of its pages.

Only the fields that are asked for take memory; all others are skipped, in time that grows with their length.
"""

from collections.abc import Mapping
from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
NUMBERS = (I16, I32, I64)
MOST = 1_000_000  # structs

Wanted = Mapping[int, "Wanted | int"]  # number of a field -> its type; of a struct or a list of them, what is wanted


class Struct:
    """Reads structs from the beginning of `data`; `at` is where it has come to."""

    def __init__(self, data: bytes, at: int = 0):
        self.data, self.at, self.structs = data, at, 0

    def read(self, wanted: Wanted) -> dict[int, Any]:
        """The wanted fields of a struct: numbers, texts as bytes, lists of either, and structs or lists of them.

        A field of another type is left out. Raises `EOFError` if the data ends early, and `ValueError` if it is not a
        struct.
        """
        try:
            return self._struct(wanted)
        except IndexError:
            raise EOFError("ends early") from None
        except RecursionError:
            raise ValueError("has too many levels") from None

    def _struct(self, wanted: Wanted) -> dict[int, Any]:
        data, found, field = self.data, dict[int, Any](), 0
        self.structs += 1
        if self.structs > MOST:
            raise ValueError(f"has more than {MOST:,} parts")
        while head := data[self.at]:
            self.at += 1
            kind = head & 15
            field = field + (head >> 4) if head >> 4 else self._number()
            want = wanted.get(field)
            if want is None:
                self._skip(kind, inner=False)
            elif isinstance(want, int):
                if want != kind:
                    self._skip(kind, inner=False)
                else:
                    found[field] = self._value(kind)
            elif kind == STRUCT:
                found[field] = self._struct(want)
            elif kind == LIST:
                found[field] = self._list(want)
            else:
                self._skip(kind, inner=False)
        self.at += 1
        return found

    def _value(self, kind: int) -> Any:
        if kind in NUMBERS:
            return self._number()
        if kind == BINARY:
            start = self._pass(self._varint())
            return self.data[start : self.at]
        if kind != LIST:
            raise ValueError("has a field of another type")
        count, kind = self._head()
        if kind not in (*NUMBERS, BINARY):
            raise ValueError("has a list of another type")
        return [self._value(kind) for _ in range(count)]

    def _list(self, wanted: Wanted) -> list[dict[int, Any]]:
        count, kind = self._head()
        if kind != STRUCT:
            raise ValueError("has a list of another type")
        return [self._struct(wanted) for _ in range(count)]

    def _head(self) -> tuple[int, int]:
        """How many values a list has, and their type. No list is longer than the bytes that are left."""
        head = self.data[self._pass(1)]
        count = self._varint() if head >> 4 == 15 else head >> 4
        if count > len(self.data) - self.at:
            raise IndexError
        return count, head & 15

    def _skip(self, kind: int, inner: bool = True) -> None:
        if kind in NUMBERS:
            self._varint()
        elif kind == BINARY:
            self._pass(self._varint())
        elif kind == STRUCT:
            self._skip_struct()
        elif kind in (TRUE, FALSE):  # of a field, the value is its type
            self._pass(int(inner))
        elif kind == BYTE:
            self._pass(1)
        elif kind == DOUBLE:
            self._pass(8)
        elif kind in (LIST, SET):
            count, kind = self._head()
            for _ in range(count):
                self._skip(kind)
        elif kind == MAP:
            count = self._varint()
            kinds = self.data[self._pass(1)] if count else 0
            for _ in range(count):
                self._skip(kinds >> 4)
                self._skip(kinds & 15)
        else:
            raise ValueError("has a field of no known type")

    def _skip_struct(self) -> None:
        data = self.data
        while head := data[self.at]:
            self.at += 1
            if not head >> 4:
                self._varint()
            self._skip(head & 15, inner=False)
        self.at += 1

    def _pass(self, count: int) -> int:
        """Goes on by some bytes; where they start."""
        start = self.at
        self.at += count
        if self.at > len(self.data):
            raise IndexError
        return start

    def _varint(self) -> int:
        value = self.data[self.at]
        self.at += 1
        if value < 128:
            return value
        value &= 127
        for shift in range(7, 70, 7):
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value & 0xFFFFFFFFFFFFFFFF
        raise ValueError("has a number without end")

    def _number(self) -> int:
        """A signed number."""
        value = self._varint()
        return value >> 1 ^ -(value & 1)

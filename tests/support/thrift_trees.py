"""Thrift's compact protocol as trees that can be changed and written again: a struct is a list of `Field`s."""

import random
from dataclasses import dataclass
from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
NUMBERS = (I16, I32, I64)
ODD = (0, -1, 1, 2, 7, 100, (1 << 31) - 1, -(1 << 31), 1 << 62, -(1 << 63), (1 << 63) - 1)
KINDS = (TRUE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, STRUCT)
PLAIN = {TRUE: True, FALSE: False, BYTE: b"\1", DOUBLE: bytes(8), BINARY: b"x"}


@dataclass
class Field:
    """A field of a struct, or, with the number 0, a value of a list. A list is its type and its values."""

    number: int
    kind: int
    value: Any


def read(data: bytes, at: int = 0) -> tuple[list[Field], int]:
    """A struct, and where it ends."""
    fields, number = [], 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _number(data, at)
        value, at = _value(data, at, head & 15)
        fields.append(Field(number, head & 15, value))
    return fields, at + 1


def _value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in (TRUE, FALSE):
        return kind == TRUE, at
    if kind in NUMBERS:
        return _number(data, at)
    if kind == STRUCT:
        return read(data, at)
    if kind in (BYTE, DOUBLE):
        size = 1 if kind == BYTE else 8
        return data[at : at + size], at + size
    if kind == BINARY:
        size, at = _varint(data, at)
        return data[at : at + size], at + size
    assert kind == LIST
    head, at = data[at], at + 1
    count, inner = head >> 4, head & 15
    if count == 15:
        count, at = _varint(data, at)
    values = []
    for _ in range(count):
        value, at = (data[at] == TRUE, at + 1) if inner in (TRUE, FALSE) else _value(data, at, inner)
        values.append(Field(0, inner, value))
    return [inner, values], at


def written(fields: list[Field]) -> bytes:
    made, last = b"", 0
    for field in fields:
        kind = FALSE if field.kind == TRUE and not field.value else field.kind
        step = field.number - last
        made += bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + _signed(field.number)
        made += b"" if kind in (TRUE, FALSE) else _bytes(field)
        last = field.number
    return made + b"\0"


def _bytes(field: Field) -> bytes:
    value = field.value
    if field.kind in NUMBERS:
        return _signed(value)
    if field.kind == STRUCT:
        return written(value)
    if field.kind == BINARY:
        return _unsigned(len(value)) + value
    if field.kind in (TRUE, FALSE):
        return bytes([TRUE if value else FALSE])
    if field.kind != LIST:
        return value
    kind, values = value
    count = len(values)
    head = bytes([count << 4 | kind]) if count < 15 else bytes([0xF0 | kind]) + _unsigned(count)
    return head + b"".join(map(_bytes, values))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _number(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _unsigned(value: int) -> bytes:
    made = b""
    while value > 127:
        made, value = made + bytes([value & 127 | 128]), value >> 7
    return made + bytes([value])


def _signed(value: int) -> bytes:
    return _unsigned((value << 1 ^ value >> 63) & (1 << 64) - 1)


def find(fields: list[Field], *numbers: int) -> Any:
    """The value of a field within fields; None if there is none."""
    for number in numbers:
        field = next((field for field in fields if field.number == number), None)
        if field is None:
            return None
        fields = field.value
    return fields


def changed(fields: list[Field], draws: random.Random) -> None:
    """Changes one field at any depth: its value, its type, its number; or it is gone, or there twice."""
    places: list[tuple[list[Field], int]] = []
    todo = [fields]
    while todo:
        here = todo.pop()
        for at, field in enumerate(here):
            places.append((here, at))
            if field.kind == STRUCT:
                todo.append(field.value)
            elif field.kind == LIST:
                todo.append(field.value[1])
    if not places:
        return
    here, at = draws.choice(places)
    field, how = here[at], draws.randrange(10)
    if how == 0:
        del here[at]
    elif how == 1:
        here.insert(at, field)
    elif how == 2 and field.number:
        field.number = max(1, field.number + draws.choice((-1, 1, 20)))
        here.sort(key=lambda field: field.number)
    elif how == 3 and field.number:
        kind = draws.choice(KINDS)
        number = draws.choice(ODD) & 0x7FFF
        values = {LIST: [I32, [Field(0, I32, number)] * draws.choice((0, 1, 20))], STRUCT: []}
        here[at] = Field(field.number, kind, values.get(kind, PLAIN.get(kind, number)))
    elif field.kind in NUMBERS:
        bits = {I16: 16, I32: 32, I64: 64}[field.kind]
        value = draws.choice((*ODD, field.value + 1, field.value - 1, field.value * 2))
        field.value = (value + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)
    elif field.kind == BINARY:
        field.value = draws.choice((b"", field.value[:-1], field.value * 2, b"\xff" * 9, b"x" * 100_000))
    elif field.kind == LIST:
        values = field.value[1]
        field.value[1] = draws.choice(([], values[:-1], values * 2, values * 300, values[::-1]))
    elif field.kind in (TRUE, FALSE):
        field.value = not field.value
    elif field.kind == STRUCT:
        field.value.clear()

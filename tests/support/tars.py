"""Tars written header by header, so that a header can claim anything."""

import tarfile

END = bytes(1024)


def header(name: str, size: int | bytes, kind: bytes = b"0", real: int | None = None, more: bool = False) -> bytes:
    """A header with a right checksum. `real` and `more`: the size of a sparse member, and whether its map goes on."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[156:157] = kind
    block[124:136] = size if isinstance(size, bytes) else number(size)
    if real is not None:
        block[257:265] = b"ustar  \0"
        block[386:410] = number(0) + number(size)
        block[482:495] = bytes([more]) + number(real)
    return sealed(block)


def sealed(block: bytes | bytearray) -> bytes:
    """A header with its checksum."""
    block = bytearray(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def number(value: int) -> bytes:
    """Twelve bytes of a header: octal digits, or binary as GNU tar writes large and negative numbers."""
    if 0 <= value < 8**11:
        return b"%011o\0" % value
    return b"\x80" + value.to_bytes(11, "big") if value > 0 else (2**96 + value).to_bytes(12, "big")


def member(name: str, data: bytes, kind: bytes = b"0") -> bytes:
    return header(name, len(data), kind) + data + bytes(-len(data) % 512)


def record(word: str, value: str) -> bytes:
    """A PAX record."""
    said = f" {word}={value}\n".encode()
    length = len(said) + 1
    while len(b"%d" % length) + len(said) != length:
        length += 1
    return b"%d" % length + said

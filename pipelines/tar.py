"""Tars with fixed headers, written and hashed in one pass: the same members give the same bytes anywhere.

Headers are ustar (POSIX 1003.1-1988): owner 0, mode 0644, time 0. A name is at most 100 bytes of ASCII.
"""

import hashlib
from typing import BinaryIO

BLOCK = 512
_NAME, _SIZE, _SUM = slice(0, 100), slice(124, 136), slice(148, 156)


def _template() -> bytes:
    header = bytearray(BLOCK)
    header[100:108] = header[108:116] = header[116:124] = b"0000000\0"
    header[100:108] = b"0000644\0"
    header[136:148] = b"00000000000\0"
    header[_SUM] = b"        "
    header[156:157] = b"0"
    header[257:265] = b"ustar\x0000"
    return bytes(header)


_TEMPLATE = _template()
_TEMPLATE_SUM = sum(_TEMPLATE)


def header(name: str, size: int) -> bytes:
    """The 512 bytes that stand before a member. Raises `ValueError` for a name that ustar cannot hold."""
    encoded = name.encode("ascii")
    if not 0 < len(encoded) <= 100:
        raise ValueError(f"a tar member's name has 1 to 100 bytes: {name!r}")
    if size >= 8**11:
        raise ValueError(f"{name}: {size} bytes do not fit in a tar member")
    block = bytearray(_TEMPLATE)
    block[: len(encoded)] = encoded
    digits = b"%011o\0" % size
    block[_SIZE] = digits
    block[_SUM] = b"%06o\0 " % (_TEMPLATE_SUM + sum(encoded) + sum(digits))
    return bytes(block)


class TarWriter:
    """Writes members one after another and keeps the SHA-256 of all that was written."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.size = 0
        self.sha256 = hashlib.sha256()

    def add(self, name: str, data: bytes) -> int:
        """Appends one member; returns the offset of its payload."""
        offset = self.size + BLOCK
        self._write(b"".join((header(name, len(data)), data, bytes(-len(data) % BLOCK))))
        return offset

    def close(self) -> str:
        """Writes the end of the archive; returns the SHA-256 of the whole. The file stays open."""
        self._write(bytes(2 * BLOCK))
        return self.sha256.hexdigest()

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.sha256.update(data)
        self.size += len(data)

"""Tars with fixed headers, written and hashed in one pass: the same members give the same bytes anywhere.

Headers are ustar (POSIX 1003.1-1988): owner 0, mode 0644, time 0. A name is at most 100 bytes of ASCII.
"""

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

BLOCK = 512
CHUNK = 1 << 18  # bytes that are hashed and written at once
_MODE = b"0000644\0" + 2 * b"0000000\0"  # and the owner's and the group's numbers
_TIME = b"00000000000\0"
_REST = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)  # a plain file
_FIXED_SUM = sum(_MODE + _TIME + _REST + b" " * 8)  # the checksum counts itself as blanks


def header(name: str, size: int) -> bytes:
    """The 512 bytes that stand before a member. Raises `ValueError` for a name that ustar cannot hold."""
    encoded = name.encode("ascii")
    if not 0 < len(encoded) <= 100:
        raise ValueError(f"a tar member's name has 1 to 100 bytes: {name!r}")
    if size >= 8**11:
        raise ValueError(f"{name}: {size} bytes do not fit in a tar member")
    digits = b"%011o\0" % size
    checksum = b"%06o\0 " % (_FIXED_SUM + sum(encoded) + sum(digits))
    return b"".join((encoded.ljust(100, b"\0"), _MODE, digits, _TIME, checksum, _REST))


class TarWriter:
    """Writes members one after another and keeps the SHA-256 of all that was written.

    A second thread hashes a chunk while this one writes it and collects the next.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.size = 0
        self.sha256 = hashlib.sha256()
        self.chunk = bytearray()
        self.hasher = ThreadPoolExecutor(1)
        self.hashed: Future[None] = self.hasher.submit(self.sha256.update, b"")

    def add(self, name: str, data: bytes) -> int:
        """Appends one member; returns the offset of its payload."""
        offset = self.size + BLOCK
        self._append(header(name, len(data)), data, bytes(-len(data) % BLOCK))
        if len(self.chunk) >= CHUNK:
            self._flush()
        return offset

    def read(self, offset: int, size: int) -> bytes:
        """Bytes that were appended before; the file must be open for reading too."""
        self._flush()
        self.file.flush()
        return os.pread(self.file.fileno(), size, offset)

    def close(self) -> str:
        """Writes the end of the archive; returns the SHA-256 of the whole. The file stays open."""
        self._append(bytes(2 * BLOCK))
        self._flush()
        self.hashed.result()
        self.hasher.shutdown()
        return self.sha256.hexdigest()

    def _append(self, *parts: bytes) -> None:
        for part in parts:
            self.chunk += part
            self.size += len(part)

    def _flush(self) -> None:
        self.hashed.result()
        chunk, self.chunk = self.chunk, bytearray()
        self.hashed = self.hasher.submit(self.sha256.update, chunk)
        self.file.write(chunk)

"""Requests for images, their results, and the file of the bodies. Imports no HTTP client: most runs need none."""

import os
from dataclasses import dataclass, field
from typing import NamedTuple

BLOCK = 1 << 16  # bytes


class FetchRequest(NamedTuple):
    url: str
    at_hand: bool = False  # its bytes are here already; it is only asked whether they may be used


@dataclass
class FetchResult:
    """The result for one URL."""

    reason: str | None = None  # None if there are bytes to decode
    detail: str | None = None
    pieces: list[tuple[int, int]] = field(default_factory=list)  # of the body: offset and size in its file
    robots_tag: str | None = None  # its `X-Robots-Tag` headers, one per line
    status: int | None = None  # the last HTTP status
    tries: int = 0  # in which it was requested
    milliseconds: float = 0.0  # of the last try: connecting, redirects and reading, but no waiting for turns
    offline: bool = False

    @property
    def size(self) -> int:
        return sum(size for _, size in self.pieces)


class Bodies:
    """A file to which many bodies are written at the same time, as they arrive, in blocks that are reused."""

    def __init__(self, descriptor: int, limit: int):
        self.descriptor, self.limit = descriptor, limit  # of the file; bytes that a body may have
        self.end = 0  # bytes of the file
        self.free: list[int] = []  # offsets of blocks

    def write(self, result: FetchResult, data: bytes) -> None:
        """Appends to the body of a result."""
        left = memoryview(data)  # not copied: a decompressed piece may be as large as a whole body
        while left:
            offset, size = result.pieces.pop() if result.pieces and result.pieces[-1][1] < BLOCK else (self._block(), 0)
            part, left = left[: BLOCK - size], left[BLOCK - size :]
            os.pwrite(self.descriptor, part, offset + size)
            result.pieces.append((offset, size + len(part)))

    def _block(self) -> int:
        if not self.free:
            self.free.append(self.end)
            self.end += BLOCK
        return self.free.pop()

    def drop(self, result: FetchResult) -> None:
        self.free += [offset for offset, _ in result.pieces]
        result.pieces = []

    def read(self, result: FetchResult) -> bytes:
        return b"".join(os.pread(self.descriptor, size, offset) for offset, size in result.pieces)

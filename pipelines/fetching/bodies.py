"""What is asked of servers and what comes of it: requests, results, and the file that bodies go to.

It imports no client: most who need these ask nobody.
"""

import os
from dataclasses import dataclass, field
from typing import NamedTuple

from yarl import URL

from pipelines.fetching.hosts import FetchFailed

BLOCK = 1 << 16  # bytes


def url_of(text: str, base: URL | None = None) -> URL:
    """A URL as it is asked for: no user, no password, no fragment. Raises `FetchFailed` if it is not http(s)."""
    try:
        url = URL(text.strip())
        url = base.join(url) if base else url
        if url.scheme in ("http", "https") and url.raw_host:
            return url.with_user(None).with_fragment(None)
    except ValueError as error:
        raise FetchFailed("bad_url", f"{text!r}: {error}") from None
    raise FetchFailed("bad_url", f"{text!r} is no address of the web")


class FetchRequest(NamedTuple):
    url: str
    at_hand: bool = False  # its bytes are here; the question is only whether they may be used


@dataclass
class FetchResult:
    """What became of one URL."""

    reason: str | None = None  # none if there are bytes to look at
    detail: str | None = None
    pieces: list[tuple[int, int]] = field(default_factory=list)  # of the body: offset and size in its file
    robots_tag: str | None = None  # the `X-Robots-Tag` headers that came with it, a line each
    status: int | None = None  # HTTP's, the last one
    tries: int = 0  # in which it was asked for
    milliseconds: float = 0.0  # of the last try: connecting, redirects and reading, but no waiting for turns
    offline: bool = False

    @property
    def size(self) -> int:
        return sum(size for _, size in self.pieces)


class Bodies:
    """A file that many bodies are written to at a time, as they come, in blocks that are used again."""

    def __init__(self, descriptor: int, limit: int):
        self.descriptor, self.limit, self.end = descriptor, limit, 0  # bytes a body may have, bytes in all
        self.free: list[int] = []  # offsets of blocks

    def write(self, answer: FetchResult, data: bytes) -> None:
        """Puts down more of an answer's body."""
        left = memoryview(data)  # a piece that was packed tightly may be as large as a body may be: it is not copied
        while left:
            offset, size = answer.pieces.pop() if answer.pieces and answer.pieces[-1][1] < BLOCK else (self._block(), 0)
            part, left = left[: BLOCK - size], left[BLOCK - size :]
            os.pwrite(self.descriptor, part, offset + size)
            answer.pieces.append((offset, size + len(part)))

    def _block(self) -> int:
        if not self.free:
            self.free.append(self.end)
            self.end += BLOCK
        return self.free.pop()

    def drop(self, answer: FetchResult) -> None:
        self.free += [offset for offset, _ in answer.pieces]
        answer.pieces = []

    def read(self, answer: FetchResult) -> bytes:
        return b"".join(os.pread(self.descriptor, size, offset) for offset, size in answer.pieces)

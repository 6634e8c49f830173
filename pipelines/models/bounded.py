"""Answers of servers are read up to a bound: the package that sends requests reads all that comes."""

from collections.abc import AsyncIterator
from typing import Any

MOST = 16 << 20  # bytes of an answer; ten thousand words are 60 KB
PACKED = 256 << 10  # of one that is compressed, which may become a thousand times as much


class TooLong(ValueError):
    """An answer has more bytes than are read."""


class Bounded:
    """The bytes of an answer. Raises `TooLong` beyond the bound."""

    def __init__(self, stream: Any, most: int):
        self.stream, self.most = stream, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self.most
        async for piece in self.stream:
            left -= len(piece)
            if left < 0:
                raise TooLong(f"the answer has more than {self.most} bytes")
            yield piece

    async def aclose(self) -> None:
        await self.stream.aclose()


async def bound(response: Any) -> None:
    """A hook of the web client: bounds an answer before its body is read."""
    kind = type(response.stream)
    most = PACKED if response.headers.get("content-encoding", "identity") != "identity" else MOST
    response.stream = type("BoundedStream", (Bounded, *_base(kind)), {})(response.stream, most)


def _base(kind: type) -> tuple[type, ...]:
    """The client's own base class of streams, which it checks for."""
    return tuple(base for base in kind.__mro__ if base.__name__ == "AsyncByteStream")[:1]

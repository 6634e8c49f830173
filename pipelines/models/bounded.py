"""Answers of servers are read up to a bound: the package that sends requests reads and unpacks all that comes."""

import zlib
from collections.abc import AsyncIterator
from typing import Any

MOST = 16 << 20  # bytes of an answer, unpacked; ten thousand words are 60 KB
PACKED = ("gzip", "x-gzip", "deflate")


class Unreadable(ValueError):
    """An answer that is not read to its end, or not at all."""


class TooLong(Unreadable):
    """An answer has more bytes than are read."""


class Bounded:
    """The bytes of an answer, unpacked. Raises `TooLong` beyond the bound."""

    def __init__(self, stream: Any, unpacker: Any):
        self.stream, self.unpacker = stream, unpacker

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MOST
        async for piece in self.stream:
            try:
                piece = self.unpacker.decompress(piece, left + 1) if self.unpacker else piece
            except zlib.error as error:
                raise Unreadable(f"the answer cannot be unpacked: {error}") from None
            left -= len(piece)
            if left < 0:
                raise TooLong(f"the answer has more than {MOST} bytes")
            yield piece

    async def aclose(self) -> None:
        await self.stream.aclose()


async def bound(response: Any) -> None:
    """A hook of the web client: bounds an answer before its body is read, and follows no redirect to another place.

    Raises `Unreadable`.
    """
    if response.has_redirect_location:
        here, there = response.request.url, response.request.url.join(response.headers["location"])
        if (there.host, there.port) != (here.host, here.port):
            raise Unreadable(f"the server redirects to {there.host}; if that is right, write it as the url")
    packed, unpacker = response.headers.pop("content-encoding", "identity").strip().lower(), None
    if packed in PACKED:
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
    elif packed not in ("identity", ""):
        raise Unreadable(f"the answer has the Content-Encoding {packed!r:.50}, which was not asked for")
    kind = type(response.stream)
    response.stream = type("BoundedStream", (Bounded, *_base(kind)), {})(response.stream, unpacker)


def _base(kind: type) -> tuple[type, ...]:
    """The client's own base class of streams, which it checks for."""
    return tuple(base for base in kind.__mro__ if base.__name__ == "AsyncByteStream")[:1]

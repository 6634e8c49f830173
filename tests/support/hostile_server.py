"""A server on loopback that plays as many hosts as it has names, most of them bad.

    python tests/support/hostile_server.py

The first part of a path says how it behaves: `/good/7` is an image of its own, `/drip/7` five bytes a second. Names
under `localhost` are this machine's (RFC 6761), so that `http://a.localhost:PORT/` and `http://b.localhost:PORT/` are
two hosts. `/asked` says what was asked for and when, `/most` how many requests of a host, or of all (`*`), were open.
"""

import asyncio
import gzip
import io
import itertools
import json
import math
import random
import ssl
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import unquote
from urllib.request import urlopen

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.loopback import Answering, ServerProcess

DRIP = 0.2  # seconds between two bytes


def photograph(side: int = 256, seed: int = 0) -> bytes:
    """A JPEG with about as much in it as a photograph has: soft shapes and some noise."""
    draws = np.random.default_rng(seed)
    shapes = Image.fromarray(draws.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)).resize((side, side))
    noisy = np.asarray(shapes).astype(np.int16) + draws.integers(-12, 13, (side, side, 3))
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


PHOTOGRAPH = photograph()


def image(path: str) -> bytes:
    """The image at a path: the photograph with the path as its comment, so that no two are the same."""
    comment = path.encode()
    return PHOTOGRAPH[:20] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + PHOTOGRAPH[20:]


HTML = b"<!DOCTYPE html><html><body>This image has moved.</body></html>"


def head(status: str, body: bytes = b"", **headers: object) -> bytes:
    """An answer: its status, headers (their `_` stand for `-`), and a body with its true length if not told another."""
    said = {"Content_Length": len(body)} | headers
    lines = [f"HTTP/1.1 {status}", *(f"{n.replace('_', '-')}: {v}" for n, v in said.items() if v is not None)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def bomb() -> bytes:
    """Ten gigabytes of nothing in ten megabytes."""
    packer = zlib.compressobj(9, wbits=31)
    first, each = (packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + 599 * each + packer.flush()


class Asked:
    """One request, and what can be done to answer it."""

    def __init__(self, server: "Server", host: str, path: str, headers: dict[str, str]):
        self.server, self.host, self.path, self.headers = server, host, path, headers
        self.rest = unquote(path.split("?")[0]).strip("/").split("/")[1:]

    def before(self) -> int:
        """How often this was asked for before."""
        return len(self.server.asked[self.host + self.path]) - 1

    def url(self, path: str, host: str | None = None) -> str:
        return f"http://{host or self.host}:{self.server.port}{path}"


# What it does: the whole answer at once, after some seconds, or piece by piece. None as a piece resets the connection.

Answer = bytes | tuple[float, bytes] | AsyncIterator[bytes | None]


async def drip(asked: Asked) -> AsyncIterator[bytes]:
    body = image(asked.path)
    yield head("200 OK", Content_Length=len(body), Content_Type="image/jpeg")
    for byte in body:
        await asyncio.sleep(DRIP)
        yield bytes([byte])


def as_on_the_web(asked: Asked) -> tuple[float, bytes]:
    """Most hosts are 0.1 s away, one in a hundred a second."""
    seconds = 0.1 * math.exp(random.Random(asked.host).gauss(0, 1))
    return min(2.0, seconds), good(asked)


async def silent(asked: Asked) -> AsyncIterator[bytes]:
    await asyncio.sleep(3600)
    yield b""


async def slow_head(asked: Asked) -> AsyncIterator[bytes]:
    for byte in head("200 OK", image(asked.path)):
        yield bytes([byte])
        await asyncio.sleep(DRIP)


async def reset(asked: Asked) -> AsyncIterator[None]:
    yield None


async def reset_inside(asked: Asked) -> AsyncIterator[bytes | None]:
    body = image(asked.path)
    yield head("200 OK", Content_Length=len(body)) + body[: len(body) // 2]
    await asyncio.sleep(0.05)
    yield None


async def endless(asked: Asked) -> AsyncIterator[bytes]:
    yield head("200 OK", Content_Length=None, Transfer_Encoding="chunked")
    while True:
        yield b"10000\r\n" + bytes(1 << 16) + b"\r\n"
        await asyncio.sleep(0)


async def endless_head(asked: Asked) -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    for n in itertools.count():
        yield b"X-%d: %s\r\n" % (n, b"x" * 1000)
        await asyncio.sleep(0)


async def chunked(asked: Asked) -> AsyncIterator[bytes]:
    body = image(asked.path)
    yield head("200 OK", Content_Length=None, Transfer_Encoding="chunked")
    for start in range(0, len(body), 5000):
        part = body[start : start + 5000]
        yield b"%x\r\n%s\r\n" % (len(part), part)
    yield b"0\r\n\r\n"


async def until_closed(asked: Asked) -> AsyncIterator[bytes]:
    yield head("200 OK", Content_Length=None, Connection="close") + image(asked.path)
    yield None if asked.rest[0] == "reset" else b""


async def short(asked: Asked) -> AsyncIterator[bytes]:
    """A length that is not reached: it closes in good order before."""
    body = image(asked.path)
    yield head("200 OK", Content_Length=len(body) + 1000) + body


def garbled(asked: Asked) -> bytes:
    """/garbled/7: a good answer with some bytes changed, most of them in its head."""
    draws, said = random.Random(asked.path), bytearray(good(asked))
    for _ in range(draws.randint(1, 12)):
        said[int(draws.random() ** 3 * 300)] = draws.choice(b"\0\r\n\t :;,=/1A\x7f\xff" + draws.randbytes(4))
    return bytes(said)


def hop(asked: Asked, left: int) -> bytes:
    """/hops/3/7: three redirects, each to another host, then an image."""
    return head("301 Moved", Location=asked.url(f"/hops/{left - 1}/{asked.rest[1]}", f"h{left}.localhost"))


def later(asked: Asked) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=float(asked.rest[0])), usegmt=True)


BEHAVIOURS: dict[str, Callable[[Asked], Answer]] = {
    "good": lambda asked: head("200 OK", image(asked.path), Content_Type="image/jpeg"),
    "web": as_on_the_web,
    "slow": lambda asked: (float(asked.rest[0]), good(asked)),  # /slow/0.5/…
    "drip": drip,
    "silent": silent,
    "slow-head": slow_head,
    "reset": reset,
    "reset-inside": reset_inside,
    "reset-once": lambda asked: good(asked) if asked.before() else reset(asked),
    "endless": endless,
    "endless-head": endless_head,
    "chunked": chunked,
    "until-closed": until_closed,
    "short": short,
    "long": lambda asked: head("200 OK", image(asked.path), Content_Length=5000),
    "no-http": lambda asked: b"SSH-2.0-OpenSSH_9.6\r\n",
    "no-image": lambda asked: head("200 OK", b"not found"),
    "html": lambda asked: head("200 OK", HTML, Content_Type="image/jpeg"),
    "empty": lambda asked: head("200 OK"),
    "status": lambda asked: head(f"{asked.rest[0]} Said So", HTML),  # /status/404/…
    "status-with-image": lambda asked: head(f"{asked.rest[0]} Said So", image(asked.path)),
    "busy": lambda asked: good(asked) if asked.before() else head("429 Slow Down", Retry_After=asked.rest[0]),
    "busy-date": lambda asked: good(asked) if asked.before() else head("503 Later", Retry_After=later(asked)),
    "always-busy": lambda asked: head("429 Slow Down", Retry_After=asked.rest[0]),
    "recovers": lambda asked: good(asked) if asked.before() else head("500 Oops"),
    "loop": lambda asked: head("302 Found", Location=asked.path),
    "ever-on": lambda asked: head("302 Found", Location=f"/ever-on/{int(asked.rest[0]) + 1}"),
    "hops": lambda asked: good(asked) if asked.rest[0] == "0" else hop(asked, int(asked.rest[0])),
    "to": lambda asked: head("307 Elsewhere", Location="/".join(asked.rest).replace("|", "/")),
    "to-nowhere": lambda asked: head("302 Found"),
    "bomb": lambda asked: head("200 OK", BOMB, Content_Encoding="gzip"),
    "packed": lambda asked: head("200 OK", gzip.compress(image(asked.path)), Content_Encoding="gzip"),
    "packed-badly": lambda asked: head("200 OK", image(asked.path), Content_Encoding="gzip"),
    "packed-oddly": lambda asked: head("200 OK", image(asked.path), Content_Encoding="br"),
    "tag": lambda asked: head("200 OK", image(asked.path), X_Robots_Tag=" ".join(asked.rest[0].split("+"))),
    "garbled": garbled,
    "cookie": lambda asked: head("302 Found", Location="/good/after-a-cookie", Set_Cookie="id=1; Path=/"),
}  # fmt: skip
good = BEHAVIOURS["good"]
BOMB = bomb() if __name__ == "__main__" else b""
ROBOTS = {  # the first part of a host's name -> its robots.txt
    "closed": head("200 OK", b"User-agent: *\nDisallow: /\n"),
    "partly": head("200 OK", b"User-agent: *\nDisallow: /*/secret\n\nUser-agent: shardmill\nDisallow: /good/no*\n"),
    "moved": head("302 Found", Location="/elsewhere.txt"),
    "broken": head("500 Oops"),
    "huge": head("200 OK", b"User-agent: *\nDisallow: /\n" + 200_000 * b"# for ever\n"),
}


class Connection(Answering):
    """One connection; answers request after request."""

    def __init__(self, server: "Server"):
        self.server, self.buffer = server, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.buffer.startswith(b"GET "[: len(self.buffer)]):  # TLS, say
            self.transport.write(head("400 Bad Request", Connection="close"))
            self.transport.close()
        while b"\r\n\r\n" in self.buffer and self.task is None:
            text, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
            first, *lines = text.decode("latin-1").split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines if ": " in line)
            host = {name.lower(): value for name, value in headers.items()}.get("host", "").rsplit(":", 1)[0]
            self.answer(Asked(self.server, host, first.split(" ")[1], headers))

    def answer(self, asked: Asked) -> None:
        said = self.server.answer(asked)
        if isinstance(said, bytes):
            self.transport.write(said)
            return
        self.server.opened(asked.host, 1)
        if isinstance(said, tuple):
            asyncio.get_running_loop().call_later(said[0], self.say_late, said[1], asked)
        else:
            self.task = asyncio.ensure_future(self.say(said, asked))

    def say_late(self, said: bytes, asked: Asked) -> None:
        self.server.opened(asked.host, -1)
        if not self.transport.is_closing():
            self.transport.write(said)

    async def say(self, pieces: AsyncIterator[bytes | None], asked: Asked) -> None:
        """Says an answer piece by piece, then closes."""
        try:
            async for piece in pieces:
                if piece is None:
                    self.reset()
                    return
                while self.transport.get_write_buffer_size() > 1 << 20:
                    await asyncio.sleep(0.01)
                self.transport.write(piece)
        finally:
            self.server.opened(asked.host, -1)
        self.transport.close()


class Server:
    def __init__(self):
        self.asked: dict[str, list[float]] = {}  # host and path -> when
        self.heads: dict[str, dict[str, str]] = {}  # host and path -> headers of the last request
        self.open, self.most = Counter(), Counter()
        self.port = 0

    def opened(self, host: str, count: int) -> None:
        for name in (host, "*"):
            self.open[name] += count
            self.most[name] = max(self.most[name], self.open[name])

    def answer(self, asked: Asked) -> Answer:
        if asked.path in ("/asked", "/heads", "/most"):
            return head("200 OK", json.dumps(getattr(self, asked.path[1:])).encode(), Connection="close")
        name = asked.host + asked.path
        self.asked.setdefault(name, []).append(time.time())
        self.heads[name] = asked.headers
        if asked.path == "/robots.txt":
            return ROBOTS.get(asked.host.split(".")[0], head("404 Not Found"))
        if asked.path == "/elsewhere.txt":
            return ROBOTS["closed"]
        return BEHAVIOURS.get(asked.path.split("/")[1], lambda asked: head("404 Not Found"))(asked)


async def serve(certificate: str | None) -> None:
    server = Server()
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=4096, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    print(server.port, flush=True)
    await listening.serve_forever()


class Hostile(ServerProcess):
    """The server in a process of its own, from `with` to its end."""

    def __init__(self, certificate: Path | None = None):
        self.command = [__file__, *([str(certificate)] if certificate else [])]

    def url(self, path: str, host: str = "a") -> str:
        return f"http://{host}.localhost:{self.port}{path}"

    def says(self, what: str) -> dict:
        with urlopen(f"http://127.0.0.1:{self.port}/{what}") as answer:
            return json.load(answer)

    def asked(self) -> dict[str, list[float]]:
        """`host/path` -> when it was asked for, in seconds."""
        return self.says("asked")


if __name__ == "__main__":
    asyncio.run(serve(*(sys.argv[1:] or [None])))

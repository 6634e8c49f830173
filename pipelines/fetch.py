"""Asks servers of strangers for images: many at once, few a host, each for so long and no longer.

A worker process has one event loop, in a thread of its own, that serves all partitions the worker has in hand, the
oldest first. Bodies go into a file as they come, so that memory depends neither on their size nor on their number.
"""

import asyncio
import atexit
import gc
import itertools
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from queue import SimpleQueue
from typing import NamedTuple

from yarl import URL

from pipelines.client import Client, Headers, retry_after, url_of
from pipelines.consent import OptOuts, Rule, may_ask, refusal, robots_rules
from pipelines.hosts import REST, Failed, Host, Hosts, Turns
from schemas.config import FetchConfig

REDIRECTS = 5
GOOD = {200, 203}
MOVED = {301, 302, 303, 307, 308}
BUSY = {429, 503}
CAN_PASS = {408, 425, 500, 502, 504, *BUSY}
NAMED = {403, 404, 410, 429}  # have a reason of their own
SILENT = {"timeout", "dns", "tls", "connection"}  # reasons for which nobody was heard
ROBOTS = 1_000_000  # bytes of a robots.txt
MANY = 100  # hosts; when not one of so many can be reached, it is not they who are gone


class Offline(Exception):
    """Not one of many hosts could be reached."""


class Ask(NamedTuple):
    url: str
    at_hand: bool = False  # its bytes are here; the question is only whether they may be used


@dataclass
class Answer:
    """What became of one URL."""

    reason: str | None = None  # none if there are bytes to look at
    detail: str | None = None
    pieces: list[tuple[int, int]] = field(default_factory=list)  # of the body: offset and size in its file
    robots_tag: str | None = None  # the `X-Robots-Tag` headers that came with it
    status: int | None = None  # HTTP's, the last one
    tries: int = 0  # in which it was asked for
    milliseconds: float = 0.0  # of the last try: connecting, redirects and reading, but no waiting for turns
    offline: bool = False

    @property
    def size(self) -> int:
        return sum(size for _, size in self.pieces)


class Bodies:
    """A file that many bodies are written to at a time, as they come."""

    def __init__(self, descriptor: int, limit: int):
        self.descriptor, self.limit, self.end = descriptor, limit, 0  # bytes a body may have, bytes in all

    def write(self, data: bytes) -> tuple[int, int]:
        """Where it was put."""
        os.pwrite(self.descriptor, data, self.end)
        self.end += len(data)
        return self.end - len(data), len(data)

    def read(self, answer: Answer) -> bytes:
        return b"".join(os.pread(self.descriptor, size, offset) for offset, size in answer.pieces)


@cache
def fetcher(config: FetchConfig) -> "Fetcher":
    """The one of this process."""
    return Fetcher(config)


class Fetcher:
    def __init__(self, config: FetchConfig):
        gc.set_threshold(50_000, 20, 100)  # thousands of requests in flight are looked at for nothing: 40 % slower
        self.config = config
        self.numbers, self.turns, self.hosts = itertools.count(), Turns(config.in_flight), Hosts(config.per_host)
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="fetch", daemon=True).start()

        async def open_client() -> Client:
            return Client(config)

        self.client = asyncio.run_coroutine_threadsafe(open_client(), self.loop).result()
        atexit.register(self.close)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.client.session.close(), self.loop).result()

    def fetch(self, asks: Sequence[Ask], bodies: Bodies, opt_outs: OptOuts) -> Iterator[tuple[int, Answer]]:
        """(which URL, what became of it), in the order in which they are done. Raises `Offline`."""
        done: SimpleQueue[tuple[int, Answer] | Exception] = SimpleQueue()

        async def one(number: int, index: int) -> None:
            try:
                done.put((index, await self._answer(number, asks[index], bodies, opt_outs)))
            except Exception as error:  # a bug, or this machine's own fault: for who waits in the other thread
                done.put(error)

        async def each() -> None:
            await asyncio.gather(*(one(next(self.numbers), index) for index in range(len(asks))))

        running = asyncio.run_coroutine_threadsafe(each(), self.loop)
        unreached: set[str] = set()
        try:
            for _ in asks:
                answered = done.get()
                if isinstance(answered, Exception):
                    raise answered
                index, answer = answered
                unreached.add(url_of(asks[index].url).raw_host if answer.offline else "")
                yield index, answer
        finally:
            running.cancel()
        if "" not in unreached and len(unreached) >= MANY:
            raise Offline(f"not one of {len(unreached)} hosts could be reached: is this machine online?")

    async def _answer(self, number: int, ask: Ask, bodies: Bodies, opt_outs: OptOuts) -> Answer:
        """Tries a URL, and tries again what can pass."""
        answer, draws = Answer(), random.Random(ask.url)
        while True:
            try:
                await self._try(number, ask, answer, bodies, opt_outs)
                answer.reason = answer.detail = None
                return answer
            except Failed as failed:
                answer.reason, answer.detail, answer.offline = failed.reason, plain(failed.detail), failed.offline
                pause = max(failed.after, 2.0 ** (answer.tries - 1) * draws.uniform(0.5, 1.0))
                if not failed.again or answer.tries >= self.config.tries or pause > self.config.deadline:
                    return answer
            await asyncio.sleep(pause)

    async def _try(self, number: int, ask: Ask, answer: Answer, bodies: Bodies, opt_outs: OptOuts) -> None:
        """One try, redirects included. Raises `Failed`."""
        url, seen, tried = url_of(ask.url), set(), answer.tries + 1
        answer.pieces, answer.milliseconds = [], 0.0

        def wanted(status: int, headers: Headers) -> bool:
            tags = headers.getall("X-Robots-Tag", ())
            answer.status, answer.robots_tag = status, plain(", ".join(tags)) or None
            if status < 400 and self.config.honour_robots_tag and (word := refusal(tags)):
                raise Failed("opt_out", f"X-Robots-Tag: {word}")
            return status in GOOD

        def write(piece: bytes) -> None:
            answer.pieces.append(bodies.write(piece))

        while url not in seen and len(seen) <= REDIRECTS:
            seen.add(url)
            if line := opt_outs.covers(url):
                raise Failed("opt_out", f"{line} in a list of fetch.opt_out")
            if self.config.robots_txt and not may_ask(await self._robots(number, url), url):
                raise Failed("opt_out", f"{url.origin()}/robots.txt")
            if ask.at_hand:
                return
            async with self._turn(number, url) as host:
                answer.tries = tried
                status, headers = await self._ask(host, url, answer, bodies.limit, wanted, write)
            if status in GOOD:
                return
            url = moved(url, status, headers)
        raise Failed("redirect_loop", f"to {url}, after {len(seen)} redirects")

    @asynccontextmanager
    async def _turn(self, number: int, url: URL) -> AsyncIterator[Host]:
        """A turn at a URL's host, which is not left alone then, and one of all."""
        host = self.hosts[url.raw_host]
        async with host.turns.turn(number):
            while True:
                await host.rested(patience=self.config.deadline)
                async with self.turns.turn(number):
                    if not host.rests():
                        yield host
                        return

    async def _ask(
        self, host: Host, url: URL, answer: Answer, limit: int, wanted: Callable[[int, Headers], bool],
        write: Callable[[bytes], None],
    ) -> tuple[int, Headers]:  # fmt: skip
        """Asks once, for no longer than is left of the try's time. Raises `Failed`."""
        began = time.monotonic()
        left = self.config.deadline - answer.milliseconds / 1000
        try:
            status, headers = await self.client.get(url, left, limit, wanted, write)
        except Failed as failed:
            host.silent(failed) if failed.reason in SILENT else host.answered()
            raise
        finally:
            answer.milliseconds += 1000 * (time.monotonic() - began)
        host.answered()
        if status in BUSY:
            host.leave(max(1.0, retry_after(headers)), failed_by(status, headers))
        return status, headers

    # robots.txt

    async def _robots(self, number: int, url: URL) -> list[Rule]:
        """The rules of a URL's host, read once while the host is remembered. Raises `Failed` if they cannot be read."""
        host = self.hosts[url.raw_host]
        reading = host.robots.get(url.origin())
        if reading is None or (reading.done() and reading.exception()):
            reading = asyncio.ensure_future(self._read_robots(number, url.origin() / "robots.txt"))
            host.robots[url.origin()] = reading
        return await asyncio.shield(reading)

    async def _read_robots(self, number: int, url: URL) -> list[Rule]:
        """Who has none (404, 403) minds nothing; who cannot say now is not to be asked for anything."""
        pieces: list[bytes] = []
        for _ in range(REDIRECTS + 1):
            async with self._turn(number, url) as host:
                status, headers = await self._ask(
                    host, url, Answer(), ROBOTS, lambda status, headers: status in GOOD, pieces.append
                )
                failed = failed_by(status, headers)
                if failed.again:
                    host.leave(REST, Failed(failed.reason, f"robots.txt: {failed.detail}"))
                    raise failed
            if status in GOOD or 400 <= status < 500:
                break
            url = moved(url, status, headers)
        return robots_rules(b"".join(pieces).decode("utf-8", "replace"))


def moved(url: URL, status: int, headers: Headers) -> URL:
    """Where a URL is sent on to. Raises `Failed` if it is not."""
    if status in MOVED and "Location" in headers:
        return url_of(headers["Location"], url)
    raise failed_by(status, headers)


def failed_by(status: int, headers: Headers) -> Failed:
    """What a status without a body says."""
    general = {4: "http_4xx", 5: "http_5xx"}.get(status // 100, "bad_answer")
    reason = f"http_{status}" if status in NAMED else general
    return Failed(reason, f"status {status}", again=status in CAN_PASS, after=retry_after(headers))


def plain(text: str) -> str:
    """What a stranger said, as a cell of a table: valid Unicode, and not too much of it."""
    return text.encode("utf-8", "replace").decode()[:500]

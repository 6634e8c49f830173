"""Fetches images from untrusted servers: many at once, few per host, each within a time limit.

A worker process has one event loop, in a thread of its own, that serves all partitions that the worker processes, the
oldest first. Bodies are written to a file as they arrive, so that memory depends on neither their size nor number.
"""

import asyncio
import atexit
import gc
import itertools
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from yarl import URL

from pipelines.engine.secrets import hidden
from pipelines.fetching.bodies import Bodies, FetchRequest, FetchResult
from pipelines.fetching.client import Headers, HttpClient
from pipelines.fetching.hosts import REST, FetchFailed, Host, Hosts, PrioritySemaphore, retry_after
from pipelines.fetching.opt_out import OptOuts, refusal
from pipelines.fetching.robots import MOST, KeptRobots, Robots, is_long, may_ask, read_robots
from pipelines.fetching.urls import host_in, url_of
from schemas.images import FetchConfig

REDIRECTS = 5
GOOD = {200, 203}
MOVED = {301, 302, 303, 307, 308}
BUSY = {429, 503}
CAN_PASS = {408, 425, 500, 502, 504, *BUSY}
NAMED = {403, 404, 410, 429}  # statuses that have a reason of their own
SILENT = {"timeout", "dns", "tls", "connection"}  # reasons that mean that no server answered
SHORT = 16_384  # bytes of a robots.txt that are read in the event loop; more takes longer than a few milliseconds
MANY = 100  # hosts; if not one of so many can be reached, this machine is offline


Enter = Callable[[], Awaitable[None]]


class Offline(Exception):
    """None of many hosts could be reached."""


class Room:
    """Bounds how many requests are on the way: sent, and their results not yet used. Those that wait for their host do
    not count. Lives in the event loop."""

    def __init__(self, most: int):
        self.places, self.inside = asyncio.Semaphore(most), set[int]()

    async def enter(self, index: int) -> None:
        if index not in self.inside:
            await self.places.acquire()
            self.inside.add(index)

    def leave(self, indices: Sequence[int]) -> None:
        for index in self.inside.intersection(indices):
            self.inside.remove(index)
            self.places.release()


making = threading.Lock()
fetchers: dict[FetchConfig, "Fetcher"] = {}  # of this process


def fetcher(config: FetchConfig) -> "Fetcher":
    """The fetcher of this process, whose bounds hold for all of its partitions. Threads may call this at once."""
    with making:
        if config not in fetchers:
            fetchers[config] = Fetcher(config)
        return fetchers[config]


class Fetcher:
    """Fetches URLs in an event loop of its own."""

    def __init__(self, config: FetchConfig):
        gc.set_threshold(50_000, 20, 100)  # to scan thousands of requests in flight often is 40 % slower
        self.config = config
        self.numbers = itertools.count()
        self.turns = PrioritySemaphore(config.in_flight)
        self.hosts = Hosts(config.per_host)
        self.robots = KeptRobots()
        self.aside = ThreadPoolExecutor(2, thread_name_prefix="rules")  # long work on rules, which holds up no request
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="fetch", daemon=True).start()

        async def open_client() -> HttpClient:
            return HttpClient(config)

        self.client = self._run(open_client())
        atexit.register(self.close)

    def _run(self, work: Coroutine) -> Any:
        """Runs a coroutine in the loop, from another thread; returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self) -> None:
        self._run(self.client.session.close())
        self.aside.shutdown(wait=False, cancel_futures=True)

    def fetch(
        self, requests: Sequence[FetchRequest], bodies: Bodies, opt_outs: OptOuts, ahead: int | None = None
    ) -> Iterator[list[tuple[int, FetchResult]]]:
        """Lists of (index of a request, its result), as they become done, until all are. `ahead`: how many requests may
        be sent whose results are not used yet. Raises `Offline`."""
        done: SimpleQueue[tuple[int, FetchResult] | Exception] = SimpleQueue()

        async def fetch_one(number: int, index: int) -> None:
            try:
                enter = partial(room.enter, index)
                done.put((index, await self._fetch(number, requests[index], bodies, opt_outs, enter)))
            except Exception as error:  # a bug, or a fault of this machine: raised in the thread that waits
                done.put(error)

        async def begin() -> list[asyncio.Task]:
            return [asyncio.ensure_future(fetch_one(next(self.numbers), index)) for index in range(len(requests))]

        async def end() -> None:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        room = Room(ahead or len(requests))
        tasks, left = self._run(begin()), len(requests)
        unreached: set[str] = set()  # hosts
        reached = False
        try:
            while left:
                results = list(waiting(done))
                left -= len(results)
                for index, result in results:
                    if result.offline:
                        unreached.add(host_in(url_of(requests[index].url)))
                    elif result.tries and result.reason != "blocked_address":
                        reached = True
                yield results
                self.loop.call_soon_threadsafe(room.leave, [index for index, _ in results])
        finally:
            self._run(end())  # after this, nothing writes to the file
        if not reached and len(unreached) >= MANY:
            raise Offline(f"not one of {len(unreached)} hosts could be reached: is this machine online?")

    async def _fetch(
        self, number: int, request: FetchRequest, bodies: Bodies, opt_outs: OptOuts, enter: Enter
    ) -> FetchResult:
        """Tries a URL, and tries again if that may succeed."""
        result, tried = FetchResult(), 0
        while True:
            tried += 1
            try:
                await self._try(number, request, tried, result, bodies, opt_outs, enter)
                result.reason, result.detail, result.offline = None, None, False
                return result
            except FetchFailed as failed:
                bodies.drop(result)
                result.reason, result.detail = failed.reason, plain(hidden(failed.detail))
                result.offline = failed.offline
                if not (pause := self._pause(failed, tried)):
                    return result
            await asyncio.sleep(pause)

    def _pause(self, failed: FetchFailed, tried: int) -> float | None:
        """Random seconds after which to try again; None if that would not help."""
        jitter = random.random()
        seconds = max(failed.after * (1 + jitter / 4), 2.0 ** (tried - 2) * (1 + jitter))
        return seconds if failed.again and tried < self.config.tries and seconds <= self.config.deadline else None

    async def _try(
        self, number: int, request: FetchRequest, tried: int, result: FetchResult, bodies: Bodies, opt_outs: OptOuts,
        enter: Enter,
    ) -> None:  # fmt: skip
        """One try, redirects included. Raises `FetchFailed`."""
        url, seen, write = url_of(request.url), set(), partial(bodies.write, result)
        result.milliseconds = 0.0

        def wanted(status: int, headers: Headers) -> bool:
            tags = headers.getall("X-Robots-Tag", ())
            result.status, result.robots_tag = status, plain("\n".join(tags)) or None
            if status < 400 and self.config.honour_robots_tag and (word := refusal(tags)):
                raise FetchFailed("opt_out", f"X-Robots-Tag: {word}")
            return status in GOOD

        while url not in seen and len(seen) <= REDIRECTS:
            seen.add(url)
            if line := await self._worked(opt_outs.is_long(url), opt_outs.covers, url):
                raise FetchFailed("opt_out", f"{line} in a list of fetch.opt_out")
            if self.config.robots_txt:
                robots = await self._robots(number, url)
                if not await self._worked(is_long(robots, url), may_ask, robots, url):
                    raise FetchFailed("opt_out", f"{url.origin()}/robots.txt")
            if request.at_hand:
                return
            async with self._turn(number, url, enter) as host:
                result.tries = tried
                status, headers = await self._ask(host, url, result, bodies.limit, wanted, write)
            if status in GOOD:
                return
            url = moved(url, status, headers)
        raise FetchFailed("redirect_loop", f"to {url}, after {len(seen)} redirects")

    async def _worked(self, is_long: bool, work: Callable[..., Any], *of: Any) -> Any:
        """The result of some work; long work is done in another thread."""
        return await self.loop.run_in_executor(self.aside, work, *of) if is_long else work(*of)

    @asynccontextmanager
    async def _turn(self, number: int, url: URL, enter: Enter | None = None) -> AsyncIterator[Host]:
        """Waits until the URL's host may be asked; takes one of its turns and one of the turns of all hosts. `enter`:
        waits for room for its result."""
        host = self.hosts[host_in(url)]
        async with host.turns.turn(number):
            while True:
                await host.rested(patience=self.config.deadline)
                if enter:
                    await enter()
                async with self.turns.turn(number):
                    if not host.rests():
                        yield host
                        return

    async def _ask(
        self, host: Host, url: URL, result: FetchResult, limit: int, wanted: Callable[[int, Headers], bool],
        write: Callable[[bytes], None], cut: bool = False,
    ) -> tuple[int, Headers]:  # fmt: skip
        """Sends one request, within the time that is left of the try. Raises `FetchFailed`."""
        began = time.monotonic()
        left = self.config.deadline - result.milliseconds / 1000
        try:
            status, headers = await self.client.get(url, left, limit, wanted, write, cut)
        except FetchFailed as failed:
            host.silent(failed) if failed.reason in SILENT else host.answered()
            raise
        finally:
            result.milliseconds += 1000 * (time.monotonic() - began)
        host.busy(retry_after(headers), failed_by(status, headers)) if status in BUSY else host.answered()
        return status, headers

    # robots.txt

    async def _robots(self, number: int, url: URL) -> Robots:
        """The rules of a URL's host, read once for as long as they are kept. Raises `FetchFailed`."""
        host, origin = self.hosts[host_in(url)], url.origin()
        await host.rested(patience=self.config.deadline)
        reading = self.robots.get(origin)
        if reading is None:
            reading = asyncio.ensure_future(self._read_robots(number, host, origin))
            self.robots.add(origin, reading)
        return await asyncio.shield(reading)

    async def _read_robots(self, number: int, host: Host, origin: URL) -> Robots:
        """A host without robots.txt (404, 403) allows everything; one that cannot answer now is left alone a while."""
        tried = 0
        while True:
            tried += 1
            try:
                data = await self._robots_data(number, origin / "robots.txt")
                robots = await self._worked(len(data) > SHORT, read_robots, data)
                self.robots.weigh(origin, robots)
                return robots
            except FetchFailed as error:
                detail = f"robots.txt: {error.detail}"
                failed = FetchFailed(error.reason, detail, again=error.again, offline=error.offline)
                if not (pause := self._pause(error, tried)):
                    host.leave(REST, failed)
                    self.robots.forget(origin)
                    raise failed from None
            await asyncio.sleep(pause)

    async def _robots_data(self, number: int, url: URL) -> bytes:
        """At most MOST bytes of a robots.txt, after redirects; empty if there is none. Raises `FetchFailed`."""
        pieces: list[bytes] = []
        for _ in range(REDIRECTS + 1):
            async with self._turn(number, url) as host:
                status, headers = await self._ask(host, url, FetchResult(), MOST, is_good, pieces.append, cut=True)
            if status in GOOD or (400 <= status < 500 and status not in CAN_PASS):
                break
            url = moved(url, status, headers)
        return b"".join(pieces)


def is_good(status: int, headers: Headers) -> bool:
    return status in GOOD


def moved(url: URL, status: int, headers: Headers) -> URL:
    """The URL to which a response redirects. Raises `FetchFailed` if it does not."""
    if status in MOVED and "Location" in headers:
        return url_of(headers["Location"], url)
    raise failed_by(status, headers)


def failed_by(status: int, headers: Headers) -> FetchFailed:
    """The failure that a status means."""
    general = {4: "http_4xx", 5: "http_5xx"}.get(status // 100, "bad_answer")
    reason = f"http_{status}" if status in NAMED else general
    return FetchFailed(reason, f"status {status}", again=status in CAN_PASS, after=retry_after(headers))


def waiting(done: SimpleQueue) -> Iterator[tuple[int, FetchResult]]:
    """All entries of a queue, at least one. Raises an exception that was put there."""
    try:
        entry = done.get()
        while True:
            if isinstance(entry, Exception):
                raise entry
            yield entry
            entry = done.get_nowait()
    except Empty:
        pass


def plain(text: str) -> str:
    """Untrusted text for a cell of a table: valid Unicode, at most 500 characters."""
    return text.encode("utf-8", "replace").decode()[:500]

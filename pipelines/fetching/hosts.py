"""Turns, so many at once and the oldest first, and what is known of each host that is asked."""

import asyncio
import heapq
import itertools
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any

REMEMBERED = 20_000  # hosts
FAILURES = 5  # tries in a row that a host does not answer; then it is left alone for a while
REST = 60.0  # seconds


class FetchFailed(Exception):
    """Why a URL gave no image: `reason` is a word of the stage's list, `detail` is for a person."""

    def __init__(self, reason: str, detail: str, *, again: bool = False, after: float = 0.0, offline: bool = False):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
        self.again = again  # it can pass
        self.after = after  # seconds that the server wants to be left alone
        self.offline = offline  # a machine without network would see the same


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server wants to be left alone, which may be said as a date; 0 if it says nothing of the kind."""
    said = headers.get("Retry-After", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return 0.0
    return seconds if 0 < seconds < math.inf else 0.0


class PrioritySemaphore:
    """Lets so many in at once; of those who wait, the one with the lowest number next."""

    def __init__(self, count: int):
        self.count = self.free = count
        self.waiting: list[tuple[int, int, asyncio.Future]] = []  # number, who came first, who to let in
        self.came = itertools.count()

    @asynccontextmanager
    async def turn(self, number: int) -> AsyncIterator[None]:
        if self.free:
            self.free -= 1
        else:
            mine = asyncio.get_running_loop().create_future()
            heapq.heappush(self.waiting, (number, next(self.came), mine))
            try:
                await mine
            except asyncio.CancelledError:
                if not mine.cancelled():  # it was let in just before
                    self._next()
                raise
        try:
            yield
        finally:
            self._next()

    def _next(self) -> None:
        while self.waiting:
            *_, other = heapq.heappop(self.waiting)
            if not other.done():
                other.set_result(None)
                return
        self.free += 1


class Host:
    """One host: whose turn it is to ask it, and until when it is left alone, and why."""

    def __init__(self, at_once: int):
        self.turns = PrioritySemaphore(at_once)
        self.failures = 0  # to answer, in a row
        self.refusals = 0  # in a row, those at a time counted once
        self.closed, self.why = 0.0, None
        self.robots: dict[Any, asyncio.Future] = {}  # origin -> what its robots.txt says

    def rests(self) -> float:
        """Seconds that it is still left alone; none if they are past."""
        return max(0.0, self.closed - time.monotonic())

    @property
    def forgettable(self) -> bool:
        return self.turns.free == self.turns.count and not self.rests()

    async def rested(self, patience: float) -> None:
        """Waits while it is left alone. Raises `FetchFailed` at once if that takes longer than `patience` seconds."""
        while seconds := self.rests():
            if seconds > patience:
                raise FetchFailed(
                    self.why.reason, f"not asked, after this: {self.why.detail}", offline=self.why.offline
                )
            await asyncio.sleep(seconds)

    def leave(self, seconds: float, why: FetchFailed) -> None:
        """Leaves it alone for so long."""
        if seconds > self.rests():
            self.closed, self.why = time.monotonic() + seconds, why

    def silent(self, why: FetchFailed) -> None:
        """Notes that it did not answer."""
        self.failures += 1
        if self.failures >= FAILURES:
            self.leave(REST, why)

    def busy(self, seconds: float, why: FetchFailed) -> None:
        """Leaves it alone for as long as it wants, or twice as long as the last time."""
        self.failures = 0
        self.refusals += not self.rests()
        self.leave(max(seconds, 2.0 ** min(self.refusals - 1, 10)), why)

    def answered(self) -> None:
        self.failures = self.refusals = 0


class Hosts:
    """The hosts that were asked last."""

    def __init__(self, at_once: int):
        self.at_once = at_once
        self.known: OrderedDict[str, Host] = OrderedDict()

    def __getitem__(self, name: str) -> Host:
        if name not in self.known:
            self.known[name] = Host(self.at_once)
            if len(self.known) > REMEMBERED:
                oldest, host = self.known.popitem(last=False)
                if not host.forgettable:
                    self.known[oldest] = host
        self.known.move_to_end(name)
        return self.known[name]

"""A semaphore that serves the oldest first, and the state of each host that is asked."""

import asyncio
import heapq
import itertools
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime

REMEMBERED = 20_000  # hosts
FAILURES = 5  # tries in a row without an answer after which a host is left alone for a while
REST = 60.0  # seconds


class FetchFailed(Exception):
    """A URL gave no image: `reason` is one of the stage's REASONS, `detail` is for a person."""

    def __init__(self, reason: str, detail: str, *, again: bool = False, after: float = 0.0, offline: bool = False):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
        self.again = again  # another try may succeed
        self.after = after  # seconds for which the server wants to be left alone
        self.offline = offline  # a machine without network would fail in the same way


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds for which a server wants to be left alone; the header may hold a date. 0 if it has no valid value."""
    value = headers.get("Retry-After", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return 0.0
    return seconds if 0 < seconds < math.inf else 0.0


class PrioritySemaphore:
    """Admits `count` tasks at once; of those that wait, the one with the lowest number is admitted next."""

    def __init__(self, count: int):
        self.count = self.free = count
        self.waiting: list[tuple[int, int, asyncio.Future]] = []  # number, order of arrival, future to set
        self.arrivals = itertools.count()

    @asynccontextmanager
    async def turn(self, number: int) -> AsyncIterator[None]:
        if self.free:
            self.free -= 1
        else:
            admission = asyncio.get_running_loop().create_future()
            heapq.heappush(self.waiting, (number, next(self.arrivals), admission))
            try:
                await admission
            except asyncio.CancelledError:
                if not admission.cancelled():  # it was admitted just before
                    self._admit_next()
                raise
        try:
            yield
        finally:
            self._admit_next()

    def _admit_next(self) -> None:
        while self.waiting:
            *_, admission = heapq.heappop(self.waiting)
            if not admission.done():
                admission.set_result(None)
                return
        self.free += 1


class Host:
    """The state of one host: whose turn it is to ask it, until when it is left alone, and why."""

    def __init__(self, at_once: int):
        self.turns = PrioritySemaphore(at_once)
        self.failures = 0  # tries in a row that it did not answer
        self.refusals = 0  # in a row; those at the same time are counted once
        self.closed = 0.0  # monotonic time until which it is left alone
        self.closed_by = FetchFailed("connection", "not asked")  # and why

    def rests(self) -> float:
        """Seconds for which it is still left alone; 0 if it is not."""
        return max(0.0, self.closed - time.monotonic())

    @property
    def forgettable(self) -> bool:
        return self.turns.free == self.turns.count and not self.rests()

    async def rested(self, patience: float) -> None:
        """Waits while it is left alone. Raises `FetchFailed` at once if that takes longer than `patience` seconds."""
        while seconds := self.rests():
            if seconds > patience:
                cause = self.closed_by
                raise FetchFailed(cause.reason, f"not asked, after this: {cause.detail}", offline=cause.offline)
            await asyncio.sleep(seconds)

    def leave(self, seconds: float, why: FetchFailed) -> None:
        """Leaves it alone for at least `seconds`."""
        if seconds > self.rests():
            self.closed, self.closed_by = time.monotonic() + seconds, why

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
    """The hosts that were asked last, by name."""

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

"""Leases in an object store: small files that only conditional writes change, so that two runs can never both hold one.

A holder renews its lease, which changes its stamp. A lease whose stamp stays the same for `LEASE` seconds of the
observer's own clock is void, and is taken by a write on the condition that it still has that stamp. No clock is
compared with another one's. A holder whose write is refused, or who could not renew for `LEASE` seconds, has lost it.

A run takes `lock.json` and looks for shares then; a share is a file of its own under `leases/`, written before it looks
for `lock.json`. So of a run and a share that begin at the same time, at least one sees the other.
"""

import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from pipelines.engine.conditional import Replaced
from pipelines.engine.root import Root
from pipelines.engine.worker import Stopped
from schemas import file_lock

LOCK = "lock.json"
SHARES = "leases"
LEASE = 120.0  # seconds without a renewal after which a lease is void
RENEW = 10.0  # seconds between two renewals; also how long it takes to see that a holder lives
FREE = b"{}"

Release = Callable[[], None]


class Held(Exception):
    """Another process holds the root; `holder` is what its lease says about it, perhaps nothing."""

    def __init__(self, holder: Mapping[str, Any]):
        super().__init__(holder)
        self.holder = holder


class Lost(Stopped):
    """Another run holds the root that this one held."""


def new_holder() -> dict[str, Any]:
    return file_lock.this_process() | {"lease": uuid.uuid4().hex}


class Lease:
    """A lease that this process holds, and renews in a thread."""

    def __init__(self, root: Root, file: str, holder: dict[str, Any], expected: str | None):
        """Takes it if its file has the stamp `expected`, or does not exist if that is None. Raises `Replaced`."""
        self.root, self.file, self.holder, self.beat = root, file, holder, 0
        self.renewed = time.monotonic()
        self.stamp = root.write_if(file, self._data(), expected)
        self.gone, self.ended = False, threading.Event()
        self.renewing = threading.Thread(target=self._renew, daemon=True)
        self.renewing.start()

    @property
    def id(self) -> str:
        return self.holder["lease"]

    def is_lost(self) -> bool:
        return self.gone or time.monotonic() - self.renewed > LEASE

    def release(self) -> None:
        self.ended.set()
        self.renewing.join()
        if not self.gone:
            free(self.root, self.file, self.stamp)

    def _data(self) -> bytes:
        return json.dumps({**self.holder, "beat": self.beat}).encode()

    def _renew(self) -> None:
        while not self.ended.wait(RENEW):
            begun, self.beat = time.monotonic(), self.beat + 1
            try:
                self.stamp = self.root.write_if(self.file, self._data(), self.stamp)
                self.renewed = begun
            except Replaced:
                self.gone = True
                return
            except Exception:  # the next attempt may succeed
                self.beat -= 1


def take(root: Root, share: str | None) -> Lease:
    """Takes a root alone, or as one of those who give the same `share`. Raises `Held`."""
    if share is None:
        lease = _take_lock(root)
        others = [f"{SHARES}/{name}" for name in root.files(SHARES)]
    else:
        holder = new_holder() | {"share": True}
        lease = Lease(root, f"{SHARES}/{share}-{holder['lease']}.json", holder, None)
        others = [LOCK, *(f"{SHARES}/{name}" for name in root.files(SHARES) if not name.startswith(f"{share}-"))]
    try:
        for file in others:
            _await_void(root, file)
    except BaseException:
        lease.release()
        raise
    return lease


def _take_lock(root: Root) -> Lease:
    while True:
        stamp = _await_void(root, LOCK)
        with suppress(Replaced):  # else somebody was faster
            return Lease(root, LOCK, new_holder(), stamp)


def _await_void(root: Root, file: str) -> str | None:
    """Waits until nobody holds a lease, and frees it if its holder is gone. Returns the stamp of its file, or None if
    that does not exist. Raises `Held` as soon as its holder shows that it lives."""
    first, since = None, time.monotonic()
    while True:
        holder, stamp = _read(root, file)
        if holder is None:
            return stamp
        if first not in (None, stamp):
            raise Held(holder)
        first = stamp
        if time.monotonic() - since > LEASE:
            return free(root, file, stamp)
        time.sleep(RENEW / 4)


def free(root: Root, file: str, stamp: str | None) -> str | None:
    """Frees a lease that still has this stamp. Returns the stamp of its file; None if that is gone."""
    with suppress(Replaced):
        stamp = root.write_if(file, FREE, stamp)
        if file != LOCK:
            root.remove(file)
            return None
    return stamp


def _read(root: Root, file: str) -> tuple[dict[str, Any] | None, str | None]:
    """What a lease says, or None if it names no holder; and the stamp of its file, or None if that does not exist."""
    try:
        data, stamp = root.read_stamped(file)
    except FileNotFoundError:
        return None, None
    holder = file_lock.read_holder(data)
    return (holder if isinstance(holder.get("lease"), str) else None), stamp


def read_id(root: Root, file: str) -> str | None:
    """Who holds a root, as a file of it says; None if nobody does."""
    return (_read(root, file)[0] or {}).get("lease")

"""One run of a root at a time.

Two runs could not corrupt a root, as everything that they commit is named by content; but they would do the work twice.
On a local root the lock is the kernel's, so a killed run leaves none behind. On an object store it is a lease in a
small file, which is renewed while the run lives.

The file may hold anything. A local lock that is a link is refused: nothing is written through it. A lease counts only
if it names its holder, and a time at most `AHEAD` seconds ahead. Any other lease does not count.
"""

import errno
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pipelines.engine.root import HINTS, Corrupt, Root
from schemas import file_lock
from schemas.errors import UserError

LOCK = "lock.json"
PASSES = HINTS.keys() - {errno.ENOENT}  # errors of the system, not of the configuration
LEASE = 120.0  # seconds after which a lease expires unless it is renewed
AHEAD = 10 * LEASE  # seconds: longer than any lease, by a clock that is some minutes fast


class Busy(Exception):
    """Another run holds the root."""


@contextmanager
def hold(root: Root, wait: float = 0.0) -> Iterator[None]:
    """Holds a root.

    Raises `Busy`, naming the holder, when it is not free within `wait` seconds; `UserError` for a root that cannot be
    written, such as a bucket that does not exist; `OSError` where that can pass: a full disk, a missing right.
    """
    until = time.monotonic() + wait
    take = _take_local if root.is_local else _take_lease
    while True:
        try:
            release = take(root)
            break
        except OSError as error:
            if error.errno in PASSES:
                raise
            raise UserError(f"{root.url}: cannot be written: {error.strerror or error}") from None
        except Busy:
            if time.monotonic() >= until:
                raise
            time.sleep(min(1.0, max(0.05, until - time.monotonic())))
    try:
        yield
    finally:
        release()


def _holder() -> dict:
    return file_lock.this_process() | {"lease": uuid.uuid4().hex}


def _take_local(root: Root):
    root.create()
    try:
        descriptor = file_lock.take(root.path(LOCK), _holder())
    except file_lock.Held as held:
        raise _busy(root, held.holder) from None
    return lambda: os.close(descriptor)


def _take_lease(root: Root):
    now = _read_lease(root)
    if now and 0 < now["until"] - time.time() <= AHEAD:
        raise _busy(root, now)
    mine, ended = _holder(), threading.Event()
    _write_lease(root, mine)
    time.sleep(0.5)  # if two runs write at the same time, the last one holds the lease
    if not _has_it(root, mine):
        raise _busy(root, {})

    def renew():
        while not ended.wait(LEASE / 4):
            with suppress(Exception):  # the next attempt may succeed
                now = _read_lease(root) or mine
                if now["lease"] == mine["lease"]:  # else it had expired, and another run holds it
                    _write_lease(root, mine)

    def release():
        ended.set()
        renewing.join()
        if _has_it(root, mine):
            root.remove(LOCK)

    renewing = threading.Thread(target=renew, daemon=True)
    renewing.start()
    return release


def _write_lease(root: Root, holder: dict) -> None:
    root.write(LOCK, json.dumps({**holder, "until": time.time() + LEASE}).encode())


def _read_lease(root: Root) -> dict | None:
    """The lease of a root, expired or not; None if there is none, or if it names no holder."""
    try:
        lease = file_lock.read_holder(root.read(LOCK, 10_000))
    except (FileNotFoundError, Corrupt):
        return None
    whole = isinstance(lease.get("lease"), str) and isinstance(lease.get("until"), int | float)
    return lease if whole else None


def _has_it(root: Root, holder: dict) -> bool:
    return (_read_lease(root) or {}).get("lease") == holder["lease"]


def _busy(root: Root, holder: Mapping[str, Any]) -> Busy:
    who = file_lock.process_of(holder) or "another run"
    return Busy(f"{root.url} is being built by {who}; wait for it, or stop it")

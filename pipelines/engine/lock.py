"""One run of a root at a time.

Two runs could not corrupt a root, as everything that they commit is named by content; but they would do the work twice.
On a local root the lock is the kernel's, so a killed run leaves none behind. On an object store it is a lease in a
small file, which is renewed while the run lives.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipelines.engine.root import Root
from schemas.errors import UserError

LOCK = "lock.json"
LEASE = 120.0  # seconds after which a lease expires unless it is renewed


class Busy(Exception):
    """Another run holds the root."""


@contextmanager
def hold(root: Root, wait: float = 0.0) -> Iterator[None]:
    """Holds a root.

    Raises `Busy`, naming the holder, when it is not free within `wait` seconds; `UserError` when it cannot be written.
    """
    until = time.monotonic() + wait
    take = _take_local if root.is_local else _take_lease
    while True:
        try:
            release = take(root)
            break
        except OSError as error:  # no such bucket, no right to write
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
    return {"host": socket.gethostname(), "pid": os.getpid(), "lease": uuid.uuid4().hex}


def _take_local(root: Root):
    os.makedirs(root.path(""), exist_ok=True)
    descriptor = os.open(root.path(LOCK), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 1000)
        os.close(descriptor)
        raise _busy(root, holder) from None
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(_holder()).encode(), 0)
    return lambda: os.close(descriptor)


def _take_lease(root: Root):
    now = _read_lease(root)
    if now and now["until"] > time.time():
        raise _busy(root, json.dumps(now).encode())
    mine, ended = _holder(), threading.Event()
    _write_lease(root, mine)
    time.sleep(0.5)  # if two runs write at the same time, the last one holds the lease
    if not _has_it(root, mine):
        raise _busy(root, b"{}")

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
    try:
        return json.loads(root.read(LOCK))
    except (FileNotFoundError, ValueError):
        return None


def _has_it(root: Root, holder: dict) -> bool:
    return (_read_lease(root) or {}).get("lease") == holder["lease"]


def _busy(root: Root, holder: bytes) -> Busy:
    try:
        who = "process {pid} on {host}".format(**json.loads(holder))
    except (ValueError, KeyError):
        who = "another run"
    return Busy(f"{root.url} is being built by {who}; wait for it, or stop it")

"""A lock that is a file, held by the kernel: a killed process leaves none behind.

The file may hold anything. One that is a link, or no plain file of its own, is refused: nothing is written through it.
"""

import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Mapping
from typing import Any

from schemas.errors import UserError
from schemas.printable import printable_line

FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
MOST = 1000  # bytes that are read of who holds it
TRIES, PAUSE = 5, 0.02  # to share a lock: somebody may hold it alone for a moment, to write


class Held(Exception):
    """Another process holds the lock; `holder` is what the file says about it, perhaps nothing."""

    def __init__(self, holder: Mapping[str, Any]):
        super().__init__(holder)
        self.holder = holder


def this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


def take(path: str | os.PathLike, holder: Mapping[str, Any], share: bool = False) -> int:
    """Locks a file and writes into it who holds it; creates it if needed. Closing the returned descriptor frees it.

    With `share`, it is held together with all others who share it and name the same `lease`. Raises `Held` if another
    process holds it, and `UserError` for anything but a regular file with one name.
    """
    try:
        descriptor = os.open(path, FLAGS, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: is a link; a lock must be a regular file: remove it") from None
        raise
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
            what = "has another name elsewhere (a hard link)" if stat.S_ISREG(info.st_mode) else "is not a file"
            raise UserError(f"{path}: {what}; a lock must be a regular file: remove it")
        _lock(descriptor, holder, share)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, holder: Mapping[str, Any], share: bool) -> None:
    """Takes the lock alone, which is needed to write the holder. Who shares it lets others in then: between the two
    another process can take it, so that what the file says is compared."""
    now: dict[str, Any] = {}
    for _ in range(TRIES if share else 1):
        if _flock(descriptor, fcntl.LOCK_EX):
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
            if not share:
                return
        shared = share and _flock(descriptor, fcntl.LOCK_SH)
        now = read_holder(os.pread(descriptor, MOST, 0))
        if shared and now.get("lease") == holder["lease"]:
            return
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        time.sleep(PAUSE if share else 0)
    raise Held(now)


def _flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_holder(text: bytes) -> dict[str, Any]:
    """What a lock says about its holder; empty if that cannot be read."""
    try:
        holder = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def process_of(holder: Mapping[str, Any]) -> str | None:
    """`process 17 on host`, as the lock says; None if it does not say so."""
    pid, host = holder.get("pid"), holder.get("host")
    return f"process {pid} on {printable_line(host[:100])}" if isinstance(pid, int) and isinstance(host, str) else None

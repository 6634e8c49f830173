"""One trainer of a run's folder at a time. The lock is the kernel's, so that a killed trainer leaves none behind."""

import errno
import fcntl
import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import UserError

LOCK = "lock.json"


@contextmanager
def hold(run: Path) -> Iterator[None]:
    """Holds a run's folder, which is made if it is missing. Raises `UserError` if another trainer holds it."""
    run.mkdir(parents=True, exist_ok=True)
    path = run / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: is a link; a lock is a file of its own: remove it") from None
        raise
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
            raise UserError(f"{path}: a lock is a file of its own, with one name: remove it")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{run}: is being trained by {_holder(os.read(descriptor, 1000))}; wait for it, or name another folder"
            ) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(text: bytes) -> str:
    try:
        holder = json.loads(text)
        return f"process {int(holder['pid'])} on {str(holder['host'])[:100]}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another process"

"""Who may change a root: one run, or any number of shares of the same work.

`run`, `takedown` and `clean` hold a root alone. Processes of `shardmill work` share it with others of the same
configuration. On a local root the lock is the kernel's, so a killed process leaves none behind. In an object store it
is a lease: see `pipelines.engine.lease`.

The file may hold anything. A local lock that is a link is refused: nothing is written through it.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipelines.engine import lease
from pipelines.engine.lease import Lost
from pipelines.engine.root import HINTS, Root
from schemas import file_lock
from schemas.errors import UserError

LOCK = lease.LOCK
PASSES = HINTS.keys() - {errno.ENOENT}  # errors of the system, not of the configuration
LOOKS = 5.0  # seconds between two looks at a lease
looked_at: dict[str, float] = {}  # a hold's id -> when this process last looked


class Busy(Exception):
    """Another run holds the root."""


@dataclass(frozen=True)
class Hold:
    """A held root: a file of it says so as long as that is true. Pickles, so that workers can check it, too."""

    root: Root
    file: str
    id: str  # what the file says
    is_lost: Callable[[], bool] | None = None  # what the process knows that took it

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "file": self.file, "id": self.id}

    def is_known_lost(self) -> bool:
        """Whether this process knows without a look that another run holds the root now."""
        return self.is_lost is not None and self.is_lost()

    def check(self, again: bool = True) -> None:
        """Raises `Lost` if another run holds the root now, and `FileNotFoundError` if a local root is gone. Unless it
        is to look `again`, this process looks at a lease every few seconds."""
        lost = self.is_known_lost()
        known = looked_at.get(self.id, 0.0) + LOOKS > time.monotonic() and not self.root.is_local
        if not again and known and not lost:
            return
        looked_at[self.id] = time.monotonic()
        if lost or lease.read_id(self.root, self.file) != self.id:
            if self.root.is_local and not self.root.exists(self.file):
                gone = self.root.path(self.file) if self.root.exists("") else self.root.url
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), gone)
            raise Lost(f"{self.root.url}: another run holds it now; this one stopped, and replaced nothing of it")


@contextmanager
def hold(root: Root, wait: float = 0.0, share: str | None = None) -> Iterator[Hold]:
    """Holds a root: alone, or together with all others who give the same `share`.

    Raises `Busy`, naming the holder, when it is not free within `wait` seconds; `UserError` for a root that cannot be
    written, such as a bucket that does not exist; `OSError` where that can pass: a full disk, a missing right.
    """
    until = time.monotonic() + wait
    take = LocalLock if root.is_local else lease.take
    while True:
        try:
            held = take(root, share)
            break
        except OSError as error:
            if error.errno in PASSES:
                raise
            raise UserError(f"{root.url}: cannot be written: {error.strerror or error}") from None
        except lease.Held as other:
            if not time.monotonic() < until:  # also where `wait` is NaN
                raise _busy(root, other.holder, share) from None
            time.sleep(min(1.0, max(0.05, until - time.monotonic())))
    try:
        yield Hold(root, held.file, held.id, held.is_lost)
    finally:
        held.release()


class LocalLock:
    """The kernel's lock of a local root, held by this process."""

    file = LOCK

    def __init__(self, root: Root, share: str | None):
        root.create()
        holder = lease.new_holder() | ({"lease": share, "share": True} if share else {})
        self.id = holder["lease"]
        try:
            self.descriptor = file_lock.take(root.path(LOCK), holder, share=share is not None)
        except file_lock.Held as held:
            raise lease.Held(held.holder) from None

    def is_lost(self) -> bool:
        return False

    def release(self) -> None:
        os.close(self.descriptor)


def _busy(root: Root, holder: Mapping[str, Any], share: str | None) -> Busy:
    who = file_lock.process_of(holder) or "another run"
    other = " with another configuration" if share and holder.get("share") else ""
    return Busy(f"{root.url} is being built by {who}{other}; wait for it, or stop it")

"""One trainer of a run's folder at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas import file_lock
from schemas.errors import UserError

LOCK = "lock.json"


@contextmanager
def hold(run: Path) -> Iterator[None]:
    """Holds a run's folder, which is made if it is missing. Raises `UserError` if another trainer holds it."""
    run.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = file_lock.take(run / LOCK, file_lock.this_process())
    except file_lock.Held as held:
        who = file_lock.process_of(held.holder) or "another process"
        raise UserError(f"{run}: is being trained by {who}; wait for it, or name another folder") from None
    try:
        yield
    finally:
        os.close(descriptor)

"""One trainer of a run's folder at a time."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas import file_lock
from schemas.errors import UserError
from training.places import RUN, check_place

LOCK = "lock.json"


@contextmanager
def hold(run: Path) -> Iterator[Callable[[], None]]:
    """Holds a run's folder, which is made if it is missing. Raises `UserError` if another trainer holds it, or if it
    is the folder of something else.

    Gives a function that raises `UserError` if the folder or its lock was removed or replaced since: another trainer
    may hold it then. Call it before each write.
    """
    check_place(run, RUN)
    run.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = file_lock.take(run / LOCK, file_lock.this_process())
    except file_lock.Held as held:
        who = file_lock.process_of(held.holder) or "another process"
        raise UserError(f"{run}: is being trained by {who}; wait for it, or name another folder") from None
    try:
        yield lambda: _check(run, descriptor)
    finally:
        os.close(descriptor)


def _check(run: Path, descriptor: int) -> None:
    held = os.fstat(descriptor)
    try:
        there = os.stat(run / LOCK, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        there = None
    if there is None or (there.st_dev, there.st_ino) != (held.st_dev, held.st_ino):
        raise UserError(
            f"{run}: {LOCK} was removed or replaced while the run was trained, so another trainer may hold the folder; "
            "nothing more is written; train again, in a folder that is not moved meanwhile"
        )

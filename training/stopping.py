"""Ctrl-C, and the signal by which a cluster ends a job, end a run after the step that it is in."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TWICE = 2.0  # seconds; within them torchrun passes on a Ctrl-C that a rank has heard itself


class Stopping:
    """The signal that asked for the end; 0 before. Only while the run `waits` for a step to end is it noted here."""

    signal: int = 0
    waits: bool = False
    since: float = 0.0

    def ask(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        again = self.signal > 0 and number == signal.SIGINT and now - self.since > TWICE
        if self.waits and not again:
            self.signal, self.since = self.signal or number, self.since or now
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            sys.exit(128 + number)


@contextmanager
def asked_to_stop() -> Iterator[Stopping]:
    """Hears `SIGNALS` while it is entered; in a thread other than the main one it hears none."""
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    before = {number: signal.signal(number, stopping.ask) for number in SIGNALS}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals(_worker: int = 0) -> None:
    """For a process that reads samples: it lives on until the trainer ends it, if a signal came to both."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)

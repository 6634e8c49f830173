"""Sends progress to Prefect in a thread, so that a slow or missing server never delays a run."""

import atexit
import contextvars
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress

PATIENCE = 5.0  # seconds in which what is left is sent at the end


class Sender:
    """Sends one thing after another, the newest of each key, and forgets what cannot be sent."""

    def __init__(self):
        self.jobs: dict[Hashable, Callable[[], object]] = {}
        self.changed = threading.Condition()
        self.thread: threading.Thread | None = None
        self.busy = False
        self.ended = False
        self.failed = False  # the last thing could not be sent

    def send(self, key: Hashable, job: Callable[[], object]) -> None:
        """Has a job done in the context of the caller, in place of one of the same key that waits."""
        context = contextvars.copy_context()
        with self.changed:
            self.jobs[key] = lambda: context.run(job)
            if self.thread is None or not self.thread.is_alive():  # none, or this is a fork
                self.thread = threading.Thread(target=self._work, name="prefect-artifacts", daemon=True)
                self.thread.start()
            self.changed.notify_all()

    def flush(self, patience: float = PATIENCE) -> bool:
        """Waits until all is sent, but not long, and not at all if the server is gone. Returns whether all is sent."""
        with self.changed:
            idle = lambda: (not self.jobs and not self.busy) or self.failed  # noqa: E731
            return self.changed.wait_for(idle, patience) and not self.failed

    def end(self) -> None:
        """Ends the thread, or its frames keep modules alive at exit, which then complain."""
        with self.changed:
            self.ended = True
            self.changed.notify_all()
        if self.thread:
            self.thread.join(1)

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.jobs or self.ended)
                if self.ended:
                    return
                job = self.jobs.pop(next(iter(self.jobs)))
                self.busy = True
            failed = True
            with suppress(Exception):  # the work goes on without Prefect's server
                job()
                failed = False
            del job
            with self.changed:
                self.busy, self.failed = False, failed
                self.changed.notify_all()


sender = Sender()
atexit.register(sender.end)

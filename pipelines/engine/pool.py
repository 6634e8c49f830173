"""The worker processes of the process that drives Beam. They do not import Beam.

They are forked from `pipelines.engine.worker_main`, a process without threads that imports what a stage needs once for
all of them; they stay for all stages of a run, but for those that hold a model.
"""

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future, wait
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from pipelines.engine.child import import_path, module_command
from pipelines.engine.worker import Order

NO_THREADS = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}  # or pyarrow's allocator begins one
PATIENCE = 300.0  # seconds
IMPORT, FORK = b"i", b"f"  # what the process that workers are forked from is asked


class ItemFailed(Exception):
    """A worker could not make an item. The message is one line; its log has more."""


class Worker:
    """A worker process. If it dies, its whole process group ends, with the process that drives Beam."""

    def __init__(self, connection: Connection):
        self.connection, self.numbers, self.sending = connection, itertools.count(), threading.Lock()
        self.waiting: dict[int, Future[str | None]] = {}
        self.is_dismissed = False
        threading.Thread(target=self._listen, daemon=True).start()

    def begin(self, order: Order, of: int) -> None:
        """Gives it a work that it shares with others; they are `of` together."""
        self._send((None, (order.work, order.at_once, of)))

    def make(self, item: bytes) -> str | None:
        """Has an item made. Returns why that failed, in one line, or nothing."""
        number = next(self.numbers)
        made = self.waiting[number] = Future()
        self._send((number, item))
        return made.result()

    def dismiss(self) -> None:
        self.is_dismissed = True
        self._send(None)

    def _send(self, message: Any) -> None:
        try:
            with self.sending:
                self.connection.send(message)
        except OSError:
            end_all()

    def _listen(self) -> None:
        try:
            while True:
                number, failure = self.connection.recv()
                self.waiting.pop(number).set_result(failure)
        except (EOFError, OSError):
            if not self.is_dismissed:
                end_all()


def end_all() -> None:
    """Ends the whole group, this process included, after a worker died; the run reports it."""
    print("a worker died", file=sys.stderr, flush=True)
    os.killpg(0, signal.SIGKILL)


class Pool:
    """The worker processes of a run."""

    def __init__(self):
        self.mother, there = socket.socketpair()
        self.process = subprocess.Popen(
            module_command("pipelines.engine.worker_main"), stdin=there.fileno(),
            env={**os.environ, **NO_THREADS, "PYTHONPATH": import_path()},
        )  # fmt: skip
        there.close()
        threading.Thread(target=self._watch, daemon=True).start()
        self.workers: list[Worker] = []
        self.free: SimpleQueue[Worker] = SimpleQueue()
        self.failure: str | None = None  # the first of the stage

    def _watch(self) -> None:
        """Waits for the end of the process that workers are forked from: it says nothing until then."""
        with suppress(OSError):
            self.mother.recv(1)
        end_all()

    def prepare(self, order: Order) -> None:
        """Has imported what a work needs; does not wait for it."""
        self.mother.sendall(IMPORT + len(order.work).to_bytes(8, "big") + order.work)

    def begin(self, order: Order, count: int) -> "Handed":
        """Gives a work to so many workers; returns the function that hands items to them."""
        self.prepare(order)
        while len(self.workers) < count:
            here, there = socket.socketpair()
            with there:
                socket.send_fds(self.mother, [FORK], [there.fileno()])
            self.workers.append(Worker(Connection(here.detach())))
        self.failure, self.free = None, SimpleQueue()
        for worker in self.workers[:count]:
            worker.begin(order, count)
        for worker in self.workers[:count] * order.at_once:
            self.free.put(worker)
        pools[:] = [self]
        return Handed(order.name, count * order.at_once)

    def make(self, item: bytes) -> None:
        """Has an item made by the next free worker."""
        worker = self.free.get()
        failure = worker.make(item)
        self.free.put(worker)
        if failure is not None:
            self.failure = self.failure or failure
            raise ItemFailed(failure)

    def settle(self) -> None:
        """Waits for the items that are still being made, after one of them failed: what was paid for is stored."""
        wait([made for worker in self.workers for made in [*worker.waiting.values()]], PATIENCE)

    def finish(self, order: Order) -> None:
        """Ends workers that hold a model; they are started again when there is something to make."""
        if order.holds_model:
            for worker in self.workers:
                worker.dismiss()
            self.workers.clear()


pools: list[Pool] = []  # the one of this process


class Handed:
    """The work of Beam's transform if worker processes make the items: it hands items over, and waits."""

    def __init__(self, name: str, at_once: int):
        self.name, self.at_once = name, at_once

    def make(self, item: bytes) -> None:
        pools[0].make(item)

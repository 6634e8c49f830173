"""The processes that do a run's work: `pipelines.engine.job_main`, which drives Beam, and the workers that it has.

They are started when the first item is to be made, and serve all stages of a run. All are one process group, which
lives no longer than the socket that this process holds open: when a run is cancelled or killed, they go with it.
"""

import os
import pickle
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipelines.engine.child import ONE_THREAD, import_path, module_command
from pipelines.engine.root import Root
from pipelines.engine.worker import STOPPED, Order, StageFailed, Stopped, Work, end_of, is_local
from schemas.config.model import BeamConfig
from schemas.errors import UserError
from schemas.printable import printable

GRACE, REMOTE_GRACE = 5.0, 60.0  # seconds in which a job can be cancelled: here, and by a cluster that acknowledges it
LOG = "log"  # a file of a job's folder: what all its processes say


@dataclass(frozen=True)
class Job:
    """The process that drives Beam, and the temporary folder of it and its workers."""

    process: subprocess.Popen
    connection: Connection
    folder: tempfile.TemporaryDirectory

    @classmethod
    def start(cls) -> "Job":
        folder = tempfile.TemporaryDirectory(prefix="shardmill-", ignore_cleanup_errors=True)
        here, there = socket.socketpair()
        with there, (Path(folder.name) / LOG).open("ab") as log:  # appended to, as it is emptied for each stage
            env = {**ONE_THREAD, **os.environ, "TMPDIR": folder.name, "PYTHONPATH": import_path()}
            words = module_command("pipelines.engine.job_main")
            process = subprocess.Popen(
                words, stdin=there.fileno(), stdout=log, stderr=log, env=env, start_new_session=True
            )
        return cls(process, Connection(here.detach()), folder)

    @property
    def log(self) -> Path:
        return Path(self.folder.name) / LOG

    def do(self, order: Order, progress: Callable[[], None]) -> tuple[str, str] | None:
        """The result of an order: a word and a line; None if the process died. Calls `progress` meanwhile."""
        os.truncate(self.log, 0)
        try:
            self.connection.send(order)
            pause = 0.2
            while not self.connection.poll(pause):
                asked = time.monotonic()
                progress()
                pause = max(0.2, 10 * (time.monotonic() - asked))
            return self.connection.recv()
        except (EOFError, ConnectionError):
            return None

    def end(self, grace: float = GRACE) -> int:
        """Ends all processes; one whose work runs elsewhere can cancel it first. Returns its exit code."""
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()


def spelled(log: bytes) -> bytes:
    """A log that can be shown on a terminal."""
    return printable(log.decode(errors="replace"), keep="\n\t").encode()


class Workers:
    """The workers of one run. They are started when there is something to make."""

    def __init__(self, beam: BeamConfig, root: Root):
        self.beam, self.root = beam, root
        self.job: Job | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def make(self, work: Work, items: Sequence[Any], log: str, progress: Callable[[], None]) -> None:
        """Has every item made, largest first. Calls `progress` about twice a second.

        The output of the processes goes to `log` under the root. Raises `StageFailed` with the reason in one line, and
        `UserError` if Beam refuses the configured runner or its options; later work starts new processes.
        """
        if not items:
            return
        self.job = job = self.job or Job.start()
        answer, code = None, None
        try:
            answer = job.do(self._order(work, items), progress)
        finally:
            if answer != DONE or not is_local(self.beam.runner):  # another runner is left with nothing of a stage
                code = self._end_job(job)
            said = end_of(job.log)
            with suppress(OSError):  # such as of a full disk, which the stage's own error names
                self.root.write(log, spelled(said))
            if self.job is None:
                job.folder.cleanup()
        if answer == DONE:
            return
        what, why = answer or ("died", f"a worker died (exit code {code})")
        if what == "refused":
            raise UserError(f"beam: {said.decode(errors='replace').strip().splitlines()[-1]}")
        if why.startswith(STOPPED):  # twice, where a runner keeps the error, and others its text
            raise Stopped(why.replace(STOPPED, ""))
        raise StageFailed(f"{work.name}: {why}; the workers' log is {self.root.url_of(log)}")

    def _order(self, work: Work, items: Sequence[Any]) -> Order:
        says = getattr(work, "at_once", 1), getattr(work, "one_process", False), getattr(work, "holds_model", False)
        pickled = [pickle.dumps(item) for item in items]
        return Order(work.name, pickle.dumps(work), pickled, self.beam.runner, self.beam.options, *says)

    def _end_job(self, job: Job) -> int:
        self.job = None
        return job.end(GRACE if is_local(self.beam.runner) else REMOTE_GRACE)

    def end(self) -> None:
        """Ends all processes, and removes their temporary folder."""
        if job := self.job:
            self._end_job(job)
            job.folder.cleanup()


DONE = ("done", "")

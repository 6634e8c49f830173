"""Runs a stage's Beam pipeline in a process group of its own, `pipelines.engine.worker_main`, and follows it.

The group lives no longer than the standard input that this process holds open for it: when a run is cancelled or
killed, Beam's workers go with it.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from pipelines.engine.root import Root
from schemas.config.model import BeamConfig
from schemas.errors import UserError

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}  # workers are processes
GRACE = 5.0  # seconds
WORK, LOG, FAILED = "work", "log", "failed"  # files of a job's folder: what it does, what it says, why it failed
STOPPED = "pipelines.engine.worker.Stopped: "  # as an error's last line has it


class Work(Protocol):
    """What a stage has a worker do with one item. Pickles. May say `at_once`: how many a worker has in hand."""

    name: str

    def make(self, item: Any) -> None: ...


class StageFailed(Exception):
    """A stage's workers stopped on an error; what was committed until then stays."""


class Stopped(StageFailed):
    """A stage stopped on what trying again does not mend: a wrong key, a server that is gone, a spent budget."""


def run_work(
    work: Work, items: Sequence[Any], beam: BeamConfig, root: Root, log: str, progress: Callable[[], None]
) -> None:
    """Has workers make every item, largest first. Calls `progress` about twice a second.

    Their log goes to `log` under the root. Raises `StageFailed` with the reason in one line, and `UserError` if Beam
    does not take the configured runner or its options.
    """
    if not items:
        return
    # What Beam and workers that are killed leave in their temporary folder goes with it.
    with tempfile.TemporaryDirectory(prefix="shardmill-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / WORK).write_bytes(pickle.dumps((work, list(items), beam)))
        with (folder / LOG).open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.engine.worker_main", name],
                stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True,
                env={**ONE_THREAD, **os.environ, "TMPDIR": name,
                     "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )  # fmt: skip
        try:
            pause = 0.2
            while not _ended(process, pause):
                asked = time.monotonic()
                progress()
                pause = max(0.2, 10 * (time.monotonic() - asked))
        finally:
            end_group(process)
            said = end_of(folder / LOG)
            root.write(log, said)
        if process.returncode == 2:
            raise UserError(f"beam: {said.decode(errors='replace').strip().splitlines()[-1]}")
        if process.returncode:
            failed = folder / FAILED
            why = failed.read_text("utf-8") if failed.exists() else f"a worker died (exit code {process.returncode})"
            if why.startswith(STOPPED):  # twice, where the local runner keeps the error, and other runners its text
                raise Stopped(why.replace(STOPPED, ""))
            raise StageFailed(f"{work.name}: {why}; the workers' log is {root.url_of(log)}")


def _ended(process: subprocess.Popen, seconds: float) -> bool:
    """Whether a process ends within some seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def end_group(process: subprocess.Popen) -> None:
    """Ends a job and all its workers; one that runs elsewhere gets some seconds to be cancelled."""
    process.stdin.close()
    _ended(process, GRACE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_of(log: Path, most: int = 1_000_000) -> bytes:
    """The last bytes of a log, however long it is."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - most))
        return file.read()

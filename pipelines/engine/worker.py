"""The work that workers get, and the errors that they report: see `pipelines.engine.workers`."""

import re
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pipelines.engine.root import HINTS, fault
from pipelines.engine.secrets import hidden
from schemas.printable import printable

LOCAL_RUNNERS = {"FnApiRunner", "BundleBasedDirectRunner", "SwitchingDirectRunner", "DirectRunner"}
HERE = LOCAL_RUNNERS | {"PrismRunner"}  # whose workers are processes of this machine, whoever starts them
STOPPED = "pipelines.engine.worker.Stopped: "  # as an error's last line has it


class Work(Protocol):
    """What a stage has a worker do with one item. Pickles.

    `at_once`: how many items a worker makes at the same time. `one_process`: a single worker of this machine makes all
        items. `holds_model`: workers use much memory, and end with the stage.
    """

    @property
    def name(self) -> str: ...

    def make(self, item: Any) -> None: ...


def among(work: Any, workers: int) -> Any:
    """A work for one of so many workers, which share its limits, if it has any."""
    return work.among(workers) if hasattr(work, "among") else work


class Order(NamedTuple):
    """A stage's work for the process that drives Beam. It stays pickled, so that only workers import its modules."""

    name: str
    work: bytes  # a pickled `Work`
    items: list[bytes]  # pickled, the largest first
    runner: str
    options: list[str]  # Beam's
    at_once: int
    one_process: bool
    holds_model: bool

    @property
    def is_local(self) -> bool:
        """Whether its items are made by worker processes of this machine, and not by the runner's own workers."""
        return is_local(self.runner)


def is_local(runner: str) -> bool:
    return runner.rpartition(".")[2] in LOCAL_RUNNERS


def is_here(runner: str) -> bool:
    """Whether workers run on this machine, so that they reach its servers."""
    return runner.rpartition(".")[2] in HERE


class StageFailed(Exception):
    """A stage's workers stopped on an error; what was committed until then stays."""


class Stopped(StageFailed):
    """A stage stopped on a fault that another try cannot mend: a wrong key, a server that is gone, a spent budget."""


def one_line(error: BaseException) -> str:
    """The error for what a worker raised, from the last line of its report; that of `Stopped` begins with its name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = (lines[-1] if lines else type(error).__name__).split(" [while running")[0]
    if line == ">" and (told := re.search(r'^\s*details = "(.*)"$', str(error), re.MULTILINE)):
        line = told[1]  # of gRPC, by which runners and their workers speak
    stays = isinstance(error, Stopped) or (isinstance(error, OSError) and error.errno in HINTS)
    return (STOPPED if stays else "") + printable(hidden(fault(error) or line), keep="")


def end_of(log: Path, most: int = 1_000_000) -> bytes:
    """The last bytes of a log, however long it is."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - most))
        return file.read()

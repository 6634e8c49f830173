"""The progress of a stage, as a bar in the terminal and as an artifact in Prefect."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flows.background import sender
from schemas.printable import printable_line

EVERY = 2.0  # seconds between two updates of an artifact

_bars: Progress | None = None


@contextmanager
def bars() -> Iterator[None]:
    """Draws a bar for each stage of the block, if the output is a terminal."""
    global _bars
    columns = TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as _bars:
        try:
            yield
        finally:
            _bars = None


def tell(line: str) -> None:
    """Prints a line above the bars, if there are any."""
    if _bars is not None:
        _bars.console.print(escape(printable_line(line)), highlight=False)


@contextmanager
def follow(stage: str, key: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that a stage calls with (partitions done, total). The bar is full when the stage ends well.

    `key`: of the artifact, which is updated in the background.
    """
    drawn = _bars or Progress(disable=True)
    bar = drawn.add_task(stage, total=1)
    artifacts = []
    shown = time.monotonic()

    def show(share: float) -> None:
        if artifacts:
            update_progress_artifact(artifacts[0], 100.0 * share)
        else:
            artifacts.append(create_progress_artifact(100.0 * share, key=key, description=stage))

    def progress(done: int, total: int) -> None:
        nonlocal shown
        drawn.update(bar, completed=done, total=total)
        if time.monotonic() - shown > EVERY:
            shown = time.monotonic()
            sender.send(key, lambda: show(done / max(total, 1)))

    sender.send(key, lambda: show(0.0))
    yield progress
    drawn.update(bar, completed=drawn.tasks[bar].total)
    sender.send(key, lambda: show(1.0))
    sender.flush()

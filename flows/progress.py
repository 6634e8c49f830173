"""How far a stage is, as a bar in the terminal and as a progress artifact in Prefect."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 2.0  # seconds between two updates of an artifact

_bars: Progress | None = None


@contextmanager
def bars() -> Iterator[None]:
    """Draws a bar for each stage that is followed inside, if this is a terminal."""
    global _bars
    columns = TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as _bars:
        try:
            yield
        finally:
            _bars = None


def follow(stage: str) -> Callable[[int, int], None]:
    """What a stage is to call with (partitions done, of how many)."""
    bar = _bars and _bars.add_task(stage, total=None)
    artifact = create_progress_artifact(0.0, key=f"shardmill-progress-{stage}", description=stage)
    shown = 0.0

    def progress(done: int, of: int) -> None:
        nonlocal shown
        if bar is not None and _bars is not None:
            _bars.update(bar, completed=done, total=of)
        if done == of or time.monotonic() - shown > EVERY:
            shown = time.monotonic()
            update_progress_artifact(artifact, 100.0 * done / of if of else 100.0)

    return progress

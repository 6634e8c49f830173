"""Commands that a run starts and waits for, such as a trainer. They end with the run, even if it is killed."""

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pipelines.engine.child import piped
from pipelines.engine.worker import StageFailed, end_of
from pipelines.models.servers import end_marked, keep, last_line, mark_of
from pipelines.models.supervisor import GRACE

EVERY = 5.0  # seconds between two lines of output that are shown


def filled_words(command: str, blanks: Mapping[str, str]) -> list[str]:
    """The words of a command, with a value for each {name}."""
    words = shlex.split(command)
    for name, value in blanks.items():
        words = [word.replace(f"{{{name}}}", value) for word in words]
    return words


def run_command(
    words: Sequence[str],
    log: Path,
    what: str,
    say: Callable[[str], None] = lambda line: None,
    secret: str | None = None,
) -> None:
    """Runs a command to its end, its output in a log. Tells the last line of the log now and then.

    Raises `StageFailed` if the command fails; `what` is its name in the message.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    mark = mark_of(str(log.resolve()))
    keeper = keep([*words], mark, log, secret)
    shown, line = time.monotonic(), ""
    try:
        while (code := keeper.poll()) is None:
            time.sleep(0.1)
            if time.monotonic() - shown > EVERY:
                shown, before, line = time.monotonic(), line, last_line(log)
                if line != before:
                    say(f"{what}: {line}")
    finally:
        with suppress(BrokenPipeError):
            piped(keeper.stdin).close()
        if keeper.poll() is None:
            keeper.wait(GRACE + 5)
        end_marked(mark)
    if code:
        raise StageFailed(f"{what}: {last_line(log)}; its log is {log}")


def last_lines(log: Path) -> list[str]:
    """The lines of a command's output, the last one first."""
    return end_of(log).decode(errors="replace").splitlines()[::-1]

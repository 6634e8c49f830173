"""The process of a stage's Beam pipeline, started by `pipelines.engine.worker`, and the end of all its workers.

Beam's local runner waits for ever when one of its worker processes dies (out of memory, say); here the whole group
ends instead, and the run with one line that says so.
"""

import logging
import os
import pickle
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.engine.worker import FAILED, STOPPED, WORK, Stopped

running: list[Any] = []  # Beam's `PipelineResult`


def main(folder: Path) -> None:
    """Runs the work that lies in a folder; an error goes to a file beside it in one line.

    Ends with code 2, the complaint in its log's last line, if Beam does not take the runner or its options.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.excepthook = _end_with_worker
    from pipelines.engine.beam import MakeAll, open_pipeline  # takes a second or more, in which a run may be stopped

    work, items, config = pickle.loads((folder / WORK).read_bytes())
    try:
        pipeline = open_pipeline(config, one_process=len(items) == 1 or getattr(work, "one_process", False))
    except Exception as error:  # argparse, which reads the options, ends in the same way by itself
        print(_one_line(error), file=sys.stderr)
        sys.exit(2)
    pipeline | MakeAll(work, items)
    try:
        running.append(pipeline.run())  # a local runner returns at the end, a remote one at once
        running[0].wait_until_finish()
    except Exception as error:
        why = (STOPPED if isinstance(error, Stopped) else "") + _one_line(error)
        (folder / FAILED).write_text(why, "utf-8", "backslashreplace")
        logging.exception("%s failed", work.name)
        sys.exit(1)


def _one_line(error: Exception) -> str:
    """What a worker raised: Beam hands it on as the last line of a long text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).split(" [while running")[0]


def _end_with_parent() -> None:
    """Blocks until the parent closes its end of our standard input, by will or by death."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    for result in running:
        with suppress(Exception):
            result.cancel()
    os.killpg(0, signal.SIGKILL)


def _end_with_worker(args: threading.ExceptHookArgs) -> None:
    """Beam's local runner starts each worker from a thread, which raises when the worker dies."""
    threading.__excepthook__(args)
    if "Worker subprocess exited" in str(args.exc_value):
        sys.stderr.flush()
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The one Beam transform: every stage's work runs through it, on any runner. Started by `pipelines.job`.

Beam's local runner waits for ever when one of its worker processes dies (out of memory, say); here the whole group
ends instead, and the run with one line that says so.
"""

import logging
import os
import pickle
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.runner import PipelineResult

from pipelines.job import STOPPED, Stopped, Work

running: list[PipelineResult] = []


class Make(beam.DoFn):
    """Makes items one by one, or as many at a time, in threads, as their work says it pays."""

    def __init__(self, work: Work):
        self.work = work

    def start_bundle(self):
        self.at_once = getattr(self.work, "at_once", 1)
        self.threads, self.making = ThreadPoolExecutor(self.at_once), set()

    def process(self, item: Any):
        if self.at_once == 1:
            self.work.make(item)
        else:
            self.making.add(self.threads.submit(self.work.make, item))
            self._wait(until=self.at_once - 1)
        return ()

    def finish_bundle(self):
        self._wait(until=0)
        self.threads.shutdown()

    def _wait(self, until: int) -> None:
        """Waits until no more than so many are being made. Raises what any of them raised."""
        while len(self.making) > until:
            done, self.making = wait(self.making, return_when=FIRST_COMPLETED)
            for one in done:
                one.result()


@dataclass
class MakeAll(beam.PTransform):
    """Has each item made by one worker. Elements are names of what to make: no image ever passes a shuffle."""

    work: Work
    items: Sequence[Any]  # the largest first

    def expand(self, pipeline):
        return (
            pipeline
            | beam.Create(self.items, reshuffle=False)
            | beam.Reshuffle()
            | f"Make {self.work.name}" >> beam.ParDo(Make(self.work))
        )


def main(failed: str) -> None:
    """Runs the work that stands on standard input; an error goes to the file `failed` in one line.

    Ends with code 2, the complaint in its log's last line, if Beam does not take the runner or its options.
    """
    work, items, config = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.excepthook = _end_with_worker
    try:
        options = PipelineOptions(config.options)
        if len(items) == 1 or getattr(work, "one_process", False):  # a local runner needs no other process
            options.view_as(DirectOptions).direct_running_mode = "in_memory"
        pipeline = beam.Pipeline(runner=config.runner, options=options)
    except Exception as error:  # argparse, which reads the options, ends in the same way by itself
        print(_one_line(error), file=sys.stderr)
        sys.exit(2)
    pipeline | MakeAll(work, items)
    try:
        running.append(pipeline.run())  # a local runner returns at the end, a remote one at once
        running[0].wait_until_finish()
    except Exception as error:
        Path(failed).write_text((STOPPED if isinstance(error, Stopped) else "") + _one_line(error))
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
    main(sys.argv[1])

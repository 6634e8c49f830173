"""The one Beam transform: every stage's work runs through it, on any runner."""

import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

from pipelines.engine.worker import Work


class Make(beam.DoFn):
    """Makes items one by one, or in as many threads as their work asks for."""

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
        """Waits until at most so many items are being made. Raises what any of them raised."""
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


def open_pipeline(runner: str, options: list[str], is_local: bool) -> tuple[beam.Pipeline, int]:
    """An empty pipeline on a runner, and how many workers its options ask for.

    A local runner has its pipeline in this process alone: it hands the items to workers of ours. Raises whatever Beam
    raises if it does not take the runner or its options, `SystemExit` included.
    """
    read = PipelineOptions(options)
    direct = read.view_as(DirectOptions)
    workers = 1 if direct.direct_running_mode == "in_memory" else direct.direct_num_workers or os.cpu_count() or 1
    if is_local:
        direct.direct_running_mode, direct.direct_num_workers = "in_memory", 1
    return beam.Pipeline(runner=runner, options=read), workers

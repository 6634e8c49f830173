"""The one Beam transform: every stage's work runs through it, on any runner."""

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

from pipelines.engine.cluster import is_dask, partition_size, workers_of
from pipelines.engine.worker import Work

SIZED = ("dask_partition_size", "dask_npartitions")
ASK_A_SERVER = {"PortableRunner", "FlinkRunner", "SparkRunner", "PrismRunner"}  # which has its own options


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


def open_pipeline(runner: str, options: list[str], is_local: bool, items: int = 0) -> tuple[beam.Pipeline, int]:
    """An empty pipeline on a runner for so many items, and how many workers it has, as far as that is known.

    A local runner has its pipeline in this process alone: it hands the items to workers of ours. Raises `ValueError`
    for an option that no one knows and for a cluster that does not answer, and whatever Beam raises if it does not take
    the runner or its options, `SystemExit` included.
    """
    workers = workers_of(runner, options)
    if is_dask(runner) and not any(
        "dask_partition_size" in option or "dask_npartitions" in option for option in options
    ):
        options = [*options, f"--dask_partition_size={partition_size(items, workers)}"]  # else one task has them all
    read = PipelineOptions(options)
    if is_local:
        direct = read.view_as(DirectOptions)
        direct.direct_running_mode, direct.direct_num_workers = "in_memory", 1
    pipeline = beam.Pipeline(runner=runner, options=read)  # imports the runner, which declares its options
    if runner.rpartition(".")[2] not in ASK_A_SERVER:
        _refuse_unknown(read)
    return pipeline, workers


def _refuse_unknown(options: PipelineOptions) -> None:
    """Raises `ValueError` for options that are not Beam's, which drops them silently."""
    known, given = (options.get_all_options(retain_unknown_options=unknown) for unknown in (False, True))
    for name in given.keys() - known.keys():
        near = get_close_matches(name, known, 1)
        hint = f"did you mean --{near[0]}?" if near else "remove it"
        raise ValueError(f"beam.options: unknown option --{name}; {hint}")

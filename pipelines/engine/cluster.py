"""How many worker processes a Beam runner has: they share limits, such as that of requests to one host."""

import argparse
import os
from collections.abc import Sequence
from math import ceil

from pipelines.engine.worker import is_local

MOST_TASKS = 10_000  # of a stage, which Dask's scheduler holds
TASKS_EACH = 8  # of a worker, at least, so that all of them end at about the same time
NUMBERS = ("direct_num_workers", "parallelism", "num_workers", "max_num_workers")  # options of Beam's runners
CONNECT = 20  # seconds for Dask's scheduler to answer


def is_dask(runner: str) -> bool:
    return runner.endswith("DaskRunner")


def workers_of(runner: str, options: Sequence[str]) -> int:
    """How many worker processes there are now, as far as a runner or its options tell; at least 1.

    Raises `ValueError` if Dask's scheduler does not answer.
    """
    given = _given(options)
    if is_local(runner):
        one = given.direct_running_mode in (None, "in_memory")
        return 1 if one else _number(given.direct_num_workers or "1") or os.cpu_count() or 1
    if is_dask(runner):
        return _of_dask(given.dask_client_address, given.dask_scheduler_file)
    return max(1, *(_number(getattr(given, name) or "") for name in NUMBERS[1:]))


def partition_size(items: int, workers: int) -> int:
    """How many items a task of Dask has: one, unless its scheduler would have to hold too many tasks."""
    return max(1, ceil(items / max(MOST_TASKS, TASKS_EACH * workers)))


def _given(options: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("direct_running_mode", "dask_client_address", "dask_scheduler_file", *NUMBERS):
        parser.add_argument(f"--{name}", nargs="?")
    return parser.parse_known_args(list(options))[0]


def _number(text: str) -> int:
    """The number that an option gives; 0 for what Beam will refuse."""
    return int(text) if text.isascii() and text.isdigit() else 0


def _of_dask(address: str | None, scheduler_file: str | None) -> int:
    if not address and not scheduler_file:
        return os.cpu_count() or 1  # Beam starts a cluster on this machine
    try:
        import distributed  # pyright: ignore[reportMissingImports]  of the extra [dask]

        with distributed.Client(address, scheduler_file=scheduler_file, timeout=CONNECT) as client:
            return max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
    except (ImportError, OSError, ValueError) as error:  # `TimeoutError` is one of the second
        why = " ".join(str(error).split())
        raise ValueError(f"no Dask scheduler at {address or scheduler_file}: {why}") from None

"""The process that runs Beam's pipelines, started by `pipelines.engine.workers`; it also ends all workers.

It imports Beam once. For the local runner each stage's pipeline runs in here, and hands its items to worker processes;
other runners have workers of their own.
"""

import logging
import os
import pickle
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from pipelines.engine.child import take_stdin
from pipelines.engine.pool import Pool
from pipelines.engine.worker import Order, among, one_line

running: list[Any] = []  # Beam's `PipelineResult`


def main() -> None:
    """Carries out one order after another, until the parent closes the socket that is our standard input."""
    parent, orders = Connection(take_stdin()), SimpleQueue()
    threading.Thread(target=_listen, args=(parent, orders), daemon=True).start()
    order = orders.get()
    pool = Pool() if order.is_local else None
    if pool:
        pool.prepare(order)  # workers import what they need while this process imports Beam
        if order.runner == "FnApiRunner":
            leave_out_connectors()
    import pipelines.engine.beam  # noqa: F401  takes two seconds or more, in which a run may be stopped

    while True:
        parent.send(carried_out(order, pool))
        order = orders.get()


CONNECTORS = ("apache_beam.io.gcp.bigquery", "boto3", "bson", "pandas", "pyarrow", "pymongo", "requests")


def leave_out_connectors() -> None:
    """Keeps Beam from importing optional packages that no pipeline here uses; they take half of its time to import."""
    for name in CONNECTORS:
        sys.modules[name] = None  # pyright: ignore[reportArgumentType]  None forbids it


def carried_out(order: Order, pool: Pool | None) -> tuple[str, str]:
    """The result of an order: `done`, `failed`, or `refused` by Beam, whose complaint is the log's last line."""
    from pipelines.engine.beam import MakeAll, open_pipeline

    try:
        pipeline, workers = open_pipeline(order.runner, order.options, order.is_local, len(order.items))
    except SystemExit:  # argparse, which reads the options, has said why
        return "refused", ""
    except Exception as error:
        print(one_line(error), file=sys.stderr, flush=True)
        return "refused", ""
    running.clear()
    try:
        most = 1 if order.one_process else min(workers, len(order.items))
        work = pool.begin(order, most) if pool else among(pickle.loads(order.work), most)
        _ = pipeline | MakeAll(work, order.items if pool else [pickle.loads(item) for item in order.items])
        running.append(pipeline.run())  # a local runner returns at the end, a remote one at once
        running[0].wait_until_finish()
        if pool:
            pool.finish(order)
    except Exception as error:
        logging.exception("%s failed", order.name)
        if pool and order.one_process:
            pool.settle()
        return "failed", (pool and pool.failure) or one_line(error)
    return "done", ""


def _listen(parent: Connection, orders: SimpleQueue) -> None:
    """Carries out orders until the parent closes its end of the socket, or dies."""
    try:
        with suppress(EOFError, OSError):
            while True:
                orders.put(parent.recv())
        for result in running:
            with suppress(Exception):
                result.cancel()
    finally:
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()

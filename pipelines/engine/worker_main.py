"""Worker processes: the one that imports what a stage needs, and its forks, which make the items.

It has no threads and no Beam, so that it can be forked at any time; a fork is a worker within some milliseconds. The
first, `pipelines.engine.pool`, is started with a socket as its standard input. When the process at the other end dies,
it ends the whole group.
"""

import gc
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import TextIOWrapper
from multiprocessing.connection import Connection

from pipelines.engine.child import take_stdin
from pipelines.engine.pool import FORK, IMPORT
from pipelines.engine.secrets import hidden, hide
from pipelines.engine.worker import Work, among, one_line


def main() -> None:
    """Carries out requests until the socket closes: imports what a pickled work needs, or forks a worker."""
    job = socket.socket(fileno=take_stdin())
    while True:
        asked, descriptors, *_ = socket.recv_fds(job, 1, 1)
        reap()
        if asked == IMPORT:
            with suppress(Exception):  # workers will say so
                pickle.loads(received(job, int.from_bytes(received(job, 8), "big")))
        elif asked == FORK:
            gc.freeze()  # what is here stays as it is, in memory that all forks share
            if os.fork() == 0:
                job.close()
                work_off(Connection(descriptors[0]))
            os.close(descriptors[0])
        else:
            os.killpg(0, signal.SIGKILL)


def reap() -> None:
    """Reaps forks that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def received(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size and (part := connection.recv(size - len(parts))):
        parts += part
    return bytes(parts)


def work_off(job: Connection) -> None:
    """Makes items, of one work after another, until there is no more; then ends this process."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # it is ended without a word when the run is
    answering, threads = threading.Lock(), ThreadPoolExecutor(1)

    def make(number: int, work: Work | Exception, item: bytes) -> None:
        failure = failure_of(work, item)
        with answering, suppress(OSError):
            job.send((number, failure))

    with suppress(EOFError, OSError):
        while message := job.recv():
            number, said = message
            if number is None:
                work, at_once = loaded(said[0], said[2]), said[1]
                threads = ThreadPoolExecutor(at_once)
            elif at_once == 1:
                make(number, work, said)
            else:
                threads.submit(make, number, work, said)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def loaded(work: bytes, workers: int) -> Work | Exception:
    try:
        return among(pickle.loads(work), workers)
    except Exception as error:
        return error


def failure_of(work: Work | Exception, item: bytes) -> str | None:
    """Makes an item. Returns why that failed, in one line, or nothing; the log has more."""
    try:
        if isinstance(work, Exception):
            raise work
        work.make(pickle.loads(item))
    except BaseException as error:  # `SystemExit` too: somebody waits for the answer
        hide(error)
        print(hidden(traceback.format_exc(), None), file=sys.stderr, flush=True)
        return one_line(error)
    return None


if __name__ == "__main__":
    main()

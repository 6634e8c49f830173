"""Reads many small files of a root, whole and in order."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from pipelines.engine.root import Root

THREADS = 16  # files that are read at the same time from an object store: each waits for its request


def read_each(root: Root, names: Iterable[str]) -> Iterator[bytes]:
    """The bytes of each file, of which a few are in memory. Raises what `Root.read` does."""
    if root.is_local:
        yield from map(root.read, names)
        return
    with ThreadPoolExecutor(THREADS) as threads:
        reading = deque[Future[bytes]]()
        for name in names:
            reading.append(threads.submit(root.read, name))
            if len(reading) > 2 * THREADS:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()

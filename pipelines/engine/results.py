"""Work whose items have results, such as what `verify` finds: workers write each as a small file, which the driver
reads.

An item is named by the digest of all that it reads, so that the file of an earlier attempt is the result of the same
content.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipelines.engine.read_many import read_each
from pipelines.engine.root import Root
from pipelines.engine.worker import is_local
from pipelines.engine.workers import Workers


class Item(Protocol):
    """Something that has a result. Pickles.

    `name`: of its file; a digest of all that its result depends on. `size`: about how long it takes.
    """

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...


Compute = Callable[[Root, Any], Any]  # the result of an item, which JSON can hold; pickles


@dataclass(frozen=True)
class WriteResults:
    """The work of items with results, for Beam."""

    name: str
    root: Root
    compute: Compute
    folder: str

    def make(self, item: Item) -> None:
        data = json.dumps(self.compute(self.root, item)).encode()
        self.root.write(f"{self.folder}/{item.name}.json", data)


def results(
    root: Root, name: str, items: Sequence[Item], compute: Compute, workers: Workers | None, folder: str,
    progress: Callable[[int, int], None] = lambda done, of: None, small: int = 0,
) -> Iterator[Any]:  # fmt: skip
    """The result of each item, in order: by workers if there are any. A `small` number of items is left to this process
    where workers would be processes of the same machine.

    `folder`: where workers write results; those that it has already are not made again. The caller removes it with
    `forget_results`. Raises what `Workers.make` does.
    """
    if not items:
        return
    if workers is None or (is_local(workers.beam.runner) and len(items) <= small):
        for number, item in enumerate(items):
            progress(number, len(items))
            yield compute(root, item)
        return
    present = root.files(folder)
    missing = [item for item in items if f"{item.name}.json" not in present]
    missing.sort(key=lambda item: -item.size)

    def tell() -> None:
        progress(sum(name.endswith(".json") for name in root.files(folder)), len(items))

    workers.make(WriteResults(name, root, compute, folder), missing, f"{folder}/workers.log", tell)
    for data in read_each(root, (f"{folder}/{item.name}.json" for item in items)):
        yield json.loads(data)


def forget_results(root: Root, folder: str) -> None:
    """Removes a folder of results."""
    root.remove_files(folder, hidden=True)
    root.remove_folder(folder.rpartition("/")[0])  # if it was the last in there

"""Corpus steps: stages that see the whole corpus at once, and replace only partition files whose rows changed.

A step has one fingerprint for all of its partitions, which it notes when it is done. If it is killed before, it runs
again.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from pipelines.engine.commit import Commit, Stage, contents, digest, file_of, replace_rows
from pipelines.engine.commits import texts_of
from pipelines.engine.ledger import Ledger
from pipelines.engine.root import Root, point
from schemas.arrow import Row

NOTE = "step.json"
AT_ONCE = 16  # partitions that are committed to an object store at the same time

Upstream = Mapping[str, Mapping[int, Commit]]  # stage -> partition -> commit, of the stages before


@dataclass(frozen=True)
class CorpusStage(Stage):
    def make(self, root: Root, upstream: Upstream) -> Iterator[tuple[int, list[Row]]]:
        """(partition, its rows), for every partition that has any."""
        raise NotImplementedError

    def fingerprint(self, upstream: Upstream) -> str:
        """The fingerprint of the whole step: of everything that it reads, in every partition."""
        read = self.inputs or dict.fromkeys(upstream)
        commits = (contents(texts_of(upstream[stage], columns)) for stage, columns in read.items())
        return digest([self.identity(), *commits])

    def is_current(self, root: Root, upstream: Upstream, own: Mapping[int, Commit]) -> bool:
        """Whether the step was done for the corpus as it is now, and all of its files exist."""
        try:
            noted = json.loads(root.read(f"{self.name}/{NOTE}"))["fingerprint"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False
        return own.keys() == upstream["rows"].keys() and noted == self.fingerprint(upstream)

    def run(self, root: Root, ledger: Ledger, upstream: Upstream) -> None:
        """Replaces the partition files whose rows change, then notes that the step is done. The old note is removed
        first: it would be valid again if this run were killed and the change were undone."""
        root.remove(f"{self.name}/{NOTE}")
        answered, present = set(), root.files(self.name).keys()

        def replace(partition: int, rows: list[Row]) -> None:
            absent = file_of(self.name, partition).rpartition("/")[2] not in present
            replace_rows(root, ledger, self, partition, rows, absent)

        def every() -> Iterator[tuple[int, list[Row]]]:
            for partition, rows in self.make(root, upstream):
                answered.add(partition)
                yield partition, rows
            yield from ((partition, []) for partition in upstream["rows"].keys() - answered)  # left empty by a source

        if root.is_local:
            for partition, rows in every():
                replace(partition, rows)
        else:
            with ThreadPoolExecutor(AT_ONCE) as threads:  # each waits for its requests
                pending = deque[Future[None]]()
                for partition, rows in every():
                    pending.append(threads.submit(replace, partition, rows))
                    if len(pending) > 2 * AT_ONCE:
                        pending.popleft().result()
                for future in pending:
                    future.result()
        self.note(root, upstream)
        point(f"{self.name}:step")

    def note(self, root: Root, upstream: Upstream) -> None:
        root.write(f"{self.name}/{NOTE}", json.dumps({"fingerprint": self.fingerprint(upstream)}).encode())

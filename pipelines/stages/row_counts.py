"""Looks into source files whose rows are counted by reading them: tables of text. Large ones are left to workers.

Parquet says its number of rows itself, and is looked into at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.engine.results import forget_results, results
from pipelines.engine.root import Root
from pipelines.engine.workers import Workers
from pipelines.stages.rows import Look, Rows, rows_in
from schemas.arrow import Row
from schemas.errors import UserError

COUNTED = "source-counts"  # a folder of the root, until the sources are settled
FOLDER = f"{COUNTED}/files"
SMALL = 64 << 20  # bytes of text, all files together, that the driver reads itself

Stages = Mapping[str | None, Rows]  # by the name of their source


class Unknown(Exception):
    """Files are so large that they are not counted here."""


@dataclass(frozen=True)
class LookInto:
    """The rows of a file, or why it cannot be read as configured."""

    stages: Stages

    def __call__(self, root: Root, look: Look) -> Row:
        try:
            return {"rows": rows_in(self.stages[look.source], look)}
        except UserError as error:
            return {"error": str(error)}


@dataclass(frozen=True)
class LookByWorkers:
    """Looks into the files of sources, as `settle` wants it. Without workers it raises `Unknown` for large texts."""

    root: Root
    workers: Workers | None = None

    def __call__(self, stages: Stages, looks: Sequence[Look]) -> Iterator[int | None]:
        large = _large(stages, looks)
        counts = {look: rows_in(stages[look.source], look) for look in looks if look not in large}
        if large and not self.workers:
            raise Unknown
        found = results(self.root, "rows", large, LookInto(stages), self.workers, FOLDER)
        for look, result in zip(large, found, strict=True):
            if "error" in result:
                raise UserError(result["error"])
            counts[look] = result["rows"]
        if large:
            forget_results(self.root, FOLDER)
        return (counts[look] for look in looks)


def _large(stages: Stages, looks: Sequence[Look]) -> list[Look]:
    """The files that have to be read as a whole, if that takes a while."""
    texts = [look for look in looks if stages[look.source].source.reads_all(look.path)]
    return texts if sum(look.size for look in texts) > SMALL else []

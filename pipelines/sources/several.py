"""The sources of a corpus together: the bytes of a row are in the source that its partition belongs to."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.engine.manifest import SourceRange, source_at, sources_of
from pipelines.engine.root import Root
from pipelines.sources.source import LARGEST, Source
from schemas.arrow import Row


@dataclass(frozen=True)
class Sources:
    """Pickles to workers."""

    by_name: Mapping[str | None, Source]
    ranges: Sequence[SourceRange] = ()  # which partitions belong to which source

    def settled(self, root: Root) -> "Sources":
        """The same with the partitions that root.json gives to each."""
        return replace(self, ranges=sources_of(root))

    def loads(self, rows: Iterable[Row], limit: int = LARGEST) -> Iterator[tuple[Row, bytes | Exception]]:
        """See `Source.loads`."""
        by_source: dict[str | None, list[Row]] = {}
        for row in rows:
            by_source.setdefault(source_at(self.ranges, row["partition"]), []).append(row)
        for name, some in by_source.items():
            yield from self.by_name[name].loads(some, limit)

    def load(self, row: Row, limit: int = LARGEST) -> bytes:
        """The bytes of a row's image, as `Source.load` has them. The row says its `partition`."""
        return self.by_name[source_at(self.ranges, row["partition"])].load(row, limit)

"""Measures the text of each response, as `pipelines.stages.measures` does captions and conversations."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.engine.partition_stage import Rejected
from pipelines.engine.root import Root
from pipelines.stages import measures
from pipelines.stages.measures import Measure, without_images
from schemas.arrow import Row
from schemas.config.model import Config
from schemas.response_measures import STAGE
from schemas.stage import Columns


@dataclass(frozen=True)
class MeasureResponses(Measure):
    info = STAGE

    @property
    def reads(self) -> Mapping[str, Columns]:
        return self.info.reads

    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in super().settings().items() if name not in ("queries", "side")}

    def make(self, rows: Iterable[Row], root: Root) -> Iterator[tuple[str, Row | Rejected]]:
        for row in rows:
            yield row["responses"]["key"], self.of_text(without_images(row["responses"]["text"]))


def open_stage(config: Config) -> MeasureResponses | None:
    """Raises `UserError` for a tokenizer that cannot be read."""
    measured = measures.open_stage(config) if config.responses else None
    return None if measured is None else MeasureResponses(measured.config, measured.tokenizer)

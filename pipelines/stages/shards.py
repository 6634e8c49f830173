"""The stage of a shard set: what the bytes of its shards depend on, and which stages its samples are made from.

The shards are laid out by `pipelines.stages.shard_layout`, packed by `pipelines.stages.shard_packing`, and published
by `pipelines.stages.shard_releases`.
"""

from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.catalog.catalog import check_condition
from pipelines.engine.commit import Stage
from pipelines.stages.bounded_images import settings_of
from pipelines.stages.sample_sql import reads_of
from schemas.selection import SetConfig
from schemas.shards import SampleRow
from schemas.stage import StageInfo, stage_info
from schemas.views import BEST, OF_VIEWS

SHARDS = stage_info("shards", SampleRow, {})


@dataclass(frozen=True)
class ShardSet(Stage):
    """The stage of one shard set."""

    set: str
    config: SetConfig
    of_round: bool = field(default=False, kw_only=True)  # of an alignment; the file has no set of this name

    info = SHARDS
    version = 3

    def settings(self) -> dict[str, Any]:
        """What a shard's bytes depend on; `samples_per_shard` only decides the number of shards."""
        choosing = ("where", "weight", "seed", "other_formats", "min_score", "min_judged")
        choice = self.config.recorded(include=choosing) if self.asks else {}
        choice |= settings_of(self.config) | self.config.recorded(include=("stable_json",))
        return {"set": self.set, "task": self.config.task} | choice

    @property
    def schema(self) -> pa.Schema:
        """Of an index."""
        return pa.schema([f for f in self.info.schema if self.config.encodes or f.name not in self.info.optional])

    @property
    def own(self) -> tuple[StageInfo, ...]:
        """Users' stages, whose columns are in the `.json` of samples."""
        return tuple(stage for stage in self.stages if stage.own)

    def check(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Raises `UserError` if the condition of a set of pairs or best responses is not valid on their view."""
        if self.asks:
            check_condition(connection, self.setting, self.config.where, OF_VIEWS[self.config.task])

    @property
    def setting(self) -> str:
        """The setting that has the condition."""
        return "align.where" if self.of_round else f"sets.{self.set}.where"

    @property
    def asks(self) -> bool:
        """Whether its samples are pairs or best responses."""
        return self.config.task in OF_VIEWS

    @property
    def stages(self) -> tuple[StageInfo, ...]:
        """The stages that its samples are made from; the last one decides what goes into the set."""
        names = reads_of(self.config)
        return tuple(stage for stage in self.earlier if stage.name in names or (stage.own and not self.asks))


def item_of(set_name: str, number: int) -> str:
    return f"{set_name}-{number:06d}"


def task_of(config: SetConfig) -> str:
    """The task on a set's card, which its readers know: best responses are conversations."""
    return "conversation" if config.task == BEST else config.task

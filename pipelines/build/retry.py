"""Which failed rows of a stage are made again: `shardmill retry my.toml --where "…"`.

Only those rows are computed. The other rows of their partitions are reused, and a stage whose input does not change is
not made again.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import duckdb

from pipelines.catalog.catalog import check_condition, connect, create, one_line, stage_files
from pipelines.engine.manifest import stages_of
from pipelines.engine.parquet import Corrupt
from pipelines.engine.root import Root
from schemas.errors import UserError
from schemas.stage import StageInfo
from schemas.stages import STAGES
from schemas.views import literal, quoted


def check_retry(stages: Sequence[StageInfo], stage: str, where: str) -> None:
    """Raises `UserError` if this is not a condition on a stage's rows. `stages`: those of the corpus."""
    (info,) = (info for info in stages if info.name == stage)
    with duckdb.connect() as connection:
        create(connection, {}, stages)
        check_condition(connection, "--where", where, f"({_failed(info)})")


def retryable(reasons: Collection[str]) -> str:
    """The condition that holds for rows where trying again may help."""
    return f"reason IN ({', '.join(map(literal, sorted(reasons)))})" if reasons else "false"


def failed_partitions(root: Root, stage: str, where: str) -> dict[int, int]:
    """partition -> how many of its rows are made again."""
    columns, end = "partition, count(*)", "GROUP BY partition ORDER BY partition"
    return dict(_ask(root, stage, None, columns, where, end))


@dataclass(frozen=True)
class FailedRows:
    """The failed rows of a partition for which a condition holds."""

    where: str

    def keys(self, root: Root, stage: str, partition: int) -> set[str]:
        return {key for (key,) in _ask(root, stage, [partition], "key", self.where)}


def _failed(stage: StageInfo) -> str:
    """The rows that failed in a stage, with the URL and host of those that came from one."""
    more = "".join(f", r.{name}" for name in ("url", "host") if name not in stage.schema.names)
    return f"""
        SELECT s.*{more} FROM {quoted(stage.name)} AS s
        LEFT JOIN rows AS r ON r.partition = s.partition AND r.key = s.key
        WHERE s.reason IS NOT NULL AND s.reason != 'upstream'"""


def _ask(
    root: Root, stage: str, partitions: Sequence[int] | None, columns: str, where: str, end: str = ""
) -> list[tuple]:
    stages = stages_of(root)
    if stage not in stages:  # it was never made here
        return []
    sql = f"SELECT {columns} FROM ({_failed(stages[stage])}) WHERE ({where}\n) {end}"
    files = stage_files(root, (STAGES["rows"], stages[stage]), partitions)
    with connect(root, files, stages.values(), [sql]) as connection:
        try:
            return connection.sql(sql).fetchall()
        except duckdb.ConversionException as error:
            raise UserError(f"--where: {one_line(error)}") from None
        except duckdb.Error as error:
            raise Corrupt(f"{stage}: {one_line(error)}") from None

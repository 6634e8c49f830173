"""Which rows of a stage did not work out, and are to be made anew: `shardmill retry my.toml --where "…"`.

Those rows alone are computed; all else in their partitions is taken over as it is, and what comes out the same stops
there.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import duckdb

from pipelines.catalog.catalog import check_condition, connect, create, one_line, stage_files
from pipelines.engine.parquet import Corrupt
from pipelines.engine.root import Root
from schemas.errors import UserError
from schemas.views import STAGES, literal


def check_retry(stage: str, where: str) -> None:
    """Raises `UserError` if this is no condition on a stage's rows."""
    with duckdb.connect() as connection:
        create(connection, {})
        check_condition(connection, "--where", where, f"({_failed(stage)})")


def retryable(reasons: Collection[str]) -> str:
    """The condition that holds where trying again may help."""
    return f"reason IN ({', '.join(map(literal, sorted(reasons)))})" if reasons else "false"


def failed_partitions(root: Root, stage: str, where: str) -> dict[int, int]:
    """partition -> how many of its rows are to be made anew."""
    sql = f"SELECT partition, count(*) FROM ({_failed(stage)}) WHERE ({where}\n) GROUP BY partition ORDER BY partition"
    return dict(_ask(root, stage, None, sql))


@dataclass(frozen=True)
class FailedRows:
    """The rows of a partition that did not work out and for which a condition holds."""

    where: str

    def keys(self, root: Root, stage: str, partition: int) -> set[str]:
        sql = f"SELECT key FROM ({_failed(stage)}) WHERE ({self.where}\n)"
        return {key for (key,) in _ask(root, stage, [partition], sql)}


def _failed(stage: str) -> str:
    """A stage's rows that did not work out in it, with the URL and host of those that came from one."""
    own = {*STAGES[stage].names}
    more = "".join(f", r.{name}" for name in ("url", "host") if name not in own)
    return f"""
        SELECT s.*{more} FROM {stage} AS s LEFT JOIN rows AS r ON r.partition = s.partition AND r.key = s.key
        WHERE s.reason IS NOT NULL AND s.reason != 'upstream'"""


def _ask(root: Root, stage: str, partitions: Sequence[int] | None, sql: str) -> list[tuple]:
    with connect(root, stage_files(root, ("rows", stage), partitions)) as connection:
        try:
            return connection.sql(sql).fetchall()
        except duckdb.ConversionException as error:
            raise UserError(f"--where: {one_line(error)}") from None
        except duckdb.Error as error:
            raise Corrupt(f"{stage}: {one_line(error)}") from None

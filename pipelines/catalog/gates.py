"""Conditions on a run. If one does not hold, the run fails and the shards published before stay published."""

from collections.abc import Iterable, Mapping

import duckdb

from pipelines.catalog.catalog import check_condition, condition_error, open_catalog
from pipelines.engine.root import Root
from schemas.arrow import Row
from schemas.shards import Card

FACTS = {
    "rows": 0,  # of the source
    "kept": 0,  # of them in at least one set
    "kept_share": 0.0,
    "samples": 0,  # in all sets
    "samples_before": 0,  # in the releases that this run would replace
    "added": 0,  # samples
    "removed": 0,
    "changed": 0,
    "changed_share": 0.0,  # added, removed and changed, of samples_before; 0 if nothing was published before
}


class GateFailed(Exception):
    """A condition on the run does not hold. Nothing was published."""


def facts(rows: int, kept: int, before: Iterable[Card], after: Iterable[Card], changes: Iterable[Row]) -> dict:
    """The columns of `run`, which a gate can use besides all views of the catalog."""
    kinds = [change["change"] for change in changes]
    samples_before = sum(card["samples"] for card in before)
    return FACTS | {
        "rows": rows,
        "kept": kept,
        "kept_share": kept / rows if rows else 0.0,
        "samples": sum(card["samples"] for card in after),
        "samples_before": samples_before,
        **{kind: kinds.count(kind) for kind in ("added", "removed", "changed")},
        "changed_share": len(kinds) / samples_before if samples_before else 0.0,
    }


def check_gates(gates: Mapping[str, str], connection: duckdb.DuckDBPyConnection, run: Mapping[str, float]) -> list[str]:
    """The gates that do not hold, each as `name: condition`. Raises `UserError` for one that is not a condition."""
    failed = []
    columns = ", ".join(f"{value!r}::{'DOUBLE' if isinstance(value, float) else 'BIGINT'} AS {name}"
                        for name, value in run.items())  # fmt: skip
    connection.execute(f"CREATE OR REPLACE VIEW run AS SELECT {columns}")
    for name, condition in gates.items():
        check_condition(connection, f"gates.{name}", condition, "run")
        try:
            ((holds,),) = connection.sql(f"SELECT ({condition}\n) FROM run").fetchall()
        except duckdb.Error as error:
            raise condition_error(f"gates.{name}", error) from None
        if not holds:
            failed.append(f"{name}: {condition}")
    return failed


def hold_gates(gates: Mapping[str, str], root: Root, run: Mapping[str, float]) -> None:
    """Raises `GateFailed`, naming the conditions and the figures, if any does not hold."""
    if not gates:
        return
    with open_catalog(root) as connection:
        failed = check_gates(gates, connection, run)
    if failed:
        figures = ", ".join(f"{name} = {value:.4g}" for name, value in run.items())
        published = "the shards published before stay" if run["samples_before"] else "no shards are published"
        raise GateFailed(
            f"gate {'; '.join(failed)} does not hold ({figures}); {published}, and what was made is kept: "
            "change the settings or the gate, and run again"
        )

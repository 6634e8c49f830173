"""Conditions on a run. If one does not hold, the run fails and the shards published before stay published."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import duckdb

from pipelines.catalog.catalog import check_condition, condition_error, connect, open_catalog
from pipelines.catalog.ledger_files import ledger_files
from pipelines.engine.root import Root
from schemas.arrow import Row
from schemas.config.model import GATES
from schemas.shards import Card

FACTS = {
    "rows": 0,  # of the source
    "kept": 0,  # of them in at least one set
    "kept_share": 0.0,
    "chosen_shorter_share": 0.0,  # of the kept pairs: those whose chosen text has fewer words
    "samples": 0,  # in all sets
    "samples_before": 0,  # in the releases that this run would replace
    "added": 0,  # samples
    "removed": 0,
    "changed": 0,
    "changed_share": 0.0,  # changed and removed, of samples_before; 0 if nothing was published before
    "added_share": 0.0,  # added, of samples_before; 0 if nothing was published before
    "empty_sets": 0,  # sets without samples, but for those that are published so already
    "lost_share": 0.0,  # the largest share of its samples that a set lost since its last release of the same settings
}
PARTS = {  # what a share is made of
    "kept_share": ("kept", "rows"),
    "changed_share": ("changed", "removed", "samples_before"),
    "added_share": ("added", "samples_before"),
}
SHORTER = "SELECT coalesce(avg((chosen_words < rejected_words)::DOUBLE), 0) FROM preferences"
ALLOWED = {"empty_sets": "a set may be empty", "lost_share": "the loss is meant"}  # when a default gate is switched off


class GateFailed(Exception):
    """A condition on the run does not hold. Nothing was published."""


class NewRelease(NamedTuple):
    """What a run would publish of a set."""

    before: Card | None  # what is published
    after: Card
    changes: list[Row]  # see `card_changes`
    settings: str  # digest of all settings that decide its samples


class Loss(NamedTuple):
    """The samples of a set that has fewer than its last release of the same settings, or none."""

    set: str
    before: int
    now: int

    @property
    def share(self) -> float:
        return (self.before - self.now) / self.before if self.before else 0.0

    def __str__(self) -> str:
        before = f", {self.before:,} before" if self.before else ""
        return f"set {self.set}: {self.now:,} samples{before}"


def facts(rows: int, kept: int, sets: Sequence[NewRelease], losses: Sequence[Loss]) -> dict[str, float]:
    """The columns of `run`, which a gate can use besides all views of the catalog."""
    kinds = [change["change"] for new in sets for change in new.changes]
    counts = {kind: kinds.count(kind) for kind in ("added", "removed", "changed")}
    samples_before = sum(new.before["samples"] for new in sets if new.before)
    lost = counts["changed"] + counts["removed"]
    return FACTS | {
        "rows": rows,
        "kept": kept,
        "kept_share": kept / rows if rows else 0.0,
        "samples": sum(new.after["samples"] for new in sets),
        "samples_before": samples_before,
        **counts,
        "changed_share": lost / samples_before if samples_before else 0.0,
        "added_share": counts["added"] / samples_before if samples_before else 0.0,
        "empty_sets": sum(not loss.now for loss in losses),
        "lost_share": max((loss.share for loss in losses), default=0.0),
    }


def find_losses(root: Root, sets: Sequence[NewRelease]) -> list[Loss]:
    """The sets that have fewer samples than their last release of the same settings, or none at all, and that change.

    The settings of a release of version 0.1 are not known: if it is the published one, they are taken to be the same.
    """
    files = {"releases": ledger_files(root)["releases"]}  # no other file is looked at
    with connect(root, files, queries=["releases"]) as connection:
        released = connection.sql('SELECT "set", settings, release, samples FROM releases ORDER BY run').fetchall()
    same = {(name, settings): samples for name, settings, _, samples in released if settings}
    known = {(name, release) for name, _, release, _ in released}
    losses = []
    for new in sets:
        if new.before and new.before["release"] == new.after["release"]:
            continue
        name, now = new.after["set"], new.after["samples"]
        before = same.get((name, new.settings))
        if before is None and new.before and (name, new.before["release"]) not in known:
            before = new.before["samples"] if new.before["settings"] == new.after["settings"] else None
        if not now or now < (before or 0):
            losses.append(Loss(name, before or 0, now))
    return losses


def check_gates(gates: Mapping[str, str], connection: duckdb.DuckDBPyConnection, run: Mapping[str, float]) -> list[str]:
    """The names of the gates that do not hold. Raises `UserError` for one that is not a condition."""
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
            failed.append(name)
    return failed


def hold_gates(gates: Mapping[str, str], root: Root, rows: int, kept: int, sets: Sequence[NewRelease]) -> None:
    """Raises `GateFailed`, which names the conditions that do not hold and their figures.

    `rows`: of the source; `kept`: of them in at least one set.
    """
    if not gates:
        return
    losses = find_losses(root, sets)
    run = facts(rows, kept, sets, losses)
    own = gates.keys() - {name for name, condition in GATES.items() if gates.get(name) == condition}
    with open_catalog(root) if own else connect(root, {}, queries=["runs"]) as connection:  # defaults need no view
        if any("chosen_shorter_share" in gates[name] for name in own):
            ((run["chosen_shorter_share"],),) = connection.sql(SHORTER).fetchall()
        failed = check_gates(gates, connection, run)
    if failed:
        conditions = "; ".join(f"{name}: {gates[name]}" for name in failed)
        gate, hold = ("gate", "does not hold") if len(failed) == 1 else ("gates", "do not hold")
        figures = _figures(" ".join(gates[name] for name in failed), run, losses)
        published = "the shards published before stay" if run["samples_before"] else "no shards are published"
        off = "".join(f"; if {ALLOWED[name]}, write `{name} = false` under [gates]" for name in failed if name in GATES)
        raise GateFailed(
            f"{gate} {conditions} {hold}{figures}; {published}, and what was made is kept: "
            f"change the settings or the gate, and run again{off}"
        )


def _figures(conditions: str, run: Mapping[str, float], losses: Sequence[Loss]) -> str:
    """The figures that conditions name, with their parts and the sets that lost samples, in brackets."""
    named = [name for name in run if re.search(rf"\b{name}\b", conditions)]
    shown = dict.fromkeys(part for name in named for part in (name, *PARTS.get(name, ())))
    figures = [", ".join(f"{name} = {run[name]:.4g}" for name in shown)] if shown else []
    figures += map(str, losses[:5] if {"lost_share", "empty_sets"} & set(named) else ())
    return f" ({'; '.join(figures)})" if figures else ""

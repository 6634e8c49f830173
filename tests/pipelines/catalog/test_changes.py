"""The view `changes`: what a partition's first making adds is read from its file, not from rows of the ledger."""

import random
import time
from collections import defaultdict
from dataclasses import dataclass

import pytest

from pipelines.catalog.catalog import query
from pipelines.engine.commit import Stage, replace_rows
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.ledger import Ledger
from pipelines.engine.manifest import write_manifest
from pipelines.engine.parquet import read_rows
from pipelines.engine.root import Root
from schemas.rows import STAGE

Contents = dict[int, dict[str, str]]  # partition -> key -> text


@dataclass(frozen=True)
class Written(Stage):
    """`rows` that a test writes."""

    info = STAGE

    def settings(self) -> dict:
        return {}


@pytest.fixture
def root(tmp_path) -> Root:
    root = Root(str(tmp_path / "root"))
    root.create()
    write_manifest(root, [], [], [])
    return root


def run(root: Root, number: int, contents: Contents, gone: tuple[int, ...] = ()) -> str:
    """A run that leaves these rows in these partitions, and takes others out; its name."""
    ledger = Ledger(root, f"20260101T{number:06d}-aaaaaa")
    for partition, texts in contents.items():
        blank = {field.name: None if field.nullable else "{}" for field in STAGE.schema}
        rows = [blank | {"key": key, "text": text, "made_from": "0"} for key, text in texts.items()]
        replace_rows(root, ledger, Written(), partition, rows)
    for partition in gone:
        name = f"rows/{partition:05d}.parquet"
        rows = [
            {"key": row["key"], "change": "removed", "before": None, "after": None} for row in read_rows(root, name)
        ]
        ledger.record("rows", f"{partition:05d}", None, rows, partition=partition, rows=0, kept=0, made=0,
                      started=time.time())  # fmt: skip
        root.remove(name)
    commits = read_commits(root, "rows")
    ledger.close_stage("rows", {f"{partition:05d}": commit.fingerprint for partition, commit in commits.items()})
    return ledger.run


def changes(root: Root) -> dict[str, list[tuple]]:
    """run -> its changes, in order."""
    said = defaultdict(list)
    for row in query(root, "SELECT run, partition, key, change FROM changes ORDER BY ALL").to_pylist():
        said[row["run"]].append((row["partition"], row["key"], row["change"]))
    return said


def expected(partition: int, old: dict[str, str], new: dict[str, str]) -> list[tuple]:
    """What a run changes in a partition."""
    kinds = {key: "added" if key not in old else "removed" if key not in new else "changed"
             for key in old.keys() | new.keys() if old.get(key) != new.get(key)}  # fmt: skip
    return [(partition, key, kind) for key, kind in kinds.items()]


@pytest.mark.parametrize("seed", range(6))
def test_what_each_run_added_is_known_whatever_came_later(root, seed):
    draws, now, wanted = random.Random(seed), defaultdict(dict), {}
    for number in range(8):
        chosen = draws.sample(range(3), draws.randint(1, 3))
        contents = {p: {f"{p}{key}": draws.choice("ab") for key in draws.sample("uvwxyz", draws.randint(0, 5))}
                    for p in chosen}  # fmt: skip
        gone = tuple(p for p in now if p not in contents and draws.random() < 0.2)
        name, changed = run(root, number, contents, gone), []
        for partition in (*contents, *gone):
            new = contents.get(partition, {})
            changed += expected(partition, now.pop(partition, {}), new)
            now |= {partition: new} if partition in contents else {}
        wanted |= {name: sorted(changed)} if changed else {}
    assert changes(root) == wanted


def test_the_first_making_of_a_partition_is_one_row_of_the_ledger(root):
    name = run(root, 0, {0: {f"{key:04d}": "a" for key in range(500)}})
    (row,) = read_rows(root, f"runs/{name}/changes-rows.parquet")
    assert (row["stage"], row["partition"], row["key"], row["change"]) == ("rows", 0, "", "made")
    assert query(root, "SELECT count(*) AS n FROM changes WHERE change = 'added'")["n"].to_pylist() == [500]

"""Runs are in the order in which they began, whatever the clock says."""

from datetime import UTC, datetime, timedelta

from pipelines.engine.ledger import Ledger, runs
from pipelines.engine.root import Root


def start(root: Root) -> str:
    return Ledger.start(root, "my.toml", "0").run


def test_runs_that_begin_in_one_second_are_in_their_order(tmp_path):
    root = Root(str(tmp_path))
    assert [start(root) for _ in range(12)] == [ledger.run for ledger in runs(root)]


def test_a_run_whose_clock_was_years_ahead_does_not_stay_the_last(tmp_path):
    root = Root(str(tmp_path))
    ahead = f"{datetime.now(UTC) + timedelta(days=1000):%Y%m%dT%H%M%S}-ffffff"
    root.write(f"runs/{ahead}/run.parquet", b"")
    first, second = start(root), start(root)
    assert [ledger.run for ledger in runs(root)] == [ahead, first, second]


def test_a_folder_that_is_no_run_does_not_stop_one(tmp_path):
    root = Root(str(tmp_path))
    for name in ("zzz", "99991231T235959-ffffff"):
        root.write(f"runs/{name}/note.txt", b"")
    assert len({start(root) for _ in range(3)}) == 3

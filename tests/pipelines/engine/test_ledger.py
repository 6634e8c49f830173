"""Runs are in the order in which they began, whatever the clock says."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from pipelines.engine.ledger import Ledger, read_notes, runs
from pipelines.engine.root import Root
from pipelines.reports.report import parts


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


ODD = [
    "[" * 100_000, '{"work": ' * 60 + "1" + "}" * 60, "[1]", "5", "null", "", '{"work": {"partition": 1e400}}',
    '{"work": {"partition": NaN}, "stamp": "x", "commit": {}}', '{"work": {"partition": ' + "9" * 5000 + "}}",
    '{"work": 1, "work": 2}', '{"work": {"partition": "x"}, "stamp": "x", "commit": 1}', '{"work": "\\ud800"}',
]  # fmt: skip


@pytest.mark.parametrize("note", ODD)
def test_a_note_that_no_worker_wrote_is_passed_over(tmp_path, note):
    """Beside a good one, in a file of several notes and in one of its own."""
    root = Root(str(tmp_path))
    ledger = Ledger.start(root, "my.toml", "0")
    good = ledger.note("images", "00007", "x", [], partition=7, rows=1, kept=1, made=1, started=0.0)
    good |= {"stamp": "s", "commit": {"stage": "images"}}
    data = f"{note}\n{json.dumps(good)}".encode()
    root.write(f"runs/{ledger.run}/images/00007+2.json", data)
    assert list(ledger.told("images")) == [(7, "s", {"stage": "images"})]
    assert [one and one.item for one in read_notes(data)] == [None, "00007"]


@pytest.mark.parametrize("odd", ["[1]", "5", '"x"', "null", "[" * 100_000, '{"a": NaN}', '{"a": 1', ""])
def test_a_change_that_no_run_wrote_is_shown_as_it_is(odd):
    for row in ({"before": odd, "after": '{"a": 1}'}, {"before": '{"a": 1}', "after": odd}):
        assert parts(row) == [{"column": "", **row}]
    assert parts({"before": '{"a": "x"}', "after": '{"a": 2}'}) == [{"column": "a", "before": "x", "after": "2"}]

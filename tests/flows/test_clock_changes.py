"""Hours that a time zone leaves out or has twice."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from flows.clock_changes import clock_changes, never, warning

NOW = datetime(2026, 11, 29, 8, tzinfo=UTC)


def test_the_changes_of_a_year_are_found():
    changes = clock_changes(ZoneInfo("Europe/Berlin"), NOW)
    assert [tuple(f"{at:%m-%d %H:%M}" for at in change) for change in changes] == [
        ("03-28 02:00", "03-28 03:00"),
        ("10-31 03:00", "10-31 02:00"),
    ]
    assert clock_changes(ZoneInfo("Asia/Tokyo"), NOW) == []
    half = clock_changes(ZoneInfo("Australia/Lord_Howe"), NOW)  # half an hour
    assert {abs((after - before).total_seconds()) for before, after in half} == {1800.0}


@pytest.mark.parametrize(
    ("cron", "timezone", "says"),
    [
        ("30 2 * * *", "Europe/Berlin", "02:30 does not exist on 2027-03-28, so that run starts an hour earlier"),
        ("30 1 * * *", "America/New_York", "01:30 comes twice on 2027-11-07; the run starts at the first"),
        ("30 2 * * *", "America/New_York", "02:30 does not exist on 2027-03-14"),
        ("15 1 * * *", "Europe/London", "01:15 does not exist on 2027-03-28"),
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "02:15 does not exist on 2027-10-03, so that run starts 30 minutes earlier",
        ),
        ("0 3 * * *", "Europe/Berlin", None),
        ("30 2 * * *", "UTC", None),
        ("*/15 * * * *", "Europe/Berlin", None),  # it runs on anyway
        ("30 2 1 1 *", "Europe/Berlin", None),
    ],
)
def test_a_run_inside_a_clock_change_is_told(cron, timezone, says):
    line = warning(cron, timezone, NOW)
    assert line is None if says is None else line.startswith(says)


@pytest.mark.parametrize(
    ("cron", "expected"),
    [("0 0 31 2 *", True), ("0 0 30 2 *", True), ("0 0 31 4,6 *", True), ("0 0 29 2 *", False), ("0 3 * * *", False)],
)
def test_a_day_that_no_month_has_never_comes(cron, expected):
    assert never(cron, NOW) == expected

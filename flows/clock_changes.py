"""Clock changes: which runs of a cron schedule are at an hour that a time zone leaves out, or has twice."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from prefect._vendor.croniter import CroniterBadDateError, croniter

AHEAD = 400  # days: every change of a year is among them
HOUR = timedelta(hours=1)


def clock_changes(zone: ZoneInfo, now: datetime) -> list[tuple[datetime, datetime]]:
    """The next changes of a zone's clock, each as its times (before, after), without a zone."""
    changes = []
    moment = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    for _ in range(24 * AHEAD):
        later = moment + HOUR
        if moment.astimezone(zone).utcoffset() != later.astimezone(zone).utcoffset():
            minute = _first(zone, moment, later)
            before, after = (minute - timedelta(minutes=1)).astimezone(zone), minute.astimezone(zone)
            changes.append((before.replace(tzinfo=None) + timedelta(minutes=1), after.replace(tzinfo=None)))
        moment = later
    return changes


def _first(zone: ZoneInfo, start: datetime, end: datetime) -> datetime:
    """The first minute with the offset of `end`."""
    while start.astimezone(zone).utcoffset() != end.astimezone(zone).utcoffset():
        start += timedelta(minutes=1)
    return start


def warning(cron: str, timezone: str, now: datetime) -> str | None:
    """One line about the runs of a schedule that a clock change moves; None if there are none.

    A schedule that also fires an hour before and an hour after, such as an hourly one, has no such run.
    """
    for before, after in clock_changes(ZoneInfo(timezone), now):
        start, end = min(before, after), max(before, after)
        for minutes in range(int((end - start) / timedelta(minutes=1))):
            at = start + timedelta(minutes=minutes)
            if croniter.match(cron, at) and not (croniter.match(cron, at - HOUR) and croniter.match(cron, at + HOUR)):
                gap = int((end - start) / timedelta(minutes=1))
                earlier = "an hour" if gap == 60 else f"{gap} minutes"
                what = (
                    f"does not exist on {at:%Y-%m-%d}, so that run starts {earlier} earlier"
                    if after > before
                    else f"comes twice on {at:%Y-%m-%d}; the run starts at the first"
                )
                hours = f"outside {start:%H:%M} to {end:%H:%M}"
                return f"{at:%H:%M} {what}: the clock of {timezone} changes; an hour {hours} avoids this"
    return None


def never(cron: str, now: datetime) -> bool:
    """Whether a schedule has no run in the next years, such as one on the 31st of February."""
    try:
        croniter(cron, now).get_next(datetime)
    except CroniterBadDateError:
        return True
    return False

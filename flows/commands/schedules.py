"""Commands for schedules: they have Prefect workers run configurations, list the schedules, and remove them."""

from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from flows.commands.arguments import Config
from flows.commands.terminal import cell, console, table, tell
from schemas.errors import UserError


def schedule(
    config: Config,
    cron: Annotated[str | None, typer.Option(help="When to run, e.g. '0 3 * * *'.")] = None,
    timezone: Annotated[
        str | None, typer.Option(help="Time zone of these hours, e.g. Europe/Berlin. Default: UTC.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the deployment. Default: the folder and the name of the configuration.")
    ] = None,
    tags: Annotated[
        list[str] | None, typer.Option(help="Tags of its runs, separated by commas; can be repeated.")
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="Work pool of the Prefect workers that run it. Default: shardmill.")
    ] = None,
    alert: Annotated[
        str | None,
        typer.Option(help="URL of a webhook that is called when a run fails, or when none completes in time."),
    ] = None,
    within: Annotated[
        float | None,
        typer.Option(help="Hours within which a run has to complete; otherwise there is an alert. Default: 36."),
    ] = None,
) -> None:
    """Have Prefect workers run a configuration on a schedule. Options that are not given keep their earlier values."""
    from flows.clock_changes import never, warning
    from flows.schedule import schedule as deploy
    from pipelines.build.corpus import open_corpus

    corpus = open_corpus(config)
    words = None if tags is None else [word.strip() for some in tags for word in some.split(",") if word.strip()]
    done = deploy(config, corpus.root.url, cron, timezone, name, words, pool, alert, within)
    paused = "; it is paused" if done.paused else ""
    tell(cell(f"deployed build-corpus/{done.name}: {done.cron} {done.timezone}{paused}"))
    if done.alerts:
        tell(f"alerts: failed, crashed, gate failed, and no completed run for {done.alerts.hours:g} hours")
    if never(done.cron, datetime.now(UTC)):
        tell(cell(f"{done.cron} is a day that no month has: it never runs"))
    elif line := warning(done.cron, done.timezone, datetime.now(UTC)):
        tell(cell(line))
    tell(cell(f"start a worker that runs it: prefect worker start --pool {quote(done.pool)} --limit 2"))


def unschedule(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="Configuration whose schedule is removed.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the deployment that is removed.")] = None,
) -> None:
    """Remove the schedule of a configuration, with its alerts. Past runs stay in Prefect's list."""
    from flows.schedule import unschedule as remove

    if name is not None and not name.strip():
        raise UserError("--name: is empty; write the name of a deployment")
    if config is None and name is None:
        raise UserError("unschedule: name a configuration, or a deployment with --name")
    for removed in remove(config, name):
        tell(cell(f"removed build-corpus/{removed}"))


def schedules() -> None:
    """List all schedules of the Prefect server: what they run, when, and how the last run ended."""
    from flows.schedule import schedules as deployed

    shown = table("name", "when", "time zone", "pool", "tags", "alerts", "next (UTC)", "last run", "configuration")
    for one, coming, last in deployed():
        when = "paused" if one.paused else f"{coming.astimezone(UTC):%Y-%m-%d %H:%M}" if coming else "-"
        alerts = (
            f"{one.alerts.hours:g} h{', but its webhook is gone' if one.alerts.gone else ''}" if one.alerts else "-"
        )
        words = (
            one.name,
            one.cron,
            one.timezone,
            one.pool,
            ", ".join(one.tags) or "-",
            alerts,
            when,
            last or "-",
            one.config,
        )
        shown.add_row(*map(cell, words))
    console.print(shown) if shown.row_count else tell("nothing is scheduled")

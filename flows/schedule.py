"""Deployments: the flow on a schedule, carried out by a Prefect worker.

A deployment belongs to one configuration, which its parameter `config` names. Where a configuration is scheduled again,
what was set before stays: its pause, tags, pool, parameters and job variables.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import (
    TERMINAL_STATES,
    ConcurrencyLimitConfig,
    ConcurrencyLimitStrategy,
    FlowRun,
    StateType,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from flows.alerts import (
    HOURS,
    LEAST_HOURS,
    MOST_HOURS,
    Alerts,
    check_webhook,
    read_alerts,
    remove_alerts,
    save_webhook,
    set_alerts,
)
from flows.build_corpus import build_corpus
from flows.server import answering, check_server
from flows.texts import label
from schemas.errors import UserError

SLUG = "shardmill"  # of the schedule that the command line sets; a deployment can have others
POOL = "shardmill"
LONGEST = 200  # characters of a name
ONE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)  # run at a time
ABOUT = "Makes the corpus "  # how a description begins that is ours


@dataclass(frozen=True)
class Scheduled:
    """A deployment of a configuration."""

    name: str
    config: str
    cron: str
    timezone: str
    pool: str
    tags: tuple[str, ...]
    paused: bool
    alerts: Alerts | None


def schedule(
    config: Path, root: str, cron: str | None, timezone: str | None = None, name: str | None = None,
    tags: list[str] | None = None, pool: str | None = None, alert: str | None = None, hours: float | None = None,
) -> Scheduled:  # fmt: skip
    """Deploys the flow for a configuration to a work pool, which is created if it does not exist.

    What is None stays as it was set before. A deployment of the same configuration under another name is removed.
    Raises `UserError` if the name belongs to another configuration, and if no Prefect server is named or it does not
    answer: a schedule outlives this process.
    """
    for option, text in (("--cron", cron), ("--timezone", timezone), ("--name", name), ("--pool", pool)):
        if text is not None and not text.strip():
            raise UserError(f"{option}: is empty; write a value, or leave the option out to keep what was set")
    if alert is not None:
        check_webhook(alert)
    if hours is not None and not LEAST_HOURS <= hours <= MOST_HOURS:
        raise UserError(
            f"--within: {hours:g} is not a number of hours; write one from {LEAST_HOURS:g} to {MOST_HOURS:g}"
        )
    path = os.path.abspath(config)  # a link stays a link: where it points to may change
    with _client("schedule") as client:
        deployed = _deployments(client)
        mine = _of_config(deployed, path)
        given, name = name, name or (mine[0].name if mine and not _is_of_01(mine[0], config) else label(config))
        _check_name("--name", name)
        for one in deployed:
            if one.name == name and one not in mine:
                begin = "--name: " if given else ""
                raise UserError(
                    f"{begin}{build_corpus.name}/{name} runs {one.parameters.get('config')} already; choose another "
                    "--name"
                )
        old = next((one for one in mine if one.name == name), mine[0] if mine else None)
        when = _when(old, cron, timezone)
        before = read_alerts(client, old.name) if old else None
        if hours and not (alert or before):
            raise UserError("--within: needs --alert, the URL of the webhook that is called")
        if before and before.gone and not alert:
            raise UserError("--alert: the webhook of its alerts was removed from the server; write its URL again")
        pool = pool or (old and old.work_pool_name) or POOL
        _check_name("--pool", pool)
        if pool.lower().startswith("prefect"):
            raise UserError(
                f"--pool: {pool!r} begins with prefect, which Prefect keeps for itself; choose another name"
            )
        with suppress(ObjectAlreadyExists):  # it existed, or a worker creates it now
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        created = RunnerDeployment.from_flow(
            build_corpus, name=name, schedules=_schedules(old, when), concurrency_limit=ONE, work_pool_name=pool,
            entrypoint_type=EntrypointType.MODULE_PATH, **_kept(old, path, root, tags),
        ).apply()  # fmt: skip
        deployment = client.read_deployment(created)  # pyright: ignore[reportArgumentType]  not a coroutine here
        if webhook := save_webhook(deployment, alert) if alert else before and before.webhook:
            set_alerts(client, deployment, Alerts(webhook, hours or (before.hours if before else HOURS)))
        for one in mine:
            if one.name != name:
                _remove(client, one)
        return _scheduled(client, deployment)


def unschedule(config: Path | None, name: str | None) -> list[str]:
    """Removes the deployment of a configuration, or the one of a name, with the runs that are to come. Returns names.

    Raises `UserError` if there is none.
    """
    with _client("unschedule") as client:
        deployed = _deployments(client)
        named = [one for one in deployed if name is None or one.name == name]
        found = _of_config(named, os.path.abspath(config)) if config else named
        if not found:
            what = f"no deployment {build_corpus.name}/{name}" if name is not None else f"no deployment of {config}"
            if config and name is not None and named:
                what = f"{build_corpus.name}/{name} runs {named[0].parameters.get('config')}, not {config}"
            raise UserError(f"unschedule: {what}; `shardmill schedules` lists them")
        for one in found:
            _remove(client, one)
    return [one.name for one in found]


def _remove(client: SyncPrefectClient, deployment: DeploymentResponse) -> None:
    remove_alerts(client, deployment.name)
    with suppress(ObjectNotFound):
        client.delete_deployment(deployment.id)


def _of_config(deployed: list[DeploymentResponse], path: str) -> list[DeploymentResponse]:
    """The deployments of a configuration. Those made before links were kept name what its folder points to."""
    exact = [one for one in deployed if one.parameters.get("config") == path]
    if exact or os.path.islink(path):
        return exact
    return [one for one in deployed if one.parameters.get("config") == os.path.realpath(path)]


def _check_name(option: str, name: str) -> None:
    """Raises `UserError` for a name that the URLs of Prefect's server cannot hold."""
    if re.search(r"[/%&<>#?\\]", name):
        raise UserError(f"{option}: {name!r} has one of the characters / % & < > # ? \\; leave them out")
    if not name.isprintable() or name.strip() != name or name in (".", "..") or len(name) > LONGEST:
        raise UserError(f"{option}: {name!r} is not a name; write at most {LONGEST} printable characters")


def schedules() -> list[tuple[Scheduled, datetime | None, str | None]]:
    """Each deployment, when it runs next, and how its last run ended."""
    with _client("schedules") as client:
        return [(_scheduled(client, one), *_runs(client, one)) for one in _deployments(client)]


@contextmanager
def _client(command: str) -> Iterator[SyncPrefectClient]:
    if not (url := PREFECT_API_URL.value()):
        raise UserError(f"{command}: PREFECT_API_URL is not set; start a server with `prefect server start` and set it")
    check_server(url)
    with answering(url), get_client(sync_client=True) as client:
        yield client


def _deployments(client: SyncPrefectClient) -> list[DeploymentResponse]:
    """All deployments of the flow, by name."""
    flow, found = FlowFilter(name=FlowFilterName(any_=[build_corpus.name])), []
    while page := client.read_deployments(flow_filter=flow, limit=200, offset=len(found)):
        found += page
    return sorted(found, key=lambda one: one.name)


def _is_of_01(deployment: DeploymentResponse, config: Path) -> bool:
    """Whether version 0.1 named a deployment: by the stem alone."""
    return deployment.name == config.stem and not any(one.slug for one in deployment.schedules)


def _when(old: DeploymentResponse | None, cron: str | None, timezone: str | None) -> CronSchedule:
    before = (
        next((one.schedule for one in old.schedules if isinstance(one.schedule, CronSchedule)), None) if old else None
    )
    cron = cron or (before and before.cron)
    if cron is None:
        raise UserError("--cron: missing; write when to run, e.g. --cron '0 3 * * *'")
    timezone = timezone or (before and before.timezone) or "UTC"
    try:
        if len(cron.split()) != 5 and not cron.startswith("@"):
            raise ValueError
        CronSchedule(cron=cron, timezone="UTC")
    except ValueError:
        raise UserError(f"--cron: {cron!r} is not a cron schedule; write five fields, e.g. '0 3 * * *'") from None
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except ValueError:
        raise UserError(f"--timezone: {timezone!r} is not a time zone; write e.g. Europe/Berlin") from None


def _schedules(old: DeploymentResponse | None, when: CronSchedule) -> list[DeploymentScheduleCreate]:
    """Ours, and those that were added by hand."""
    before = old.schedules if old else []
    active = next((one.active for one in before if one.slug in (None, SLUG)), True)
    others = [
        DeploymentScheduleCreate(schedule=one.schedule, active=one.active, slug=one.slug, parameters=one.parameters)
        for one in before
        if one.slug not in (None, SLUG)
    ]
    return [DeploymentScheduleCreate(schedule=when, active=active, slug=SLUG), *others]


def _kept(old: DeploymentResponse | None, path: str, root: str, tags: list[str] | None) -> dict[str, Any]:
    about = f"{ABOUT}{root} from {path}"
    if old is None:
        return {"parameters": {"config": path}, "tags": tags or [], "description": about}
    described = old.description and not old.description.startswith(ABOUT)
    return {
        "parameters": {**old.parameters, "config": path},
        "tags": old.tags if tags is None else tags,
        "description": old.description if described else about,
        "paused": old.paused,
        "job_variables": old.job_variables,
        "work_queue_name": old.work_queue_name if old.work_queue_name != "default" else None,
    }


def _scheduled(client: SyncPrefectClient, deployment: DeploymentResponse) -> Scheduled:
    ours = next((one for one in deployment.schedules if one.slug in (None, SLUG)), None)
    when = ours.schedule if ours and isinstance(ours.schedule, CronSchedule) else None
    return Scheduled(
        name=deployment.name,
        config=str(deployment.parameters.get("config", "")),
        cron=when.cron if when else "",
        timezone=(when.timezone if when else None) or "UTC",
        pool=deployment.work_pool_name or "",
        tags=tuple(deployment.tags),
        paused=bool(deployment.paused or (ours and not ours.active)),
        alerts=read_alerts(client, deployment.name),
    )


def _runs(client: SyncPrefectClient, deployment: DeploymentResponse) -> tuple[datetime | None, str | None]:
    """When a deployment runs next, and how its last run ended, as its state says."""
    one = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))

    def first(sort: FlowRunSort, *types: StateType) -> FlowRun | None:
        state = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))))
        found = client.read_flow_runs(deployment_filter=one, flow_run_filter=state, sort=sort, limit=1)
        return found[0] if found else None

    coming = first(FlowRunSort.EXPECTED_START_TIME_ASC, StateType.SCHEDULED)
    ended = first(FlowRunSort.END_TIME_DESC, *TERMINAL_STATES)
    return coming.expected_start_time if coming else None, ended.state_name if ended else None

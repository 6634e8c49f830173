"""Deployments: the flow on a schedule, carried out by a Prefect worker."""

from contextlib import suppress
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectAlreadyExists
from prefect.flows import EntrypointType
from prefect.settings import PREFECT_API_URL

from flows.build_corpus import build_corpus
from flows.server import check_server
from schemas.errors import UserError


def schedule(config: Path, cron: str, pool: str) -> str:
    """Deploys the flow for a configuration to a work pool, which is created if it does not exist; returns its name.

    Raises `UserError` if no Prefect server is named or it does not answer: a schedule outlives this process.
    """
    try:
        when = CronSchedule(cron=cron, timezone="UTC")
    except ValueError:
        raise UserError(f"--cron: {cron!r} is not a cron schedule; write five fields, e.g. '0 3 * * *'") from None
    if not (url := PREFECT_API_URL.value()):
        raise UserError("schedule: PREFECT_API_URL is not set; start a server with `prefect server start` and set it")
    check_server(url)
    with (
        get_client(sync_client=True) as client,
        suppress(ObjectAlreadyExists),
    ):  # it existed, or a worker creates it now
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    deployment = build_corpus.to_deployment(
        name=config.stem, schedule=when, parameters={"config": str(config.resolve())}, concurrency_limit=1,
        work_pool_name=pool, entrypoint_type=EntrypointType.MODULE_PATH,
    )  # fmt: skip
    deployment.apply()
    return f"{build_corpus.name}/{config.stem}"

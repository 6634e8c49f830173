"""Deployments: the flow on a schedule, carried out by a Prefect worker."""

from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.flows import EntrypointType
from prefect.settings import PREFECT_API_URL

from flows.build_corpus import build_corpus
from schemas.config import UserError


def schedule(config: Path, cron: str, pool: str) -> str:
    """Deploys the flow for a configuration to a work pool, which is made if it is not there; returns its name.

    Raises `UserError` if no Prefect server is named: a schedule outlives this process.
    """
    if not PREFECT_API_URL.value():
        raise UserError("schedule: no Prefect server; start one with `prefect server start` and set PREFECT_API_URL")
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    try:
        deployment = build_corpus.to_deployment(
            name=config.stem, cron=cron, parameters={"config": str(config.resolve())},
            work_pool_name=pool, entrypoint_type=EntrypointType.MODULE_PATH,
            concurrency_limit=1,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"--cron: {' '.join(str(error).split())[:200]}") from None
    deployment.apply()
    return f"{build_corpus.name}/{config.stem}"

"""Runs of a schedule that were missed, such as while no worker ran: one run makes up for all of them."""

from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled


def cancel_missed(deployment: UUID, name: str) -> int:
    """Cancels the runs of a deployment's schedules that are due, since the run `name` makes all that is not current.

    Runs that somebody started by hand stay. Returns how many were cancelled.
    """
    due = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime.model_validate({"before_": datetime.now(UTC)}),
    )
    missed = []
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        mine = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
        missed = [
            run for run in client.read_flow_runs(flow_run_filter=due, deployment_filter=mine) if run.auto_scheduled
        ]
        for run in missed:
            client.set_flow_run_state(run.id, Cancelled(name="Missed", message=f"missed; {name} made up for it"))
    return len(missed)

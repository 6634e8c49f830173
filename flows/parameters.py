"""Keys of a custom run that a flow does not have. Prefect would end the run as crashed, without saying why."""

from typing import Any

import prefect.flow_engine
from prefect import Flow
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from schemas.errors import UserError

_parameters = prefect.flow_engine._flow_parameters  # pyright: ignore[reportPrivateUsage]  is replaced


def known_parameters(flow: Flow[Any, Any], flow_run: FlowRun | None, parameters: dict[str, Any] | None) -> Any:
    """The parameters of a run that its flow has; `check_parameters` tells of the others."""
    if not parameters and flow_run:
        known = {name: value for name, value in flow_run.parameters.items() if name in flow.parameters.properties}
        flow_run = flow_run.model_copy(update={"parameters": known})
    return _parameters(flow, flow_run, parameters)


prefect.flow_engine._flow_parameters = known_parameters  # pyright: ignore[reportPrivateUsage]


def check_parameters(flow: Flow[Any, Any]) -> None:
    """Raises `UserError` if the current run has a parameter that its flow does not have."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    known = [name for name in flow.parameters.properties if name != "config"]
    for name in run.parameters if run else ():
        if name not in flow.parameters.properties:
            raise UserError(f"{name}: unknown; choose from {', '.join(known)}")

"""Alerts: Prefect's automations, which call a webhook when a scheduled run fails, or none completes in time.

A run whose machine went down has no such event: the alert `late` tells of it.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from pydantic import SecretStr

from schemas.errors import UserError

HOURS = 36.0  # without a completed run: a night and a half
EVENTS = {  # what is told -> the event of the run
    "failed": "prefect.flow-run.Failed",
    "crashed": "prefect.flow-run.Crashed",
    "gate failed": "prefect.flow-run.GateFailed",
}
LATE = "late"
COMPLETED = "prefect.flow-run.Completed"
ENDED = "deployment.name ~ ' KIND: ' ~ flow_run.state.message ~ ' (run ' ~ flow_run.name ~ ')'"  # Jinja


@dataclass(frozen=True)
class Alerts:
    """Where a deployment's alerts go, and after how many hours without a completed run there is one."""

    webhook: UUID  # a block of the server, which holds the URL
    hours: float


def read_alerts(client: SyncPrefectClient, name: str) -> Alerts | None:
    """The alerts of a deployment, by its name."""
    return _alerts_of(_automations(client, name), name)


def _alerts_of(found: list[Automation], name: str) -> Alerts | None:
    hooks = [action.block_document_id for one in found for action in one.actions if isinstance(action, CallWebhook)]
    if not hooks:
        return None
    late = [one.trigger for one in found if one.name == _title(name, LATE)]
    hours = [trigger.within.total_seconds() / 3600 for trigger in late if isinstance(trigger, EventTrigger)]
    return Alerts(hooks[0], hours[0] if hours else HOURS)


def set_alerts(client: SyncPrefectClient, deployment: DeploymentResponse, alerts: Alerts) -> None:
    """Creates the alerts of a deployment, in place of those that it had."""
    for one in _automations(client, deployment.name):
        client.delete_automation(one.id)
    related = {"prefect.resource.id": f"prefect.deployment.{deployment.id}", "prefect.resource.role": "deployment"}
    runs: dict[str, Any] = {"match": {"prefect.resource.id": "prefect.flow-run.*"}, "match_related": related}
    triggers = {
        kind: (EventTrigger(expect={event}, posture=Posture.Reactive, **runs), ENDED.replace("KIND", kind))
        for kind, event in EVENTS.items()
    }
    text = f"{deployment.name}: no completed run for {alerts.hours:g} hours; `shardmill schedules` shows the last one"
    within = timedelta(hours=alerts.hours)
    late = EventTrigger(expect={COMPLETED}, posture=Posture.Proactive, within=within, **runs)
    for kind, (trigger, said) in {**triggers, LATE: (late, repr(text))}.items():
        payload = f'{{"text": {{{{ ({said}) | tojson }}}}, "deployment": "{deployment.name}", "kind": "{kind}"}}'
        action = CallWebhook(block_document_id=alerts.webhook, payload=payload)
        about = f"Made by `shardmill schedule --alert` for build-corpus/{deployment.name}"
        title = _title(deployment.name, kind)
        client.create_automation(AutomationCore(name=title, description=about, trigger=trigger, actions=[action]))


def remove_alerts(client: SyncPrefectClient, name: str, keep_webhook: bool = False) -> None:
    """Removes the alerts of a deployment, with the URL that they call unless others call it."""
    found = _automations(client, name)
    alerts = _alerts_of(found, name)
    for one in found:
        client.delete_automation(one.id)
    if alerts and not keep_webhook:
        client.delete_block_document(alerts.webhook)


def save_webhook(name: str, url: str) -> UUID:
    """Keeps a URL on the server, as a secret. Raises `UserError` if it is not a URL."""
    if not re.fullmatch(r"https?://[^\s/]+\S*", url):
        raise UserError("--alert: write the URL of a webhook, http://… or https://…")
    block = "shardmill-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    saved = Webhook(url=SecretStr(url)).save(block, overwrite=True)
    return saved  # pyright: ignore[reportReturnType]  a coroutine in async code only


def _title(name: str, kind: str) -> str:
    return f"shardmill {name}: {kind}"


def _automations(client: SyncPrefectClient, name: str) -> list[Automation]:
    return [one for kind in (*EVENTS, LATE) for one in client.read_automations_by_name(_title(name, kind))]

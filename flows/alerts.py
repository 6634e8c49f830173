"""Alerts: Prefect's automations, which call a webhook when a scheduled run fails, or none completes in time.

A run whose machine went down has no such event: the alert `late` tells of it.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from schemas.errors import UserError

HOURS = 36.0  # without a completed run: a night and a half
LEAST_HOURS, MOST_HOURS = 0.001, 24.0 * 366
EVENTS = {  # what the alert is about -> the event of the run
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
    gone: bool = False  # the block was removed: no alert is sent


def read_alerts(client: SyncPrefectClient, name: str) -> Alerts | None:
    """The alerts of a deployment, by its name."""
    found = _automations(client, name)
    hooks = _webhooks(found)
    if not hooks:
        return None
    late = [one.trigger for one in found if one.name == _title(name, LATE)]
    hours = [trigger.within.total_seconds() / 3600 for trigger in late if isinstance(trigger, EventTrigger)]
    try:
        client.read_block_document(hooks[0])
    except ObjectNotFound:
        return Alerts(hooks[0], hours[0] if hours else HOURS, gone=True)
    return Alerts(hooks[0], hours[0] if hours else HOURS)


def _webhooks(found: Iterable[Automation]) -> list[UUID]:
    return [action.block_document_id for one in found for action in one.actions if isinstance(action, CallWebhook)]


def set_alerts(client: SyncPrefectClient, deployment: DeploymentResponse, alerts: Alerts) -> None:
    """Creates the alerts of a deployment, in place of those that it had."""
    old = _automations(client, deployment.name)
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
        action = CallWebhook(block_document_id=alerts.webhook, payload=_payload(said, deployment.name, kind))
        about = f"Made by `shardmill schedule --alert` for build-corpus/{deployment.name}"
        title = _title(deployment.name, kind)
        client.create_automation(AutomationCore(name=title, description=about, trigger=trigger, actions=[action]))
    _remove(client, old)


def _payload(said: str, name: str, kind: str) -> str:
    """A template of JSON. `said`: a Jinja expression. Each text is a value of it, and no part of the template."""
    return f'{{"text": {{{{ ({said}) | tojson }}}}, "deployment": {{{{ {name!r} | tojson }}}}, "kind": "{kind}"}}'


def remove_alerts(client: SyncPrefectClient, name: str) -> None:
    """Removes the alerts of a deployment, with the URL that they call unless others call it."""
    _remove(client, _automations(client, name))


def _remove(client: SyncPrefectClient, removed: list[Automation]) -> None:
    """Removes automations, and the webhooks that no other automation calls. What is already gone is fine."""
    for one in removed:
        client.delete_automation(one.id)
    if hooks := {*_webhooks(removed)}:
        for unused in hooks - {*_webhooks(_all_automations(client))}:
            with suppress(ObjectNotFound):
                client.delete_block_document(unused)


def check_webhook(url: str) -> None:
    """Raises `UserError` if a text is not a URL."""
    if not re.fullmatch(r"https?://[^\s/]+\S*", url):
        raise UserError("--alert: write the URL of a webhook, http://… or https://…")


def save_webhook(deployment: DeploymentResponse, url: str) -> UUID:
    """Keeps a URL on the server, as a secret, in a block that only this deployment has."""
    saved = Webhook(url=SecretStr(url)).save(f"shardmill-{deployment.id}", overwrite=True)
    return saved  # pyright: ignore[reportReturnType]  a coroutine in async code only


def _title(name: str, kind: str) -> str:
    return f"shardmill {name}: {kind}"


def _automations(client: SyncPrefectClient, name: str) -> list[Automation]:
    return [one for kind in (*EVENTS, LATE) for one in client.read_automations_by_name(_title(name, kind))]


def _all_automations(client: SyncPrefectClient) -> list[Automation]:
    found: list[Automation] = []
    while page := client.read_automations(limit=200, offset=len(found)):
        found += page
    return found

"""Clients of models, and questions for them."""

from collections import Counter
from collections.abc import Iterable

from pipelines.engine.worker import Stopped
from pipelines.models.chat import ChatClient, client_of
from pipelines.models.endpoints import CallFailed, message, open_endpoint
from pipelines.models.model_stage import each
from schemas.config.endpoints import EndpointConfig

QUICK = {"tries": 3, "timeout": 60.0}


def client(*urls: str, **config) -> ChatClient:
    """A client of its own: no other test's budgets, slots or failures."""
    made = {"model": "scripted", "url": urls, **QUICK, **config}
    client.made += 1
    return client_of(open_endpoint(f"m{client.made}", EndpointConfig(**made)))


client.made = 0


def ask(of: ChatClient, count: int = 40, **options) -> tuple[dict[int, object], Stopped | None]:
    """What comes of so many questions, and what stopped them."""
    found: dict[int, object] = {}

    async def one(number: int):
        return await of.ask(message(f"picture {number}"), f"{number:08x}", seed=number, **options)

    try:
        for number, made in each(range(count), one, of.slots()):
            assert number not in found
            found[number] = made
    except Stopped as stopped:
        return found, stopped
    return found, None


def reasons(found: Iterable[object]) -> Counter[str]:
    return Counter(one.reason if isinstance(one, CallFailed) else "answered" for one in found)

"""Stages whose rows are answers of models. They ask many questions at once and keep each answer at once."""

import asyncio
import io
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any, ClassVar, Self, TypeVar

from pipelines.engine.commit import MadeWith
from pipelines.engine.ledger import Ledger
from pipelines.engine.partition_stage import Before, PartitionStage, Rejected, Unit, made_from
from pipelines.engine.payload import read_payload
from pipelines.engine.root import Root
from pipelines.engine.worker import Stopped
from pipelines.models.chat import ChatClient, client_of, loop
from pipelines.models.endpoints import Answer, CallFailed, Endpoint, image_part
from pipelines.models.servers import serve, stop_servers
from schemas.arrow import Row
from schemas.pictures import open_image, turned

SEEN = 64  # images that are kept in memory, ready to be sent
SENT = {"JPEG", "PNG", "WEBP", "GIF"}  # formats that servers read; others are sent as PNG
IMAGE = ("byte_offset", "size", "format")  # columns by which an image is found

Item = TypeVar("Item")


def each(
    items: Iterable[Item], work: Callable[[Item], Awaitable[Any]], at_once: int
) -> Iterator[tuple[Item, Any | CallFailed]]:
    """(item, what `work` makes of it or why it failed), in the order in which they finish; works on `at_once` items at
    the same time.

    `work` runs in the event loop of this process. When it raises `Stopped`, no more items are begun. Those in flight
    are yielded before `Stopped` is raised here, except failures since the last answer: they may have the same cause.
    """
    done: SimpleQueue[tuple[Item | None, Any]] = SimpleQueue()
    left, stopped = iter(items), []

    async def runner() -> None:
        for item in left:
            try:
                done.put((item, await work(item)))
            except CallFailed as failed:
                done.put((item, failed))
            except Stopped as why:
                stopped.append(why)
            if stopped:
                return

    async def run() -> None:
        error = None
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(at_once):
                    tasks.create_task(runner())
        except BaseExceptionGroup as errors:  # a bug; its first error is enough
            error = errors.exceptions[0]
        finally:
            done.put((None, error))

    running, held = asyncio.run_coroutine_threadsafe(run(), loop()), []
    answered = False
    try:
        while True:
            item, made = done.get()
            if item is None:
                break
            if isinstance(made, CallFailed) and (made.can_pass or not answered):
                held.append((item, made))
                continue
            answered = answered or not isinstance(made, CallFailed)
            if answered:
                yield from held
                held.clear()
            yield item, made
        if made:
            raise made
        if stopped:
            raise stopped[0]
        yield from held
    finally:
        running.cancel()


class MessageImages:
    """The images of a root in the form that messages need. The last few are kept for more requests."""

    def __init__(self, root: Root):
        self.root = root
        self.parts: OrderedDict[str, asyncio.Future[dict[str, Any]]] = OrderedDict()

    async def part(self, row: Row) -> dict[str, Any]:
        """The image of a row of `images`. It is read once, even if several requests need it at the same moment."""
        name = row["sha256"]
        if name not in self.parts:
            self.parts[name] = asyncio.ensure_future(self._part(row))
            if len(self.parts) > SEEN:
                self.parts.popitem(last=False)
        self.parts.move_to_end(name)
        return await asyncio.shield(self.parts[name])

    async def _part(self, row: Row) -> dict[str, Any]:
        return self._read(row) if self.root.is_local else await asyncio.to_thread(self._read, row)

    def _read(self, row: Row) -> dict[str, Any]:
        data, format = read_payload(self.root, "images", row), row["format"]
        if format not in SENT:
            buffer = io.BytesIO()
            with open_image(data) as opened:
                image = turned(opened)
                (image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB")).save(buffer, "PNG")
            data, format = buffer.getvalue(), "PNG"
        return image_part(data, format)


@dataclass(frozen=True)
class ModelStage(PartitionStage):
    """A stage that asks endpoints. A single worker on one machine asks, so that limits hold for the whole stage."""

    endpoints: tuple[Endpoint, ...]
    chunk_rows: int | None = 100
    at_once: int = 4  # partitions, so that no partition waits for the last answers of another

    one_process: ClassVar[bool] = True
    measures: ClassVar[str] = "calls"

    async def answer(self, row: Row, images: MessageImages, clients: dict[str, ChatClient]) -> Row | Rejected:
        """The row of a unit, or `Rejected`. Raises `CallFailed` if an endpoint did not answer."""
        raise NotImplementedError

    def reread(self, row: Row, before: Before) -> Row | Rejected | None:
        """The row made from the stored answer to the same question; None if the question has to be asked again, or if
        the answer is not stored."""
        return None

    def stored(self, row: Row) -> Row | Rejected | None:
        """The row of a unit from its stored answer, so that an upgrade pays no model twice; None if there is none."""
        before = row["before"]
        if before is None or not before.same_input:
            return None
        again = self.reread(row, before)
        return before.fields(self) if again is None and before.only_older(self) else again

    def units(self, key: str, row: dict[str, Row], made_with: MadeWith) -> list[Unit]:
        return [Unit(key, {**row, "unit": key}, made_from(self, row, made_with))]

    def make(self, rows: Iterable[Row], root: Root) -> Iterator[tuple[str, Row | Rejected]]:
        """Sends requests about the same image one after another, so that a server can cache it."""
        asked = []
        for row in rows:
            stored = self.stored(row)
            if stored is None:
                asked.append(row)
            else:
                yield row["unit"], stored
        if not asked:
            return
        clients, images = {endpoint.name: client_of(endpoint) for endpoint in self.endpoints}, MessageImages(root)
        rows = sorted(asked, key=lambda row: row["images"].get("sha256") or "" if "images" in row else "")
        slots = sum(client.slots() for client in clients.values())
        doubted = []  # rows made while no request had succeeded
        for row, made in each(rows, lambda row: self.answer(row, images, clients), max(1, slots)):
            if isinstance(made, CallFailed):
                made = Rejected(made.reason, made.detail, [*made.before, measured(made)])
            doubted.append((row["unit"], made))
            if any(client.succeeded for client in clients.values()):
                yield from doubted
                doubted.clear()
        for client in clients.values():
            asyncio.run_coroutine_threadsafe(client.doubt(), loop()).result()
        yield from doubted

    def ready(self, root: Root, ledger: Ledger) -> Self:
        """The stage with its servers running, and what is left of its budgets. Raises `UserError` for a missing key."""
        stop_servers(root, keep=[endpoint.name for endpoint in self.endpoints])
        endpoints = []
        for endpoint in self.endpoints:
            endpoint.key()
            calls, tokens = ledger.spent(endpoint.name)
            most = endpoint.config.max_calls, endpoint.config.max_tokens
            calls_left, tokens_left = (
                limit and max(0, limit - spent) for limit, spent in zip(most, (calls, tokens), strict=True)
            )
            endpoint = replace(endpoint, calls_left=calls_left, tokens_left=tokens_left)
            endpoints.append(serve(endpoint, root, ledger.run))
        return replace(self, endpoints=tuple(endpoints))


def measured(answered: Answer | CallFailed) -> Row:
    """A row of `calls` without its names."""
    return {**answered.measured, "reason": answered.reason if isinstance(answered, CallFailed) else None}

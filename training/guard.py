"""Guards `training.serve`: it accepts only requests to its own names, with bodies of a bounded size."""

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from fastapi.responses import JSONResponse


@dataclass(frozen=True)
class Limits:
    """The limits of one request."""

    body: int = 32 << 20  # bytes
    pixels: int = 100_000_000  # of all of its images together; looked at before one is decoded


USUAL = Limits()
DRAINED = 8  # as many times the largest size are read of a body that is refused
HELD = 4  # as many bodies of the largest size are in memory at a time


class Guard:
    """ASGI middleware: refuses foreign names of hosts, and bodies that are too large, before they are parsed.

    A web page can let its own name point to this machine (DNS rebinding): its requests then come from a browser here,
    but still carry that name. Addresses and localhost cannot be rebound; other names have to be allowed.
    """

    def __init__(self, app: Any, limits: Limits = USUAL, hosts: Collection[str] = ()):
        self.app, self.limits, self.hosts, self.held = app, limits, {*map(str.lower, hosts)}, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        names = [value for name, value in headers if name == b"host"]
        if foreign := [name for name in names if not self.is_own(name)]:
            message = f"{foreign[0][:80]!r} is not a name of this server; allow it with --allow-host NAME"
            await error(403, message)(scope, receive, send)
            return
        declared = [value for name, value in headers if name == b"content-length"]
        if declared and declared[0].isdigit() and int(declared[0][:20]) > self.limits.body:
            await self._too_large(scope, receive, send, 0, True)
            return
        body = bytearray()
        try:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += (part := message.get("body", b""))
                self.held += len(part)
                more = message.get("more_body", False)
                if len(body) > self.limits.body:
                    await self._too_large(scope, receive, send, len(body), more)
                    return
                if self.held > HELD * self.limits.body:
                    await error(503, "too many large requests at a time; try again")(scope, receive, send)
                    return
            await self.app(scope, _replayed(bytes(body), receive), send)
        finally:
            self.held -= len(body)

    def is_own(self, host: str) -> bool:
        """Whether a Host header names this server."""
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        name = name.lower().rstrip(".")
        try:
            ip_address(name)
            return True
        except ValueError:
            return name == "localhost" or name.endswith(".localhost") or name in self.hosts or "*" in self.hosts

    async def _too_large(self, scope: Any, receive: Any, send: Any, read: int, more: bool) -> None:
        """Reads the rest of a body for a while and drops it: many clients read an answer only after all is sent.
        `more`: whether there is a rest."""
        while more and read < DRAINED * self.limits.body:
            message = await receive()
            more = message.get("more_body", False)
            read += len(message.get("body", b""))
        await error(413, f"the body has more than {self.limits.body} bytes")(scope, receive, send)


def _replayed(body: bytes, receive: Any) -> Any:
    """`receive` for an application whose body has been read."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Any:
        return waiting.pop() if waiting else await receive()

    return next_message


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def error(
    status: int, message: str, param: str | None = None, code: str | None = None, kind: str = "invalid_request_error"
) -> JSONResponse:
    """An error in the form of OpenAI's API. Half a surrogate pair, which JSON cannot hold, becomes a question mark."""
    message = _whole(message)
    param = _whole(param) if param else param
    headers = {"connection": "close"} if status in (403, 413, 503) else None  # the rest of its body is not read
    content = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(content, status, headers)

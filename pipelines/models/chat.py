"""Sends requests to an endpoint: a bounded number at once, with retries, until a fault that affects all requests.

A process has one event loop for all of its requests, in a thread of its own. A request that fails is tried again if
that can help; if it fails for good, only its row is affected. A fault that affects every request (the key, the model,
a server that is gone, a spent budget) stops the run instead: `Stopped`.
"""

import asyncio
import atexit
import logging
import random
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pipelines.engine.secrets import known, told
from pipelines.engine.worker import Stopped
from pipelines.fetching.hosts import retry_after
from pipelines.models.answers import count_of, first_token, fix_of, not_a_completion
from pipelines.models.bounded import Unreadable, bound
from pipelines.models.endpoints import Answer, CallFailed, Endpoint, image_part, message, picture
from schemas.texts import is_empty

SLOWEST = 60.0  # seconds between two tries; a server's own Retry-After may be longer
LONGEST_REST = 600.0  # seconds for which a server may ask to be left alone, at most
MANY = 32  # requests that fail in a row; then the fault is not in the requests
FIRST = 5.0  # seconds after which a server that never answered is given up
LOCAL = ("http://127.", "http://localhost", "http://[::1]")  # reached without a proxy
PROBE = 2.0  # seconds between two probes of a server that is down
ALIVE = 10.0  # seconds within which a server must answer a probe


@dataclass
class Server:
    """The state of one URL in this process."""

    url: str
    client: Any  # openai.AsyncOpenAI
    busy: int = 0  # requests in flight
    rests_until: float = 0.0  # monotonic time until which it asked to be left alone
    probe: asyncio.Task | None = None  # whether it answers at all
    greeting: asyncio.Task | None = None  # whether it answers something harmless
    down: asyncio.Task | None = None  # waits until it answers again

    def is_open(self, concurrency: int) -> bool:
        return self.down is None and self.busy < concurrency and self.rests_until <= time.monotonic()


making = threading.RLock()  # held while what the threads of partitions share is created, so that it is created once


def loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process."""
    with making:
        return _loop()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    event_loop = asyncio.new_event_loop()
    thread = threading.Thread(target=event_loop.run_forever, name="endpoints", daemon=True)
    thread.start()

    def end() -> None:  # or its frames keep modules alive, which leads to complaints at exit
        event_loop.call_soon_threadsafe(event_loop.stop)
        thread.join(1)

    atexit.register(end)
    return event_loop


@dataclass
class ChatClient:
    """The client of an endpoint in this process. Used only in `loop()`."""

    endpoint: Endpoint
    calls: int = 0
    tokens: int = 0
    failed: int = 0  # requests that failed in a row
    succeeded: bool = False  # whether any request did
    unanswered: tuple[list[dict[str, Any]], dict[str, Any]] | None = None  # the last request that failed
    takes_schemas: bool | None = None  # None until one was tried
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)  # held by the request that tries a schema
    stopped: Stopped | None = None
    heard: float | None = None  # monotonic time of the last response of any server
    began: float = field(default_factory=time.monotonic)
    waiting: deque[tuple[str, asyncio.Future]] = field(default_factory=deque)

    def __post_init__(self):
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        for chatty in ("openai", "httpx", "httpx2"):  # they log a line for each request
            logging.getLogger(chatty).setLevel(logging.WARNING)
        config, key = self.endpoint.config, self.endpoint.key() or "none"
        if "response_format" in config.omit:
            self.takes_schemas = False
        self.servers = []
        for url in self.endpoint.urls:
            hooks: dict[str, Any] = {"event_hooks": {"response": [bound]}, "headers": {"Accept-Encoding": "gzip"}}
            web = DefaultAsyncHttpxClient(timeout=config.timeout, trust_env=not url.startswith(LOCAL), **hooks)
            self.servers.append(Server(url, AsyncOpenAI(api_key=key, base_url=url, max_retries=0, http_client=web)))

    def slots(self) -> int:
        """How many requests may be in flight at once."""
        return self.endpoint.config.concurrency * len(self.servers)

    # One request

    async def ask(self, messages: list[dict[str, Any]], about: str = "", **options: Any) -> Answer:
        """Tries until there is an answer. Requests with equal `about`, hex digits, go to one server if possible.

        Raises `CallFailed` when this request has no answer, and `Stopped` when none would have.
        """
        config, tries, unheard, began = self.endpoint.config, 0, 0, time.monotonic()
        tokens = Counter()
        # In `extra_body` the package takes messages as they are; to walk through their types is a fifth of a request.
        sent = self.endpoint.parameters(options)
        body = {"model": config.model, "messages": [], **sent, "extra_body": {"messages": messages, **config.extra}}
        while True:
            server = await self._slot(about)
            started = time.monotonic()
            try:
                self._spend()
                tries += 1
                answer = self._answer(await self._try(server, body), bool(options.get("logprobs")), tokens)
                answer.measured.update(self._measured(tries, tokens, began, started))
                self.succeeded, self.failed = True, 0
                return answer
            except CallFailed as failed:
                failed.measured = self._measured(tries, tokens, began, started)
                silent = failed.reason in ("connection", "timeout") and not await self._is_alive(server)
                unheard += silent  # not the fault of this request, unless it happens again and again
                if not silent or unheard > config.tries:
                    self.unanswered = messages, options
                    self._count(failed, last=tries - min(unheard, config.tries) >= config.tries)
                pause = min(SLOWEST, 0.5 * 2.0 ** (tries - 1)) * random.uniform(0.5, 1.0)
                pause = max(pause, min(failed.after, LONGEST_REST))
            finally:
                server.busy -= 1
                self._match()
            await asyncio.sleep(pause)

    async def doubt(self) -> None:
        """If every request failed so far, sends a harmless request with the same parameters. If that fails as well, the
        fault is not in the requests: raises `Stopped`."""
        if self.succeeded or self.unanswered is None:
            return
        messages, options = self.unanswered
        shows = any(isinstance(part["content"], list) for part in messages)
        harmless = message("Say hello in one word.", image_part(picture(), "JPEG") if shows else None)
        try:
            await self.ask(harmless, **options)
        except CallFailed as failed:
            raise self._stop(f"every request failed, and so does a harmless one: {failed}; {fix_of(failed)}") from None

    def _count(self, failed: CallFailed, last: bool) -> None:
        """Raises the failure if another try does not help, and `Stopped` if it is one of many in a row."""
        if failed.can_pass and not last:
            return
        if failed.can_pass or not self.succeeded:
            self.failed += 1
            if self.failed >= MANY:
                last_one = f"{failed}; {fix_of(failed)}"
                raise self._stop(f"{self.failed} requests in a row have failed, the last one: {last_one}") from None
        raise failed

    async def _try(self, server: Server, body: dict[str, Any]) -> Any:
        """Sends one request; returns the completion object of the package. Raises `CallFailed` and `Stopped`."""
        import openai

        config = self.endpoint.config
        try:
            async with asyncio.timeout(config.timeout):
                completion = await server.client.chat.completions.create(**body)
        except (TimeoutError, openai.APITimeoutError):
            raise CallFailed("timeout", f"no answer in {config.timeout:g} s") from None
        except (openai.APIConnectionError, Unreadable) as error:
            cause = error.__cause__ or error
            raise CallFailed("bad_answer" if isinstance(cause, Unreadable) else "connection", told(cause)) from None
        except openai.APIStatusError as error:
            raise await self._refused(server, error) from None
        except (openai.APIResponseValidationError, ValueError, LookupError, RecursionError) as error:
            text = getattr(error, "doc", "{").lstrip()
            is_page = not text.startswith("{")
            raise not_a_completion(text) if is_page else CallFailed("bad_answer", f"not JSON: {told(error)}") from None
        self.heard = time.monotonic()
        return completion

    async def _refused(self, server: Server, error: Any) -> Exception:
        """The exception for a status other than 200: `CallFailed` for this request, or `Stopped` for all requests."""
        status, message = error.status_code, told(error)
        self.heard = time.monotonic()
        if status in (401, 403, 404):
            return await self._forbidden(server, status, message)
        if status == 429 and error.code == "insufficient_quota":
            return self._stop(f"the account is used up: {message}")
        if status == 429 or status in (408, 425, 503):
            after = retry_after(error.response.headers)
            if after:
                server.rests_until = max(server.rests_until, time.monotonic() + min(after, LONGEST_REST))
                asyncio.get_running_loop().call_later(min(after, LONGEST_REST) + 0.01, self._match)
            return CallFailed("http_429" if status == 429 else "http_5xx", message, after=after)
        if status >= 500 or status == 409:
            return CallFailed("http_5xx", message)
        long = error.code == "context_length_exceeded" or "context length" in message or "context window" in message
        return CallFailed("too_long" if long else "http_4xx", message)

    async def _forbidden(self, server: Server, status: int, message: str) -> Exception:
        """The exception for a 401, 403 or 404: if the server answers something harmless, it refuses this request alone,
        such as one that it flagged. Else it takes the key, or knows the model, for no request."""
        if server.greeting is None:
            server.greeting = asyncio.ensure_future(self._greets(server))
        try:
            answered = await asyncio.shield(server.greeting)
        finally:
            server.greeting = None
        if answered is None:
            return CallFailed("http_5xx", f"{message}; whether it answers anything is not known")
        if answered:
            return CallFailed("http_4xx", message)
        if status == 404:
            return self._stop(
                f"{server.url} does not know the model {self.endpoint.config.model!r}, or the url is wrong: {message}"
            )
        if key := self.endpoint.config.api_key_env:
            return self._stop(f"{server.url} does not take the key in {key}: {message}")
        wanted = "set api_key_env to the name of the environment variable that holds its key"
        return self._stop(f"{server.url} refuses requests without a key: {message}; {wanted}")

    async def _greets(self, server: Server) -> bool | None:
        """Whether a server answers a short text; None if that cannot be said now."""
        import openai

        config, sent = self.endpoint.config, self.endpoint.parameters({"max_tokens": 20, "temperature": 0})
        asked = message("Say hello in one word.")
        body = {"model": config.model, "messages": asked, **sent, "extra_body": config.extra}
        self._spend()
        try:
            async with asyncio.timeout(config.timeout):
                completion = await server.client.chat.completions.create(**body)
            return bool(completion.choices)
        except openai.APIStatusError as error:
            return None if error.status_code >= 500 or error.status_code in (408, 409, 425, 429) else False
        except (TimeoutError, openai.APIConnectionError):
            return None
        except (openai.OpenAIError, AttributeError, LookupError, TypeError, ValueError):
            return False

    def _answer(self, completion: Any, logprobs: bool, tokens: Counter[str]) -> Answer:
        """The answer in a completion, whose types are not checked yet. Counts its tokens. Raises `CallFailed`."""
        if not isinstance(getattr(completion, "choices", None), list):
            raise not_a_completion(completion)
        try:
            if not completion.choices:
                raise CallFailed("bad_answer", "it has no choices")
            choice, usage = completion.choices[0], completion.usage
            text, finish = choice.message.content, choice.finish_reason
            if usage:
                spent = {"tokens_in": count_of(usage.prompt_tokens), "tokens_out": count_of(usage.completion_tokens)}
                tokens.update(spent)
                self.tokens += sum(spent.values())
            if finish == "content_filter":
                raise CallFailed("filtered", "finish_reason content_filter")
            top = first_token(choice.logprobs) if logprobs else ()
            text = text or "" if logprobs else text  # only the token counts, which may be a blank
            if not isinstance(text, str):
                raise CallFailed("bad_answer", "no text in it")
            if is_empty(text) and not logprobs:
                raise CallFailed("empty_answer", repr(text[:50]))
            if known().said("\n".join([text, *(token for token, _ in top)])):
                raise CallFailed("says_key", "it is not stored")
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise CallFailed("bad_answer", told(error)) from None
        return Answer(text.encode("utf-8", "replace").decode(), finish == "length", top, {})

    def _measured(self, tries: int, tokens: Counter[str], began: float, started: float) -> dict[str, Any]:
        """For the ledger: the tokens of all tries, the time of the last try, and the time before it."""
        times = {"milliseconds": time.monotonic() - started, "waited": started - began}
        spent = {name: tokens[name] for name in ("tokens_in", "tokens_out")}
        return {
            "endpoint": self.endpoint.name,
            "tries": tries,
            **spent,
            **{name: round(1000 * seconds) for name, seconds in times.items()},
        }

    # Slots

    async def _slot(self, about: str) -> Server:
        """Waits for a free slot and takes it: at the home server of `about`, if that is free."""
        if self.stopped:
            raise self.stopped
        slot = asyncio.get_running_loop().create_future()
        self.waiting.append((about, slot))
        self._match()
        try:
            return await slot
        except asyncio.CancelledError:
            if slot.done() and not slot.cancelled() and not slot.exception():
                slot.result().busy -= 1
                self._match()
            raise

    def _match(self) -> None:
        """Gives free slots to the requests that have waited longest."""
        concurrency = self.endpoint.config.concurrency
        while self.waiting and (free := [server for server in self.servers if server.is_open(concurrency)]):
            about, slot = self.waiting.popleft()
            if slot.done():
                continue
            home = self.servers[int(about[:8] or "0", 16) % len(self.servers)]
            server = home if home in free else min(free, key=lambda server: server.busy)
            server.busy += 1
            slot.set_result(server)

    def _spend(self) -> None:
        """Counts a call. Raises `Stopped` if nothing is left of the budget."""
        endpoint, config = self.endpoint, self.endpoint.config
        if endpoint.calls_left is not None and self.calls >= endpoint.calls_left:
            raise self._stop(f"max_calls = {config.max_calls} is reached; run again to continue")
        if endpoint.tokens_left is not None and self.tokens >= endpoint.tokens_left:
            raise self._stop(f"max_tokens = {config.max_tokens} is reached; run again to continue")
        self.calls += 1

    def _stop(self, why: str) -> Stopped:
        """Stops all requests: waiting ones fail at once, those in flight may end."""
        self.stopped = self.stopped or Stopped(told(f"{self.endpoint.asked_as}: {why}", 1000))
        while self.waiting:
            _, slot = self.waiting.popleft()
            if not slot.done():
                slot.set_exception(self.stopped)
        return self.stopped

    # Servers that are gone

    async def _is_alive(self, server: Server) -> bool:
        """Checks whether a server that broke off a request still answers. If not, it gets no requests until it does.

        If no server has answered for `patience` seconds, or for FIRST seconds at the beginning, the run stops.
        """
        if server.probe is None:
            server.probe = asyncio.ensure_future(self._answers(server))
        try:
            if await asyncio.shield(server.probe):
                return True
        finally:
            server.probe = None
        if server.down is None:
            server.down = asyncio.ensure_future(self._until_up(server))
        return False

    async def _until_up(self, server: Server) -> None:
        """Probes a server until it answers; stops the run if no server has answered for too long."""
        try:
            patience = self.endpoint.config.patience if self.heard else min(FIRST, self.endpoint.config.patience)
            while not await self._answers(server):
                silent = time.monotonic() - (self.heard or self.began)
                if all(other.down for other in self.servers) and silent > patience:
                    self._stop(f"no answer from {' or '.join(self.endpoint.urls)} for {silent:.0f} s")
                if self.stopped:
                    return
                await asyncio.sleep(min(PROBE, patience / 4))
        finally:
            server.down = None
            self._match()

    async def _answers(self, server: Server) -> bool:
        """Whether a server answers a request that costs nothing."""
        import openai

        try:
            async with asyncio.timeout(ALIVE):  # in all: the client's own is for each piece of an answer
                await server.client.models.with_raw_response.list()
        except (TimeoutError, openai.APIConnectionError):
            return False
        except (openai.OpenAIError, ValueError, LookupError, RecursionError):
            pass
        self.heard = time.monotonic()
        return True


clients: dict[str, ChatClient] = {}  # identity of an endpoint and its budgets -> the client of this process


def client_of(endpoint: Endpoint) -> ChatClient:
    """The one client of an endpoint in this process, so that bounds and budgets hold for all of its partitions."""

    async def make() -> ChatClient:
        return ChatClient(endpoint)

    name = repr((endpoint.name, endpoint.urls, endpoint.calls_left, endpoint.tokens_left, endpoint.config))
    with making:
        if name not in clients:
            clients[name] = asyncio.run_coroutine_threadsafe(make(), loop()).result()
        return clients[name]

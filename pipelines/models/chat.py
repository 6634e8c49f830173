"""Asks an endpoint: so many requests at once, again what can pass, and nothing more once none would be answered.

A process has one event loop for all that it asks, in a thread of its own. A request that fails is tried again if that
can help; one that fails for good is one row's matter. What is wrong with every request (the key, the model, a server
that is gone, a spent budget) stops the run instead: `Stopped`.
"""

import asyncio
import atexit
import logging
import math
import random
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import cache
from json import JSONDecodeError
from typing import Any

from pipelines.engine.worker import Stopped
from pipelines.fetching.hosts import retry_after
from pipelines.models.endpoints import Answer, CallFailed, Endpoint

SLOWEST = 60.0  # seconds between two tries; a server's own Retry-After may be longer
LONGEST_REST = 600.0  # seconds that a server may ask to be left alone
MANY = 32  # requests that fail in a row: then it is not the requests
FIRST = 5.0  # seconds until one that never answered is given up
LOCAL = ("http://127.", "http://localhost", "http://[::1]")  # asked without a proxy
PROBE = 2.0  # seconds between two looks at a server that is left aside


@dataclass
class Server:
    """One URL, as this process knows it."""

    url: str
    client: Any  # openai.AsyncOpenAI
    busy: int = 0  # requests in flight
    rests_until: float = 0.0  # monotonic; it asked to be left alone
    look: asyncio.Task | None = None  # whether it answers at all
    down: asyncio.Task | None = None  # waits until it does again

    def is_open(self, concurrency: int) -> bool:
        return self.down is None and self.busy < concurrency and self.rests_until <= time.monotonic()


making = threading.RLock()  # partitions ask at the same moment, from threads: what they share is made once


def loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process."""
    with making:
        return _loop()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    found = asyncio.new_event_loop()
    thread = threading.Thread(target=found.run_forever, name="endpoints", daemon=True)
    thread.start()

    def end() -> None:  # its frames would keep modules, at whose end others complain
        found.call_soon_threadsafe(found.stop)
        thread.join(1)

    atexit.register(end)
    return found


@dataclass
class ChatClient:
    """What this process asks of an endpoint. Used in `loop()` alone."""

    endpoint: Endpoint
    calls: int = 0
    tokens: int = 0
    failed: int = 0  # requests in a row
    succeeded: bool = False  # ever
    takes_schemas: bool | None = None  # known once one was tried
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)  # held by who tries
    stopped: Stopped | None = None
    heard: float | None = None  # monotonic; when any server said anything, last
    began: float = field(default_factory=time.monotonic)
    waiting: deque[tuple[str, asyncio.Future]] = field(default_factory=deque)

    def __post_init__(self):
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        for chatty in ("openai", "httpx", "httpx2"):  # a line a request
            logging.getLogger(chatty).setLevel(logging.WARNING)
        config, self.secret = self.endpoint.config, self.endpoint.key()
        self.servers = []
        for url in self.endpoint.urls:
            web = DefaultAsyncHttpxClient(timeout=config.timeout, trust_env=not url.startswith(LOCAL))
            key = self.secret or "none"
            self.servers.append(Server(url, AsyncOpenAI(api_key=key, base_url=url, max_retries=0, http_client=web)))

    def slots(self) -> int:
        return self.endpoint.config.concurrency * len(self.servers)

    # One request

    async def ask(self, messages: list[dict[str, Any]], about: str = "", **options: Any) -> Answer:
        """Asks until there is an answer. `about`, hex digits, is what requests to one server should have in common.

        Raises `CallFailed` when this request has no answer, and `Stopped` when none would have.
        """
        config, tries, unheard, began = self.endpoint.config, 0, 0, time.monotonic()
        tokens = Counter()
        # As `extra_body` the package takes messages as they are: a walk through their types is a fifth of a request.
        body = {"model": config.model, "messages": [], **options, "extra_body": {"messages": messages, **config.extra}}
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
                failed.detail = self.without_key(failed.detail)
                failed.measured = self._measured(tries, tokens, began, started)
                silent = failed.reason in ("connection", "timeout") and not await self._alive(server)
                unheard += silent  # which is not this request's fault, unless again and again
                if not silent or unheard > config.tries:
                    self._count(failed, last=tries - min(unheard, config.tries) >= config.tries)
                pause = min(SLOWEST, 0.5 * 2.0 ** (tries - 1)) * random.uniform(0.5, 1.0)
                pause = max(pause, min(failed.after, LONGEST_REST))
            finally:
                server.busy -= 1
                self._match()
            await asyncio.sleep(pause)

    def _count(self, failed: CallFailed, last: bool) -> None:
        """Raises a failure if trying again does not help; `Stopped` if it is one of many in a row."""
        if failed.can_pass and not last:
            return
        if failed.can_pass or not self.succeeded:
            self.failed += 1
            if self.failed >= MANY:
                raise self._stop(f"{self.failed} requests in a row have failed, the last one: {failed}") from None
        raise failed

    async def _try(self, server: Server, body: dict[str, Any]) -> Any:
        """One request: the completion, as the package has it. Raises `CallFailed` and `Stopped`."""
        import openai

        config = self.endpoint.config
        try:
            async with asyncio.timeout(config.timeout):
                said = await server.client.chat.completions.create(**body)
        except (TimeoutError, openai.APITimeoutError):
            raise CallFailed("timeout", f"no answer in {config.timeout:g} s") from None
        except openai.APIConnectionError as error:
            raise CallFailed("connection", plain(error.__cause__ or error)) from None
        except openai.APIStatusError as error:
            raise self._refused(server, error) from None
        except (openai.APIResponseValidationError, JSONDecodeError, UnicodeDecodeError) as error:
            raise CallFailed("bad_answer", f"no JSON: {plain(error)}") from None
        self.heard = time.monotonic()
        return said

    def _refused(self, server: Server, error: Any) -> Exception:
        """What a status other than 200 says of a request, or of all of them."""
        status, said = error.status_code, self.without_key(plain(error))
        self.heard = time.monotonic()
        if status in (401, 403):
            key = self.endpoint.config.api_key_env
            return self._stop(f"{server.url} does not take the key{f' in {key}' if key else ''}: {said}")
        if status == 404:
            model = self.endpoint.config.model
            return self._stop(f"{server.url} knows no model {model!r}, or the url is wrong: {said}")
        if status == 429 and error.code == "insufficient_quota":
            return self._stop(f"nothing is left of the account: {said}")
        if status == 429 or status in (408, 425, 503):
            after = retry_after(error.response.headers)
            if after:
                server.rests_until = max(server.rests_until, time.monotonic() + min(after, LONGEST_REST))
                asyncio.get_running_loop().call_later(min(after, LONGEST_REST) + 0.01, self._match)
            return CallFailed("http_429" if status == 429 else "http_5xx", said, after=after)
        if status >= 500 or status == 409:
            return CallFailed("http_5xx", said)
        long = error.code == "context_length_exceeded" or "context length" in said or "context window" in said
        return CallFailed("too_long" if long else "http_4xx", said)

    def _answer(self, said: Any, logprobs: bool, tokens: Counter[str]) -> Answer:
        """The answer in a completion, which may hold anything: the package checks no types. Counts its tokens."""
        try:
            choice, usage = said.choices[0], said.usage
            text, finish = choice.message.content, choice.finish_reason
            if usage:
                spent = {"tokens_in": int(usage.prompt_tokens or 0), "tokens_out": int(usage.completion_tokens or 0)}
                tokens.update(spent)
                self.tokens += sum(spent.values())
            if finish == "content_filter":
                raise CallFailed("filtered", "finish_reason content_filter")
            top = first_token(choice.logprobs) if logprobs else None
            text = text or "" if logprobs else text  # what is asked for is the token, and that may be a blank
            if not isinstance(text, str):
                raise CallFailed("bad_answer", "no text in it")
            if not (text.strip() or logprobs):
                raise CallFailed("empty_answer", repr(text[:50]))
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise CallFailed("bad_answer", plain(error)) from None
        return Answer(text.encode("utf-8", "replace").decode(), finish == "length", top, {})

    def _measured(self, tries: int, tokens: Counter[str], began: float, started: float) -> dict[str, Any]:
        """For the ledger: of all tries the tokens, of the last one the time, and how long it was waited for."""
        times = {"milliseconds": time.monotonic() - started, "waited": started - began}
        spent = {name: tokens[name] for name in ("tokens_in", "tokens_out")}
        return {
            "endpoint": self.endpoint.name,
            "tries": tries,
            **spent,
            **{n: round(1000 * t) for n, t in times.items()},
        }

    def without_key(self, text: str) -> str:
        return text.replace(self.secret, "***") if self.secret else text

    # Turns

    async def _slot(self, about: str) -> Server:
        """Waits for a turn, and takes it: at the server that was asked about the same before, if it is free."""
        if self.stopped:
            raise self.stopped
        mine = asyncio.get_running_loop().create_future()
        self.waiting.append((about, mine))
        self._match()
        try:
            return await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled() and not mine.exception():
                mine.result().busy -= 1
                self._match()
            raise

    def _match(self) -> None:
        """Gives the turns that are free to those who wait longest."""
        concurrency = self.endpoint.config.concurrency
        while self.waiting and (free := [server for server in self.servers if server.is_open(concurrency)]):
            about, one = self.waiting.popleft()
            if one.done():
                continue
            home = self.servers[int(about[:8] or "0", 16) % len(self.servers)]
            server = home if home in free else min(free, key=lambda server: server.busy)
            server.busy += 1
            one.set_result(server)

    def _spend(self) -> None:
        """Counts a call. Raises `Stopped` when the budget has none left."""
        left, config = self.endpoint, self.endpoint.config
        if left.calls_left is not None and self.calls >= left.calls_left:
            raise self._stop(f"max_calls = {config.max_calls} are made; run again to go on")
        if left.tokens_left is not None and self.tokens >= left.tokens_left:
            raise self._stop(f"max_tokens = {config.max_tokens} are spent; run again to go on")
        self.calls += 1

    def _stop(self, why: str) -> Stopped:
        """Notes that nothing more is to be asked; those who wait learn it at once, those in flight may end."""
        self.stopped = self.stopped or Stopped(f"{self.endpoint.asked_as}: {self.without_key(why)}")
        while self.waiting:
            _, one = self.waiting.popleft()
            if not one.done():
                one.set_exception(self.stopped)
        return self.stopped

    # Servers that are gone

    async def _alive(self, server: Server) -> bool:
        """Whether a server that broke off a request answers at all. If not, it is left aside until it does; when none
        has answered for `patience` seconds, or none at first, the run stops."""
        if server.look is None:
            server.look = asyncio.ensure_future(self._answers(server))
        try:
            if await asyncio.shield(server.look):
                return True
        finally:
            server.look = None
        if server.down is None:
            server.down = asyncio.ensure_future(self._until_up(server))
        return False

    async def _until_up(self, server: Server) -> None:
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
        """Whether a server says anything to a question that costs nothing."""
        import openai

        try:
            await server.client.with_options(timeout=10, max_retries=0).models.list()
        except openai.APIConnectionError:
            return False
        except (openai.OpenAIError, JSONDecodeError):
            pass
        self.heard = time.monotonic()
        return True


def first_token(logprobs: Any) -> list[tuple[str, float]]:
    """The candidates of the first token. Raises `CallFailed` if they are none, or no log-probabilities."""
    if not (logprobs and logprobs.content):
        raise CallFailed("bad_answer", "no log-probabilities")
    top = [(one.token, one.logprob) for one in logprobs.content[0].top_logprobs or ()]
    if not top:
        raise CallFailed("bad_answer", "no candidates for the first token")
    for token, logprob in top:
        if not isinstance(token, str) or not isinstance(logprob, int | float) or not -math.inf <= logprob <= 1e-3:
            raise CallFailed("bad_answer", f"{logprob!r} is no log-probability of a token {token!r}")
    return top


def plain(error: object) -> str:
    """What was said, as a cell of a table: valid Unicode, one line, and not too much of it."""
    text = " ".join((str(error) or type(error).__name__).split())
    return text.encode("utf-8", "replace").decode()[:500]


clients: dict[str, ChatClient] = {}  # what identifies an endpoint and its budgets -> the client of this process


def client_of(endpoint: Endpoint) -> ChatClient:
    """The client of an endpoint in this process: one, so that bounds and budgets hold for all partitions in hand."""

    async def make() -> ChatClient:
        return ChatClient(endpoint)

    name = repr((endpoint.name, endpoint.urls, endpoint.calls_left, endpoint.tokens_left, endpoint.config))
    with making:
        if name not in clients:
            clients[name] = asyncio.run_coroutine_threadsafe(make(), loop()).result()
        return clients[name]

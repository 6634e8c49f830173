"""Asks an endpoint a few questions, and says in a few lines what it can do and how fast it is."""

import asyncio
import io
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from pipelines.models.answers import CANDIDATES, probability, read_list, schema_of
from pipelines.models.chat import ChatClient, client_of, loop
from pipelines.models.endpoints import Answer, CallFailed, Endpoint, image_part, message
from pipelines.models.model_stage import each
from pipelines.models.servers import mark_of, start, wait_for

SPEED = 5.0  # seconds for which its speed is measured, about


def picture(number: int = 0) -> bytes:
    """A JPEG of a red circle on white."""
    image, buffer = Image.new("RGB", (448, 448), "white"), io.BytesIO()
    ImageDraw.Draw(image).ellipse((124, 124, 324, 324), "red")
    image.putpixel((0, 0), (number % 256, number // 256 % 256, 0))
    image.save(buffer, "JPEG")
    return buffer.getvalue()


@contextmanager
def started(endpoint: Endpoint) -> Iterator[Endpoint]:
    """The endpoint with its server running, if a command starts one: only for this check."""
    if not endpoint.config.command:
        yield endpoint
        return
    folder = tempfile.mkdtemp(prefix="shardmill-")
    server = start(endpoint, mark_of(folder, endpoint.name), Path(folder) / "server.log")
    try:
        wait_for(server)  # where it does not come up, the message names its log, which stays
    except BaseException:
        server.stop()
        raise
    try:
        yield server.endpoint
    finally:
        server.stop()
        shutil.rmtree(folder)


def check_endpoint(endpoint: Endpoint) -> Iterator[tuple[str, bool, str]]:
    """(what was looked at, whether it is well, what was found), one after another. Raises `Stopped` if nobody answers,
    and `UserError` for a missing key."""
    endpoint.key()
    tries = min(2, endpoint.config.tries)
    config = endpoint.config.model_copy(update={"tries": tries, "max_calls": None, "max_tokens": None})
    with started(replace(endpoint, config=config, calls_left=None, tokens_left=None)) as running:
        client = client_of(running)
        look = image_part(picture(), "JPEG")
        yield _line("answers", client, message("Say hello in one word."), max_tokens=20)
        yield _line("images", client, message("What colour is the circle? Answer in one word.", look), max_tokens=20)
        yield _logprobs(client, look)
        yield _schema(client)
        yield _speed(client)


def _ask(client: ChatClient, messages: list, **options) -> Answer | CallFailed:
    async def one() -> Answer | CallFailed:
        try:
            return await client.ask(messages, temperature=0, **options)
        except CallFailed as failed:
            return failed

    return asyncio.run_coroutine_threadsafe(one(), loop()).result()


def _line(what: str, client: ChatClient, messages: list, **options) -> tuple[str, bool, str]:
    answer = _ask(client, messages, **options)
    if isinstance(answer, CallFailed):
        return what, False, f"{answer.reason}: {answer.detail}"
    return what, True, f"{' '.join(answer.text.split())[:60]!r} in {answer.measured['milliseconds']:,} ms"


def _logprobs(client: ChatClient, look: dict) -> tuple[str, bool, str]:
    what, question = "log-probabilities", message("Is there a circle? Please answer yes or no.", look)
    answer = _ask(client, question, max_tokens=1, logprobs=True, top_logprobs=CANDIDATES)
    if isinstance(answer, CallFailed):
        return what, False, f"{answer.reason}: {answer.detail}; it cannot be a labeler"
    yes, no = (probability(answer.top, word) for word in ("yes", "no"))
    if yes is None and no is None:
        return what, False, f"neither yes nor no is among {len(answer.top)} candidates, {answer.top[0][0]!r} is first"
    mass = math.fsum(math.exp(logprob) for _, logprob in answer.top)
    return what, True, f"P(yes) {yes or 0:.3f}, P(no) {no or 0:.3f}, {len(answer.top)} candidates make {mass:.1%}"


def _schema(client: ChatClient) -> tuple[str, bool, str]:
    what, asked = "JSON schema", message('Name two colours as JSON, {"colours": ["…", "…"]}')
    answer = _ask(client, asked, max_tokens=60, response_format=schema_of("colours", 2))
    if isinstance(answer, CallFailed):
        return what, True, f"not taken ({answer.reason}); lists are asked for as bullets"
    return what, True, "taken" if read_list(answer.text, "colours") else f"taken, but not kept: {answer.text[:60]!r}"


def _speed(client: ChatClient) -> tuple[str, bool, str]:
    """As many requests as there are slots, each with an image of its own, for some seconds."""
    began, tokens, done, failed = time.monotonic(), 0, 0, 0

    def questions() -> Iterator[int]:
        number = 0
        while number < client.slots() or time.monotonic() - began < SPEED:
            yield number
            number += 1

    async def one(number: int) -> Answer:
        asked = message("Describe the picture in one sentence.", image_part(picture(number), "JPEG"))
        return await client.ask(asked, f"{number:08x}", temperature=0, max_tokens=32)

    for _, answer in each(questions(), one, client.slots()):
        if isinstance(answer, CallFailed):
            failed += 1
        else:
            done, tokens = done + 1, tokens + answer.measured["tokens_out"]
    seconds = time.monotonic() - began
    lost = f", {failed} failed" if failed else ""
    said = f"{done / seconds:.1f} answers and {tokens / seconds:.0f} tokens a second, {client.slots()} at once{lost}"
    return "speed", not failed, said

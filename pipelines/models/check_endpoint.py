"""Sends an endpoint a few requests, and reports in a few lines what it can do and how fast it is."""

import asyncio
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.engine.worker import Stopped
from pipelines.models.answers import fix_of, likeliest, probability, read_list, refused_in, schema_of
from pipelines.models.chat import ChatClient, client_of, loop
from pipelines.models.endpoints import Answer, CallFailed, Endpoint, image_part, message, picture
from pipelines.models.model_stage import each
from pipelines.models.prompts import filled, packaged, read_prompt
from pipelines.models.servers import mark_of, start, wait_for
from schemas.config.model import Config
from schemas.verdicts import MIN_MASS, PARAMETERS

SPEED = 5.0  # seconds for which speed is measured, about


@contextmanager
def started(endpoint: Endpoint) -> Iterator[Endpoint]:
    """The endpoint with its server running; a server that a command starts runs only for this check."""
    if not (command := endpoint.config.command):
        yield endpoint
        return
    folder = tempfile.mkdtemp(prefix="shardmill-")
    server = start(endpoint, command, mark_of(folder, endpoint.name), Path(folder) / "server.log")
    try:
        wait_for(server)  # if it does not come up, the message names its log, which is kept
    except BaseException:
        server.stop()
        raise
    try:
        yield server.endpoint
    finally:
        server.stop()
        shutil.rmtree(folder)


class Use(NamedTuple):
    """The requests that a stage sends to an endpoint."""

    stage: str
    parameters: dict[str, Any]
    image: bool  # whether it is shown one
    prompt: str = ""  # of a labeler, with {question}
    min_mass: float = MIN_MASS  # of a labeler

    @property
    def needs(self) -> list[str]:
        """The checks that must not fail."""
        return ["answers", "log-probabilities" if self.prompt else self.stage, *(["images"] if self.image else [])]


def uses_of(config: Config, name: str) -> list[Use]:
    """The stages that ask an endpoint."""
    captions, responses, claims = config.captions, config.responses, config.claims
    uses = []
    if captions and captions.endpoint == name:
        uses.append(Use("captions", captions.parameters(), captions.image))
    if responses and responses.endpoint == name:
        uses.append(Use("responses", responses.parameters(), True))
    if responses and name in (claims.endpoint, claims.questions_endpoint):
        uses.append(Use("claims", claims.parameters(), False))
    if (verdicts := config.verdicts) and name in verdicts.labelers:
        prompt = read_prompt("verdicts.prompt", verdicts.prompt, "verdict", ["question"])
        uses.append(Use("verdicts", PARAMETERS, True, prompt, verdicts.min_mass))
    return uses


def check_endpoint(endpoint: Endpoint, uses: Sequence[Use] = ()) -> Iterator[tuple[str, bool, str]]:
    """Yields (what was checked, whether it works, the result), check after check; each of `uses` with the parameters
    of its stage.

    Raises `Stopped` if no server answers, and `UserError` for a missing key.
    """
    endpoint.key()
    tries = min(2, endpoint.config.tries)
    config = endpoint.config.model_copy(update={"tries": tries, "max_calls": None, "max_tokens": None})
    with started(replace(endpoint, config=config, calls_left=None, tokens_left=None)) as running:
        client = client_of(running)
        circle = image_part(picture(), "JPEG")
        yield _line("answers", client, message("Say hello in one word."), max_tokens=20)
        yield _line("images", client, message("What colour is the circle? Answer in one word.", circle), max_tokens=20)
        labeler = next((use for use in uses if use.prompt), Use("verdicts", PARAMETERS, True, packaged("verdict")))
        for use in uses:
            if use.prompt:
                continue
            asked = message("Say hello in one word.", circle if use.image else None)
            yield _line(use.stage, client, asked, **use.parameters)
        yield _logprobs(client, circle, labeler)
        yield _schema(client)
        yield _speed(client)


def _ask(client: ChatClient, messages: list, **options: Any) -> Answer | CallFailed:
    parameters: dict[str, Any] = {"temperature": 0} | options

    async def ask() -> Answer | CallFailed:
        try:
            return await client.ask(messages, **parameters)
        except CallFailed as failed:
            return failed

    return asyncio.run_coroutine_threadsafe(ask(), loop()).result()


def why(failed: CallFailed) -> str:
    """Why a check failed; if a parameter was refused, how to leave it out."""
    return f"{failed}; {fix_of(failed)}" if refused_in(failed) else str(failed)


def _line(check: str, client: ChatClient, messages: list, **options) -> tuple[str, bool, str]:
    answer = _ask(client, messages, **options)
    if isinstance(answer, CallFailed):
        return check, False, why(answer)
    return check, True, f"{' '.join(answer.text.split())[:60]!r} in {answer.measured['milliseconds']:,} ms"


def _logprobs(client: ChatClient, circle: dict, labeler: Use) -> tuple[str, bool, str]:
    check, asked = "log-probabilities", message(filled(labeler.prompt, question="Is there a circle?"), circle)
    answer = _ask(client, asked, **labeler.parameters)
    if isinstance(answer, CallFailed):
        return check, False, f"{why(answer)}; it cannot be a labeler"
    yes, no = (probability(answer.top, word) or 0.0 for word in ("yes", "no"))
    if not yes + no or yes + no < labeler.min_mass:
        said = f"P(yes) {yes:.3f}, P(no) {no:.3f}: it answers something else; the likeliest are {likeliest(answer.top)}"
        return check, False, f"{said}; it cannot be a labeler with this prompt"
    mass = math.fsum(math.exp(logprob) for _, logprob in answer.top)
    return check, True, f"P(yes) {yes:.3f}, P(no) {no:.3f}, {len(answer.top)} candidates make {mass:.1%}"


def _schema(client: ChatClient) -> tuple[str, bool, str]:
    check, request = "JSON schema", message('Name two colours as JSON, {"colours": ["…", "…"]}')
    answer = _ask(client, request, max_tokens=60, response_format=schema_of("colours", 2))
    if isinstance(answer, CallFailed):
        return check, True, f"not taken ({answer.reason}); lists are asked for as bullets"
    return check, True, "taken" if read_list(answer.text, "colours") else f"taken, but not kept: {answer.text[:60]!r}"


def _speed(client: ChatClient) -> tuple[str, bool, str]:
    """Keeps all slots busy for some seconds, with an image of its own in each request."""
    began, tokens, answered, failed = time.monotonic(), 0, 0, 0

    def numbers() -> Iterator[int]:
        number = 0
        while number < client.slots() or time.monotonic() - began < SPEED:
            yield number
            number += 1

    async def describe(number: int) -> Answer:
        request = message("Describe the picture in one sentence.", image_part(picture(number), "JPEG"))
        return await client.ask(request, f"{number:08x}", temperature=0, max_tokens=32)

    try:
        for _, answer in each(numbers(), describe, client.slots()):
            if isinstance(answer, CallFailed):
                failed += 1
            else:
                answered, tokens = answered + 1, tokens + answer.measured["tokens_out"]
    except Stopped as stopped:
        return "speed", False, f"not measured: {str(stopped).removeprefix(client.endpoint.asked_as + ': ')}"
    seconds = time.monotonic() - began
    lost = f", {failed} failed" if failed else ""
    rates = f"{answered / seconds:.1f} answers and {tokens / seconds:.0f} tokens a second"
    return "speed", not failed, f"{rates}, {client.slots()} at once{lost}"

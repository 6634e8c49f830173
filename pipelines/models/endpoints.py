"""Models behind one door: every LLM and VLM is an OpenAI-compatible server that the configuration names.

What an endpoint is, what decides of its answers, and what is said and heard; `pipelines.models.chat` asks.
"""

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pipelines.engine.worker import is_local
from schemas.answers import RETRYABLE
from schemas.config.model import Config, EndpointConfig
from schemas.errors import UserError

WEIGHTS = ("*.safetensors", "*.gguf", "*.bin", "*.pt", "*.json", "*.model")


@dataclass(frozen=True)
class Endpoint:
    """A model, and where it is reached. Goes to workers; the key does not: it is in the environment of who asks."""

    name: str
    config: EndpointConfig
    revision: str | None = None
    model: str | None = None  # its name, unless it is a checkpoint of this machine: then its weights say all
    urls: tuple[str, ...] = ()  # of a `command`, once its server runs
    calls_left: int | None = None  # of the budgets, when a stage begins
    tokens_left: int | None = None

    def identity(self) -> dict[str, Any]:
        """What of it decides of answers: never where it is or who asks."""
        said = {"model": self.model, "revision": self.revision, "extra": self.config.extra or None}
        return {name: value for name, value in said.items() if value is not None}

    def key(self) -> str | None:
        """The key of the process that asks. Raises `UserError` if it is not there."""
        name = self.config.api_key_env
        if name is None:
            return None
        if not os.environ.get(name):
            raise UserError(f"endpoints.{self.name}.api_key_env: there is no {name} in this environment; export it")
        return os.environ[name]

    @cached_property
    def asked_as(self) -> str:
        return f"endpoints.{self.name}"


def endpoint_of(config: Config, place: str, name: str) -> Endpoint:
    """The endpoint that a place in the configuration names. Raises `UserError` if it cannot be what is meant."""
    if name not in config.endpoints:
        known = ", ".join(config.endpoints) or "none yet"
        raise UserError(f"{place}: there is no table [endpoints.{name}]; there are {known}")
    one, runner = config.endpoints[name], config.beam.runner.rpartition(".")[2]
    if not is_local(runner):
        for what in ("command", "max_calls", "max_tokens"):
            if getattr(one, what) is not None:
                why = "starts a server that" if what == "command" else "is counted in one process, which"
                raise UserError(f"endpoints.{name}.{what}: {why} workers of {runner} do not reach; leave it out")
    return open_endpoint(name, one)


def open_endpoint(name: str, config: EndpointConfig) -> Endpoint:
    """The endpoint of a table `[endpoints.NAME]`."""
    local = is_checkpoint(config.model)
    revision = config.revision or (weights_of(config.model) if local else None)
    model = None if local else config.model
    return Endpoint(name, config, revision, model, config.url, config.max_calls, config.max_tokens)


def is_checkpoint(model: str) -> bool:
    """Whether a model is named by a path of this machine."""
    return ("/" in model or model.endswith(".gguf")) and Path(model).expanduser().exists()


@cache
def weights_of(model: str) -> str:
    """16 hex digits of the SHA-256 of a local checkpoint: of its file, or of its folder's weights and settings."""
    path = Path(model).expanduser()
    files = [path] if path.is_file() else sorted({file for pattern in WEIGHTS for file in path.glob(pattern)})
    if not files:
        raise UserError(f"{model}: no weights there ({', '.join(WEIGHTS)})")
    sha256 = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            sha256.update(f"{file.name if path.is_dir() else ''}\0".encode())
            sha256.update(hashlib.file_digest(opened, "sha256").digest())
    return sha256.hexdigest()[:16]


# What is asked, and what comes back


@dataclass(frozen=True)
class Answer:
    text: str
    cut: bool  # it ends where the tokens ended
    top: Sequence[tuple[str, float]] | None  # the first token's candidates and their log-probabilities, if asked for
    measured: dict[str, Any]  # for the ledger


class CallFailed(Exception):
    """Why a request gave no answer: `reason` is a word of `schemas.answers`, `detail` is for a person."""

    def __init__(self, reason: str, detail: str, *, after: float = 0.0):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
        self.after = after  # seconds that the server wants to be left alone
        self.measured: dict[str, Any] = {}
        self.before: list[dict[str, Any]] = []  # measured of requests on which this one was built

    @property
    def can_pass(self) -> bool:
        return self.reason in RETRYABLE


def image_part(data: bytes, format: str) -> dict[str, Any]:
    """An image as part of a message, its bytes as they came."""
    url = f"data:image/{format.lower()};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def message(text: str, image: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """What a user says, an image in front."""
    return [{"role": "user", "content": [image, {"type": "text", "text": text}] if image else text}]

"""Endpoints: every LLM and VLM is reached through an OpenAI-compatible server that the configuration names.

This module says what an endpoint is, which of its properties decide its answers, and what requests and answers look
like; `pipelines.models.chat` sends the requests.
"""

import base64
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pipelines.engine.secrets import remember
from pipelines.engine.worker import is_here
from schemas.answers import RETRYABLE
from schemas.config.endpoints import EndpointConfig
from schemas.config.model import Config
from schemas.errors import UserError

WEIGHTS = ("*.safetensors", "*.gguf", "*.bin", "*.pt", "*.json", "*.model")


@dataclass(frozen=True)
class Endpoint:
    """A model and its servers. Pickles to workers without the key, which they take from their environment."""

    name: str
    config: EndpointConfig
    revision: str | None = None
    model: str | None = None  # its name; None for a local checkpoint, which `revision` identifies
    urls: tuple[str, ...] = ()  # of a `command`, once its server runs
    calls_left: int | None = None  # of the budget, when a stage begins
    tokens_left: int | None = None  # of the budget, when a stage begins

    def identity(self) -> dict[str, Any]:
        """The properties that decide answers: neither its URL nor its key is among them."""
        left_out = sorted(self.config.omit) or None
        properties = {
            "model": self.model,
            "revision": self.revision,
            "extra": self.config.extra or None,
            "omit": left_out,
        }
        return {name: value for name, value in properties.items() if value is not None}

    def parameters(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """The parameters of a request, as its server takes them."""
        name = self.config.max_tokens_name
        named = {name if parameter == "max_tokens" else parameter: value for parameter, value in wanted.items()}
        left_out = {name if parameter == "max_tokens" else parameter for parameter in self.config.omit}
        return {parameter: value for parameter, value in named.items() if parameter not in left_out}

    def key(self) -> str | None:
        """The key, from the environment of this process. Raises `UserError` if it is missing."""
        name = self.config.api_key_env
        if name is None:
            return None
        if not os.environ.get(name):
            raise UserError(f"endpoints.{self.name}.api_key_env: the environment variable {name} is not set; export it")
        remember(os.environ[name])
        return os.environ[name]

    @cached_property
    def asked_as(self) -> str:
        """The name of its table in the configuration, for messages."""
        return f"endpoints.{self.name}"


def endpoint_of(config: Config, place: str, name: str) -> Endpoint:
    """The endpoint that a field of the configuration, `place`, names. Raises `UserError` if it cannot be used."""
    if name not in config.endpoints:
        known = f", or choose from {', '.join(config.endpoints)}" if config.endpoints else ""
        raise UserError(f"{place}: unknown endpoint {name!r}; add [endpoints.{name}]{known}")
    endpoint, runner = config.endpoints[name], config.beam.runner.rpartition(".")[2]
    if not is_here(runner):
        check_shared(name, endpoint, f"workers of {runner}")
    return open_endpoint(name, endpoint)


def check_shared(name: str, endpoint: EndpointConfig, who: str) -> None:
    """Raises `UserError` if an endpoint cannot be asked by processes on several machines, such as those of `who`."""
    for field in ("command", "max_calls", "max_tokens"):
        if getattr(endpoint, field) is not None:
            why = "starts a server that" if field == "command" else "is counted in one process, which"
            raise UserError(f"endpoints.{name}.{field}: {why} {who} do not reach; leave it out")


def open_endpoint(name: str, config: EndpointConfig) -> Endpoint:
    """The endpoint of a table `[endpoints.NAME]`."""
    if config.api_key_env:
        remember(os.environ.get(config.api_key_env))
    local = is_checkpoint(config.model)
    revision = config.revision or (weights_of(config.model) if local else None)
    model = None if local else config.model
    return Endpoint(name, config, revision, model, config.url, config.max_calls, config.max_tokens)


def is_checkpoint(model: str) -> bool:
    """Whether a model's name is a path on this machine."""
    return ("/" in model or model.endswith(".gguf")) and Path(model).expanduser().exists()


@cache
def weights_of(model: str) -> str:
    """16 hex digits of the SHA-256 of a local checkpoint: of its file, or of the weights and settings in its folder."""
    path = Path(model).expanduser()
    files = [path] if path.is_file() else sorted({file for pattern in WEIGHTS for file in path.glob(pattern)})
    if not files:
        raise UserError(f"{model}: holds no weights ({', '.join(WEIGHTS)})")
    sha256 = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            sha256.update(f"{file.name if path.is_dir() else ''}\0".encode())
            sha256.update(hashlib.file_digest(opened, "sha256").digest())
    return sha256.hexdigest()[:16]


# Requests and answers


@dataclass(frozen=True)
class Answer:
    text: str
    cut: bool  # it ended because no tokens were left
    top: Sequence[tuple[str, float]]  # candidates of the first token and their log-probabilities; none if not requested
    measured: dict[str, Any]  # for the ledger


class CallFailed(Exception):
    """Why a request had no answer: `reason` is a word of `schemas.answers`, `detail` is for a person."""

    def __init__(self, reason: str, detail: str, *, after: float = 0.0):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
        self.after = after  # seconds for which the server wants to be left alone
        self.measured: dict[str, Any] = {}
        self.before: list[dict[str, Any]] = []  # `measured` of the requests on whose answers this one was built

    @property
    def can_pass(self) -> bool:
        return self.reason in RETRYABLE


def image_part(data: bytes, format: str) -> dict[str, Any]:
    """An image as part of a message, with its original bytes."""
    url = f"data:image/{format.lower()};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def picture(number: int = 0) -> bytes:
    """A JPEG of a red circle on white; each number gives other bytes."""
    from PIL import Image, ImageDraw

    image, buffer = Image.new("RGB", (448, 448), "white"), io.BytesIO()
    ImageDraw.Draw(image).ellipse((124, 124, 324, 324), "red")
    image.putpixel((0, 0), (number % 256, number // 256 % 256, 0))
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def message(text: str, image: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The messages of one request: the user's text, with the image in front if there is one."""
    return [{"role": "user", "content": [image, {"type": "text", "text": text}] if image else text}]

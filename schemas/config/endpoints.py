"""The tables [endpoints.NAME]: models, each an OpenAI-compatible server."""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from schemas.config.table import Place, Table

SECRET = r"((api|auth|access)[-_]?)?(key|token|authorization|password|secret)"  # names of fields that hold keys


def _is_url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s@]+", text):
        raise PydanticCustomError("url", "write http://… or https://…, without a user name and password")
    return text.rstrip("/")


def _is_env(name: str) -> str:
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):
        raise PydanticCustomError("env", "write the name of the environment variable that holds the key, never the key")
    return name


Parameter = Literal["seed", "temperature", "top_p", "max_tokens", "response_format", "logprobs", "top_logprobs"]


class EndpointConfig(Table):
    """An OpenAI-compatible server: a running one, or a command that starts one."""

    model: Place                                        # its name on the server, or a local checkpoint
    revision: str | None = None                         # version of the model; default for a local checkpoint: its hash
    url: tuple[Annotated[str, AfterValidator(_is_url)], ...] = ()   # one URL, or several servers of the same model
    command: str | None = None                          # starts a server, with {model} and {port}; the run stops it
    api_key_env: Annotated[str, AfterValidator(_is_env)] | None = None  # environment variable that holds the key
    concurrency: int = Field(default=32, ge=1)          # requests at the same time, per url
    timeout: float = Field(default=120, gt=0)           # seconds that one try may take
    tries: int = Field(default=5, ge=1)                 # tries per request
    patience: float = Field(default=60, gt=0)           # seconds without any answer after which a run stops
    start_seconds: float = Field(default=900, gt=0)     # seconds until the server of a `command` must answer
    max_calls: int | None = Field(default=None, ge=1)   # maximum number of requests in one run, retries included
    max_tokens: int | None = Field(default=None, ge=1)  # maximum number of tokens in one run, prompts included
    extra: dict[str, Any] = {}                          # more fields of every request's body
    omit: tuple[Parameter, ...] = ()                    # parameters that are not sent, because the server refuses them
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"  # the server's name for it

    @field_validator("url", mode="before")
    @classmethod
    def _several(cls, url: Any) -> Any:
        return (url,) if isinstance(url, str) else url

    @field_validator("extra")
    @classmethod
    def _is_json(cls, extra: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(extra, allow_nan=False)
        except (TypeError, ValueError):
            raise PydanticCustomError("json", "write only values of JSON: no dates, inf or nan") from None
        if any(re.fullmatch(SECRET, name, re.I) for name in extra):
            raise PydanticCustomError("key", "do not write a key here; name its environment variable in api_key_env")
        return extra

    @field_validator("command")
    @classmethod
    def _takes_port(cls, command: str | None) -> str | None:
        if command is not None and "{port}" not in command:
            raise PydanticCustomError("port", "write {port} where the command takes its port")
        return command

    @model_validator(mode="after")
    def _url_or_command(self) -> "EndpointConfig":
        if bool(self.url) == bool(self.command):
            raise PydanticCustomError("door", "write either url or command")
        return self

"""Serves a checkpoint, or a folder of GGUF files, as OpenAI's chat completions: `python -m training.serve CHECKPOINT`.

    client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    client.chat.completions.create(model="pico", messages=[…], n=10, temperature=0.7, seed=1, logprobs=True)

Images are data URLs. Requests that arrive while a batch is computed form the next batch. With `--alone` each answer is
computed by itself: the same request then has the same answer, to the last bit, whatever other requests there are.
"""

import argparse
import base64
import binascii
import logging
import sys
import time
from asyncio import wrap_future
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from hashlib import file_digest, sha256
from pathlib import Path
from queue import Empty, SimpleQueue
from secrets import randbits, token_hex
from threading import Thread
from typing import Any, Literal, Protocol

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from tokenizers.pre_tokenizers import ByteLevel

from schemas.errors import UserError
from training.generate import Generated, GenerationRequest, Generator
from training.layout import SampleRejected, Turn
from training.pixels import decode
from training.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
HARMLESS = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
}  # change no answer


class Talks(Protocol):
    """What is served: `training.generate.Generator`, or `training.gguf.generator.GgufGenerator`."""

    def picture(self, name: str, image: Any) -> Any: ...
    def prompt(self, turns: Sequence[Turn], images: Any) -> Any: ...
    def answer(self, requests: Sequence[GenerationRequest]) -> list[Generated]: ...


class Message(BaseModel):
    role: str
    content: str | list[dict[str, Any]] | None = None


class Asked(BaseModel):
    """A request. A field that is not listed here and could change an answer is refused, never ignored."""

    model_config = ConfigDict(extra="allow")
    model: str
    messages: list[Message] = Field(min_length=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1, le=128)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    response_format: dict[Literal["type"], Literal["text"]] | None = None


class Refused(Exception):
    """What the client did wrong, in one line."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


class Worker:
    """Answers waiting requests on a thread of its own, at most `at_once` of them in one batch."""

    def __init__(self, generator: Talks, at_once: int):
        self.generator, self.at_once, self.waiting = generator, at_once, SimpleQueue()
        self.batches: list[int] = []  # sizes of the last thousand batches
        Thread(target=self._work, daemon=True).start()

    def ask(self, request: GenerationRequest) -> Future:
        future: Future = Future()
        self.waiting.put((request, future))
        return future

    def _work(self) -> None:
        while True:
            batch = [self.waiting.get()]
            try:
                while len(batch) < self.at_once:
                    batch.append(self.waiting.get_nowait())
            except Empty:
                pass
            batch = [(request, future) for request, future in batch if future.set_running_or_notify_cancel()]
            if not batch:
                continue
            self.batches = [*self.batches[-999:], len(batch)]
            try:
                for (_, future), answer in zip(batch, self.generator.answer([request for request, _ in batch])):
                    future.set_result(answer)
            except Exception as error:  # the server stays up, and the callers get the error
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)


def make_app(generator: Talks, piece: Callable[[int], bytes], name: str, revision: str, at_once: int = 64) -> FastAPI:
    """The server of a model. `piece` returns the bytes of a token, `revision` names the weights."""
    app, worker, begun = FastAPI(title=f"Shardmill: {name}"), Worker(generator, at_once), int(time.time())
    app.state.worker = worker

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": name, "object": "model", "created": begun, "owned_by": "shardmill", "revision": revision}
        return {"object": "list", "data": [model]}

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(asked: Asked) -> dict[str, Any] | JSONResponse:
        if asked.model != name:
            raise Refused(f"there is no model {asked.model!r}; there is {name}", "model", 404, "model_not_found")
        check(asked)
        prompt = await run_in_threadpool(read, generator, asked.messages)
        top = asked.top_logprobs if asked.logprobs else 0
        limit = asked.max_completion_tokens or asked.max_tokens or 1 << 30
        futures = [
            worker.ask(GenerationRequest(prompt, limit, asked.temperature, asked.top_p, seed, top))
            for seed in seeds(asked.seed, asked.n)
        ]
        try:
            answers = [await wrap_future(future) for future in futures]
        except Exception as error:  # raised from here, it would close the connection that the next request uses
            logging.exception("a batch failed")
            return _error(500, f"{type(error).__name__}: {error}", kind="server_error")
        completed, prompted = sum(len(answer.ids) for answer in answers), prompt_length(prompt)
        return {
            "id": f"chatcmpl-{token_hex(12)}", "object": "chat.completion", "created": int(time.time()),
            "model": name, "system_fingerprint": revision[:12],
            "choices": [choice(number, answer, piece, asked) for number, answer in enumerate(answers)],
            "usage": {"prompt_tokens": prompted, "completion_tokens": completed, "total_tokens": prompted + completed},
        }  # fmt: skip

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return _error(error.status, str(error), error.param, error.code)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:])
        return _error(400, f"{param}: {first['msg']}" if param else first["msg"], param or None)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return _error(500, f"{type(error).__name__}: {error}", kind="server_error")

    return app


def check(asked: Asked) -> None:
    """Raises `Refused` for a request that this server does not support."""
    for name, value in (asked.model_extra or {}).items():
        if value and name not in HARMLESS:  # null, false, 0 and empty values request nothing
            raise Refused(f"{name}: this server does not do that", name)
    if asked.top_logprobs and not asked.logprobs:
        raise Refused("top_logprobs: set logprobs too", "top_logprobs")


def read(generator: Talks, messages: Sequence[Message]) -> Any:
    """The prompt that messages make. Raises `Refused`."""
    images: dict[str, Any] = {}
    turns = []
    for number, message in enumerate(messages):
        where = f"messages.{number}"
        if message.role not in ROLES:
            raise Refused(f"{where}.role: no {message.role!r}; there are {', '.join(ROLES)}", f"{where}.role")
        content = [{"type": "text", "text": message.content}] if isinstance(message.content, str) else message.content
        parts: list[Any] = []
        for place, part in enumerate(content or []):
            if part.get("type") == "text" and isinstance(part.get("text"), str):
                parts.append(part["text"])
                continue
            image = image_of(part, f"{where}.content.{place}")
            images[key := str(len(images))] = image
            try:
                parts.append(generator.picture(key, image))
            except ValueError as error:
                raise Refused(f"{where}.content.{place}: {error}", f"{where}.content.{place}") from None
        turns.append(Turn(message.role, parts))
    try:
        return generator.prompt(turns, images)
    except SampleRejected as error:
        code = "context_length_exceeded" if error.reason == "too_long" else error.reason
        raise Refused(str(error), "messages", code=code) from None
    except ValueError as error:
        raise Refused(f"messages: {error}", "messages") from None


def image_of(part: dict[str, Any], where: str) -> Any:
    """The picture of a content part. Raises `Refused`."""
    url = part.get("image_url") if part.get("type") == "image_url" else None
    url = url.get("url") if isinstance(url, dict) else url
    if not isinstance(url, str):
        raise Refused(f"{where}: is neither a text nor an image_url", where)
    head, comma, data = url.partition(",")
    if not (url.startswith("data:") and comma and head.endswith(";base64")):
        raise Refused(f"{where}: give the image as data:image/png;base64,…; nothing is fetched from elsewhere", where)
    try:
        return decode(base64.b64decode(data, validate=True))
    except binascii.Error as error:
        raise Refused(f"{where}: is no base64: {error}", where) from None
    except Exception as error:  # decoders raise errors of any kind
        raise Refused(f"{where}: no image can be read of it: {error}", where) from None


def seeds(seed: int | None, count: int) -> list[int]:
    """A seed for each draw. The first is the given one, so that n = 1 and the first of n are equal."""
    seed = randbits(63) if seed is None else seed
    more = (int.from_bytes(sha256(f"{seed} {number}".encode()).digest()[:8]) >> 1 for number in range(1, count))
    return [seed, *more]


def prompt_length(prompt: Any) -> int:
    return prompt.length if hasattr(prompt, "length") else len(prompt.ids)


def choice(number: int, answer: Generated, piece: Callable[[int], bytes], asked: Asked) -> dict[str, Any]:
    """One of the answers of a completion."""

    def told(token: int, log_probability: float) -> dict[str, Any]:
        data = piece(token)
        return {"token": data.decode("utf-8", "replace"), "bytes": list(data), "logprob": log_probability}

    content = [
        told(token, probability)
        | {"top_logprobs": [told(*likely) for likely in (answer.top[place] if asked.top_logprobs else [])]}
        for place, (token, probability) in enumerate(zip(answer.ids, answer.log_probabilities))
    ]
    return {
        "index": number, "finish_reason": "stop" if answer.finished else "length",
        "message": {"role": "assistant", "content": answer.text},
        "logprobs": {"content": content} if asked.logprobs else None,
    }  # fmt: skip


def pieces(tokenizer: Tokenizer) -> Callable[[int], bytes]:
    """Maps each token of a byte-level BPE to its bytes, and a mark to its name."""
    vocabulary = json_vocabulary(tokenizer)
    return lambda token: vocabulary.get(token, b"")


def json_vocabulary(tokenizer: Tokenizer) -> dict[int, bytes]:
    import json

    read, letters = json.loads(tokenizer.json), _byte_letters()
    added = {token["id"]: token["content"].encode() for token in read["added_tokens"]}
    spelled = {
        number: b"".join(letters.get(letter, letter.encode()) for letter in spelling)
        for spelling, number in read["model"]["vocab"].items()
    }
    return spelled | added


def _byte_letters() -> dict[str, bytes]:
    """The letters that byte-level tokens are written in, each with the byte that it means (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): bytes([byte]) for byte in plain}
    letters |= {chr(256 + number): bytes([byte]) for number, byte in enumerate(others)}
    assert set(letters) == set(ByteLevel.alphabet())
    return letters


def open_model(path: Path, device: str = "cpu") -> tuple[Talks, Callable[[int], bytes], str]:
    """The model to serve, the function from its tokens to bytes, and its revision. Raises `UserError`."""
    if any(path.glob("*.gguf")):
        from training.gguf.files import files
        from training.gguf.generator import GgufGenerator

        generator = GgufGenerator(path)
        return generator, generator.language.piece, _digest(files(path))
    from training.checkpoint import MODEL, load_model

    model, tokenizer = load_model(path, device)
    return Generator(model, tokenizer), pieces(tokenizer), _digest([path / MODEL])


def _digest(files: Sequence[Path]) -> str:
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()


def _error(
    status: int, message: str, param: str | None = None, code: str | None = None, kind: str = ""
) -> JSONResponse:
    kind = kind or "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.serve", description=__doc__.split(":")[0] + ".")
    parser.add_argument("checkpoint", type=Path, help="a folder with model.safetensors, or one with GGUF files")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--name", help="name of the model; by default that of the folder")
    parser.add_argument("--at-once", type=int, default=64, help="requests that are answered together")
    parser.add_argument("--alone", action="store_true", help="one at a time: no answer depends on another request")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; all cores if 0")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    name = options.name or options.checkpoint.resolve().name
    try:
        generator, piece, revision = open_model(options.checkpoint, options.device)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    app = make_app(generator, piece, name, revision, 1 if options.alone else options.at_once)
    print(f"{name} {revision[:12]} at http://{options.host}:{options.port}/v1", flush=True)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()

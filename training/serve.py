"""Serves a checkpoint, or a folder of GGUF files, as OpenAI's chat completions: `python -m training.serve CHECKPOINT`.

    client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    client.chat.completions.create(model="pico", messages=[…], n=10, temperature=0.7, seed=1, logprobs=True)

Images are data URLs. Requests that arrive while a batch is computed form the next batch. With `--alone` each answer is
computed by itself: the same request then has the same answer, to the last bit, whatever other requests there are.

A request that could never fit is refused in time and memory of its length, and one whose client has gone is not begun,
or ends at the next token. Only requests to an address, to localhost, or to a name of `--allow-host` are answered.
"""

import asyncio
import logging
import socket
import time
from asyncio import wrap_future
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from hashlib import file_digest, sha256
from pathlib import Path
from queue import Empty, SimpleQueue
from secrets import randbits, token_hex
from threading import Event, Thread
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from tokenizers.pre_tokenizers import ByteLevel

from schemas.errors import UserError, answered
from training.chat import Asked, Gone, Refused, Talks, check, longest_text, read
from training.generate import Generated, GenerationRequest, Generator
from training.guard import USUAL, Guard, Limits
from training.guard import error as error_response
from training.options import at_least, device, program
from training.tokenizer import Tokenizer


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
            batch, asked = [], self.waiting.get()
            try:
                while True:
                    request, future = asked
                    if request.cancelled():
                        future.set_exception(Gone())
                    else:
                        batch.append((request, future))
                    if len(batch) == self.at_once:
                        break
                    asked = self.waiting.get_nowait()
            except Empty:
                pass
            if not batch:
                continue
            self.batches = [*self.batches[-999:], len(batch)]
            try:
                for (_, future), answer in zip(
                    batch, self.generator.answer([request for request, _ in batch]), strict=True
                ):
                    future.set_result(answer)
            except Exception as error:  # the server stays up, and the callers get the error
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)


def make_app(
    generator: Talks,
    piece: Callable[[int], bytes],
    name: str,
    revision: str,
    at_once: int = 64,
    limits: Limits = USUAL,
    hosts: Sequence[str] = (),
) -> FastAPI:
    """The server of a model. `piece` returns the bytes of a token, `revision` names the model, `hosts` are names
    under which it answers."""
    app, worker, begun = FastAPI(title=f"Shardmill: {name}"), Worker(generator, at_once), int(time.time())
    app.state.worker, most_bytes = worker, longest_text(generator, piece)
    app.add_middleware(Guard, limits=limits, hosts=hosts)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": name, "object": "model", "created": begun, "owned_by": "shardmill", "revision": revision}
        return {"object": "list", "data": [model]}

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(asked: Asked, request: Request) -> dict[str, Any] | JSONResponse:
        if asked.model != name:
            raise Refused(
                f"unknown model {asked.model[:80]!r}; this server has {name}", "model", 404, "model_not_found"
            )
        check(asked)
        gone = Event()
        watching = asyncio.create_task(watch(request, gone))
        try:
            return await answered(asked, gone)
        except Gone:
            return error_response(499, "the client has gone")  # the client does not read it
        finally:
            watching.cancel()

    async def answered(asked: Asked, gone: Event) -> dict[str, Any] | JSONResponse:
        messages, asked.messages = asked.messages, []  # their images are not kept while the answer is computed
        prompt = await run_in_threadpool(read, generator, messages, most_bytes, limits.pixels, gone.is_set)
        del messages
        top = asked.top_logprobs if asked.logprobs else 0
        limit = asked.max_completion_tokens or asked.max_tokens or 1 << 30
        futures = [
            worker.ask(GenerationRequest(prompt, limit, asked.temperature, asked.top_p, seed, top, gone.is_set))
            for seed in seeds(asked.seed, asked.n)
        ]
        try:
            answers = [await wrap_future(future) for future in futures]
        except Gone:
            raise
        except Exception as error:  # raised from here, it would close the connection that the next request uses
            logging.exception("a batch failed")
            return error_response(500, f"{type(error).__name__}: {error}", kind="server_error")
        completed, prompted = sum(len(answer.ids) for answer in answers), prompt_length(prompt)
        return {
            "id": f"chatcmpl-{token_hex(12)}", "object": "chat.completion", "created": int(time.time()),
            "model": name, "system_fingerprint": revision[:12],
            "choices": [choice(number, answer, piece, asked) for number, answer in enumerate(answers)],
            "usage": {"prompt_tokens": prompted, "completion_tokens": completed, "total_tokens": prompted + completed},
        }  # fmt: skip

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return error_response(error.status, str(error), error.param, error.code)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:])[:200]  # a field's name may be as long as the body
        return error_response(400, f"{param}: {first['msg']}" if param else first["msg"], param or None)

    @app.exception_handler(HTTPException)
    async def not_found(_: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return error_response(500, f"{type(error).__name__}: {error}", kind="server_error")

    return app


async def watch(request: Request, gone: Event) -> None:
    """Sets the event when the client closes its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone.set()


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
        for place, (token, probability) in enumerate(zip(answer.ids, answer.log_probabilities, strict=True))
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
    vocabulary: dict[str, int] = read["model"]["vocab"]
    added = {token["id"]: token["content"].encode() for token in read["added_tokens"]}
    spelled = {
        number: b"".join(letters.get(letter, letter.encode()) for letter in spelling)
        for spelling, number in vocabulary.items()
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
    """The model to serve, the function from its tokens to bytes, and its revision: a digest of weights, shape and
    tokenizer. Raises `UserError`."""
    if any(path.glob("*.gguf")):
        if (path / "model.safetensors").exists():
            raise UserError(f"{path}: holds model.safetensors and GGUF files, which may be of another model; move one "
                            "of them to a folder of its own")  # fmt: skip
        from training.gguf.files import files
        from training.gguf.generator import GgufGenerator

        generator = GgufGenerator(path)
        return generator, generator.language.piece, _digest(files(path))
    from training.checkpoint import MODEL, SHAPE, load_model

    model, tokenizer = load_model(path, device)
    return Generator(model, tokenizer), pieces(tokenizer), _digest([path / MODEL, path / SHAPE, tokenizer.path])


def _digest(files: Sequence[Path]) -> str:
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()


def listening(host: str, port: int) -> socket.socket:
    """A socket that accepts connections at this address; at a free port if it is 0.

    Raises `UserError` if the address cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise UserError(f"--host {host} --port {port}: {reason}; choose another") from None


def main() -> None:
    parser = program("training.serve", str(__doc__).split(":")[0] + ".")
    parser.add_argument("checkpoint", type=Path, help="a folder with model.safetensors, or one with GGUF files")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=at_least(0, 65_535), default=8000, help="port to listen on; 0: any free one")
    parser.add_argument("--name", help="name of the model; by default that of the folder")
    parser.add_argument("--at-once", type=at_least(1), default=64, help="number of requests in a batch")
    parser.add_argument(
        "--alone",
        action="store_true",
        help="answer one request at a time: no answer depends on others",
    )
    parser.add_argument(
        "--device",
        type=device,
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="device of torch: cpu or cuda",
    )
    parser.add_argument("--threads", type=at_least(0), default=0, help="threads of torch; all cores if 0")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME",
                        help="a host name under which it answers, besides addresses and localhost; *: any")  # fmt: skip
    parser.add_argument("--max-body", type=at_least(1), default=Limits.body, help="largest size of a request, in bytes")
    parser.add_argument(
        "--max-pixels", type=at_least(1), default=Limits.pixels, help="maximum pixels of all images of a request"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    name = options.name or options.checkpoint.resolve().name
    with answered():
        generator, piece, revision = open_model(options.checkpoint, options.device)
        listener = listening(options.host, options.port)
    limits, hosts = Limits(options.max_body, options.max_pixels), [options.host, *options.allow_host]
    app = make_app(generator, piece, name, revision, 1 if options.alone else options.at_once, limits, hosts)
    host = f"[{options.host}]" if ":" in options.host else options.host
    served = ", ".join(path.name for path in sorted(options.checkpoint.glob("*.gguf"))) or "model.safetensors"
    print(f"{name} {revision[:12]} ({served}) at http://{host}:{listener.getsockname()[1]}/v1", flush=True)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()

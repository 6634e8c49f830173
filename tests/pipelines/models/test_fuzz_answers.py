"""HTTP answers of an endpoint with anything changed in them: an answer, or a reason; never an error of another kind."""

import json
import math
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines.models.chat import ChatClient, client_of
from pipelines.models.endpoints import Answer, CallFailed, message, open_endpoint
from pipelines.models.model_stage import each
from schemas.answers import OF_ENDPOINTS
from schemas.config.endpoints import EndpointConfig

ODD = [None, True, False, 0, -1, 1.5, 1e308, 10**400, "", "x", "\ud800", "\x00", [], {}, [[]], {"a": None},
       ["x"] * 50, "9" * 5000]  # fmt: skip
TOKEN = {"token": "Yes", "logprob": -0.1, "bytes": None}
WHOLE = {
    "id": "x", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{
        "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "A red house."},
        "logprobs": {"content": [{**TOKEN, "top_logprobs": [TOKEN, {"token": "No", "logprob": -2.4, "bytes": None}]}]},
    }],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}  # fmt: skip


def changed(value, draws: random.Random, share: float):
    """A value of JSON with parts replaced, dropped or doubled."""
    if draws.random() < share:
        return draws.choice(ODD)
    if isinstance(value, dict):
        kept = {name: changed(part, draws, share) for name, part in value.items() if draws.random() > share / 2}
        return kept | ({draws.choice(list(value)): draws.choice(ODD)} if value and draws.random() < share else {})
    if isinstance(value, list):
        return [changed(part, draws, share) for part in value for _ in range(draws.choice([1, 1, 1, 0, 2]))]
    return value


def body_of(draws: random.Random) -> bytes:
    text = json.dumps(changed(WHOLE, draws, draws.choice([0.0, 0.0, 0.01, 0.1])))
    text = text.replace("null", draws.choice(["null", "null", "NaN", "-Infinity", "1e999", "nul", "[" * 100_000]), 1)
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(draws.choice([0, 0, 0, 1, 4])):
        data[draws.randrange(len(data))] = draws.randrange(256)
    return bytes(data[: draws.choice([len(data)] * 6 + [len(data) // 2, 0])])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.say(200, b'{"object": "list", "data": []}', {})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b'{"messages": [{"content": ""}]}')
        draws = random.Random(asked["messages"][0]["content"])
        status = draws.choice([200] * 12 + [201, 204, 400, 409, 413, 418, 422, 429, 500, 502, 529])
        kinds = ["application/json"] * 6 + ["text/html", "text/event-stream", "application/json; charset=utf-16", ""]
        headers = {"Content-Type": draws.choice(kinds)}
        if draws.random() < 0.1:
            headers["Retry-After"] = draws.choice(["0", "-1", "x", "nan", "1e9999"])
        self.say(status, b"" if status == 204 else body_of(draws), headers)

    def say(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words) -> None:
        pass


@pytest.fixture(scope="module")
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def check(url: str, count: int, seed: int, monkeypatch) -> None:
    monkeypatch.setattr("pipelines.models.chat.MANY", 10**9)
    monkeypatch.setattr("pipelines.models.chat.SLOWEST", 0.01)
    of: ChatClient = client_of(open_endpoint(f"fuzz{seed}", EndpointConfig(model="m", url=url, tries=1, timeout=60)))

    async def one(number: int):
        options = {"logprobs": True, "top_logprobs": 20} if number % 2 else {}
        return await of.ask(message(f"{seed} {number}"), **options)

    answered = 0
    for _, made in each(range(count), one, 8):
        assert isinstance(made, Answer | CallFailed)
        if isinstance(made, CallFailed):
            assert made.reason in OF_ENDPOINTS and made.detail and "\n" not in made.detail and len(made.detail) <= 500
        else:
            answered += 1
            assert isinstance(made.text, str) and isinstance(made.cut, bool)
            assert all(isinstance(t, str) and p <= 1e-3 and not math.isnan(p) for t, p in made.top)
        assert all(isinstance(made.measured[name], int) for name in ("tries", "tokens_in", "tokens_out"))
    assert 0.05 * count < answered < 0.9 * count


@pytest.mark.slow
def test_any_answer_is_an_answer_or_has_a_reason(url, monkeypatch):
    check(url, 500, 0, monkeypatch)


@pytest.mark.slow
@pytest.mark.far
def test_any_answer_for_minutes(url, monkeypatch):
    """By hand: minutes of random inputs. `make test` has 500 of these answers."""
    began, seed = time.monotonic(), 1
    while time.monotonic() - began < 120:
        check(url, 1_000, seed, monkeypatch)
        seed += 1

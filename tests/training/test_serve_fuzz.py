"""Requests to `training.serve` broken along their structure: each is answered, or refused in one line."""

import asyncio
import json
import os
import random
import time
from base64 import b64encode
from collections import Counter
from functools import cache
from typing import Any

import pytest
from support.image_fuzz import broken_image
from support.images import NOISE, encoded
from support.mutation import mutated

from training.generate import Generated
from training.guard import Limits
from training.serve import make_app

SEED = int(os.environ.get("FUZZ_SEED", 1))
LIMITS = Limits(body=100_000, pixels=1_000_000)
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 129, 1 << 70, 1e308, float("nan"), float("inf"), "", "x", "\ud800", "a" * 70_000, "🎈\0\n",
    [], [[]], {}, {"": ""}, [None], "tiny", "user", "data:image/png;base64,", "data:image/png;base64,AAAA",
)  # fmt: skip


class Echo:
    """Looks at each image of a prompt, and answers with one token."""

    room, vocabulary = 500, 300

    def picture(self, name, image):
        if min(image.size) < 4:
            raise ValueError("too small to be cut")
        return name, image.size

    def prompt(self, turns, images):
        for turn in turns:
            for part in turn.parts:
                assert isinstance(part, str) or images[part[0]].size == part[1]
        return type("Prompt", (), {"ids": [1, 2]})

    def answer(self, requests):
        return [Generated([7], [-0.5], [[(7, -0.5)]] if request.top else [], True, "g") for request in requests]


def request(draws: random.Random) -> dict:
    data = broken_image(draws) if draws.random() < 0.5 else whole()
    url = f"data:image/png;base64,{b64encode(data[:60_000]).decode()}"
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    more = {"n": 2, "seed": 3, "logprobs": True, "top_logprobs": 1, "stop": None, "user": "me"}
    return {"model": "tiny", "messages": messages, "temperature": 0.5, "max_tokens": 3, **more}


@cache
def whole() -> bytes:
    return encoded(NOISE, "JPEG")


def broken(value: Any, draws: random.Random) -> Any:
    """A value in which one place is another, gone, or repeated."""
    return mutated(value, draws, ODD, ("stop", "tools", "\ud800", "", "seed", "type"), 5, (0.2, (1, 3, 200)))


def body(draws: random.Random) -> bytes:
    asked = request(draws)
    for _ in range(draws.choice((0, 1, 1, 2))):
        asked = broken(asked, draws)
    data = json.dumps(asked).encode()
    if draws.random() < 0.15:
        at = draws.randrange(len(data) + 1)
        data = data[:at] + draws.choice((b"", b"\xff", b'"', b"[" * 9_000, b"\\u", data[:50])) + data[at + 1 :]
    return data


async def sent(app, data: bytes, draws: random.Random) -> tuple[int, dict]:
    """The status and the answer of a request whose body comes in several parts."""
    cuts = sorted(draws.randrange(len(data) + 1) for _ in range(draws.choice((0, 0, 3))))
    parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages[-1]["more_body"] = False
    told: list[dict] = []

    async def receive():
        if messages:
            return messages.pop(0)
        await asyncio.sleep(60)

    async def send(message):
        told.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "http_version": "1.1",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")], "scheme": "http",
        "server": ("localhost", 80), "client": ("localhost", 9), "root_path": "", "raw_path": b"/v1/chat/completions",
    }  # fmt: skip
    await app(scope, receive, send)
    return told[0]["status"], json.loads(b"".join(part.get("body", b"") for part in told[1:]))


def fuzzed(draws: random.Random, seconds: float, most: int) -> Counter:
    """How many requests had which status."""
    app, ends = make_app(Echo(), lambda token: b"gh", "tiny", "0", limits=LIMITS), Counter()

    async def all_of_them() -> None:
        until = time.monotonic() + seconds
        while ends.total() < most and time.monotonic() < until:
            data, begun = body(draws), time.process_time()
            status, answer = await sent(app, data, draws)
            assert status in (200, 400, 404, 413), (status, answer, data[:2_000])
            if status == 200:
                assert {choice["message"]["content"] for choice in answer["choices"]} == {"g"}
            else:
                assert answer["error"]["message"] and len(answer["error"]["message"]) < 1_000, data[:2_000]
            assert time.process_time() - begun < 10, data[:2_000]
            ends[status] += 1

    asyncio.run(all_of_them())
    return ends


@pytest.mark.filterwarnings("ignore")
def test_broken_requests_are_answered_or_refused():
    ends = fuzzed(random.Random(SEED), 20, 300)
    assert ends[200] and ends[400] > 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_many_broken_requests_are_answered_or_refused():
    """FUZZ_SECONDS says for how long; FUZZ_SEED, which ones."""
    ends = fuzzed(random.Random(SEED), float(os.environ.get("FUZZ_SECONDS", 120)), 1 << 30)
    print(dict(ends))
    assert ends[200] > 50 and ends[413]

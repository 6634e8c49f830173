"""Requests to `training.serve` broken along their structure: each is answered, or refused in one line."""

import asyncio
import json
import random
import time
from base64 import b64encode
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from support.image_fuzz import broken_image
from support.images import NOISE, encoded
from support.mutation import mutated
from support.tar_fuzzing import peak

from training.generate import Generated
from training.guard import Limits
from training.serve import make_app

LONGEST = 60  # seconds until an answer
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
        await asyncio.sleep(10 * LONGEST)

    async def send(message):
        told.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "http_version": "1.1",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")], "scheme": "http",
        "server": ("localhost", 80), "client": ("localhost", 9), "root_path": "", "raw_path": b"/v1/chat/completions",
    }  # fmt: skip
    await app(scope, receive, send)
    return told[0]["status"], json.loads(b"".join(part.get("body", b"") for part in told[1:]))


def fuzz_serve(folder: Path, count: int | None = None, seconds: float = 0, seed: int = 0) -> dict:
    """Sends so many broken requests, or for so long. `ends`: how many had which status."""
    app, ends, wrong = make_app(Echo(), lambda token: b"gh", "tiny", "0", limits=LIMITS), Counter(), []
    began, before, slowest = time.monotonic(), peak(), 0.0

    async def all_of_them() -> None:
        nonlocal slowest
        number = 0
        while number < count if count is not None else time.monotonic() - began < seconds:
            draws = random.Random(f"{seed}/{number}")
            data, started = body(draws), time.process_time()
            try:
                status, answer = await asyncio.wait_for(sent(app, data, draws), LONGEST)
            except Exception as error:
                status, answer = 500, {"error": {"message": repr(error)}}
            slowest = max(slowest, time.process_time() - started)
            if status == 200:
                right = {choice["message"]["content"] for choice in answer["choices"]} == {"g"}
            else:
                right = status in (400, 404, 413) and 0 < len(answer["error"]["message"]) < 1_000
            if not right:
                wrong.append(f"{seed}/{number}: {status} {answer}")
            ends[str(status)] += 1
            number += 1

    asyncio.run(all_of_them())
    return {
        "runs": ends.total(), "ends": dict(ends), "wrong": wrong, "slowest": round(slowest, 2),
        "memory": peak() - before, "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip

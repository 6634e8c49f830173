"""An OpenAI-compatible server whose answers are a function of the request.

    python tests/support/scripted_server.py '{…}'

It speaks HTTP on loopback, and fails as it is told: its plan is the JSON of its argument, or what is sent to /plan.

    latency   seconds before each answer
    fail      [{"how": "500", "share": 0.2, "times": 2, "match": "window"}, …]: a request fails in a way of FAILURES if
              the lot drawn by its own hash says so, in its first `times` tries (always if none are given), and if its
              text holds `match`
    die_after how many requests until the process ends as if it were killed
    models    the names it knows; any is taken if none are given
    refuse    names of parameters that it refuses with 422
    keys      the keys it takes; any, or none, if none are given
    images    whether it takes images
    logprobs  whether it gives log-probabilities
    schema    whether it takes a JSON schema
    echo_key  whether it says the key again in its errors

/asked says what was asked: each request's text, image, seed and hash, in the order in which they came; /count how many.
"""

import asyncio
import hashlib
import json
import math
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.loopback import Answering, ServerProcess

THINGS = ("dog", "window", "bench", "clock", "boat", "lamp", "bicycle", "tree", "sign", "hat", "cup", "bridge")
COLOURS = ("red", "blue", "green", "white", "black", "yellow")
PLACES = ("on the left", "on the right", "in the middle", "at the top", "at the bottom")


def hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def seen(body: dict) -> tuple[str, str]:
    """The text of a request, all of its messages, and the hash of its image; empty if it has none."""
    texts, image = [], ""
    for message in body["messages"]:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                image = hashlib.sha256(part["image_url"]["url"].encode()).hexdigest()
    return "\n".join(texts), image


# What it answers


def say(body: dict) -> dict:
    """Text and, if asked for, the first token's probabilities: of what kind depends on what the prompt asks for."""
    text, image = seen(body)
    draws = random.Random(hash_of([text, image, body.get("seed")]))
    if body.get("logprobs") or body.get("top_logprobs"):
        yes = draws.random()
        tokens = {"Yes": 0.9 * yes, "yes": 0.08 * yes, "No": 0.9 * (1 - yes), "no": 0.08 * (1 - yes), "The": 0.02}
        return {"text": max(tokens, key=tokens.get), "tokens": tokens}
    if "Sentences:" in text:  # to be asked about
        facts = [line[2:] for line in text.split("Sentences:")[-1].splitlines() if line.startswith("- ")]
        return listed(
            "questions", [f"Is it true that {fact[0].lower()}{fact[1:].rstrip('.')}?" for fact in facts], body
        )
    if asked := re.match(r"Translate the text below into (\w+)\..*?\n\n(.*)", text, re.S):
        return {"text": translated(*asked.groups())}
    if "Alt text:" in text:  # to be rewritten
        thing, colour, place = (draws.choice(words) for words in (THINGS, COLOURS, PLACES))
        caption = f"A {colour} {thing} stands {place} of the picture."
        return {"text": f"Question: What does the picture show?\nAnswer: {caption}"}
    if "Answer:" in text:  # to be divided
        said = text.split("Answer:")[-1]
        return listed("facts", [one.strip() for one in re.findall(r"[^.!?]+[.!?]", said)], body)
    if "auf Deutsch" in text:
        return {"text": f"Auf dem Bild steht ein Hund neben {draws.randint(2, 99)} Bäumen. Der Himmel ist grau."}
    sentences = [
        f"There is a {draws.choice(COLOURS)} {draws.choice(THINGS)} {draws.choice(PLACES)}."
        for _ in range(draws.randint(2, 6))
    ]
    return {"text": " ".join(sentences)}


SENTENCES = {
    "English": "A dog runs on the beach while the sun goes down.",
    "German": "Ein Hund läuft am Strand, während die Sonne untergeht.",
    "French": "Un chien court sur la plage pendant que le soleil se couche.",
    "Russian": "Собака бежит по пляжу, пока заходит солнце.",
    "Japanese": "太陽が沈む間、犬が浜辺を走っています。",
}


def translated(language: str, text: str) -> str:
    """A sentence of a language with the marks of a text. Words of the text ask for faults."""
    if "REFUSE" in text:
        return "I'm sorry, I cannot translate this."
    if "THINK" in text:
        return "<think>The user wants a translation of"
    if "NOTHING" in text:
        return " "
    sentence = SENTENCES["English" if "STAY" in text else language]
    if "LONG" in text:
        sentence = " ".join(f"{sentence} ({number})" for number in range(9))
    return "".join(re.findall(r"<image(?:_\d+)?>", text)) + sentence


def listed(name: str, lines: list[str], body: dict) -> dict:
    """Lines as JSON if a schema asks for it, else as bullets."""
    if "response_format" in body:
        return {"text": json.dumps({name: lines})}
    return {"text": "\n".join(f"- {line}" for line in lines)}


def completion(body: dict) -> dict:
    """A whole answer, as the API has it."""
    said = say(body)
    tokens_in, tokens_out = len(seen(body)[0].split()) + (576 if seen(body)[1] else 0), len(said["text"].split())
    choice = {"index": 0, "message": {"role": "assistant", "content": said["text"]}, "finish_reason": "stop"}
    if "tokens" in said:
        top = [
            {"token": token, "logprob": math.log(p) if p else -9999.0, "bytes": [*token.encode()]}
            for token, p in sorted(said["tokens"].items(), key=lambda item: -item[1])
        ][: body.get("top_logprobs", 20)]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    return {
        "id": f"chatcmpl-{hash_of(body)[:12]}", "object": "chat.completion", "created": 0, "model": body["model"],
        "choices": [choice],
        "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out},
    }  # fmt: skip


# How it fails

Answer = tuple[int, bytes, dict[str, str]] | str  # status, body, headers; or what happens to the connection


def error(status: int, message: str, **headers: str) -> Answer:
    return status, json.dumps({"error": {"message": message, "type": "error", "code": status}}).encode(), headers


def tampered(change: Callable[[dict], None]) -> Callable[[dict], Answer]:
    """A whole answer in which something is odd."""

    def answer(body: dict) -> Answer:
        whole = completion(body)
        change(whole["choices"][0])
        return 200, json.dumps(whole).encode(), {}

    return answer


def with_tokens(tokens: Any) -> Callable[[dict], Answer]:
    def change(choice: dict) -> None:
        choice["logprobs"] = {"content": [{"token": "Yes", "logprob": -0.1, "top_logprobs": tokens}]}

    return tampered(change)


FAILURES: dict[str, Callable[[dict], Answer]] = {
    "400": lambda body: error(400, "this model's maximum context length is 10 tokens"),
    "401": lambda body: error(401, "not for you"),
    "403": lambda body: error(403, "Your input was flagged for moderation"),
    "404": lambda body: error(404, "No endpoints found that support image input"),
    "429": lambda body: error(429, "too many requests"),
    "429-after": lambda body: error(429, "too many requests", **{"Retry-After": "1"}),
    "quota": lambda body: (429, b'{"error": {"message": "no quota", "code": "insufficient_quota"}}', {}),
    "500": lambda body: error(500, "oops"),
    "503": lambda body: error(503, "loading"),
    "hang": lambda body: "hang",
    "reset": lambda body: "reset",
    "half": lambda body: "half",  # of the JSON it promised
    "half-json": lambda body: (200, json.dumps(completion(body)).encode()[:-40], {}),
    "html": lambda body: (200, b"<html>Bad gateway</html>", {"Content-Type": "text/html"}),
    "text": lambda body: (200, b"It works!", {"Content-Type": "text/plain"}),
    "page as JSON": lambda body: (200, b"<html>Log in</html>", {}),
    "other JSON": lambda body: (200, b'{"detail": "welcome"}', {}),
    "list": lambda body: (200, b'[{"model": "a"}]', {}),
    "null": lambda body: (200, b"null", {}),
    "number": lambda body: (200, b"7", {}),
    "choices of text": lambda body: (200, json.dumps({**completion(body), "choices": "abc"}).encode(), {}),
    "no-choice": lambda body: (200, json.dumps({**completion(body), "choices": []}).encode(), {}),
    "null-text": tampered(lambda choice: choice["message"].update(content=None)),
    "empty": tampered(lambda choice: choice["message"].update(content=" \n")),
    "filtered": tampered(lambda choice: choice.update(finish_reason="content_filter")),
    "cut": tampered(lambda choice: choice.update(finish_reason="length")),
    "no-logprobs": tampered(lambda choice: choice.update(logprobs=None)),
    "nan": with_tokens([{"token": "Yes", "logprob": float("nan")}]),
    "above-one": with_tokens([{"token": "Yes", "logprob": 3.0}]),
    "no-tokens": with_tokens(None),
    "tail": with_tokens([{"token": t, "logprob": p} for t, p in (("The", -0.02), ("No", -7.6), ("Yes", -7.9))]),
    "neither": with_tokens([{"token": "The", "logprob": -0.1}, {"token": "I", "logprob": -2.5}]),
}  # fmt: skip


class Script:
    """What the server does, and what it was asked."""

    def __init__(self, plan: dict):
        self.plan = plan
        self.asked: list[dict] = []
        self.tries: Counter[str] = Counter()
        self.open = self.most = 0

    def answer(self, path: str, headers: dict[str, str], data: bytes) -> Answer:
        key = headers.get("authorization", "").removeprefix("Bearer ")
        if self.plan.get("keys") and key not in self.plan["keys"]:
            return error(401, "Incorrect API key provided" + (f": {key}" if self.plan.get("echo_key") else ""))
        if path.endswith("/models"):
            names = self.plan.get("models") or ["scripted"]
            return (
                200,
                json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in names]}).encode(),
                {},
            )
        if not path.endswith("/v1/chat/completions"):
            return error(404, "Not Found")
        body = json.loads(data)
        text, image = seen(body)
        name = hash_of(body)
        self.tries[name] += 1
        self.asked.append(
            {"text": text, "image": image, "seed": body.get("seed"), "hash": name, "key": key} | {"sent": sorted(body)}
        )
        if len(self.asked) == self.plan.get("die_after"):
            os._exit(9)
        if self.plan.get("models") and body["model"] not in self.plan["models"]:
            return error(404, f"The model `{body['model']}` does not exist.")
        if refused := [name for name in self.plan.get("refuse", ()) if name in body]:
            return error(422, f"Extra inputs are not permitted: {refused[0]}")
        if image and not self.plan.get("images", True):
            return error(400, "this model does not take images")
        if "response_format" in body and not self.plan.get("schema", True):
            return error(400, "response_format is not supported")
        for rule in self.plan.get("fail", ()):
            drawn = int(hash_of([name, rule["how"]])[:13], 16) / 16**13 < rule.get("share", 1.0)
            again = rule.get("times") is None or self.tries[name] <= rule["times"]
            if drawn and again and rule.get("match", "") in text:
                failed = FAILURES[rule["how"]](body)
                if self.plan.get("echo_key") and not isinstance(failed, str):
                    failed = failed[0], failed[1].replace(b"oops", f"oops, {key}".encode()), failed[2]
                return failed
        whole = completion(body)
        if not self.plan.get("logprobs", True):
            whole["choices"][0]["logprobs"] = None
        return 200, json.dumps(whole).encode(), {}


class Connection(Answering):
    """One connection; answers request after request."""

    def __init__(self, script: Script):
        self.script, self.buffer, self.need = script, bytearray(), 0

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.task is None and len(self.buffer) >= self.need and (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            first, *lines = self.buffer[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            self.need = end + 4 + int(headers.get("content-length", 0))
            if len(self.buffer) >= self.need:
                body = bytes(self.buffer[end + 4 : self.need])
                self.buffer, self.need = self.buffer[self.need :], 0
                self.task = asyncio.ensure_future(self.answer(first.split(" ")[1], headers, body))

    async def answer(self, path: str, headers: dict[str, str], data: bytes) -> None:
        script = self.script
        if path == "/plan":
            script.plan = json.loads(data)
            script.tries.clear()
            self.write(200, b"{}", {})
        elif path == "/count":
            self.write(200, json.dumps(len(script.asked)).encode(), {})
        elif path == "/asked":
            self.write(200, json.dumps({"asked": script.asked, "most": script.most}).encode(), {})
        else:
            script.open += 1
            script.most = max(script.most, script.open)
            try:
                await asyncio.sleep(script.plan.get("latency", 0))
                said = script.answer(path, headers, data)
                if said == "hang":
                    await asyncio.sleep(3600)
            finally:
                script.open -= 1
            if said == "reset":
                self.reset()
                return
            if said == "half":
                whole = json.dumps(completion(json.loads(data))).encode()
                self.write(200, whole[: len(whole) // 2], {"Content-Length": str(len(whole))})
                self.transport.close()
                return
            self.write(*said)
        self.task = None
        self.data_received(b"")

    def write(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        said = {"Content-Type": "application/json", "Content-Length": str(len(body))} | headers
        lines = [f"HTTP/1.1 {status} Said So", *(f"{name}: {value}" for name, value in said.items())]
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


async def serve(plan: dict, port: int) -> None:
    script, loop = Script(plan), asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Connection(script), "127.0.0.1", port, backlog=1024)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


class Scripted(ServerProcess):
    """The server in a process of its own, from `with` to its end."""

    def __init__(self, port: int = 0, **plan: Any):
        self.command = [__file__, json.dumps(plan), str(port)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def does(self, **plan: Any) -> None:
        """Gives it another plan."""
        with urlopen(Request(f"http://127.0.0.1:{self.port}/plan", json.dumps(plan).encode())):
            pass

    def says(self) -> dict:
        with urlopen(f"http://127.0.0.1:{self.port}/asked") as answer:
            return json.load(answer)

    def count(self) -> int:
        """How many requests for an answer there were so far."""
        with urlopen(f"http://127.0.0.1:{self.port}/count") as answer:
            return json.load(answer)

    def asked(self) -> list[dict]:
        """Every request for an answer so far."""
        return self.says()["asked"]


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1]), int(sys.argv[2])))

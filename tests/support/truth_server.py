"""A labeler that knows the scenes, and others that do not: an OpenAI-compatible server for controls of an alignment.

    python tests/support/truth_server.py '{"scenes": "scenes.json", "kind": "truth"}'

    truth       answers each yes/no question by the scene of its image; no to what it does not understand
    shuffled    answers yes to a share of the questions, `yes`, by a hash of question and image: labels without meaning
    whole       divides: its only fact is the whole response, and its question asks whether all of that is there

`scenes`: a file of {SHA-256 of an image's bytes: scene}, see `scenes_of`.
"""

import asyncio
import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import scripted_server
from support.loopback import ServerProcess
from support.scripted_server import hash_of, seen

from schemas.scenes.claims import answer

ASKED = " Please answer yes or no."


def scenes_of(root: Any) -> dict[str, Any]:
    """SHA-256 of each image in a corpus of scenes -> its scene."""
    from pipelines.catalog.catalog import query

    rows = query(root, "select sha256, (extra->'scene')::varchar as scene from samples where sha256 is not null")
    return {row["sha256"]: json.loads(row["scene"]) for row in rows.to_pylist()}


def image_of(body: dict) -> str:
    """The SHA-256 of the bytes of a request's image."""
    for message in body["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] == "image_url":
                data = base64.b64decode(part["image_url"]["url"].split(",", 1)[1])
                return hashlib.sha256(data).hexdigest()
    return ""


def truth(body: dict, plan: dict) -> dict:
    text, image = seen(body)[0].removesuffix(ASKED), image_of(body)
    if plan["kind"] == "shuffled":
        yes = int(hash_of([text, image])[:13], 16) / 16**13 < plan["yes"]
    else:
        yes = answer(text, plan["scenes"][image]) is True
    tokens = {"yes": 0.99, "no": 0.01} if yes else {"yes": 0.01, "no": 0.99}
    return {"text": "yes" if yes else "no", "tokens": tokens}


def whole(body: dict) -> dict:
    text = seen(body)[0]
    if "Sentences:" in text:
        said = text.split("Sentences:")[-1].strip().removeprefix("- ")
        return scripted_server.listed("questions", [f"Is there {said[:1].lower()}{said[1:].rstrip('.')}?"], body)
    return scripted_server.listed("facts", [" ".join(text.split("Answer:")[-1].split())], body)


class TruthServer(ServerProcess):
    """The server in a process of its own, from `with` to its end."""

    def __init__(self, scenes: Path, kind: str, yes: float = 0.5):
        self.command = [__file__, json.dumps({"scenes": str(scenes), "kind": kind, "yes": yes})]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


if __name__ == "__main__":
    plan = json.loads(sys.argv[1])
    plan["scenes"] = json.loads(Path(plan["scenes"]).read_text())
    scripted_server.say = (lambda body: whole(body)) if plan["kind"] == "whole" else (lambda body: truth(body, plan))
    asyncio.run(scripted_server.serve({}, 0))

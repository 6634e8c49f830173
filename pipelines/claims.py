"""Divides each response into claims, and makes a yes/no question of each: `python -m pipelines.claims my.toml`.

A model lists the facts of a response, and then turns them into questions (RLAIF-V, section 3.2): as JSON where its
server takes a schema, as bullets where not. Nothing is cut; unequal counts are a reason. Without a model, rules divide
plain sentences.
"""

import json
import re
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from pipelines.commit import digest
from pipelines.language.divider import VERSION, divide
from pipelines.models.asking import AskingStage, Images, measured
from pipelines.models.chat import Client
from pipelines.models.endpoints import Answer, Failed, message
from pipelines.models.prompts import filled
from pipelines.partition import Rejected, Unit
from schemas.arrow import Row
from schemas.claims import CLAIMS, REASONS, RETRYABLE, Claim
from schemas.config import ClaimsConfig

BULLET = re.compile(r"\s*(?:[-*•–]|\(?\d{1,3}[.)])\s+(.+)")
FENCE = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.S)


def schema_of(name: str, count: int | None = None) -> dict[str, Any]:
    """What makes a server answer with {name: [texts]}, so many of them if a count is given."""
    many = {"type": "array", "items": {"type": "string"}} | ({"minItems": count, "maxItems": count} if count else {})
    shape = {"type": "object", "properties": {name: many}, "required": [name], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": shape}}


def read_list(text: str, name: str) -> list[str] | None:
    """The lines of an answer: of JSON, or bullets; None if it is neither."""
    fenced = FENCE.fullmatch(text)
    try:
        said = json.loads(fenced[1] if fenced else text)
        said = said[name] if isinstance(said, dict) else said
        if isinstance(said, list) and all(isinstance(one, str) for one in said):
            return [" ".join(one.split()) for one in said if one.strip()]
    except (ValueError, KeyError):
        pass
    lines = [found[1].strip() for line in text.splitlines() if (found := BULLET.fullmatch(line))]
    return lines or None


@dataclass(frozen=True)
class Divide(AskingStage):
    config: ClaimsConfig = field(kw_only=True)
    facts: str = field(kw_only=True)  # prompts
    questions: str = field(kw_only=True)

    name = "claims"
    schema = CLAIMS
    reasons = REASONS
    retryable = frozenset(RETRYABLE)
    reads = {"responses": ("text", "reason"), "instructions": ("question", "reason")}
    joins = {"instructions": ("responses", "instruction")}

    def settings(self) -> dict[str, Any]:
        if not self.endpoints:
            return {"divider": VERSION}
        (endpoint,) = self.endpoints
        said = self.config.model_dump(include={"temperature", "top_p", "max_tokens", "seed"})
        return said | {"model": endpoint.identity(), "facts": digest(self.facts), "questions": digest(self.questions)}

    def named(self, unit: Unit, row: Row) -> Row:
        return {**row, "key": unit.key, "instruction": unit.row["responses"]["instruction"]}

    async def answer(self, row: Row, images: Images, clients: dict[str, Client]) -> Row | Rejected:
        question, response = row["instructions"]["question"], row["responses"]["text"]
        if not clients:
            return divided(response)
        (client,), seen = clients.values(), []
        prompt = filled(self.facts, question=question, response=response, form="{form}")
        facts, answer = await self._list(client, "facts", prompt, seen)
        if facts is None or answer.cut:
            return Rejected("bad_list", said(answer), seen)
        if not facts:
            return Rejected("no_claims", "", seen)
        prompt = filled(self.questions, facts="\n".join(f"- {fact}" for fact in facts), form="{form}")
        questions, answer = await self._list(client, "questions", prompt, seen, len(facts))
        if questions is None or answer.cut:
            return Rejected("bad_list", said(answer), seen)
        if len(questions) != len(facts):
            return Rejected("count_mismatch", f"{len(questions)} questions of {len(facts)} claims", seen)
        pairs = zip(facts, questions, strict=True)
        return {"claims": [Claim(claim=fact, question=question) for fact, question in pairs], "measured": seen}

    async def _list(
        self, client: Client, name: str, prompt: str, seen: list[Row], count: int | None = None
    ) -> tuple[list[str] | None, Answer]:
        """A list that a model gives; what it took is added to `seen`."""
        async with client.probing if client.takes_schemas is None else nullcontext():  # one finds out, the others wait
            schema = client.takes_schemas is not False
            try:
                answer = await self._ask(client, name, prompt, seen, count, schema)
            except Failed as failed:
                if not schema or failed.reason != "http_4xx":
                    raise
                answer, schema = await self._ask(client, name, prompt, seen, count, False), False
            if client.takes_schemas is None:
                client.takes_schemas = schema
        return read_list(answer.text, name), answer

    async def _ask(
        self, client: Client, name: str, prompt: str, seen: list[Row], count: int | None, schema: bool
    ) -> Answer:
        form = f'JSON, {{"{name}": ["…", "…"]}}' if schema else 'a line for each, which begins with "- "'
        options = self.config.model_dump(include={"temperature", "top_p", "max_tokens", "seed"})
        if schema:
            options["response_format"] = schema_of(name, count)
        try:
            answer = await client.ask(message(filled(prompt, form=form)), **options)
        except Failed as failed:
            failed.before = [*seen]
            seen.append(measured(failed))
            raise
        seen.append(measured(answer))
        return answer


def divided(response: str) -> Row | Rejected:
    """What rules make of a response."""
    found = divide(response)
    if found.undivided:
        return Rejected("not_divided", found.undivided[0])
    return {"claims": found.claims} if found.claims else Rejected("no_claims")


def said(answer: Answer) -> str:
    return f"cut at max_tokens: {answer.text[-100:]}" if answer.cut else answer.text[:200]


if __name__ == "__main__":
    from pipelines.run import main

    main("claims")

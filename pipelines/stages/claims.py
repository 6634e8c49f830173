"""Divides each response into claims, and makes a yes/no question of each.

A model lists the facts of a response, and then turns them into questions (RLAIF-V, section 3.2): as JSON where its
server takes a schema, as bullets where not. Nothing is cut; unequal counts are a reason. Without a model, rules divide
plain sentences.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from pipelines.engine.commit import digest
from pipelines.engine.partition_stage import Rejected, Unit
from pipelines.models.answers import read_list, schema_of
from pipelines.models.chat import ChatClient
from pipelines.models.endpoints import Answer, CallFailed, message
from pipelines.models.model_stage import MessageImages, ModelStage, measured
from pipelines.models.prompts import filled
from pipelines.text_rules.divider import VERSION, divide
from schemas.arrow import Row
from schemas.claims import CLAIMS, REASONS, RETRYABLE, Claim
from schemas.config.model import ClaimsConfig


@dataclass(frozen=True)
class Divide(ModelStage):
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

    async def answer(self, row: Row, images: MessageImages, clients: dict[str, ChatClient]) -> Row | Rejected:
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
        self, client: ChatClient, name: str, prompt: str, seen: list[Row], count: int | None = None
    ) -> tuple[list[str] | None, Answer]:
        """A list that a model gives; what it took is added to `seen`."""
        async with client.probing if client.takes_schemas is None else nullcontext():  # one finds out, the others wait
            schema = client.takes_schemas is not False
            try:
                answer = await self._ask(client, name, prompt, seen, count, schema)
            except CallFailed as failed:
                if not schema or failed.reason != "http_4xx":
                    raise
                answer, schema = await self._ask(client, name, prompt, seen, count, False), False
            if client.takes_schemas is None:
                client.takes_schemas = schema
        return read_list(answer.text, name), answer

    async def _ask(
        self, client: ChatClient, name: str, prompt: str, seen: list[Row], count: int | None, schema: bool
    ) -> Answer:
        form = f'JSON, {{"{name}": ["…", "…"]}}' if schema else 'a line for each, which begins with "- "'
        options = self.config.model_dump(include={"temperature", "top_p", "max_tokens", "seed"})
        if schema:
            options["response_format"] = schema_of(name, count)
        try:
            answer = await client.ask(message(filled(prompt, form=form)), **options)
        except CallFailed as failed:
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

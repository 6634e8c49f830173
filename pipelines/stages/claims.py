"""Divides each response into claims, and makes a yes/no question of each.

A model lists the facts of a response, and then turns them into questions (RLAIF-V, section 3.2): as JSON if its server
accepts a schema, otherwise as bullets. No list is shortened: a different number of questions than of facts is a reason.
Without a model, rules divide plain sentences.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from pipelines.engine.commit import digest
from pipelines.engine.partition_stage import Before, Rejected, Unit
from pipelines.models.answers import read_list, schema_of
from pipelines.models.chat import ChatClient
from pipelines.models.endpoints import Answer, CallFailed, endpoint_of, message
from pipelines.models.model_stage import MessageImages, ModelStage, measured
from pipelines.models.prompts import filled, read_prompt
from pipelines.text_rules.answer_text import without_marks
from pipelines.text_rules.divider import VERSION, divide
from schemas.arrow import Row
from schemas.claims import RETRYABLE, STAGE, Claim, ClaimsConfig
from schemas.config.model import Config


@dataclass(frozen=True)
class Divide(ModelStage):
    config: ClaimsConfig = field(kw_only=True)
    facts: str = field(kw_only=True)  # prompts
    questions: str = field(kw_only=True)

    info = STAGE
    version = 2
    retryable = frozenset(RETRYABLE)
    joins = {"instructions": ("responses", "instruction")}

    def settings(self) -> dict[str, Any]:
        if not self.endpoints:
            return {"divider": VERSION}
        (endpoint,) = self.endpoints
        asked = self.config.recorded(exclude={"endpoint", "facts_prompt", "questions_prompt"})
        return asked | {"model": endpoint.identity(), "facts": digest(self.facts), "questions": digest(self.questions)}

    def named(self, unit: Unit, row: Row) -> Row:
        return {**row, "key": unit.key, "instruction": unit.row["responses"]["instruction"]}

    def reread(self, row: Row, before: Before) -> Row | Rejected | None:
        if not self.endpoints or before.row["raw"] is None or not before.differs_only_in(self):
            return None
        made = read_claims(before.row["raw"], before.row["cut"])
        asked = {claim["claim"]: claim for claim in before.row["claims"]}
        facts = read_list(without_marks(before.row["raw"][0]).text, "facts") or []
        if asked and facts != [*asked] and asked.keys() >= {*facts}:  # less is a fact today; the questions are at hand
            if not facts:
                return made
            return {"raw": before.row["raw"], "cut": before.row["cut"], "claims": [asked[fact] for fact in facts]}
        if isinstance(made, dict) and asked and [claim["claim"] for claim in made["claims"]] != [*asked]:
            return before.fields(self)  # its questions are about the facts as they were read then
        return made

    async def answer(self, row: Row, images: MessageImages, clients: dict[str, ChatClient]) -> Row | Rejected:
        question, response = row["instructions"]["question"], row["responses"]["text"]
        if not clients:
            return divided(response)
        (client,), seen, raw = clients.values(), [], []
        prompt = filled(self.facts, question=question, response=response, form="{form}")
        answer = await self._list(client, "facts", prompt, seen)
        raw.append(answer.text)
        made = read_claims(raw, answer.cut)
        while made is None:  # at most once
            facts = read_list(without_marks(answer.text).text, "facts") or []
            prompt = filled(self.questions, facts="\n".join(f"- {fact}" for fact in facts), form="{form}")
            answer = await self._list(client, "questions", prompt, seen, len(facts))
            raw.append(answer.text)
            made = read_claims(raw, answer.cut)
        if isinstance(made, Rejected):
            made.measured = seen
            return made
        return made | {"measured": seen}

    async def _list(
        self, client: ChatClient, name: str, prompt: str, seen: list[Row], count: int | None = None
    ) -> Answer:
        """A model's answer to a prompt for a list; what the request used is added to `seen`."""
        async with (
            client.probing if client.takes_schemas is None else nullcontext()
        ):  # the first one finds out, the others wait
            schema = client.takes_schemas is not False
            try:
                answer = await self._ask(client, name, prompt, seen, count, schema)
            except CallFailed as failed:
                if not schema or failed.reason != "http_4xx":
                    raise
                answer, schema = await self._ask(client, name, prompt, seen, count, False), False
            if client.takes_schemas is None:
                client.takes_schemas = schema
        return answer

    async def _ask(
        self, client: ChatClient, name: str, prompt: str, seen: list[Row], count: int | None, schema: bool
    ) -> Answer:
        form = f'JSON, {{"{name}": ["…", "…"]}}' if schema else 'a line for each, which begins with "- "'
        options = self.config.parameters()
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


def read_claims(raw: Sequence[str], cut: bool) -> Row | Rejected | None:
    """The claims in a model's answers: facts, then a question for each. None: the facts are valid, but the questions
    were not asked for yet. `cut`: whether the last answer was cut off at max_tokens."""
    kept: Row = {"raw": [*raw], "cut": cut}
    said = [without_marks(text) for text in raw]
    if said[-1].fault:
        return Rejected(said[-1].fault, raw[-1][-200:], kept=kept)
    facts = read_list(said[0].text, "facts")
    questions = read_list(said[1].text, "questions") if len(said) > 1 else None
    if (facts if len(said) == 1 else questions) is None or cut:
        return Rejected("bad_list", f"cut at max_tokens: {raw[-1][-100:]}" if cut else raw[-1][:200], kept=kept)
    if not facts:
        return Rejected("no_claims", kept=kept)
    if questions is None:
        return None
    if len(questions) != len(facts):
        return Rejected("count_mismatch", f"{len(questions)} questions of {len(facts)} claims", kept=kept)
    pairs = zip(facts, questions, strict=True)
    return kept | {"claims": [Claim(claim=fact, question=question) for fact, question in pairs]}


def divided(response: str) -> Row | Rejected:
    """What rules make of a response."""
    division = divide(response)
    if division.undivided:
        return Rejected("not_divided", division.undivided[0])
    return {"claims": division.claims} if division.claims else Rejected("no_claims")


def open_stage(config: Config) -> Divide | None:
    """Raises `UserError` for a model or a prompt that does not exist."""
    if config.responses is None or config.are_pairs_brought:
        return None
    claims = config.claims
    endpoints = (endpoint_of(config, "claims.endpoint", claims.endpoint),) if claims.endpoint else ()
    facts = read_prompt("claims.facts_prompt", claims.facts_prompt, "facts", ["response"])
    questions = read_prompt("claims.questions_prompt", claims.questions_prompt, "questions", ["facts"])
    return Divide(endpoints, 100 if endpoints else None, config=claims, facts=facts, questions=questions)

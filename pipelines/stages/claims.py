"""Divides each response into claims, and makes a yes/no question of each.

A model lists the facts of a response, and the same or another one turns them into questions (RLAIF-V, section 3.2): as
JSON if the prompt has {form} and the server accepts a schema, otherwise as bullets. No list is shortened: a different
number of questions than of facts is a reason. Without a model, rules divide plain sentences;
with one, they may divide the English ones: `by_rules`.
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
from pipelines.models.prompts import filled, packaged, read_prompt
from pipelines.text_rules.answer_text import without_marks
from pipelines.text_rules.divider import VERSION, divide
from pipelines.text_rules.languages import identity, language_of
from schemas.arrow import Row
from schemas.claims import RETRYABLE, STAGE, Claim, ClaimsConfig
from schemas.config.model import Config
from schemas.errors import UserError
from schemas.measures import UNKNOWN, MeasuresConfig

SURE = MeasuresConfig().min_confidence
EARLIER = {  # digests of the prompts that version 0.1 came with
    "facts": {"821a4267a368efb404061b97e8b4e0cc"},
    "questions": {"0eba4a19a44a0b21f8d454efc244e6c7"},
}


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
        told = {"by_rules": list(self.config.by_rules), "identified": identity()} if self.config.by_rules else {}
        if not self.endpoints:
            return {"divider": VERSION} | told
        if told:
            told["divider"] = VERSION
        first, *second = self.endpoints
        asked = self.config.recorded(exclude={"endpoint", "questions_endpoint", "facts_prompt", "questions_prompt"})
        asked |= told | {"model": first.identity(), "facts": digest(self.facts), "questions": digest(self.questions)}
        return asked | ({"questions_model": second[0].identity()} if second else {})

    def named(self, unit: Unit, row: Row) -> Row:
        return {**row, "key": unit.key, "instruction": unit.row["responses"]["instruction"]}

    def reread(self, row: Row, before: Before) -> Row | Rejected | None:
        if not self.endpoints or not before.differs_only_in(self, self._earlier_prompts(before)):
            return None
        if before.row["raw"] is None:
            return before.fields(self)
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

    def _earlier_prompts(self, before: Before) -> set[str]:
        """The prompts that were packaged ones then and are today: what was answered to them is not asked for again."""
        packaged_now = {"facts": packaged("facts"), "questions": packaged("questions")}
        return {
            name
            for name, prompt in packaged_now.items()
            if getattr(self, name) == prompt and before.settings.get(name) in EARLIER[name]
        }

    async def answer(self, row: Row, images: MessageImages, clients: dict[str, ChatClient]) -> Row | Rejected:
        question, response = row["instructions"]["question"], row["responses"]["text"]
        code = language_of(response, SURE).code if self.config.by_rules else None
        if code in self.config.by_rules or (not clients and code in (None, UNKNOWN)):
            return divided(response)
        if not clients:
            return Rejected("other_language", code)
        client, *second = (clients[endpoint.name] for endpoint in self.endpoints)
        seen, raw = [], []
        prompt = filled(self.facts, question=question, response=response, form="{form}")
        answer = await self._list(client, "facts", prompt, seen)
        raw.append(answer.text)
        made = read_claims(raw, answer.cut)
        while made is None:  # at most once
            facts = read_list(without_marks(answer.text).text, "facts") or []
            prompt = filled(self.questions, facts="\n".join(f"- {fact}" for fact in facts), form="{form}")
            answer = await self._list(second[0] if second else client, "questions", prompt, seen, len(facts))
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
        if "{form}" not in prompt:  # it says itself what form the list has
            return await self._ask(client, name, prompt, seen, count, False)
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
    if claims.questions_endpoint and not claims.endpoint:
        raise UserError("claims.questions_endpoint: needs claims.endpoint, a model that divides; add it")
    names = {"claims.endpoint": claims.endpoint, "claims.questions_endpoint": claims.questions_endpoint}
    if claims.questions_endpoint == claims.endpoint:
        names.pop("claims.questions_endpoint")
    endpoints = tuple(endpoint_of(config, place, name) for place, name in names.items() if name)
    facts = read_prompt("claims.facts_prompt", claims.facts_prompt, "facts", ["response"])
    questions = read_prompt("claims.questions_prompt", claims.questions_prompt, "questions", ["facts"])
    return Divide(endpoints, 100 if endpoints else None, config=claims, facts=facts, questions=questions)

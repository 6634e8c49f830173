"""Has the policy answer each instruction in several draws.

All draws use the same prompt and parameters, one request each, so that chosen and rejected come from one
distribution. (RLAIF-V, section 3.1) With [align] each round has a policy of its own, see `pipelines.stages.rounds`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.engine.commit import MadeWith, digest
from pipelines.engine.partition_stage import Before, Rejected, Unit, read_of
from pipelines.models.chat import ChatClient
from pipelines.models.endpoints import endpoint_of, message
from pipelines.models.model_stage import IMAGE, MessageImages, ModelStage, measured
from pipelines.stages.brought import BringResponses
from pipelines.stages.rounds import identities, policies, serving
from pipelines.text_rules.answer_text import cleaned
from schemas.arrow import Row
from schemas.config.model import Config
from schemas.responses import RETRYABLE, STAGE, ResponsesConfig, response_key
from schemas.stage import Columns


def seed_of(seed: int, instruction: str, draw: int) -> int:
    """The seed of one request: any number of 31 bits, as servers take them."""
    return int(digest([seed, instruction, draw])[:8], 16) >> 1


@dataclass(frozen=True)
class Respond(ModelStage):
    config: ResponsesConfig = field(kw_only=True)
    rounds: Mapping[str, Any] = field(
        default_factory=dict, kw_only=True
    )  # of [align]: number -> identity of its policy

    info = STAGE
    version = 2
    retryable = frozenset(RETRYABLE)
    joins = {"images": ("instructions", "image")}
    finds = {"images": IMAGE}

    @property
    def reads(self) -> Mapping[str, Columns]:
        if not self.rounds:
            return STAGE.reads
        return {**STAGE.reads, "instructions": (*STAGE.reads["instructions"], "round")}

    def settings(self) -> dict[str, Any]:
        (endpoint,) = self.endpoints
        policy = {"rounds": {**self.rounds}} if self.rounds else {"model": endpoint.identity()}
        return self.config.recorded(exclude={"endpoint"}) | policy

    def units(self, key: str, row: dict[str, Row], made_with: MadeWith) -> list[Unit]:
        """The number of draws does not change any single draw, nor does another round."""
        settings = {name: value for name, value in made_with.settings.items() if name != "draws"}
        read = read_of(self, row)
        number = read.pop("instructions.round", None)
        if "rounds" in settings:
            settings["model"] = settings.pop("rounds")[str(number)]
        asked = digest([made_with.stage, made_with.version, settings])
        return [
            Unit(name, {**row, "unit": name, "draw": draw}, digest([asked, read, draw]))
            for draw in range(self.config.draws)
            for name in [response_key(key, draw)]
        ]

    def stored(self, row: Row) -> Row | Rejected | None:
        if not self.rounds or row["instructions"]["round"] == len(self.rounds):
            return super().stored(row)
        before = row["before"]  # of a round that is over
        kept = before.fields(self) if before and before.same_input else None
        return kept or Rejected("closed_round", f"round {row['instructions']['round']}")

    def reread(self, row: Row, before: Before) -> Row | Rejected | None:
        raw = before.row["raw"] or before.row["text"]
        if raw is None or not before.differs_only_in(self, {"draws"}):
            return None
        return read_response(raw, before.row["cut"])

    def named(self, unit: Unit, row: Row) -> Row:
        return {**row, "key": unit.key, "instruction": unit.row["instructions"]["key"], "draw": unit.row.get("draw")}

    async def answer(self, row: Row, images: MessageImages, clients: dict[str, ChatClient]) -> Row | Rejected:
        (client,), instruction, config = clients.values(), row["instructions"], self.config
        asked = message(instruction["question"], await images.part(row["images"]))
        options = config.parameters() | {"seed": seed_of(config.seed, instruction["key"], row["draw"])}
        answer = await client.ask(asked, row["images"]["sha256"], **options)
        made = read_response(answer.text, answer.cut)
        if isinstance(made, Rejected):
            made.measured = measured(answer)
            return made
        return made | {"measured": measured(answer)}


def read_response(raw: str, cut: bool | None) -> Row | Rejected:
    """The row of an answer. One that was cut off is kept, but not judged."""
    said = cleaned(raw)
    if said.fault or not said.text:
        return Rejected(said.fault or "empty_answer", raw[-200:], kept={"raw": raw, "cut": cut})
    row = {"text": said.text, "raw": None if raw.strip() == said.text else raw, "cut": cut}
    return Rejected("cut", f"… {said.text[-100:]}", kept=row) if cut else row


def open_stage(config: Config) -> Respond | BringResponses | None:
    """Raises `UserError` for a model that does not exist."""
    if config.responses is None:
        return None
    if config.responses.endpoint is None:  # then the source brings them
        return BringResponses()
    endpoint, begun = endpoint_of(config, "responses.endpoint", config.responses.endpoint), policies(config)
    if begun is None or config.align is None:
        return Respond((endpoint,), config=config.responses)
    rounds = identities(endpoint, config.align, begun)
    return Respond((serving(endpoint, config.align, begun[-1]),), config=config.responses, rounds=rounds)

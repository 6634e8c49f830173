"""Has the policy answer each instruction in several draws.

All draws use the same prompt and parameters, one request each, so that chosen and rejected come from one
distribution. (RLAIF-V, section 3.1)
"""

from dataclasses import dataclass, field
from typing import Any

from pipelines.engine.commit import MadeWith, digest
from pipelines.engine.partition_stage import Before, Rejected, Unit, read_of
from pipelines.models.chat import ChatClient
from pipelines.models.endpoints import endpoint_of, message
from pipelines.models.model_stage import IMAGE, MessageImages, ModelStage, measured
from pipelines.stages.brought import BringResponses
from pipelines.text_rules.answer_text import cleaned
from schemas.arrow import Row
from schemas.config.model import Config
from schemas.responses import RETRYABLE, STAGE, ResponsesConfig, response_key


def seed_of(seed: int, instruction: str, draw: int) -> int:
    """The seed of one request: any number of 31 bits, as servers take them."""
    return int(digest([seed, instruction, draw])[:8], 16) >> 1


@dataclass(frozen=True)
class Respond(ModelStage):
    config: ResponsesConfig = field(kw_only=True)

    info = STAGE
    version = 2
    retryable = frozenset(RETRYABLE)
    joins = {"images": ("instructions", "image")}
    finds = {"images": IMAGE}

    def settings(self) -> dict[str, Any]:
        (endpoint,) = self.endpoints
        return self.config.recorded(exclude={"endpoint"}) | {"model": endpoint.identity()}

    def units(self, key: str, row: dict[str, Row], made_with: MadeWith) -> list[Unit]:
        """The number of draws does not change any single draw."""
        settings = {name: value for name, value in made_with.settings.items() if name != "draws"}
        asked, read = digest([made_with.stage, made_with.version, settings]), read_of(self, row)
        return [
            Unit(name, {**row, "unit": name, "draw": draw}, digest([asked, read, draw]))
            for draw in range(self.config.draws)
            for name in [response_key(key, draw)]
        ]

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
    """The row of an answer as it came. Nothing is asked about one that was cut off, but its text is kept."""
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
    return Respond((endpoint_of(config, "responses.endpoint", config.responses.endpoint),), config=config.responses)

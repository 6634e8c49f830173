"""Has the policy answer each instruction in several draws.

All draws are of one prompt and one set of parameters, a request each, so that chosen and rejected come from one
distribution. (RLAIF-V, section 3.1)
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipelines.engine.commit import digest
from pipelines.engine.partition_stage import Unit, read_of
from pipelines.models.chat import ChatClient
from pipelines.models.endpoints import message
from pipelines.models.model_stage import IMAGE, MessageImages, ModelStage, measured
from schemas.arrow import Row
from schemas.config.model import ResponsesConfig
from schemas.responses import REASONS, RESPONSES, RETRYABLE, response_key


def seed_of(seed: int, instruction: str, draw: int) -> int:
    """The seed of one request: any number of 31 bits, as servers take them."""
    return int(digest([seed, instruction, draw])[:8], 16) >> 1


@dataclass(frozen=True)
class Respond(ModelStage):
    config: ResponsesConfig = field(kw_only=True)

    name = "responses"
    schema = RESPONSES
    reasons = REASONS
    retryable = frozenset(RETRYABLE)
    reads = {"instructions": ("key", "question", "reason"), "images": ("sha256",)}
    joins = {"images": ("instructions", "image")}
    finds = {"images": IMAGE}

    def settings(self) -> dict[str, Any]:
        (endpoint,) = self.endpoints
        return self.config.model_dump(exclude={"endpoint"}) | {"model": endpoint.identity()}

    @cached_property
    def asked(self) -> str:
        """What decides of a single draw: how many there are does not."""
        settings = {name: value for name, value in self.settings().items() if name != "draws"}
        return digest([self.name, self.version, settings])

    def units(self, key: str, row: dict[str, Row], identity: str) -> list[Unit]:
        read = read_of(self, row)
        return [
            Unit(name, {**row, "unit": name, "draw": draw}, digest([self.asked, read, draw]))
            for draw in range(self.config.draws)
            for name in [response_key(key, draw)]
        ]

    def named(self, unit: Unit, row: Row) -> Row:
        return {**row, "key": unit.key, "instruction": unit.row["instructions"]["key"], "draw": unit.row.get("draw")}

    async def answer(self, row: Row, images: MessageImages, clients: dict[str, ChatClient]) -> Row:
        (client,), instruction, config = clients.values(), row["instructions"], self.config
        asked = message(instruction["question"], await images.part(row["images"]))
        answer = await client.ask(
            asked, row["images"]["sha256"], temperature=config.temperature, top_p=config.top_p,
            max_tokens=config.max_tokens, seed=seed_of(config.seed, instruction["key"], row["draw"]),
        )  # fmt: skip
        return {"text": answer.text.strip(), "cut": answer.cut, "measured": measured(answer)}

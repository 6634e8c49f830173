"""Asks labelers whether each claim is true of its image.

A labeler sees the image and one question, and says one token. P(yes) is p(yes) + p(Yes), P(no) likewise; both are kept
as they are. (RLAIF-V, section 3.2) Equal questions about one image are asked once, and count for each claim.
"""

from dataclasses import dataclass, field
from typing import Any

from pipelines.engine.commit import digest
from pipelines.engine.partition_stage import Rejected, Unit
from pipelines.models.answers import CANDIDATES, probability
from pipelines.models.chat import ChatClient
from pipelines.models.endpoints import message
from pipelines.models.model_stage import IMAGE, MessageImages, ModelStage, measured
from pipelines.models.prompts import filled
from schemas.arrow import Row
from schemas.verdicts import REASONS, RETRYABLE, VERDICTS, verdict_key


@dataclass(frozen=True)
class Judge(ModelStage):
    prompt: str = field(kw_only=True)

    name = "verdicts"
    schema = VERDICTS
    reasons = REASONS
    retryable = frozenset(RETRYABLE)
    reads = {"claims": ("claims", "reason"), "instructions": ("reason",), "images": ("sha256",)}
    joins = {"instructions": ("claims", "instruction"), "images": ("instructions", "image")}
    finds = {"images": IMAGE}

    def settings(self) -> dict[str, Any]:
        labelers = {endpoint.name: endpoint.identity() for endpoint in self.endpoints}
        return {"labelers": labelers, "prompt": digest(self.prompt)}

    def units(self, key: str, row: dict[str, Row], identity: str) -> list[Unit]:
        found, asked = [], [self.name, self.version, digest(self.prompt), row["images"]["sha256"]]
        for number, claim in enumerate(row["claims"]["claims"]):
            for endpoint in self.endpoints:
                name, question = verdict_key(key, number, endpoint.name), claim["question"]
                of = {**row, "unit": name, "number": number, "labeler": endpoint.name, "question": question}
                found.append(Unit(name, of, digest([*asked, question, endpoint.identity()])))
        return found

    def named(self, unit: Unit, row: Row) -> Row:
        response = unit.row["claims"]
        names = {"instruction": response["instruction"], "response": response["key"]}
        of = {name: unit.row.get(name) for name in ("number", "labeler")}
        return {**row, **names, **of, "key": unit.key}

    async def answer(self, row: Row, images: MessageImages, clients: dict[str, ChatClient]) -> Row | Rejected:
        asked = message(filled(self.prompt, question=row["question"]), await images.part(row["images"]))
        options = {"max_tokens": 1, "temperature": 0, "seed": 0, "logprobs": True, "top_logprobs": CANDIDATES}
        answer = await clients[row["labeler"]].ask(asked, row["images"]["sha256"], **options)
        p_yes, p_no = (probability(answer.top, word) for word in ("yes", "no"))
        if p_yes is None and p_no is None:
            likely = sorted(answer.top, key=lambda one: -one[1])[:5]
            return Rejected("no_yes_no", ", ".join(repr(token) for token, _ in likely), measured(answer))
        return {"p_yes": p_yes or 0.0, "p_no": p_no or 0.0, "measured": measured(answer)}

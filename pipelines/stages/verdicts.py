"""Asks labelers whether each claim is true of its image.

A labeler sees the image and one question, and answers with one token. P(yes) is the sum over all spellings of yes, and
P(no) likewise; both are kept as they are. (RLAIF-V, section 3.2) Where they are improbable together, there is no
verdict: the view `scores` decides it. Equal questions about one image are asked once, and count for each claim. The
question of a claim that denies something asks for what it denies.
"""

from dataclasses import dataclass, field
from typing import Any

from pipelines.engine.commit import MadeWith, digest
from pipelines.engine.partition_stage import Rejected, Unit
from pipelines.models.answers import likeliest, probability
from pipelines.models.chat import ChatClient
from pipelines.models.endpoints import endpoint_of, message
from pipelines.models.model_stage import IMAGE, MessageImages, ModelStage, measured
from pipelines.models.prompts import filled, read_prompt
from pipelines.text_rules.denial import denies
from schemas.arrow import Row
from schemas.config.model import Config
from schemas.errors import UserError
from schemas.verdicts import MIN_MASS, PARAMETERS, RETRYABLE, STAGE, verdict_key


@dataclass(frozen=True)
class Judge(ModelStage):
    prompt: str = field(kw_only=True)

    info = STAGE
    retryable = frozenset(RETRYABLE)
    joins = {"instructions": ("claims", "instruction"), "images": ("instructions", "image")}
    finds = {"images": IMAGE}

    def settings(self) -> dict[str, Any]:
        labelers = {endpoint.name: endpoint.identity() for endpoint in self.endpoints}
        return {"labelers": labelers, "prompt": digest(self.prompt)}

    def units(self, key: str, row: dict[str, Row], made_with: MadeWith) -> list[Unit]:
        units, labelers = [], made_with.settings["labelers"]
        asked = [made_with.stage, made_with.version, made_with.settings["prompt"], row["images"]["sha256"]]
        for number, claim in enumerate(row["claims"]["claims"]):
            for endpoint in self.endpoints:
                name, question = verdict_key(key, number, endpoint.name), claim["question"]
                asked_row = {**row, "unit": name, "number": number, "labeler": endpoint.name, "question": question}
                asked_row["denied"] = denies(claim) or None
                units.append(Unit(name, asked_row, digest([*asked, question, labelers[endpoint.name]])))
        return units

    def named(self, unit: Unit, row: Row) -> Row:
        response = unit.row["claims"]
        names = {"instruction": response["instruction"], "response": response["key"]}
        of = {name: unit.row.get(name) for name in ("number", "labeler", "denied")}
        return {**row, **names, **of, "key": unit.key}

    async def answer(self, row: Row, images: MessageImages, clients: dict[str, ChatClient]) -> Row | Rejected:
        asked = message(filled(self.prompt, question=row["question"]), await images.part(row["images"]))
        answer = await clients[row["labeler"]].ask(asked, row["images"]["sha256"], **PARAMETERS)
        p_yes, p_no = (probability(answer.top, word) or 0.0 for word in ("yes", "no"))
        if p_yes + p_no < MIN_MASS:
            kept = {"p_yes": p_yes, "p_no": p_no} if p_yes + p_no else None
            return Rejected("no_yes_no", likeliest(answer.top), measured(answer), kept)
        return {"p_yes": p_yes, "p_no": p_no, "measured": measured(answer)}


def open_stage(config: Config) -> Judge | None:
    """Raises `UserError` for a model or a prompt that does not exist."""
    if config.responses is None or config.are_pairs_brought:
        return None
    if config.verdicts is None:
        raise UserError('verdicts: missing; add the table [verdicts] with labelers = ["…"]')
    names = sorted({*config.verdicts.labelers})
    labelers = tuple(endpoint_of(config, "verdicts.labelers", name) for name in names)
    for labeler in labelers:
        if {"logprobs", "top_logprobs"} <= {*labeler.config.omit} and not labeler.config.extra:
            fix = "send logprobs or top_logprobs, or write in `extra` what this server has instead"
            raise UserError(f"{labeler.asked_as}.omit: verdicts need log-probabilities; {fix}")
    return Judge(labelers, prompt=read_prompt("verdicts.prompt", config.verdicts.prompt, "verdict", ["question"]))

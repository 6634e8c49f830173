"""Has a model rewrite weak captions.

The alt text becomes a question and its answer, and the answer becomes the caption (MiniCPM-V, section 4.1). The model's
text is checked; if it does not pass, the caption stays as it was. The original caption is kept in any case.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.engine.commit import digest
from pipelines.engine.partition_stage import Before, Rejected
from pipelines.models.chat import ChatClient
from pipelines.models.endpoints import CallFailed, endpoint_of, message
from pipelines.models.model_stage import IMAGE, MessageImages, ModelStage, measured
from pipelines.models.prompts import filled, read_prompt
from pipelines.text_rules.caption_rules import read_answer, weakness
from schemas.arrow import Row
from schemas.captions import ACCEPTED, GOOD, REASONS, STAGE, CaptionsConfig
from schemas.config.model import Config
from schemas.stage import Columns
from schemas.texts import is_empty

JUDGING = {"rewrite", "min_words", "max_words"}  # settings that no request depends on
OF_SERVERS = {"filtered", "http_4xx"}  # answers that come from the server, not from the model


@dataclass(frozen=True)
class Rewrite(ModelStage):
    config: CaptionsConfig = field(kw_only=True)
    prompt: str = field(kw_only=True)

    info = STAGE
    version = 3
    retryable = frozenset(REASONS)

    @property
    def reads(self) -> Mapping[str, Columns]:
        return {**self.info.reads, "images": ("sha256",)} if self.config.image else self.info.reads

    @property
    def finds(self) -> Mapping[str, tuple[str, ...]]:
        return {"images": IMAGE} if self.config.image else {}

    def settings(self) -> dict[str, Any]:
        (endpoint,) = self.endpoints
        settings = self.config.recorded(exclude={"endpoint", "prompt"})
        return settings | {"model": endpoint.identity(), "prompt": digest(self.prompt)}

    def is_asked(self, row: Row) -> bool:
        """Whether there is anything to rewrite, and a reason to."""
        text = row["rows"]["text"]
        usable = (self.config.image and row["images"]["size"]) or not is_empty(text)
        return bool(usable) and (self.config.rewrite == "all" or weakness(text, self.config) != GOOD)

    def reread(self, row: Row, before: Before) -> Row | None:
        if not self.is_asked(row):
            return self._judged(row)
        if not before.differs_only_in(self, JUDGING):
            return None
        if before.row["raw"] is not None:
            return self._read(row, before.row["raw"], before.row["cut"])
        if before.row["answer"] in OF_SERVERS:
            return self._judged(row) | {"answer": before.row["answer"], "detail": before.row["detail"]}
        return None

    async def answer(self, row: Row, images: MessageImages, clients: dict[str, ChatClient]) -> Row | Rejected:
        if not self.is_asked(row):
            return self._judged(row)
        text, image = row["rows"]["text"], row["images"]
        shown = self.config.image and image["size"]
        (client,) = clients.values()
        asked = message(filled(self.prompt, text=text or ""), await images.part(image) if shown else None)
        try:
            answer = await client.ask(asked, image["sha256"] if shown else "", **self.config.parameters())
        except CallFailed as failed:
            if failed.can_pass:
                raise
            return self._judged(row) | {"answer": failed.reason, "detail": failed.detail, "measured": measured(failed)}
        return self._read(row, answer.text, answer.cut) | {"measured": measured(answer)}

    def _judged(self, row: Row) -> Row:
        """The columns of a row without a model's answer: the original caption."""
        text = row["rows"]["text"]
        return {"text": text, "original": text, "verdict": weakness(text, self.config)}

    def _read(self, row: Row, raw: str, cut: bool) -> Row:
        """The columns that a model's answer gives."""
        text = row["rows"]["text"]
        made = self._judged(row) | {"raw": raw, "cut": cut} | read_answer(raw, self.prompt, text, cut, self.config)
        return made | ({"text": made["rewritten"]} if made["answer"] == ACCEPTED else {})


def open_stage(config: Config) -> Rewrite | None:
    """Raises `UserError` for a model or a prompt that does not exist."""
    if config.captions is None:
        return None
    captions = config.captions
    endpoint = endpoint_of(config, "captions.endpoint", captions.endpoint)
    name = "caption_image" if captions.image else "caption"
    return Rewrite((endpoint,), config=captions, prompt=read_prompt("captions.prompt", captions.prompt, name, ["text"]))

"""Has a model rewrite weak captions.

The alt text becomes a question and its answer, and the answer the caption (MiniCPM-V, section 4.1). What comes back is
checked; what does not pass leaves the caption as it came, which is kept beside it in any case.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.engine.commit import digest
from pipelines.engine.partition_stage import Rejected
from pipelines.models.chat import ChatClient
from pipelines.models.endpoints import CallFailed, endpoint_of, message
from pipelines.models.model_stage import IMAGE, MessageImages, ModelStage, measured
from pipelines.models.prompts import filled, read_prompt
from pipelines.text_rules.caption_rules import read_answer, weakness
from schemas.arrow import Row
from schemas.captions import ACCEPTED, CAPTIONS, GOOD, REASONS
from schemas.config.model import CaptionsConfig, Config


@dataclass(frozen=True)
class Rewrite(ModelStage):
    config: CaptionsConfig = field(kw_only=True)
    prompt: str = field(kw_only=True)
    after: tuple[str, ...] = field(kw_only=True, default=())  # stages whose losses are not looked at

    name = "captions"
    version = 2
    schema = CAPTIONS
    reasons = REASONS
    retryable = frozenset(REASONS)

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        shown = ("sha256", "reason") if self.config.image else ("reason",)
        return {"rows": ("text", "reason"), "images": shown} | {stage: ("reason",) for stage in self.after}

    @property
    def finds(self) -> Mapping[str, tuple[str, ...]]:
        return {"images": IMAGE} if self.config.image else {}

    def settings(self) -> dict[str, Any]:
        (endpoint,) = self.endpoints
        said = self.config.model_dump(exclude={"endpoint", "prompt"})
        return said | {"model": endpoint.identity(), "prompt": digest(self.prompt)}

    def is_asked(self, row: Row) -> bool:
        """Whether there is anything to rewrite, and a reason to."""
        text = row["rows"]["text"]
        there = (self.config.image and row["images"]["size"]) or (text or "").strip()
        return bool(there) and (self.config.rewrite == "all" or weakness(text, self.config) != GOOD)

    async def answer(self, row: Row, images: MessageImages, clients: dict[str, ChatClient]) -> Row | Rejected:
        text, image = row["rows"]["text"], row["images"]
        said = {"text": text, "original": text, "verdict": weakness(text, self.config)}
        if not self.is_asked(row):
            return said
        shown = self.config.image and image["size"]
        (client,) = clients.values()
        asked = message(filled(self.prompt, text=text or ""), await images.part(image) if shown else None)
        options = {"temperature": self.config.temperature, "max_tokens": self.config.max_tokens, "seed": 0}
        try:
            answer = await client.ask(asked, image["sha256"] if shown else "", **options)
        except CallFailed as failed:
            if failed.can_pass:
                raise
            return said | {"answer": failed.reason, "detail": failed.detail, "measured": measured(failed)}
        said |= read_answer(answer.text, self.prompt, text, answer.cut, self.config)
        if said["answer"] == ACCEPTED:
            said["text"] = said["rewritten"]
        return said | {"measured": measured(answer)}


def rewrite_of(config: Config, after: tuple[str, ...]) -> Rewrite:
    """The stage of a table `[captions]`. Raises `UserError` for a model or a prompt that is not there."""
    captions = config.captions
    endpoint = endpoint_of(config, "captions.endpoint", captions.endpoint)
    name = "caption_image" if captions.image else "caption"
    prompt = read_prompt("captions.prompt", captions.prompt, name, ["text"])
    return Rewrite((endpoint,), config=captions, prompt=prompt, after=after)

"""What the policy answers to an instruction. One row per draw."""

from typing import Any, NotRequired, TypedDict

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.answers import OF_ANSWERS, OF_ENDPOINTS
from schemas.answers import RETRYABLE as RETRYABLE
from schemas.config.table import Table
from schemas.stage import stage_info


class ResponseRow(TypedDict):
    key: str                # <instruction>_<draw>; the instruction's where that was left out
    instruction: str
    draw: int | None        # 0, 1, …
    text: str | None        # without thoughts, marks of a template and chatter
    raw: NotRequired[str | None]    # the answer as it came, if that is not `text`
    cut: bool | None        # it ends where the tokens ended, not by itself
    reason: str | None      # leaves it out of all pairs; `text` stays where there is one
    detail: str | None
    made_from: str


REASONS = OF_ENDPOINTS | OF_ANSWERS | {
    "cut": "it ends where the tokens ended: half an answer says less that could be false; raise responses.max_tokens",
    "closed_round": "its round of [align] is over: its policy is not asked again",
    "not_brought": "the source has no such answer to this instruction, or one without words",
}


def response_key(instruction: str, draw: int) -> str:
    return f"{instruction}_{draw:02d}"


class ResponsesConfig(Table):
    """Asks the policy. Without this table, no policy is asked."""

    endpoint: str | None = None                         # the policy
    from_source: bool = False                           # uses the source's pairs (chosen, rejected) instead of a policy
    draws: int = Field(default=10, ge=2, le=100)        # responses per instruction, one request each
    temperature: float = Field(default=0.7, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=512, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _one_of_both(self) -> "ResponsesConfig":
        if (self.endpoint is None) != self.from_source:
            fix = "remove one of the two" if self.endpoint else "name the policy, or write from_source = true"
            raise PydanticCustomError("responses", "endpoint and from_source: {fix}", {"fix": fix})
        return self

    def parameters(self) -> dict[str, Any]:
        """The parameters of a request to the endpoint."""
        return self.model_dump(include={"temperature", "top_p", "max_tokens", "seed"})


STAGE = stage_info(
    "responses", ResponseRow, REASONS, reads={"instructions": ("key", "question"), "images": ("sha256",)},
    per_image=False, named_by=("instruction",), names=frozenset({"instruction", "draw"}), paid=True,
)

"""What a response says of its image: claims, each with the yes/no question that asks for it. A row a response."""

from typing import Any, NotRequired, TypedDict

from pydantic import Field

from schemas.answers import OF_ENDPOINTS
from schemas.answers import RETRYABLE as RETRYABLE
from schemas.config.table import Location, Table
from schemas.stage import stage_info


class Claim(TypedDict):
    claim: str              # a sentence that needs no other
    question: str           # "Is …?", as the labeler is asked; equal ones about one image are asked once


class ClaimRow(TypedDict):
    key: str                # of the response
    instruction: str
    raw: NotRequired[list[str] | None]  # the model's answers, as they came: the facts, and the questions
    cut: NotRequired[bool | None]       # whether the last of these ends where the tokens ended
    claims: list[Claim]     # in the order of the text; empty where there is a reason
    reason: str | None      # leaves the response unscored
    detail: str | None
    made_from: str


REASONS = OF_ENDPOINTS | {
    "thinking": "the model's thoughts alone: its list did not come",
    "no_claims": "it says nothing that the image could show to be wrong",
    "not_divided": "of a sentence no claim can be made; the detail has it",
    "count_mismatch": "another number of questions than of claims",
    "bad_list": "neither the JSON nor the bullets that were asked for",
}


class ClaimsConfig(Table):
    """How responses are divided."""

    endpoint: str | None = None                         # divides responses; without it, rules for plain sentences do
    facts_prompt: Location | None = None                # files with {question}, {response} and {facts}; the packaged
    questions_prompt: Location | None = None            # ones if not given
    temperature: float = Field(default=0.2, ge=0, le=2)
    top_p: float = Field(default=0.9, gt=0, le=1)
    max_tokens: int = Field(default=1024, ge=1)         # of each of the two answers
    seed: int = 0

    def parameters(self) -> dict[str, Any]:
        """With which the endpoint is asked."""
        return self.model_dump(include={"temperature", "top_p", "max_tokens", "seed"})


STAGE = stage_info(
    "claims", ClaimRow, REASONS, reads={"responses": ("text",), "instructions": ("question", "reason")},
    per_image=False, names=frozenset({"instruction"}), paid=True,
)

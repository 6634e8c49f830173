"""What a response says about its image: claims, each with its yes/no question. One row per response."""

from typing import Any, Literal, NotRequired, TypedDict

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
    "thinking": "only thoughts of the model: its list is missing",
    "no_claims": "it says nothing that the image could contradict",
    "not_divided": "a sentence cannot be turned into claims; the detail has the sentence",
    "other_language": "the rules do not know its language, and no endpoint divides; the detail has the language",
    "count_mismatch": "the number of questions differs from the number of claims",
    "bad_list": "the answer is neither JSON nor bullets",
}


class ClaimsConfig(Table):
    """Divides responses into claims."""

    endpoint: str | None = None                         # the model that divides responses; default: plain rules
    questions_endpoint: str | None = None               # the model that makes the questions; default: the same
    by_rules: tuple[Literal["en"], ...] = ()            # languages of responses that rules divide; all others go to the
                                                        # endpoint, or are left out. Default: no language is told
    facts_prompt: Location | None = None                # files with {question}, {response} and {facts}; the packaged
    questions_prompt: Location | None = None            # ones by default
    temperature: float = Field(default=0.2, ge=0, le=2)
    top_p: float = Field(default=0.9, gt=0, le=1)
    max_tokens: int = Field(default=1024, ge=1)         # maximum length of each of the two answers
    seed: int = 0

    def parameters(self) -> dict[str, Any]:
        """The parameters of a request to the endpoint."""
        return self.model_dump(include={"temperature", "top_p", "max_tokens", "seed"})


STAGE = stage_info(
    "claims", ClaimRow, REASONS, reads={"responses": ("text",), "instructions": ("question", "reason")},
    per_image=False, names=frozenset({"instruction"}), paid=True,
)

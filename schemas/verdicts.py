"""What a labeler says about a claim, from the probabilities of one token. One row per claim and labeler."""

from typing import NotRequired, TypedDict

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from schemas.answers import OF_ENDPOINTS
from schemas.answers import RETRYABLE as RETRYABLE
from schemas.config.table import Location, Table
from schemas.stage import stage_info


class VerdictRow(TypedDict):
    key: str                # <response>_<number>_<labeler>; the response's where that has no claims
    instruction: str
    response: str           # its key
    number: int | None      # of the claim in the response, from 0
    labeler: str | None     # name of its endpoint
    denied: NotRequired[bool | None]    # whether the claim denies what the question asks for: "There is no cup."
    p_yes: float | None     # of all spellings: yes, Yes, YES
    p_no: float | None
    reason: str | None      # leaves the response unscored, but for `no_yes_no` where verdicts.min_mass is lower
    detail: str | None
    made_from: str          # of labeler, image and question: equal ones are asked once


REASONS = OF_ENDPOINTS | {
    "no_yes_no": "P(yes) + P(no) is too small: the answer is something else; the detail has the likeliest tokens",
}


def verdict_key(response: str, number: int, labeler: str) -> str:
    return f"{response}_{number:03d}_{labeler}"


CANDIDATES = 20  # first tokens whose probabilities are requested: the most that servers return
MIN_MASS = 0.5  # of yes and no together; with less, a labeler answers something else, and its verdict says nothing
ACCEPTED = "CASE WHEN denied THEN p_no > p_yes ELSE p_yes > p_no END"  # whether a labeler finds a claim true: no tie
PARAMETERS = {"max_tokens": 1, "temperature": 0, "seed": 0, "logprobs": True, "top_logprobs": CANDIDATES}


class VerdictsConfig(Table):
    """Judges the claims of responses."""

    labelers: tuple[str, ...] = Field(min_length=1)     # endpoints; each judges every claim
    prompt: Location | None = None                      # a file with {question}; the packaged one if not given
    min_mass: float = Field(default=MIN_MASS, ge=0, le=1)   # P(yes) + P(no) below which a verdict does not count

    @field_validator("labelers")
    @classmethod
    def _each_once(cls, labelers: tuple[str, ...]) -> tuple[str, ...]:
        if len({*labelers}) < len(labelers):
            raise PydanticCustomError("labelers", "name each labeler once; a second time gives the same answers")
        return labelers


STAGE = stage_info(
    "verdicts", VerdictRow, REASONS,
    reads={"claims": ("claims",), "instructions": ("reason",), "images": ("sha256",)},
    per_image=False, named_by=("response",),
    names=frozenset({"instruction", "response", "number", "labeler", "denied"}),
    computed={"accepted": (ACCEPTED, "BOOLEAN"), "mass": ("p_yes + p_no", "DOUBLE")}, paid=True,
)

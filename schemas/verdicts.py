"""What a labeler says of a claim, from the probabilities of one token. A row a claim and labeler."""

from typing import TypedDict

from schemas.answers import OF_ENDPOINTS
from schemas.answers import RETRYABLE as RETRYABLE
from schemas.arrow import arrow_schema


class VerdictRow(TypedDict):
    key: str                # <response>_<number>_<labeler>; the response's where that has no claims
    instruction: str
    response: str           # its key
    number: int | None      # of the claim in the response, from 0
    labeler: str | None     # name of its endpoint
    p_yes: float | None     # p("yes") + p("Yes")
    p_no: float | None      # p("no") + p("No")
    reason: str | None      # leaves the response unscored
    detail: str | None
    made_from: str          # of labeler, image and question: equal ones are asked once


VERDICTS = arrow_schema(VerdictRow)

REASONS = OF_ENDPOINTS | {
    "no_yes_no": "neither is among the tokens whose probabilities the server gives",
}


def verdict_key(response: str, number: int, labeler: str) -> str:
    return f"{response}_{number:03d}_{labeler}"

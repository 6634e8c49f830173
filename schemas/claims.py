"""What a response says of its image: claims, each with the yes/no question that asks for it. A row a response."""

from typing import TypedDict

from schemas.answers import OF_ENDPOINTS
from schemas.answers import RETRYABLE as RETRYABLE
from schemas.arrow import arrow_schema


class Claim(TypedDict):
    claim: str              # a sentence that needs no other
    question: str           # "Is …?", as the labeler is asked; equal ones about one image are asked once


class ClaimRow(TypedDict):
    key: str                # of the response
    instruction: str
    claims: list[Claim]     # in the order of the text; empty where there is a reason
    reason: str | None      # leaves the response unscored
    detail: str | None
    made_from: str


CLAIMS = arrow_schema(ClaimRow)

REASONS = OF_ENDPOINTS | {
    "no_claims": "it says nothing that the image could show to be wrong",
    "not_divided": "of a sentence no claim can be made; the detail has it",
    "count_mismatch": "another number of questions than of claims",
    "bad_list": "neither the JSON nor the bullets that were asked for",
}

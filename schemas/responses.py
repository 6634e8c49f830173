"""What the policy answers to an instruction. A row a draw."""

from typing import TypedDict

from schemas.answers import OF_ENDPOINTS
from schemas.answers import RETRYABLE as RETRYABLE
from schemas.arrow import arrow_schema


class ResponseRow(TypedDict):
    key: str                # <instruction>_<draw>; the instruction's where that was left out
    instruction: str
    draw: int | None        # 0, 1, …
    text: str | None
    cut: bool | None        # it ends where the tokens ended, not by itself
    reason: str | None
    detail: str | None
    made_from: str


RESPONSES = arrow_schema(ResponseRow)

REASONS = OF_ENDPOINTS


def response_key(instruction: str, draw: int) -> str:
    return f"{instruction}_{draw:02d}"

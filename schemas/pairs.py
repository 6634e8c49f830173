"""Which of two responses to one instruction is to be preferred, and what became of every response."""

from typing import TypedDict

from schemas.arrow import arrow_schema


class PairRow(TypedDict):
    key: str                # <instruction>_<draw of chosen>_<draw of rejected>; a lone response's own
    instruction: str
    chosen: str | None      # key of the response; null, and all to `agreement`, if the row is a response's in no pair
    rejected: str | None
    chosen_score: int | None    # minus its rejected claims
    rejected_score: int | None
    margin: int | None      # chosen_score - rejected_score
    agreement: float | None     # share of labelers that prefer the chosen one by their own verdicts alone
    reason: str | None
    detail: str | None
    made_from: str


PAIRS = arrow_schema(PairRow)

OF_PAIRS = {
    "unbalanced": "the rejected text is so much longer that length alone could tell; the detail has both",
}
OF_RESPONSES = {
    "unscored": "a claim or a verdict of it has a reason, which the detail names",
    "no_candidate": "no other response to the instruction has another score and another text",
    "not_drawn": "other pairs of its instruction were drawn",
}
REASONS = OF_PAIRS | OF_RESPONSES


def pair_key(chosen: str, rejected: str) -> str:
    """Of the keys of two responses to one instruction."""
    return f"{chosen}_{rejected.rpartition('_')[2]}"

"""Which of two responses to one instruction is better, and what became of every response."""

from typing import Literal, Self, TypedDict

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.config.table import Table
from schemas.stage import stage_info


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


OF_PAIRS = {
    "unbalanced": "one text is so much longer that length alone tells them apart; the detail has both lengths",
}
OF_RESPONSES = {
    "unscored": "one of its claims or verdicts has a reason, which the detail names",
    "no_candidate": "no other response to the instruction has a different score and a different text",
    "not_drawn": "other pairs of the instruction were drawn",
    "equal_pair": "each of its pairs has the same texts as a pair of other draws",
}
REASONS = OF_PAIRS | OF_RESPONSES


def pair_key(chosen: str, rejected: str) -> str:
    """The key of a pair, from the keys of two responses to one instruction."""
    return f"{chosen}_{rejected.rpartition('_')[2]}"


class PairsConfig(Table):
    """Draws pairs of responses."""

    per_instruction: int = Field(default=2, ge=0)       # maximum of drawn pairs, by hash(seed, pair); 0: all
    seed: int = 0
    min_margin: int = Field(default=1, ge=1)            # least difference in rejected claims
    length_balance: bool = True                         # drops pairs that length alone tells apart
    score: Literal["count", "share"] = "count"          # compares numbers of rejected claims, or their shares
    min_share: float = Field(default=0.1, gt=0, le=1)   # least difference in shares, with score = "share"

    @model_validator(mode="after")
    def _of_its_score(self) -> Self:
        unused = "min_share" if self.score == "count" else "min_margin"
        if getattr(self, unused) != type(self).model_fields[unused].default:
            raise PydanticCustomError(
                "unused", "{unused} is not used with score = \"{score}\"; remove it or change score",
                {"unused": unused, "score": self.score})
        return self


STAGE = stage_info(
    "pairs", PairRow, REASONS,
    reads={
        "responses": ("key", "instruction", "text", "cut"), "claims": ("key", "claims", "reason"),
        "verdicts": ("key", "response", "number", "labeler", "p_yes", "p_no", "reason"),
    },
    per_image=False, named_by=("chosen", "rejected"), names=frozenset({"instruction", "chosen", "rejected"}),
)

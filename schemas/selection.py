"""Which shard sets a sample goes to, and as which task."""

from typing import Literal, TypedDict

from pydantic import Field

from schemas.config.table import Table
from schemas.stage import stage_info


class Placement(TypedDict):
    set: str
    task: str


class SelectionRow(TypedDict):
    key: str
    samples: list[Placement]    # none where there is a reason, and where the row is part of another's conversation
    reason: str | None
    detail: str | None
    made_from: str


REASONS = {
    "equal_keys": "an earlier partition has a row of the same name",
    "not_selected": "no set's condition holds",
    "sampled_out": "a condition holds, but the draw by weight left it out",
    "no_caption": "a condition holds, but there is no caption to learn",
    "no_ocr": "a condition holds, but no text was read in the image",
    "no_conversation": "a condition holds, but there is no conversation",
    "incomplete": "another image of its conversation, or the conversation itself, was left out",
}


class SetConfig(Table):
    """Shard sets, by name."""

    where: str = "true"                                 # SQL over the view `samples`; for pairs over `preferences`
    task: Literal["caption", "ocr", "conversation", "preference"] = "caption"
    weight: float = Field(1.0, gt=0, le=1)              # share that is kept, by hash(seed, key)
    seed: int = 0                                       # of weight
    samples_per_shard: int = Field(1000, ge=1)


STAGE = stage_info("selection", SelectionRow, REASONS)

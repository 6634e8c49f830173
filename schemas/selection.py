"""Which shard sets a sample goes to, and as which task."""

from typing import TypedDict

from schemas.arrow import arrow_schema


class Placement(TypedDict):
    set: str
    task: str


class SelectionRow(TypedDict):
    key: str
    samples: list[Placement]    # none where there is a reason, and where the row is part of another's conversation
    reason: str | None
    detail: str | None
    made_from: str


SELECTION = arrow_schema(SelectionRow)

REASONS = {
    "equal_keys": "an earlier partition has a row of the same name",
    "not_selected": "no set's condition holds",
    "sampled_out": "a condition holds, but the draw by weight left it out",
    "no_caption": "a condition holds, but there is no caption to learn",
    "no_ocr": "a condition holds, but no text was read in the image",
    "no_conversation": "a condition holds, but there is no conversation",
    "incomplete": "another image of its conversation, or the conversation itself, was left out",
}

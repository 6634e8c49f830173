"""What the policy is asked about an image."""

from typing import TypedDict

from schemas.arrow import arrow_schema


class InstructionRow(TypedDict):
    key: str                # of the image and the question, 16 hex digits; the image's where nothing is asked of it
    image: str              # key of the row in `images`
    question: str | None    # as the user says it, without a mark for the image
    origin: str | None      # source, or template
    name: str | None        # what the source calls it
    extra: str | None       # whatever else the source says of it, as one JSON object
    reason: str | None
    detail: str | None
    made_from: str


INSTRUCTIONS = arrow_schema(InstructionRow)

SOURCE, TEMPLATE = "source", "template"

REASONS = {
    "no_image": "there is none to ask about: a conversation of text alone",
    "no_question": "the source names none, or one without words",
    "equal_keys": "the same question is asked of the same image before",
    "not_asked": "the source asks nothing of this image, and no template does: its condition or the draw left it out",
}

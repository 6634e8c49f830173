"""What the policy is asked about an image."""

from typing import Annotated, NotRequired, TypedDict

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from schemas.config.table import Table
from schemas.stage import stage_info
from schemas.texts import is_empty


class InstructionRow(TypedDict):
    key: str                # of the image and the question, 16 hex digits; the image's where nothing is asked of it
    image: str              # key of the row in `images`
    question: str | None    # as the user says it, without a mark for the image
    origin: str | None      # source, or template
    name: str | None        # what the source calls it
    extra: str | None       # whatever else the source says of it, as one JSON object
    round: NotRequired[int | None]  # of [align], from 1
    reason: str | None
    detail: str | None
    made_from: str


SOURCE, TEMPLATE = "source", "template"

REASONS = {
    "no_image": "the row has no image to ask about: a conversation of text alone",
    "no_question": "the source gives no question, or one without words",
    "other_images": "the question names several images, or a video",
    "equal_keys": "the same question was already asked about the same image",
    "not_asked": "the source asks nothing about this image, and the condition or the draw left it out",
    "later_round": "it is asked in a round of [align] that has not begun",
}


def _asks(question: str) -> str:
    if is_empty(question):
        raise PydanticCustomError("question", "is blank; write a question, or leave it out")
    return question


class InstructionsConfig(Table):
    """Chooses the questions about images."""

    questions: tuple[Annotated[str, AfterValidator(_asks)], ...] = ()   # for images about which the source asks nothing
    per_image: int = Field(default=1, ge=1)             # number of these per image, drawn by hash(seed, image)
    where: str = "true"                                 # which images: SQL over the columns of the view `samples`
    weight: float = Field(default=1.0, gt=0, le=1)      # share of these images that is used, by hash(seed, image)
    seed: int = 0


STAGE = stage_info(
    "instructions", InstructionRow, REASONS, per_image=False, named_by=("image",), names=frozenset({"image"}),
)

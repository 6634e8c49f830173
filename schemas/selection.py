"""Which shard sets a sample goes to, and as which task."""

from collections.abc import Mapping
from typing import Any, Literal, Self, TypedDict

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

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
    "other_format": "a condition holds, but the image, or one of its conversation, has another format than the set",
    "no_caption": "a condition holds, but there is no caption to learn",
    "no_ocr": "a condition holds, but no text was read in the image",
    "no_conversation": "a condition holds, but there is no conversation",
    "incomplete": "another image of its conversation, or the conversation itself, was left out",
}


class SetConfig(Table):
    """Shard sets, by name."""

    where: str = "true"                                 # SQL over the view `samples`; for pairs over `preferences`
    task: Literal["caption", "ocr", "conversation", "preference"] = "caption"
    weight: float = Field(default=1.0, gt=0, le=1)      # share that is kept, by hash(seed, key)
    seed: int = 0                                       # of weight
    samples_per_shard: int = Field(default=1000, ge=1)
    max_side: int | None = Field(default=None, ge=1)    # pixels; images with a longer side are scaled down
    max_pixels: int | None = Field(default=None, ge=256)  # width times height; larger images are scaled down
    format: Literal["jpg", "png", "webp"] | None = None  # jpg, png or webp: of all images; if absent, they keep theirs
    other_formats: Literal["encode", "leave_out"] = "encode"  # images in another format than `format`
    quality: int = Field(default=90, ge=1, le=100)      # of images that are encoded here as jpg or webp
    stable_json: bool = False                           # .json with columns of one type: what varies is JSON text

    @property
    def bounded(self) -> bool:
        """Whether images are scaled or encoded where they are beyond a bound; else all are copied as they came."""
        return any((self.max_side, self.max_pixels, self.format))

    @model_validator(mode="after")
    def _bound(self) -> Self:
        if not self.bounded and self.quality != type(self).model_fields["quality"].default:
            raise PydanticCustomError("unused", "quality is of images that are encoded here; add max_side or format")
        if not self.format and self.other_formats != "encode":
            raise PydanticCustomError("unused", "other_formats needs a format; add it")
        return self


FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}     # suffix -> format, as the stage `images` names it
BOUNDS = ("max_side", "max_pixels", "format", "quality")    # the settings that an image is encoded with


def bounds_text(settings: Mapping[str, Any]) -> str:
    """The bounds among the settings on a set's card, for a person: `max_side 1024, format jpg`."""
    told = ", ".join(f"{name} {settings[name]}" for name in BOUNDS if name in settings)
    return told or "as they came"


def has_bounds(settings: Mapping[str, Any]) -> bool:
    """Whether a set was made with bounds, by the settings on its card."""
    return "encoder" in settings


STAGE = stage_info("selection", SelectionRow, REASONS)

"""The shard sets that each sample goes to, and its task in each."""

from collections.abc import Mapping
from typing import Any, Literal, Self, TypedDict

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.config.table import Table
from schemas.measures import LANGUAGES, UNKNOWN
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


OTHERS = "*"      # in quotas: all languages that are not named
RECONSTRUCT = "reconstruct"     # the task of samples with corrupted text
OF_OCR = ("ocr", RECONSTRUCT)   # tasks that teach to say what was read in the image
QUESTION = "Some text in the image is corrupted. What stood there?"    # unless the user of a set asks otherwise
LEVELS = ("low", "moderate", "high")    # of corruption, as MiniCPM-V 4.5 has them (arXiv 2509.18154)

REASONS = {
    "equal_keys": "an earlier partition has a row with the same key",
    "not_selected": "the row does not fulfil the condition of any set",
    "sampled_out": "a condition holds, but the draw by weight left it out",
    "over_quota": "a condition holds, but the draw by the quota of its language left it out",
    "other_format": "a condition holds, but an image of the row has another format than the set",
    "no_caption": "a condition holds, but the caption is missing",
    "no_ocr": "a condition holds, but the image has no text with the verdict `good`",
    "no_reconstruct": "a condition holds, but the image has no line of good text with two letters or digits",
    "no_conversation": "a condition holds, but the row has no conversation",
    "incomplete": "an earlier stage left out another image of its conversation, or the conversation itself",
}


class SetConfig(Table):
    """A shard set: which samples it has, and how they are packed."""

    where: str = "true"                                 # SQL over the view `samples`; for pairs, over `preferences`;
                                                        # for best responses, over `best`
    task: Literal["caption", "ocr", "reconstruct", "conversation", "preference", "best"] = "caption"  # best: best
                                                        # response; reconstruct: corrupted text
    weight: float = Field(default=1.0, gt=0, le=1)      # share of the samples that is kept, by hash(seed, key)
    seed: int = 0                                       # seed of the draw by weight
    languages: dict[str, float] | None = None           # share of samples by language, such as { zh = 0.2, "*" = 0.8 };
                                                        # "*": all other languages
    samples_per_shard: int = Field(default=1000, ge=1)
    max_side: int | None = Field(default=None, ge=1)    # pixels; images with a longer side are scaled down
    max_pixels: int | None = Field(default=None, ge=256)  # width times height; larger images are scaled down
    format: Literal["jpg", "png", "webp"] | None = None  # format of all images; default: each keeps its own
    other_formats: Literal["encode", "leave_out"] = "encode"  # what to do with images in another format
    quality: int = Field(default=90, ge=1, le=100)      # of images that are encoded here as jpg or webp
    corrupted: float = Field(default=0.3, gt=0, le=1)   # reconstruct: share of an image's lines of text that is
                                                        # corrupted, at least one, by hash(seed, key, line)
    levels: dict[str, float] | None = None              # reconstruct: weights of the levels, such as
                                                        # { low = 2, moderate = 1, high = 1 }: noise, ambiguous letters,
                                                        # nothing left; default: a third of the lines each
    min_score: int = Field(default=0, le=0)             # best responses: minus the number of rejected claims, at least
    min_judged: int = Field(default=1, ge=1)            # best responses: least number of judged draws
    stable_json: bool = False                           # gives columns of .json one type; what varies becomes JSON text

    @property
    def encodes(self) -> bool:
        """Whether images are scaled, encoded or corrupted where the set says so; else all are copied as they came."""
        return any((self.max_side, self.max_pixels, self.format, self.task == RECONSTRUCT))

    @model_validator(mode="after")
    def _bound(self) -> Self:
        if not self.encodes and self.quality != type(self).model_fields["quality"].default:
            raise PydanticCustomError("unused", "quality is of images that are encoded here; add max_side or format")
        if self.task != "best" and (self.min_score, self.min_judged) != (0, 1):
            raise PydanticCustomError("unused", "min_score and min_judged are of task = \"best\"; remove them")
        if self.task != RECONSTRUCT and self.recorded(include=CORRUPTING):
            raise PydanticCustomError("unused", "corrupted and levels are of task = \"reconstruct\"; remove them")
        if self.levels is not None:
            self._check_levels(self.levels)
        if self.languages is not None:
            self._check_quotas(self.languages)
        if not self.format and self.other_formats != "encode":
            raise PydanticCustomError("unused", "other_formats needs a format; add it")
        return self

    def _check_levels(self, levels: Mapping[str, float]) -> None:
        if unknown := sorted(levels.keys() - set(LEVELS)):
            message = "{name} is not a level; write low, moderate or high"
            raise PydanticCustomError("levels", message, {"name": unknown[0]})
        if not 0 < sum(levels.values()) < float("inf") or min(levels.values()) < 0:
            raise PydanticCustomError("levels", "weights of levels must not be negative, and one must be above 0")

    def _check_quotas(self, quotas: Mapping[str, float]) -> None:
        codes = sorted(quotas.keys() - LANGUAGES - {UNKNOWN, OTHERS})
        if codes:
            message = "{code} is not a known language; write a code of ISO 639-1, unknown, or \"*\" for all others"
            raise PydanticCustomError("language", message, {"code": codes[0]})
        if min(quotas.values(), default=-1) < 0 or not abs(sum(quotas.values()) - 1) <= 1e-6:  # nan is not
            raise PydanticCustomError("quotas", "the shares of languages must add up to 1, and none be negative")
        if self.task not in ("caption", "conversation", *OF_OCR):
            raise PydanticCustomError("quotas", "only captions, OCR and conversations have quotas of languages")


FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}     # suffix -> format, as the stage `images` names it
CORRUPTING = ("corrupted", "levels")
BOUNDS = ("max_side", "max_pixels", "format", "quality")    # the settings that an image is encoded with


def bounds_text(settings: Mapping[str, Any]) -> str:
    """What the settings on a set's card do with images, for a person: `max_side 1024, format jpg`."""
    told = [f"{name} {settings[name]}" for name in BOUNDS if name in settings]
    told += ["text corrupted"] * ("corruption" in settings)
    return ", ".join(told) or "as they came"


def encodes(settings: Mapping[str, Any]) -> bool:
    """Whether a set may have images that were encoded for it, by the settings on its card."""
    return "encoder" in settings


STAGE = stage_info("selection", SelectionRow, REASONS)

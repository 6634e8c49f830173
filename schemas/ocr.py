"""The text printed in an image, line by line, and whether it is good enough to learn from."""

from typing import Any, Literal, NotRequired, Self, TypedDict

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.config.table import Location, Table
from schemas.stage import stage_info


class OcrLine(TypedDict):
    text: str
    confidence: float       # 0 to 1, the engine's own
    box: list[float]        # x, y of four corners, clockwise from the top left, pixels


class OcrRow(TypedDict):
    key: str                # of the image
    lines: list[OcrLine]    # in reading order
    dropped: NotRequired[list[OcrLine] | None]  # lines below `min_confidence`; with `lines` all that was read
    verdict: str | None     # one of OCR_VERDICTS; None when there is no answer
    reason: str | None      # why there is no answer; None when all is well, no text included
    detail: str | None      # what exactly went wrong, for a person
    made_from: str          # hash of what this row alone was made from


OCR_VERDICTS = {                # the first that holds
    "no_text": "no letter and no digit was read",
    "too_short": "fewer letters and digits than `good_length`",
    "low_confidence": "its confidence is below `good_confidence`, or that of a line below `good_line_confidence`",
    "mixed_script": "too many words that mix scripts as no language does, as in KA\u03a6E",
    "symbols": "too many lines that are not words: only signs, or one letter of a script that no other line has",
    "good": "good enough to learn from",
}
GOOD = "good"

REASONS = {
    "engine_failed": "the OCR engine raised an error on this image",
    "too_many_tiles": "the image is so large that it takes more than `max_tiles` tiles to read it",
}
RETRYABLE = {"engine_failed"}


class EasyOcrConfig(Table):
    """Settings of the engine `easyocr`."""

    languages: tuple[str, ...] = Field(default=("en",), min_length=1)  # EasyOCR's own codes
    models: Location = "easyocr-models"                         # folder of EasyOCR's weights
    download: bool = False                                      # downloads missing weights when a run begins
    gpu: bool = False                                   # computes on the first CUDA device


EngineName = Literal["rapidocr", "easyocr"]


class EngineConfig(EasyOcrConfig):
    """One of several engines, in place of `engine`: each reads again what the one before it doubts."""

    engine: EngineName

    def easyocr(self) -> dict[str, Any]:
        """The settings of EasyOCR."""
        return {name: getattr(self, name) for name in EasyOcrConfig.model_fields}

    @model_validator(mode="after")
    def _of_engine(self) -> Self:
        if self.engine == "rapidocr" and (given := sorted(self.model_fields_set - {"engine"})):
            raise PydanticCustomError("unused", "{name} is of easyocr; remove it", {"name": given[0]})
        return self


class OcrConfig(Table):
    """Reads the text in images. Without this table, no text is read."""

    engine: EngineName = "rapidocr"
    engines: tuple[EngineConfig, ...] = ()
    easyocr: EasyOcrConfig = EasyOcrConfig()            # used only with engine = "easyocr"
    min_confidence: float = Field(default=0.5, ge=0, le=1)  # lines of a lower confidence are left out
    good_confidence: float = Field(default=0.9, ge=0, le=1)  # least mean confidence of a good text
    good_line_confidence: float | None = Field(default=None, ge=0, le=1)  # least of each of its lines, see docs/ocr.md
    good_length: int = Field(default=3, ge=1)           # least letters and digits; East Asian ones count twice
    good_share: float = Field(default=0.9, ge=0, le=1)  # least share of characters in lines that make sense
    max_tiles: int = Field(default=32, ge=1)            # most tiles of an image; of 2000 pixels, easyocr: 2560

    @property
    def each(self) -> tuple["OcrConfig", ...]:
        """A table for each engine, in order, as if it were the only one."""
        single = {"engines": ()}
        return tuple(
            self.model_copy(update=single | {"engine": one.engine, "easyocr": EasyOcrConfig(**one.easyocr())})
            for one in self.engines
        ) or (self,)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.engines and {"engine", "easyocr"} & self.model_fields_set:
            raise PydanticCustomError("unused", "name engines by engine and [ocr.easyocr], or by [[ocr.engines]]")
        return self


STAGE = stage_info(
    "ocr", OcrRow, REASONS, reads={"images": ("key", "sha256")},
    computed={
        "text": ("array_to_string([line.text for line in lines], chr(10))", "VARCHAR"),
        "confidence": ("list_avg([line.confidence for line in lines])", "DOUBLE"),
    },
    samples={
        "ocr_lines": "ocr.lines", "ocr_text": "ocr.text", "ocr_confidence": "ocr.confidence",
        "ocr_verdict": "ocr.verdict", "ocr_target": f"CASE WHEN ocr.verdict = '{GOOD}' THEN ocr.text END",
    },
)

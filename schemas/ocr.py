"""The text printed in an image, line by line."""

from typing import TypedDict

from schemas.arrow import arrow_schema


class OcrLine(TypedDict):
    text: str
    confidence: float       # 0 to 1, the engine's own
    box: list[float]        # x, y of four corners, clockwise from the top left, pixels


class OcrRow(TypedDict):
    key: str                # of the image
    lines: list[OcrLine]    # in reading order
    reason: str | None      # why there is no answer; None when all is well, no text included
    detail: str | None      # what exactly went wrong, for a person
    made_from: str          # hash of what this row alone was made from


OCR = arrow_schema(OcrRow)

REASONS = {"engine_failed": "the OCR engine raised an error on this image"}
RETRYABLE = {"engine_failed"}

"""The text printed in an image, line by line, and whether it is good enough to learn from."""

from typing import TypedDict

from schemas.arrow import arrow_schema


class OcrLine(TypedDict):
    text: str
    confidence: float       # 0 to 1, the engine's own
    box: list[float]        # x, y of four corners, clockwise from the top left, pixels


class OcrRow(TypedDict):
    key: str                # of the image
    lines: list[OcrLine]    # in reading order
    verdict: str | None     # one of VERDICTS; None when there is no answer
    reason: str | None      # why there is no answer; None when all is well, no text included
    detail: str | None      # what exactly went wrong, for a person
    made_from: str          # hash of what this row alone was made from


OCR = arrow_schema(OcrRow)

OCR_VERDICTS = {                # the first that holds
    "no_text": "no letter and no digit was read",
    "too_short": "fewer letters and digits than `good_length`",
    "low_confidence": "less sure than `good_confidence`, or all of it less than `min_confidence`",
    "mixed_script": "too many words of letters that no language writes together, as in KA\u03a6E",
    "symbols": "too many lines that are no words: signs alone, or one letter of a script that is nowhere else",
    "good": "fit to learn from",
}
GOOD = "good"

REASONS = {"engine_failed": "the OCR engine raised an error on this image"}
RETRYABLE = {"engine_failed"}

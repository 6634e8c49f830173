"""Whether the text that an engine read in an image is good enough to teach a model to read.

An engine reads text in anything: stars and crosses become `★` and `十`, letters that it does not know become similar
ones. A text is good if the confidence of each line is high, it is long enough, and most of it is in lines that make
sense. Each engine has its own scale of confidence, so its thresholds were fitted to it: see docs/ocr.md.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from pipelines.ocr.tiles import around, covered
from pipelines.text_rules.scripts import mixes_scripts, script_of, scripts_of
from schemas.ocr import OcrConfig, OcrLine


def letters_in(text: str) -> int:
    """The number of characters that are letters, marks on letters, or digits, of any script."""
    return sum(unicodedata.category(character)[0] in "LMN" for character in text)


def characters_in(text: str) -> int:
    """The number of characters that are not whitespace."""
    return sum(not character.isspace() for character in text)


class Fitted(NamedTuple):
    """What makes the texts of an engine right, fitted on scenes and half of some photographs."""

    line: float  # least confidence per character of each line
    dropped: float  # a line below `min_confidence` with at least this confidence is print that was not read


FITTED = {"rapidocr": Fitted(line=0.975, dropped=1.0), "easyocr": Fitted(line=0.97, dropped=0.18)}
YERY = re.compile("(?<=[A-Z])bI")  # in place of Ы, where an engine knows no Cyrillic: PbIHOK
INSIDE = 0.8  # share of a line's box that lies in another one's
WEAK = 0.05  # share of a long text's characters in lines below the threshold, which are still above USUAL
USUAL = 0.9  # the default of `good_confidence`: where a user lowers it, no line needs more


def per_character(line: OcrLine, engine: str) -> float:
    """The mean confidence of a line's characters. EasyOCR gives the product of theirs, to the power of 2 / sqrt(n)."""
    return (
        line["confidence"] ** (0.5 / math.sqrt(len(line["text"]) or 1)) if engine == "easyocr" else line["confidence"]
    )


def confidence(lines: Sequence[OcrLine], engine: str = "rapidocr") -> float:
    """The mean confidence of lines, each weighted by its characters."""
    weights = [characters_in(line["text"]) for line in lines]
    return sum(w * per_character(line, engine) for w, line in zip(weights, lines, strict=True)) / max(1, sum(weights))


def repeated(lines: Sequence[OcrLine]) -> set[int]:
    """The positions of lines that lie inside another line, whose text says theirs too: LIMIT in SPEED LIMIT."""
    boxes = np.array([around(line["box"]) for line in lines]).reshape(-1, 4)
    texts = ["".join(line["text"].split()).casefold() for line in lines]

    def is_part(n: int, of: int) -> bool:
        is_larger = len(texts[of]) > len(texts[n]) or (texts[of] == texts[n] and of < n)
        return is_larger and texts[n] in texts[of] and covered(tuple(boxes[n]), tuple(boxes[of])) >= INSIDE

    found = set()
    for n, (left, top, right, bottom) in enumerate(boxes):
        meet = (boxes[:, 0] < right) & (boxes[:, 2] > left) & (boxes[:, 1] < bottom) & (boxes[:, 3] > top)
        if any(is_part(n, int(of)) for of in np.flatnonzero(meet) if of != n):
            found.add(n)
    return found


def is_sure(kept: Sequence[OcrLine], dropped: Sequence[OcrLine], config: OcrConfig) -> bool:
    """Whether the confidences of all lines, of which some are kept, speak for a text without a fault."""
    fitted, least, weak = FITTED[config.engine], config.good_line_confidence, 0.0
    if least is None:
        least, weak = (fitted.line, WEAK) if config.good_confidence >= USUAL else (0.0, 0.0)
    if least and any(letters_in(line["text"]) > 1 and line["confidence"] >= fitted.dropped for line in dropped):
        return False
    sure = [per_character(line, config.engine) for line in kept]
    below = sum(characters_in(line["text"]) for line, one in zip(kept, sure, strict=True) if one < least)
    return (
        confidence(kept, config.engine) >= config.good_confidence
        and below <= weak * sum(characters_in(line["text"]) for line in kept)
        and min(sure) >= min(USUAL, least)
    )


def is_mixed(word: str) -> bool:
    """Whether a word mixes scripts as no language does, or has Cyrillic letters that were read as Latin ones."""
    return mixes_scripts(word) or bool(YERY.search(word))


def verdict(read: Iterable[OcrLine], config: OcrConfig) -> str:
    """The verdict on all lines that an engine read, one of `schemas.ocr.OCR_VERDICTS`; only kept lines count."""
    read = [line for line in read if line["text"].strip()]
    lines = [line for line in read if line["confidence"] >= config.min_confidence]
    texts = [line["text"] for line in lines]
    letters = sum(map(letters_in, texts))
    if not letters:
        return "low_confidence" if any(letters_in(line["text"]) for line in read) else "no_text"
    if letters + sum(script_of(character) == "EAST_ASIAN" for text in texts for character in text) < config.good_length:
        return "too_short"
    if not is_sure(lines, [line for line in read if line["confidence"] < config.min_confidence], config):
        return "low_confidence"
    characters = sum(map(characters_in, texts))
    mixed = sum(len(word) for text in texts for word in text.split() if is_mixed(word))
    if mixed > (1 - config.good_share) * characters:
        return "mixed_script"
    stray = sum(characters_in(text) for text in texts if not letters_in(text)) + _lone(texts)
    if stray > (1 - config.good_share) * characters or letters < 0.5 * characters:
        return "symbols"
    return "good"


def _lone(texts: Sequence[str]) -> int:
    """The number of lines of a single letter whose script no longer line has: a `十` among Latin words is a cross."""
    longer = Counter(script for text in texts if letters_in(text) > 1 for script in scripts_of(text))
    return sum(letters_in(text) == 1 and bool(scripts_of(text) - longer.keys()) for text in texts)

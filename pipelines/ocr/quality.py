"""Whether what an engine read of an image is good enough to teach a model to read.

An engine answers whatever it sees: stars and crosses become `★` and `十`, letters it was never taught become those that
look like them. A text is good when it is sure of itself, long enough, and most of it stands in lines that make sense.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from pipelines.text_rules.scripts import mixes_scripts, script_of, scripts_of
from schemas.ocr import OcrConfig, OcrLine


def letters_in(text: str) -> int:
    """How many characters of a text are letters, with their marks, or digits, of any script."""
    return sum(unicodedata.category(character)[0] in "LMN" for character in text)


def characters_in(text: str) -> int:
    """How many characters of a text are not whitespace."""
    return sum(not character.isspace() for character in text)


def confidence(lines: Sequence[OcrLine]) -> float:
    """The mean confidence of lines, each weighted by its characters."""
    weights = [characters_in(line["text"]) for line in lines]
    return sum(w * line["confidence"] for w, line in zip(weights, lines, strict=True)) / max(1, sum(weights))


def verdict(read: Iterable[OcrLine], config: OcrConfig) -> str:
    """One of `schemas.ocr.OCR_VERDICTS`, for all lines that an engine read; those that are not kept do not count."""
    read = [line for line in read if line["text"].strip()]
    lines = [line for line in read if line["confidence"] >= config.min_confidence]
    texts = [line["text"] for line in lines]
    letters = sum(map(letters_in, texts))
    if not letters:
        return "low_confidence" if any(letters_in(line["text"]) for line in read) else "no_text"
    if letters + sum(script_of(character) == "EAST_ASIAN" for text in texts for character in text) < config.good_length:
        return "too_short"
    if confidence(lines) < config.good_confidence:
        return "low_confidence"
    characters = sum(map(characters_in, texts))
    mixed = sum(len(word) for text in texts for word in text.split() if mixes_scripts(word))
    if mixed > (1 - config.good_share) * characters:
        return "mixed_script"
    stray = sum(characters_in(text) for text in texts if not letters_in(text)) + _lone(texts)
    if stray > (1 - config.good_share) * characters or letters < 0.5 * characters:
        return "symbols"
    return "good"


def _lone(texts: Sequence[str]) -> int:
    """How many lines are one letter of a script that no longer line is in: a `十` beside Latin words is a cross."""
    longer = Counter(script for text in texts if letters_in(text) > 1 for script in scripts_of(text))
    return sum(letters_in(text) == 1 and bool(scripts_of(text) - longer.keys()) for text in texts)

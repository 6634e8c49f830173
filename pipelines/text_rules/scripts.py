"""The scripts of letters, and words that mix scripts as no language does."""

import unicodedata
from collections import Counter
from functools import cache

# These scripts may stand together in one word, also with Latin letters (UTS 39, section 5.2: "highly restrictive").
EAST_ASIAN = {"CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC", "BOPOMOFO", "HANGUL"}


@cache
def script_of(character: str) -> str | None:
    """A letter's script: the first word of its Unicode name, or EAST_ASIAN; None if the character is not a letter."""
    character = unicodedata.normalize("NFKC", character)[:1]
    if unicodedata.category(character) not in ("Lu", "Ll", "Lt", "Lo"):
        return None
    script = unicodedata.name(character, "UNNAMED").split()[0]
    return "EAST_ASIAN" if script in EAST_ASIAN else script


def scripts_of(text: str) -> set[str]:
    return {script for character in text if (script := script_of(character))}


NAMES = {"CJK": "Han", "HIRAGANA": "Japanese", "KATAKANA": "Japanese"}  # of scripts, where they are not their words


def main_script(text: str) -> str | None:
    """The script of most letters, such as `Latin` or `Cyrillic`; None for a text without letters. Kana makes a text
    Japanese, whatever signs of Han stand between."""
    counts: Counter[str] = Counter()
    for character in text:
        if unicodedata.category(character) in ("Lu", "Ll", "Lt", "Lo"):
            word = unicodedata.name(unicodedata.normalize("NFKC", character)[:1], "UNNAMED").split()[0]
            counts[NAMES.get(word, word.capitalize())] += 1
    if counts["Japanese"]:
        counts["Japanese"] += counts.pop("Han", 0)
    return max(sorted(counts), key=lambda script: counts[script], default=None)


def mixes_scripts(word: str) -> bool:
    """Whether a word holds letters of scripts that no language writes together, as `KAФE` does."""
    return len(scripts_of(word) - {"EAST_ASIAN"}) > 1

"""Sentences of many languages: Django's message catalogues (BSD-3-Clause), which its package brings."""

import gettext
import random
import re
from functools import cache
from pathlib import Path

import django

# Of the languages that MiniCPM-V 2.5 lists as supported, those of which Django has 50 sentences
CODES = "en zh ko ja de fr pt es th vi tr ar hi ne tk tg ky ru uk be ka az hy pl lt et lv cs sk hu sl hr sr sq ro bg mk"
LANGUAGES = CODES.split()
FOLDERS = {"zh": "zh_Hans"}
NOT_TEXT = re.compile(r"%\(\w+\)[a-z]|%[a-z%]|\{[^}]*\}|<[^>]+>|&\w+;")
NO_SPACES = {"zh", "ja", "ko", "th"}  # in these a text has as many words as its English original


@cache
def messages(language: str) -> dict[str, str]:
    """English message -> translation, without its placeholders."""
    if language == "en":
        return {message: message for message in messages("de")}
    found = {}
    for path in sorted(Path(django.__file__).parent.rglob(f"locale/{FOLDERS.get(language, language)}/*/*.mo")):
        with open(path, "rb") as file:
            catalogue = gettext.GNUTranslations(file)._catalog
        for message, text in catalogue.items():
            english = plain(message.split("\x04")[-1]) if isinstance(message, str) else ""
            if english and english != plain(text):
                found.setdefault(english, plain(text))
    return found


def plain(message: str) -> str:
    return " ".join(NOT_TEXT.sub(" ", message).split())


def sentences(language: str, most: int = 50) -> list[str]:
    """Translations of sentences of at least six words."""
    return _some(language, most, lambda english, _: len(english.split()) >= 6 and english.endswith("."))


def phrases(language: str, most: int = 50) -> list[str]:
    """Messages of three to six words."""
    return _some(
        language, most, lambda english, text: 3 <= len((english if language in NO_SPACES else text).split()) <= 6
    )


def _some(language, most, wanted) -> list[str]:
    texts = [text for english, text in sorted(messages(language).items()) if wanted(english, text)]
    random.Random(0).shuffle(texts)
    return [*dict.fromkeys(texts)][:most]

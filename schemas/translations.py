"""The caption or conversation of some rows in another language, as a model translates it."""

from typing import Any, TypedDict

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from schemas.answers import OF_ENDPOINTS, RETRYABLE
from schemas.config.table import Location, Table
from schemas.stage import stage_info


class TranslationRow(TypedDict):
    key: str                        # of the row
    language: str | None            # into which it is translated; None for rows that are not drawn
    text: str | None                # the translated caption; None where the caption stays as it is
    conversation: str | None        # the translated conversation, as in `rows`
    raw: list[str] | None           # the model's answers, as they came: of the caption, or of each turn
    cut: list[bool] | None          # whether each ends where the tokens ended
    answer: str | None              # whether they were taken: one of ANSWERS; None if nothing was asked
    reason: str | None              # why there is no answer yet; None when all is well
    detail: str | None              # of `answer`: what is wrong, and in which turn
    made_from: str


ANSWERS = {                 # the first that holds; all but the last leave the row as it came
    "filtered": "the server's own filter withheld it",
    "http_4xx": "the server refuses the request",
    "too_long": "longer than translations.max_tokens, or the request was for the model",
    "says_key": "it holds a key of an endpoint or of a store, or a part of one; it is not stored",
    "thinking": "only thoughts: the answer itself is missing",
    "empty_answer": "only white space",
    "refusal": "the model refuses, or speaks about itself",
    "echo": "it repeats the prompt",
    "loops": "it repeats itself",
    "marks_lost": "its marks of images are not those of the original",
    "wrong_length": "it is more than translations.max_ratio times as long as the original, or as short",
    "wrong_language": "it is in another language than the one that was asked for",
    "taken": "accepted: it is now the caption or the conversation",
}
ACCEPTED = "taken"
REASONS = {word: meaning for word, meaning in OF_ENDPOINTS.items() if word in RETRYABLE}

NAMES = {                   # the languages that a translation can be asked for and checked in
    "ar": "Arabic", "az": "Azerbaijani", "be": "Belarusian", "bg": "Bulgarian", "bn": "Bengali", "cs": "Czech",
    "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian",
    "fa": "Persian", "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian",
    "hu": "Hungarian", "hy": "Armenian", "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ka": "Georgian",
    "ko": "Korean", "ky": "Kyrgyz", "lt": "Lithuanian", "lv": "Latvian", "mk": "Macedonian", "my": "Burmese",
    "ne": "Nepali", "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian",
    "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "sq": "Albanian", "sr": "Serbian", "sv": "Swedish",
    "tg": "Tajik", "th": "Thai", "tk": "Turkmen", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu",
    "vi": "Vietnamese", "zh": "Chinese",
}
# 36 languages of MiniCPM-V's own list, beside English and Chinese, of which nearly all its other data are
RECIPE = (
    "ar", "az", "be", "bg", "bn", "cs", "de", "es", "et", "fr", "hi", "hr", "hu", "hy", "ja", "ka", "ko", "ky", "lt",
    "lv", "mk", "ne", "pl", "pt", "ro", "ru", "sk", "sl", "sq", "sr", "tg", "th", "tk", "tr", "uk", "vi",
)


class TranslationsConfig(Table):
    """Translates the captions and conversations of some rows. Without this table, all stay in their language."""

    endpoint: str                                       # the model that translates; it gets texts only
    languages: tuple[str, ...] = Field(default=RECIPE, min_length=1)    # one of them for each row, by hash(seed, key)
    share: float = Field(default=0.005, gt=0, le=1)     # share of the rows that is translated, by hash(seed, key)
    seed: int = 0
    prompt: Location | None = None                      # a file with {text} and {language}
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=1024, ge=1)         # maximum length of each answer
    max_ratio: float = Field(default=3.0, gt=1)         # of the lengths of translation and original, either way

    @field_validator("languages")
    @classmethod
    def _are_known(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [code for code in languages if code not in NAMES]:
            message = "{code} is not known; choose from {names}"
            raise PydanticCustomError("language", message, {"code": unknown[0], "names": ", ".join(NAMES)})
        return languages

    def parameters(self) -> dict[str, Any]:
        """The parameters of a request to the endpoint."""
        return {"temperature": self.temperature, "max_tokens": self.max_tokens, "seed": 0}


STAGE = stage_info(
    "translations", TranslationRow, REASONS, reads={"rows": ("key", "text", "conversation")},
    samples={
        "text": "coalesce(translations.text, captions.text, rows.text)",
        "conversation": "coalesce(translations.conversation, rows.conversation)",
        "translated_to": "CASE WHEN translations.answer = 'taken' THEN translations.language END",
        "translation_answer": "translations.answer",
    },
    paid=True,
)

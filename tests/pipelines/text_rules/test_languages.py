"""The language of a text, measured on Django's message catalogues, and its script."""

import pytest
from support.messages import LANGUAGES as MEASURED
from support.messages import phrases, sentences

from pipelines.text_rules.languages import Language, identity, language_of
from pipelines.text_rules.scripts import main_script
from schemas.measures import LANGUAGES, UNKNOWN, MeasuresConfig

SURE = MeasuresConfig().min_confidence


def measured(texts) -> tuple[float, float]:
    """The share of answered texts that are right, and the share of unknown ones."""
    answers = [(language, language_of(text, SURE).code) for language in MEASURED for text in texts(language)]
    answered = [(language, code) for language, code in answers if code != UNKNOWN]
    right = sum(language == code for language, code in answered)
    return right / len(answered), 1 - len(answered) / len(answers)


@pytest.mark.slow
def test_sentences_of_36_languages_are_told_apart():
    assert len(MEASURED) >= 36 and all(len(sentences(language)) == 50 for language in MEASURED)
    right, unknown = measured(sentences)
    assert right >= 0.98 and unknown <= 0.03, "the issue asks for 0.95 and 0.10; this is what is reached"


@pytest.mark.slow
def test_texts_of_three_to_six_words_are_told_apart_or_unknown():
    assert all(len(phrases(language)) == 50 for language in MEASURED)
    right, unknown = measured(phrases)
    assert right >= 0.92 and unknown <= 0.12, "the issue asks for 0.85 and 0.25; this is what is reached"


@pytest.mark.parametrize("text", ["", "   ", "12 34", "★ → 7", "https://example.org/a-page", "+49 30 901820", "\u200b"])
def test_a_text_without_words_is_unknown(text):
    assert language_of(text) == Language(UNKNOWN, 0.0)


@pytest.mark.parametrize("text", ["IMG_1234.jpg", "ok", "Nikon D750", "ABC DEF"])
def test_a_text_of_no_language_is_unknown_at_the_threshold(text):
    language = language_of(text, SURE)
    assert language.code == UNKNOWN and 0 < language.confidence < SURE


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a dog runs on the beach", "en"), ("A DOG RUNS ON THE BEACH", "en"), ("ein Hund läuft am Strand", "de"),
        ("un chien court sur la plage", "fr"), ("собака бежит по пляжу", "ru"), ("собака біжить пляжем", "uk"),
        ("一只狗在海滩上奔跑", "zh"), ("犬が浜辺を走っている", "ja"), ("개가 해변에서 달린다", "ko"),
        ("https://example.org ein Hund läuft am Strand 2024", "de"),
    ],
)  # fmt: skip
def test_a_caption_is_told(text, code):
    assert language_of(text, SURE).code == code


def test_a_long_text_takes_no_longer_than_a_page():
    """Only its beginning is looked at, and the answer does not depend on the rest."""
    assert language_of("ein Hund läuft am Strand. " * 200_000) == language_of("ein Hund läuft am Strand. " * 200)


def test_every_language_is_known_to_both_models():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    from pipelines.text_rules.languages import _models

    labels = {"zh"} | {*LanguageIdentifier.from_model_file(MODEL_FILE).labels}
    assert labels >= LANGUAGES
    codes, _ = _models()[1].predict("hello", k=-1)
    assert {code.removeprefix("__label__") for code in codes} >= LANGUAGES
    assert identity().startswith("py3langid 0.")


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("a dog", "Latin"), ("собака a", "Cyrillic"), ("一只狗", "Han"), ("東京タワーの夜景", "Japanese"),
        ("개가", "Hangul"),
        ("Ωμέγα", "Greek"), ("กขค", "Thai"), ("123 !", None), ("", None), ("ａｂｃ", "Latin"), ("NO 禁", "Latin"),
    ],
)  # fmt: skip
def test_the_script_of_a_text_is_that_of_most_letters(text, script):
    assert main_script(text) == script

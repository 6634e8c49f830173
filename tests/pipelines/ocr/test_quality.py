"""What makes a text fit to learn from, and what does not."""

import pytest

from pipelines.ocr.quality import confidence, repeated, verdict
from pipelines.stages.ocr import ReadText
from pipelines.text_rules.scripts import mixes_scripts, script_of
from schemas.ocr import OCR_VERDICTS, OcrConfig


def judge(*lines: str | tuple[str, float], **config) -> str:
    """The verdict on lines of some confidence; surely read if it is not said."""
    lines = [line if isinstance(line, tuple) else (line, 0.99) for line in lines]
    read = [{"text": text, "confidence": sure, "box": [0.0] * 8} for text, sure in lines]
    said = verdict(read, OcrConfig(**config))
    assert said in OCR_VERDICTS
    return said


@pytest.mark.parametrize("lines", [
    ["OPEN"],
    ["NFR 5674"],
    ["EXIT", "Fire door, keep shut!"],
    ["$ 4.99", "-20%"],
    ["www.example.com/a-page?b=1"],
    ["愚园路", "Yuyuan Rd.", "西", "W", "315"],
    ["ポイ捨て禁止!", "港区 MINATO CITY"],
    ["서울", "Seoul"],
    ["ΞΕΝΟΔΟΧΕΙΟ", "HOTEL"],
    ["КАФЕ CAFE"],
    ["iPhone版"],
    ["出口"],
    ["Hawaiʻi", "a thread that is 5 µm wide"],
    ["مفتوح"],
    ["हिन्दी में"],
])  # fmt: skip
def test_text_in_any_script_is_good(lines):
    assert judge(*lines) == "good"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "no_text"),
        ([" "], "no_text"),
        (["★", "■ ●", "+"], "no_text"),
        (["X"], "too_short"),
        (["10"], "too_short"),
        (["口"], "too_short"),
        (["★★★", "a", "+"], "too_short"),
        ([("OPEN", 0.6)], "low_confidence"),
        ([("OPEN", 0.3)], "low_confidence"),
        (["KAΦE"], "mixed_script"),
        (["KAФE"], "mixed_script"),
        (["PbIHOK"], "mixed_script"),
        (["BbIXOД ->"], "mixed_script"),
        (["MbILO", "24 h"], "mixed_script"),
        (["Subway", "LAB IQ", "b IS A", "ClubInn"], "good"),
        (["SALE", "+"], "symbols"),
        (["SALE", "十"], "symbols"),
        (["BREAD", "★"], "symbols"),
        (["a+b=c", "===*===*==="], "symbols"),
        (["o.O.o.O...___"], "symbols"),
    ],
)
def test_what_is_no_good_says_why(lines, said):
    assert judge(*lines) == said


def test_confidence_is_weighted_by_characters():
    lines = [("a long line", 1.0), ("x", 0.0), (" ", 0.0)]
    lines = [{"text": text, "confidence": sure} for text, sure in lines]
    assert confidence(lines) == pytest.approx(9 / 10)
    assert judge(("a sure line of text", 0.98), ("?", 0.1)) == "good"
    assert judge(("??!", 0.97), ("a line of text", 0.5)) == "low_confidence"


def test_lines_that_are_left_out_do_not_count():
    assert judge("OPEN", ("+★+★", 0.4)) == "good"
    assert judge("OPEN", ("+★+★", 0.4), min_confidence=0.3, good_confidence=0.5) == "symbols"
    assert judge(("OPEN", 0.4), min_confidence=0.3, good_confidence=0.3) == "good"


def test_a_sign_among_many_words_does_no_harm():
    assert judge("Palais du LOUVRE", "穴", "LES ARTS DÉCORATIFS", "+") == "good"


def test_the_limits_are_those_of_the_configuration():
    assert judge(("OPEN", 0.85), good_confidence=0.8) == "good"
    assert judge("OPEN", good_length=5) == "too_short"
    assert judge("SALE", "+", good_share=0.75) == "good"
    assert judge("KAΦE", good_share=0) == "good"


def test_scripts_that_one_language_writes_together_are_one():
    assert {script_of(c) for c in "漢ひカ한ｶ"} == {"EAST_ASIAN"}
    assert (script_of("Ａ"), script_of("é"), script_of("ж"), script_of("λ")) == ("LATIN", "LATIN", "CYRILLIC", "GREEK")
    assert {script_of(c) for c in "1!★ ー\U000f0001\ud800"} == {None}
    assert [mixes_scripts(word) for word in ("ひらがなABC", "Москва", "Mосква")] == [False, False, True]


def test_each_line_of_a_good_text_is_sure():
    """Of 60 signs right, two among tractors wrong: their mean hides them."""
    assert judge("MERRY CHRISTMAS", ("Hedre", 0.7)) == "low_confidence"
    assert judge(("BANANAT", 0.9726)) == "low_confidence"
    assert judge(("BANANAT", 0.9726), good_line_confidence=0.9) == "good"
    assert judge("MERRY CHRISTMAS", ("Hedre", 0.7), good_line_confidence=0) == "good"


def test_a_long_text_may_have_a_line_that_is_nearly_sure():
    page = ["seven wizards judge boxing matches"] * 29
    assert judge(*page, ("lazy dog while", 0.95)) == "good"
    assert judge(*page, ("lazy dog while", 0.85)) == "low_confidence"
    assert judge(*page, *[("lazy dog while", 0.95)] * 5) == "low_confidence"
    assert judge(*page, ("lazy dog while", 0.95), good_line_confidence=0.96) == "low_confidence"


def test_easyocr_has_thresholds_of_its_own():
    """Its confidence falls with the length of a line, and a line that it drops is often print."""
    long = ("Clean hands with soap and water", 0.74)
    assert judge(long, engine="easyocr") == "good"
    assert judge(long) == "low_confidence"
    assert judge(("SPEEDI", 0.83), engine="easyocr") == "low_confidence"
    assert judge(("7209", 0.99), ("TS", 0.19), engine="easyocr") == "low_confidence"
    assert judge(("7044", 0.99), ("TS", 0.15), engine="easyocr") == "good"
    assert judge(("7209", 0.99), ("TS", 0.19)) == "good"


def test_a_line_inside_another_one_is_said_once():
    def line(text, left, right, sure=0.99):
        return {"text": text, "confidence": sure, "box": [left, 0, right, 0, right, 20, left, 20]}

    whole, part, other = line("SPEED LIMIT", 0, 100), line("LIMIT", 50, 98), line("LIMIT", 150, 198)
    assert repeated([part, whole, other]) == {0}
    assert repeated([whole, line("MARKET", 50, 98)]) == set() == repeated([])
    assert repeated([other, line("LIMIT", 151, 199), other]) == {1, 2}
    row = ReadText(OcrConfig()).judged([part, whole, other])
    assert [one["text"] for one in row["lines"]] == ["SPEED LIMIT", "LIMIT"] and row["verdict"] == "good"
    assert ReadText(OcrConfig()).judged([*row["lines"], *row["dropped"]]) == row

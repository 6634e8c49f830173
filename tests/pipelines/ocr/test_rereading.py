"""Several engines in order: what one doubts, the next one reads, and the surer text is taken."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from support.corpora import build, say

from pipelines.build.corpus import open_corpus
from pipelines.catalog.catalog import query
from pipelines.ocr.quality import FITTED, is_mixed, verdict
from pipelines.ocr.rereading import confidence_of, doubt, read_again, upright
from pipelines.stages import ocr as stage
from schemas.ocr import EngineConfig, OcrConfig

PICTURE = np.full((100, 300, 3), 255, np.uint8)
BOX = [10.0, 10.0, 200.0, 10.0, 200.0, 50.0, 10.0, 50.0]


def line(text: str, confidence: float, box=BOX) -> dict:
    return {"text": text, "confidence": confidence, "box": list(box)}


class Fixed:
    """An engine that reads the same everywhere."""

    side = 2000

    def __init__(self, *lines: dict):
        self.lines, self.seen = lines, []

    def read(self, pixels: np.ndarray) -> list[dict]:
        self.seen.append(pixels.shape)
        return [dict(line) for line in self.lines]


def again(read: dict, *others: dict, first="rapidocr", name="rapidocr") -> dict:
    (found,) = read_again([read], PICTURE, first, name, Fixed(*others))
    assert found["box"] == read["box"]
    return found


@pytest.mark.parametrize(
    ("read", "other", "wanted"),
    [
        (("KAFE", 0.8), ("КАФЕ", 0.99), ("КАФЕ", 0.99)),
        (("KAFE", 0.8), ("КАФЕ", 0.7), ("KAFE", 0.8)),  # the surer one
        (("KAFE", 0.8), ("КАФЕ", 0.8), ("KAFE", 0.8)),  # of two alike the first
        (("KAФE", 0.99), ("КАФЕ", 0.9), ("КАФЕ", 0.9)),  # a word of mixed scripts loses
        (("KAFE", 0.8), ("КАFЕ", 0.99), ("KAFE", 0.8)),
        (("KAFE", 0.8), ("★ -", 0.99), ("KAFE", 0.8)),  # signs alone are no text
        (("KAFE", 0.8), (" ", 0.99), ("KAFE", 0.8)),
        (("★", 0.3), ("市場", 0.99), ("市場", 0.99)),
        # Latin letters that look like others
        (("πλατεια", 0.6), ("mateia", 0.99), ("πλατεια", 0.6)),
        (("ψωmi", 0.9), ("wqmi", 0.99), ("ψωmi", 0.9)),
        (("mateia", 0.9), ("πλατεια", 0.99), ("πλατεια", 0.99)),
        # two engines agree
        (("FIRE EXIT", 0.9), ("Fire-exit", 0.98), ("Fire-exit", 0.98)),
        (("CAFÉ", 0.9), ("CAFE", 0.99), ("CAFÉ", 0.99)),
        (("CAFE", 0.9), ("CAFÉ", 0.8), ("CAFÉ", 0.9)),
        # or differ in letters of one script
        (("lu7460", 0.9), ("1u7460", 0.99), ("1u7460", 0.97)),
        (("lu7460", 0.95), ("1u7460", 0.9), ("lu7460", 0.95)),
    ],
)
def test_which_text_is_taken_and_how_sure_it_is(read, other, wanted):
    found = again(line(*read), line(*other))
    assert (found["text"], found["confidence"]) == wanted


@pytest.mark.parametrize("first", ["rapidocr", "easyocr"])
@pytest.mark.parametrize(("text", "confidence"), [("", 0.0), ("", 0.4), (" ", 0.0), ("\u3000", 0.2)])
def test_a_box_in_which_an_engine_reads_nothing_is_read_by_the_next(text, confidence, first):
    """EasyOCR finds boxes that have no text."""
    found = again(line(text, confidence), line("FIRE EXIT", 0.99), first=first)
    assert found["text"] == "FIRE EXIT" and found["confidence"] > 0.5
    assert again(line(text, confidence), first=first) == line(text, confidence)


def test_a_line_that_is_sure_and_of_one_script_is_not_read_again():
    engine = Fixed(line("OTHER", 1.0))
    lines = [line("ΞΕΝΟΔΟΧΕΙΟ HOTEL", 0.98), line("EXIT", 0.975)]
    assert read_again(lines, PICTURE, "rapidocr", "rapidocr", engine) == lines and engine.seen == []


def test_an_engine_sees_the_line_alone_with_a_margin():
    engine = Fixed()
    read_again([line("KAFE", 0.5)], PICTURE, "rapidocr", "rapidocr", engine)
    assert engine.seen == [(64, 214, 3)]


def test_parts_of_a_line_are_one_text_as_doubtful_as_its_worst_part():
    parts = line("FIRE", 0.99, [0, 5, 80, 5, 80, 40, 0, 40]), line("EXIT", 0.97, [100, 5, 180, 5, 180, 40, 100, 40])
    found = again(line("FIREEXIT", 0.6), *parts[::-1])
    assert (found["text"], found["confidence"]) == ("FIRE EXIT", 0.97)
    assert again(line("市", 0.6), *parts[::-1])["text"] == "市"
    assert again(line("★", 0.6), *parts[::-1])["text"] == "FIRE EXIT"


@pytest.mark.parametrize("engine", FITTED)
@pytest.mark.parametrize("text", ["E", "EXIT", "a thread that is 5 µm wide"])
@pytest.mark.parametrize("confidence", [0.3, 0.8, 0.97, 1.0])
def test_doubt_and_confidence_are_two_ways_to_say_one_thing(engine, text, confidence):
    wanted = doubt(line(text, confidence), engine)
    assert doubt(line(text, confidence_of(wanted, text, engine)), engine) == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize(("first", "name"), [("rapidocr", "easyocr"), ("easyocr", "rapidocr")])
@pytest.mark.parametrize("text", ["EXIT", "Fire door, keep shut!"])
def test_what_is_just_sure_by_its_own_engine_is_good_by_the_first_one(first, name, text):
    for above, said in ((0.001, "good"), (-0.004, "low_confidence")):
        sure = confidence_of((1 - FITTED[name].line - above) / (1 - FITTED[name].line), text, name)
        found = again(line("?", 0.0), line(text, sure), first=first, name=name)
        assert found["text"] == text and verdict([found], OcrConfig(engine=first)) == said


def test_words_of_mixed_scripts():
    words = ("KAФE", "PbIHOK", "КАФЕ", "CAFE", "iPhone版", "", "€")
    assert [is_mixed(word) for word in words] == [True, True, *[False] * 5]
    assert again(line("PbIHOK", 0.997), line("РЫНОК", 0.9))["text"] == "РЫНОК"
    assert again(line("a KAФE", 0.997), line("a КАФЕ", 0.9))["text"] == "a КАФЕ"


@pytest.mark.parametrize("degrees", [0, 20, -35, 90, 180])
def test_a_turned_line_is_upright_for_the_next_engine(degrees):
    image = Image.new("L", (300, 300), 255)
    ImageDraw.Draw(image).text((150, 150), "EXIT", 0, ImageFont.load_default(40), anchor="mm")
    turned = image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=255)
    angle = -np.radians(degrees)
    corners = [(-60, -25), (60, -25), (60, 25), (-60, 25)]
    box = [
        value + 150
        for x, y in corners
        for value in (x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle))
    ]
    found, wanted = upright(np.asarray(turned.convert("RGB")), box), np.asarray(image)[110:190, 75:225]
    assert found.shape == (80, 150, 3)
    assert np.corrcoef(found[..., 0].ravel().astype(float), wanted.ravel().astype(float))[0, 1] > 0.9


def test_a_box_over_the_edge_or_without_an_extent_stops_nothing():
    for box in ([-20.0, -5, 400, -5, 400, 30, -20, 30], [5.0] * 8, [0.0] * 8):
        assert again(line("KAFE", 0.5, box), line("КАФЕ", 0.99))["text"] == "КАФЕ"


# The configuration

RAPID = '[[ocr.engines]]\nengine = "rapidocr"\n'


def settings(engines: str | None, configure) -> dict:
    told = "[ocr]\n" + (engines or "")
    return open_corpus(configure(f'[source]\nkind = "folder"\npath = "pictures"\n{told}\n')).made["ocr"].settings()


def test_a_list_of_one_engine_is_the_engine_alone(configure):
    assert settings(RAPID, configure) == settings(None, configure) == settings('engine = "rapidocr"\n', configure)
    assert settings(RAPID + RAPID, configure) != settings(RAPID, configure)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ('engine = "rapidocr"\n[[ocr.engines]]\nengine = "rapidocr"', "or by [[ocr.engines]]"),
        ('[[ocr.engines]]\nengine = "rapidocr"\nlanguages = ["en"]', "languages is of easyocr; remove it"),
        ('[[ocr.engines]]\nengine = "tesseract"', "ocr.engines.0.engine: write 'rapidocr' or 'easyocr'"),
        ('[[ocr.engines]]\nlanguages = ["en"]', "ocr.engines.0.engine: missing; add it"),
        ('[[ocr.engines]]\nengine = "easyocr"\nlangages = ["en"]', "did you mean `languages`?"),
        (f'{RAPID}[[ocr.engines]]\nengine = "easyocr"\nmodels = "none"', "ocr.engines.1.models: "),
    ],
)  # fmt: skip
def test_engines_that_do_not_fit_are_one_line(told, said, configure):
    answer = say("plan", configure(f'[source]\nkind = "folder"\npath = "pictures"\n[ocr]\n{told}\n'))
    assert answer.code == 2 and said in answer.err and len(answer.err.splitlines()) == 1


def test_engines_have_their_own_settings():
    config = OcrConfig(engines=(EngineConfig(engine="rapidocr"), EngineConfig(engine="easyocr", languages=("ru",))))
    assert [one.engine for one in config.each] == ["rapidocr", "easyocr"]
    assert [one.easyocr.languages for one in config.each] == [("en",), ("ru",)]
    assert OcrConfig().each == (OcrConfig(),)


@pytest.mark.slow
def test_the_first_engine_reads_nothing_again_when_another_is_added(tmp_path, configure, monkeypatch):
    (tmp_path / "pictures").mkdir()
    for n in range(3):
        Image.fromarray(PICTURE + np.uint8(n)).save(tmp_path / f"pictures/{n}.png")
    first, second = (
        Fixed(line("KAFE", 0.8), line("EXIT", 0.99, [10, 60, 90, 60, 90, 90, 10, 90])),
        Fixed(line("КАФЕ", 0.97)),
    )
    monkeypatch.setattr(stage, "open_engine", lambda config: first if config.engine == "rapidocr" else second)
    monkeypatch.setattr(stage, "check_engine", lambda config: None)
    monkeypatch.setattr(stage, "prepare_engine", lambda config: None)
    monkeypatch.setattr(stage, "identity", lambda config: {"is": config.engine})
    told = '[source]\nkind = "folder"\npath = "pictures"\n[ocr]\n'
    root = build(configure(told), "ocr")
    assert len(first.seen) == 3
    assert {row["verdict"] for row in query(root, "SELECT verdict FROM ocr").to_pylist()} == {"low_confidence"}
    more = '[[ocr.engines]]\nengine = "rapidocr"\n[[ocr.engines]]\nengine = "easyocr"\n'
    for _ in range(2):  # the second time nothing is read
        root = build(configure(told + more), "ocr")
        rows = query(root, "SELECT text, verdict FROM ocr").to_pylist()
        assert rows == [{"text": "КАФЕ\nEXIT", "verdict": "good"}] * 3
        assert len(first.seen) == 3 and len(second.seen) == 3

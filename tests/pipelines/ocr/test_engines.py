"""What engines are given: pictures whose shape would make them take all memory are padded."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from pipelines.ocr.engines import RapidOcr, load_engine, padded


@pytest.mark.parametrize("size", [(1, 1), (300, 1), (1, 300), (2000, 1), (1, 2000), (2000, 20), (29, 2000), (7, 100)])
def test_a_thin_picture_is_padded_with_its_last_column_or_row(size):
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    wider = padded(pixels)
    height, width = wider.shape[:2]
    assert height <= 8 * width and width * 30 <= 2000 * height, "RapidOCR makes at most 5,888 x 736 pixels of it"
    assert (wider[: size[0], : size[1]] == pixels).all()
    assert (wider[size[0] :] == wider[size[0] - 1]).all()
    assert (wider[:, size[1] :] == wider[:, size[1] - 1 : size[1]]).all()


@pytest.mark.parametrize("size", [(100, 100), (2000, 2000), (800, 100), (30, 2000), (31, 468)])
def test_other_pictures_are_as_they_came(size):
    pixels = np.zeros((*size, 3), np.uint8)
    assert padded(pixels) is pixels


@pytest.mark.parametrize("size", [(1, 300), (100, 2000), (2000, 1), (5, 60)])
def test_no_box_is_larger_than_the_picture(size):
    width, height = size
    engine = RapidOcr.__new__(RapidOcr)

    def read(pixels):  # finds a line wherever it is shown something
        tall, wide = map(float, pixels.shape[:2])
        corners = [[[0.0, 0.0], [wide, 0.0], [wide, tall], [0.0, tall]]]
        return SimpleNamespace(boxes=corners, txts=["a"], scores=[0.9])

    engine.engine = read
    (line,) = engine.read(np.zeros((height, width, 3), np.uint8))
    assert line["box"] == [0.0, 0.0, width, 0.0, width, height, 0.0, height]
    assert all(type(value) is float for value in line["box"]), "as they are read again"


@pytest.mark.slow
def test_a_narrow_picture_is_read_and_a_line_of_pixels_has_no_text():
    """The second one had RapidOCR ask for 160 million pixels, and the process was killed."""
    words = ["quick", "brown", "wizards", "harbour", "market"]
    image = Image.new("RGB", (90, 800), "white")
    for number, word in enumerate(words):
        ImageDraw.Draw(image).text((5, 150 * number + 60), word, "black", ImageFont.load_default(20))
    engine = load_engine("rapidocr")
    lines = engine.read(np.asarray(image))
    assert [line["text"] for line in sorted(lines, key=lambda line: line["box"][1])] == words
    assert max(x for line in lines for x in line["box"][::2]) <= 90
    assert engine.read(np.zeros((300, 1, 3), np.uint8)) == []

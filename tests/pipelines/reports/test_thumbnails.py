"""Thumbnails are upright and small, and boxes lie where the words are."""

import io
import random
import re
from collections.abc import Callable, Iterator
from itertools import pairwise, takewhile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from support.corpora import build
from support.pages import Page, read
from support.reports import pixels, turned, write_and_read

from pipelines.reports import contact_sheet
from pipelines.reports.contact_sheet import boxes, thumbnail


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("width", [300, 1000, 3000])
def test_a_thumbnail_is_upright_and_small_whatever_exif_says(orientation, width):
    image = Image.new("RGB", (width, width // 2), "white")
    image.paste((255, 0, 0), (0, 0, width // 4, width // 4))
    found = thumbnail(turned(image, orientation))
    small = pixels({"src": found["source"]}).astype(int)
    assert small.shape == (128, 256, 3) and (found["width"], found["height"]) == (256, 128)
    assert found["full"] == (width, width // 2)
    red = (small[..., 0] > 200) & (small[..., 1] < 90)
    assert red[:58, :58].mean() > 0.95 and red[70:].mean() < 0.01 and red[:, 70:].mean() < 0.01


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_a_thumbnail_shows_any_mode_that_images_keeps(mode):
    image, buffer = Image.new("L", (40, 20), 255), io.BytesIO()
    image.paste(0, (0, 0, 20, 20))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    elif mode != "L":
        image = image.convert("RGB").convert(mode)
    image.save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    small = pixels({"src": thumbnail(buffer.getvalue())["source"]})
    assert small.shape == (20, 40, 3) and small[:, :18].max() < 40 and small[:, 22:].min() > 215


def test_a_thumbnail_of_noise_is_no_larger_than_others():
    buffer = io.BytesIO()
    Image.frombytes("RGB", (512, 512), random.Random(0).randbytes(3 * 512 * 512)).save(buffer, "PNG")
    assert len(thumbnail(buffer.getvalue())["source"]) < 1.4 * contact_sheet.BYTES


def test_a_picture_too_large_to_decode_for_a_thumbnail_is_named(folder, root, monkeypatch):
    monkeypatch.setattr(contact_sheet, "PIXELS", 224 * 223)
    page = Page(write_and_read(root))
    assert not page.all("img") and "no thumbnail: 224x224 is too large" in page.text


def test_boxes_that_are_none_are_not_drawn():
    line = {"text": "x" * 500, "confidence": 0.5, "box": [1.0, 2.0, 3.25, 2.0, 3.25, 4.0, 1.0, 4.0]}
    wrong = [{**line, "box": []}, {**line, "box": [1.0] * 7}, {**line, "box": [float("nan")] * 8}]
    assert boxes([*wrong, line]) == [{"points": "1,2 3.25,2 3.25,4 1,4", "text": "x" * 200, "confidence": 0.5}]


PLACES = {"EXIT": (60, 40), "BREAD": (300, 330)}  # of words in a picture of 600 x 400 pixels


@pytest.mark.slow
def test_ocr_boxes_lie_where_the_words_are(tmp_path, configure: Callable[..., Path]):
    """The polygons against the words' known places, and against the dark pixels of the thumbnail that is shown."""
    (tmp_path / "pictures").mkdir()
    image, font = Image.new("RGB", (600, 400), "white"), ImageFont.load_default(48)
    pen = ImageDraw.Draw(image)
    known = {}
    for word, place in PLACES.items():
        pen.text(place, word, "black", font)
        known[word] = pen.textbbox(place, word, font)
    for orientation in (1, 6, 3):
        (tmp_path / f"pictures/{orientation}.jpg").write_bytes(turned(image, orientation))
    root = build(configure('[source]\nkind = "folder"\npath = "pictures"\n[ocr]\n[sets.read]\ntask = "ocr"\n'))
    drawn = list(drawings(read(root)))
    assert len(drawn) == 3
    for source, view, found in drawn:
        small = pixels(source)
        assert view == [0, 0, 600, 400] and small.shape == (171, 256, 3)
        assert found.keys() == known.keys()
        inside = np.zeros(small.shape[:2], bool)
        for word, points in found.items():
            box = [*points.min(axis=0), *points.max(axis=0)]
            assert np.abs(np.array(box) - known[word]).max() < 14, word  # pixels of 600
            left, top, right, bottom = (np.array(box) * 256 / 600).round().astype(int)
            inside[top - 1 : bottom + 2, left - 1 : right + 2] = True
        dark = small.mean(axis=2) < 128
        assert dark.sum() > 200 and not dark[~inside].any()


def drawings(page: Page) -> Iterator[tuple[dict, list[int], dict[str, np.ndarray]]]:
    """Of each picture with boxes: its element, the view of the drawing on it, and each box's corners by its word."""
    elements = [(tag, attrs) for tag, attrs in page.elements if tag in ("img", "svg", "polygon")]
    for (_, image), (tag, svg) in pairwise(elements):
        if tag == "svg" and "preserveaspectratio" in svg:
            following = elements[elements.index((tag, svg)) + 1 :]
            found = takewhile(lambda element: element[0] == "polygon", following)
            corners = {re.fullmatch(r"\d+\. (.+) \(\d\.\d\d\)", polygon["said"])[1]:
                       np.array([corner.split(",") for corner in polygon["points"].split()], float)
                       for _, polygon in found}  # fmt: skip
            yield image, [int(n) for n in svg["viewbox"].split()], corners

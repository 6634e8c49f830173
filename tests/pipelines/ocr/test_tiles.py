"""Large pictures in tiles: every line once, whole, and never a wrong joint."""

import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from pipelines.ocr.engines import load_engine
from pipelines.ocr.reading_order import in_reading_order
from pipelines.ocr.tiles import OVERLAP, read_in_tiles, spans, tiles

WIDE, TALL = 10, 20  # pixels of a character of the fake engine's print
WORDS = ("quick", "brown", "jumps", "over", "lazy", "while", "seven", "wizards", "judge", "boxing", "old", "harbour")


class Printed:
    """An engine that reads print of fixed width: it knows where each character is, and sees those wholly inside."""

    def __init__(self, lines: Sequence[tuple[int, int, str]], side: int, height: int = TALL):
        self.lines, self.side, self.height, self.seen = lines, side, height, 0

    def read(self, pixels):
        top, left = (int(value) for value in pixels[0, 0, :2])
        bottom, right = top + pixels.shape[0], left + pixels.shape[1]
        assert max(pixels.shape[:2]) <= self.side
        self.seen += 1
        found = []
        for x, y, text in self.lines:
            inside = [n for n in range(len(text)) if left <= x + WIDE * n and x + WIDE * (n + 1) <= right]
            above, below = max(y, top), min(y + self.height, bottom)
            if inside and below - above > self.height / 4:
                said = text[inside[0] : inside[-1] + 1]
                start, end = x + WIDE * inside[0] - left, x + WIDE * (inside[-1] + 1) - left
                is_whole = (above, below) == (y, y + self.height)
                box = [start, above - top, end, above - top, end, below - top, start, below - top]
                found.append({"text": said if is_whole else said[::-1], "confidence": 0.99, "box": [*map(float, box)]})
        return found


def places(width: int, height: int) -> np.ndarray:
    """A picture whose every pixel holds its row and column."""
    return np.stack([*np.mgrid[:height, :width], np.zeros((height, width), int)], axis=2)


def sure(lines) -> list[str]:
    return [line["text"] for line in in_reading_order(lines) if line["confidence"] > 0]


@given(st.integers(1, 30_000), st.integers(100, 3000))
@settings(max_examples=200, deadline=None)
def test_tiles_cover_the_picture_and_overlap(length, side):
    parts = spans(length, side)
    assert parts[0][0] == 0 and parts[-1][1] == length and all(end - start <= side for start, end in parts)
    for (_, end), (start, _) in pairwise(parts):
        assert end - start >= int(side * OVERLAP) - 1
    assert len(parts) == 1 or length > side


@pytest.mark.parametrize("size", [(400, 5000), (5000, 400), (2500, 3700), (1000, 1000), (1001, 1000)])
def test_each_line_is_read_once_and_whole(size):
    width, height = size
    draws = random.Random(width)
    lines = []
    for y in range(7, height - TALL, 2 * TALL):
        text = " ".join(draws.choice(WORDS) for _ in range(400))
        lines.append((13, y, text[: (width - 26) // WIDE].strip()))
    engine = Printed(lines, 1000)
    read = read_in_tiles(engine, places(width, height))
    assert sure(read) == [text for *_, text in lines]
    assert engine.seen == tiles(width, height, 1000)


def test_parts_that_do_not_agree_are_not_taken_for_text():
    class Deaf(Printed):
        def read(self, pixels):
            return [line if line["box"][0] > 10 else {**line, "text": "#" * len(line["text"])}
                    for line in super().read(pixels)]  # fmt: skip

    text = "seven wizards judge boxing matches near the old harbour town " * 3
    read = read_in_tiles(Deaf([(13, 30, text.strip())], 1000), places(1800, 100))
    assert sure(read) == [] and len(read) == 1


def test_print_higher_than_the_overlap_is_never_read_in_halves():
    engine = Printed([(13, 850, "HEADING")], 1000, height=300)
    assert sure(read_in_tiles(engine, places(400, 1900))) == []
    assert sure(read_in_tiles(Printed([(13, 650, "HEADING")], 1000, height=300), places(400, 1900))) == ["HEADING"]


def page(width: int, height: int, count: int) -> tuple[np.ndarray, list[str]]:
    draws = random.Random(width * height)
    image, font = Image.new("RGB", (width, height), "white"), ImageFont.load_default(20)
    lines = [" ".join(draws.choice(WORDS) for _ in range(4)) for _ in range(count)]
    for n, line in enumerate(lines):
        ImageDraw.Draw(image).text((width * 0.05, height / (count + 1) * (n + 0.5)), line, "black", font)
    return np.asarray(image), lines


@pytest.mark.slow
def test_a_long_screenshot_is_read_to_its_end():
    """Scaled down to 2,000 pixels, nothing of it could be read."""
    pixels, lines = page(400, 5000, 12)
    assert sure(read_in_tiles(load_engine("rapidocr"), pixels)) == lines

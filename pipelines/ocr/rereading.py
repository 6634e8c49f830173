"""Reads lines again, of which one engine is unsure, by the next one: the surer engine's text is taken.

Engines have their own scales of confidence. A line's doubt is how far it is from certain, in parts of what its engine's
threshold allows: at most 1 is sure. What another engine read gets the confidence of the same doubt on the first
engine's scale, so that a line has one scale, whoever read it.
"""

import math
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipelines.ocr.engines import Engine
from pipelines.ocr.quality import FITTED, is_mixed, letters_in, per_character
from pipelines.ocr.reading_order import in_reading_order
from pipelines.ocr.tiles import read_in_tiles
from pipelines.text_rules.scripts import scripts_of
from schemas.ocr import OcrLine

MARGIN = 0.3  # of a line's height, around its box: engines find lines that touch an edge badly
LATIN = {"LATIN"}
DISPUTED = 1.2  # the least doubt of a line in which two engines read different letters of one script


class Reading(NamedTuple):
    """What an engine reads in a line."""

    text: str
    doubt: float


def doubt(line: OcrLine, engine: str) -> float:
    """How far a line is from certain, by the threshold of its engine."""
    return (1 - per_character(line, engine)) / (1 - FITTED[engine].line)


def confidence_of(doubt: float, text: str, engine: str) -> float:
    """The confidence by which an engine would have this doubt about a line."""
    sure = max(0.0, 1 - doubt * (1 - FITTED[engine].line))
    return round(sure ** (2 * math.sqrt(len(text))) if engine == "easyocr" else sure, 5)


def read_again(lines: Sequence[OcrLine], pixels: np.ndarray, first: str, name: str, engine: Engine) -> list[OcrLine]:
    """Lines of the engine `first`; those that it doubts, or that mix scripts, as the engine `name` reads them, if it is
    surer. `pixels`: the picture, RGB, uint8 of shape (height, width, 3)."""
    return [_surer(line, pixels, first, name, engine) if _is_doubtful(line, first) else line for line in lines]


def _mixes(text: str) -> bool:
    return any(map(is_mixed, text.split()))


def _is_doubtful(line: OcrLine, engine: str) -> bool:
    return doubt(line, engine) > 1 or _mixes(line["text"])


def _surer(line: OcrLine, pixels: np.ndarray, first: str, name: str, engine: Engine) -> OcrLine:
    """The line, or what another engine reads in its place."""
    parts = in_reading_order(read_in_tiles(engine, upright(pixels, line["box"])))
    parts = [part for part in parts if part["text"].strip()]
    if not any(letters_in(part["text"]) for part in parts):
        return line
    other = Reading(" ".join(part["text"] for part in parts), max(doubt(part, name) for part in parts))
    text, left = chosen(Reading(line["text"], doubt(line, first)), other)
    if (text, left) == (line["text"], doubt(line, first)):
        return line
    return {**line, "text": text, "confidence": confidence_of(left, text, first)}


def chosen(first: Reading, other: Reading) -> Reading:
    """Which of two readings of a line is taken, and how doubtful it is then.

    Latin letters never replace those of another script, nor plain ones those with accents: an engine that does not know
    a letter is sure of a similar one. Where two readings of one script differ, whatever is taken stays doubtful.
    """
    if scripts_of(first.text) - LATIN and not scripts_of(other.text) - LATIN:
        return first
    if _plain(first.text) == _plain(other.text):
        better = max(first, other, key=lambda reading: (_accents(reading.text), -reading.doubt))
        return better._replace(doubt=min(first.doubt, other.doubt))
    better = min(first, other, key=lambda reading: (_mixes(reading.text), reading.doubt))
    same = scripts_of(first.text) == scripts_of(other.text)
    return better._replace(doubt=max(better.doubt, DISPUTED)) if same else better


def _plain(text: str) -> str:
    """The letters and digits of a text, without accents and case."""
    split = unicodedata.normalize("NFKD", text).casefold()
    return "".join(character for character in split if unicodedata.category(character)[0] in "LN")


def _accents(text: str) -> int:
    return sum(unicodedata.category(character) == "Mn" for character in unicodedata.normalize("NFD", text))


def upright(pixels: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """The part of a picture in four corners, as an upright rectangle with a margin."""
    corners = np.array(box, float).reshape(4, 2)
    sides = [float(np.hypot(*(b - a))) for a, b in pairwise([*corners, corners[0]])]
    width, height = max(1.0, (sides[0] + sides[2]) / 2), max(1.0, (sides[1] + sides[3]) / 2)
    margin = MARGIN * min(width, height)
    across, down = margin / width, margin / height
    weights = [(-across, -down), (1 + across, -down), (1 + across, 1 + down), (-across, 1 + down)]
    outer = [_between(corners, u, v) for u, v in weights]
    size = round(width + 2 * margin), round(height + 2 * margin)
    quad = [float(value) for n in (0, 3, 2, 1) for value in outer[n]]  # top left, bottom left, bottom right, top right
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.transform(size, Image.Transform.QUAD, quad, Image.Resampling.BICUBIC))


def _between(corners: np.ndarray, u: float, v: float) -> np.ndarray:
    """The point at the share u of a box's width and v of its height."""
    return (1 - v) * ((1 - u) * corners[0] + u * corners[1]) + v * ((1 - u) * corners[3] + u * corners[2])

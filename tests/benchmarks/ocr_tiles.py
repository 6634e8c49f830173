"""Lines of long pages that RapidOCR reads as printed: in tiles, and from the whole page scaled down.

    python tests/benchmarks/ocr_tiles.py

One line of JSON: of each page its tiles, its lines, how many are read as printed either way, the verdicts, and the
processor seconds that reading in tiles takes.
"""

import json
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines.ocr.engines import load_engine
from pipelines.ocr.tiles import read_in_tiles, tiles
from pipelines.stages.ocr import ReadText
from schemas.ocr import OcrConfig

WORDS = (
    *("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "while", "seven", "wizards", "quietly", "judge"),
    *("boxing", "matches", "near", "old", "harbour", "town", "market", "square", "winter", "light"),
)
PAGES = ((400, 2000, 30), (400, 5000, 30), (800, 8000, 100))  # width, height, lines of four words


def page(width: int, height: int, count: int) -> tuple[np.ndarray, list[str]]:
    draws, font = random.Random(width * height), ImageFont.load_default(20)
    image = Image.new("RGB", (width, height), "white")
    lines = [" ".join(draws.choice(WORDS) for _ in range(4)) for _ in range(count)]
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((width * 0.05, height / (count + 1) * (number + 0.5)), line, "black", font)
    return np.asarray(image), lines


def main() -> None:
    engine, measured = load_engine("rapidocr"), {}
    for width, height, count in PAGES:
        pixels, lines = page(width, height, count)
        whole = ReadText(OcrConfig()).judged(engine.read(pixels))
        started = time.process_time()
        row = ReadText(OcrConfig()).judged(read_in_tiles(engine, pixels))
        seconds = time.process_time() - started
        right = [sum(line["text"] in lines for line in read["lines"]) for read in (whole, row)]
        measured[f"{width}x{height}"] = {
            "tiles": tiles(width, height, engine.side), "lines": count, "whole": right[0], "in_tiles": right[1],
            "verdicts": [whole["verdict"], row["verdict"]], "seconds": round(seconds, 1),
        }  # fmt: skip
    print(json.dumps({"benchmark": "ocr_tiles", **measured}))


if __name__ == "__main__":
    main()

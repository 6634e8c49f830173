"""How much of a text RapidOCR still reads at each level of corruption, and what a picture costs.

    python tests/benchmarks/corruption.py [--pages 6] [--seed 1] [--heights 14 24 40 80]

Pages of eight lines of English words, black on light and light on dark, are read as they are; then all their lines are
corrupted at one level, and read again. `exact` is the share of lines that are read as printed, `characters` the share
of printed characters that are read at their place.
"""

import argparse
import json
import random
import sys
import time
from difflib import SequenceMatcher
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines.ocr.engines import open_engine
from pipelines.ocr.tiles import around, covered
from pipelines.stages.corruption import LEVELS, Region, corrupted
from schemas.ocr import OcrConfig, OcrLine

WORDS = Path(__file__).read_text().replace('"', " ").split()
PLAIN = sorted({word.strip(".,;:()`[]").lower() for word in WORDS if word.strip(".,;:()`[]").isalpha()})


def page(draws: random.Random, height: int) -> Image.Image:
    ground, ink = draws.choice([("white", "black"), ("#f3e9d2", "#302010"), ("#203050", "#f0f0f0")])
    image = Image.new("RGB", (height * 22, height * 18), ground)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(height)
    for n in range(8):
        pen.text((height, height * (1 + 2 * n)), " ".join(draws.choices(PLAIN, k=4))[:32], ink, font)
    return image


def said_at(lines: list[OcrLine], line: OcrLine) -> str:
    """What is read at the place of a line."""
    there = [other for other in lines if covered(around(other["box"]), around(line["box"])) > 0.5]
    return " ".join(other["text"] for other in sorted(there, key=lambda other: other["box"]))


def characters(printed: str, read: str) -> int:
    return sum(block.size for block in SequenceMatcher(None, printed, read, False).get_matching_blocks())


def main(pages: int, seed: int, heights: list[int]) -> None:
    engine, draws, figures = open_engine(OcrConfig()), random.Random(seed), {}
    for height in heights:
        counts = {level: np.zeros(4, int) for level in LEVELS}
        seconds = 0.0
        for number in range(pages):
            image = page(draws, height)
            lines = engine.read(np.asarray(image))
            for level in LEVELS:
                started = time.perf_counter()
                regions = [Region(tuple(line["box"]), level, f"{number}/{n}") for n, line in enumerate(lines)]
                changed = corrupted(image, regions, image.size)
                seconds += time.perf_counter() - started
                read = engine.read(np.asarray(changed))
                for line in lines:
                    told = said_at(read, line)
                    counts[level] += (
                        1, told == line["text"], len(line["text"]), characters(line["text"], told)
                    )  # fmt: skip
        figures[height] = {
            level: {"lines": int(n), "exact": round(exact / n, 3), "characters": round(same / of, 3)}
            for level, (n, exact, of, same) in counts.items()
        } | {"milliseconds_a_picture": round(1000 * seconds / pages / len(LEVELS), 1)}
    print(json.dumps({"benchmark": "corruption", "pages": pages, "by_height_of_letters": figures}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--pages", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--heights", type=int, nargs="+", default=[14, 24, 40, 80])
    options = parser.parse_args()
    main(options.pages, options.seed, options.heights)

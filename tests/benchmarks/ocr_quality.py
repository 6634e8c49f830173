"""Recall and precision of an OCR engine's lines on generated scenes whose printed text is known, by script.

    python tests/benchmarks/ocr_quality.py [--scenes 500] [--side 448] [--seed 1] [--processes 2] [--fonts FILE ...]
        [--engine rapidocr [easyocr]] [--models FOLDER OF EASYOCR'S WEIGHTS] [--photographs FOLDER]

Several engines read in order, as [[ocr.engines]] does. A scene has at most one printed text. It is found if a line
says it, whitespace and case aside; recall is the share of printed texts that are found, precision the share of lines
that are one. `none` are the scenes without text: what is read there is wrong. `by_script` is by the script that is
printed; it has those for which a font has glyphs: Pillow's own for Latin, DejaVu Sans, where Pillow finds it, for Greek
and Cyrillic, and what `--fonts` brings.

`verdict` is of whole texts, as training would take them: `exact` is the share of the texts with the verdict "good" that
say exactly what is printed, `exact_without` that share of all texts that are not empty, and `kept` the share of exact
texts that the verdict keeps. `verdict_latin` is that of scenes with Latin text or none. In `verdict_by_script`, `good`
texts of Greek and Cyrillic that are not exact have letters that an engine took for Latin ones.

`photographs` are real ones, whose print was written down by hand; `--scenes 0 --photographs FOLDER` reads them alone.
A good text is right if each of its lines is printed there. `by_script` has the printed lines, and those that were read.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

from PIL import ImageFont

from pipelines.engine.child import ONE_THREAD
from pipelines.sources.scenes import Scenes, has_glyphs, words
from pipelines.stages.ocr import ReadText, pixels
from pipelines.text_rules.scripts import main_script
from schemas.arrow import Row
from schemas.config.sources import ScenesConfig
from schemas.ocr import GOOD, OcrConfig
from schemas.scenes.scene import Scene, imagine

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.photographs import PRINTED, fitted_on, is_right, only_letters, photographs

HALVES = {True: "fitted_on", False: "others"}

MORE_WORDS = {
    "chinese": ("营业中", "出口", "面包", "出租车", "酒店", "市场", "图书馆", "禁止停车"),
    "japanese": ("ようこそ", "出口", "パン", "タクシー", "ホテル", "市場", "コーヒー", "駐車禁止"),
    "korean": ("영업중", "출구", "빵집", "택시", "호텔", "시장", "도서관", "주차금지"),
}


class Wide(Scenes):
    """Scenes with words in scripts beyond those of `schemas.scenes.scene` too."""

    def scene(self, number: int) -> Scene:
        fonts = self.config.fonts
        more = ((word, script) for script, those in MORE_WORDS.items() for word in those)
        more = tuple(one for one in more if any(has_glyphs(font, one[0]) for font in fonts))
        return imagine(self._draws(number, "scene"), words(fonts) + more)


class Read(NamedTuple):
    printed: str | None
    script: str  # of the printed text; "none"
    lines: list[str]
    verdict: str
    seconds: float  # of the processor


def squeezed(text: str) -> str:
    """A text without whitespace and case."""
    return "".join(text.split()).casefold()


def read(source: Wide, config: OcrConfig, number: int) -> Read:
    """What an engine reads in one scene."""
    first, *then = config.each
    stage, printed = ReadText(first, tuple(then)), source.scene(number)["printed"]
    engines = stage.engines()
    image = pixels(source.load({"member": str(number)}))
    start = time.process_time()
    row = stage.judged(stage.read(image, engines))
    seconds = time.process_time() - start
    lines = [squeezed(line["text"]) for line in row["lines"]]
    script, text = (printed["script"], squeezed(printed["text"])) if printed else ("none", None)
    return Read(text, script, lines, row["verdict"], seconds)


def figures(reads: list[Read]) -> dict[str, float | int | None]:
    """Counts, recall and precision; None where there is nothing to divide by."""
    found = sum(one.printed in one.lines for one in reads)
    printed, lines = sum(one.printed is not None for one in reads), sum(len(one.lines) for one in reads)
    right = sum(line == one.printed for one in reads for line in one.lines)
    return {"scenes": len(reads), "printed": printed, "lines": lines, "recall": share(found, printed),
            "precision": share(right, lines)}  # fmt: skip


def of_verdict(reads: list[Read]) -> dict[str, float | int | None]:
    exact = [one for one in reads if one.printed and "".join(one.lines) == one.printed]
    good = [one for one in reads if one.verdict == GOOD]
    kept = [one for one in exact if one.verdict == GOOD]
    return {"good": len(good), "exact": share(len(kept), len(good)),
            "exact_without": share(len(exact), sum(bool(one.lines) for one in reads)),
            "kept": share(len(kept), len(exact))}  # fmt: skip


def share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def dejavu() -> list[str]:
    try:
        ImageFont.truetype("DejaVuSans.ttf")
    except OSError:
        return []
    return ["DejaVuSans.ttf"]


def read_photographs(folder: str, config: OcrConfig) -> Iterator[tuple[str, Row]]:
    """(name, what is read in it) of each photograph with a transcription."""
    first, *then = config.each
    stage = ReadText(first, tuple(then))
    engines = stage.engines()
    for name, data in photographs(Path(folder)):
        yield name, stage.judged(stage.read(pixels(data), engines))


def of_photographs(rows: Iterable[tuple[str, Row]]) -> dict[str, dict[str, Any]]:
    """Of each half its photographs, the texts with the verdict "good", and those of them that are right; by script the
    printed lines, and how many of them are read."""
    halves = {half: {"photographs": 0, "good": 0, "right": 0} for half in HALVES.values()}
    scripts: dict[str, dict[str, int]] = {}
    for name, row in rows:
        half, lines = halves[HALVES[fitted_on(name)]], [line["text"] for line in row["lines"]]
        is_good = row["verdict"] == GOOD
        half["photographs"] += 1
        half["good"] += is_good
        half["right"] += is_good and is_right(name, lines)
        for line in PRINTED[name]:
            of_script = scripts.setdefault(main_script(line) or "none", {"printed": 0, "read": 0})
            of_script["printed"] += 1
            of_script["read"] += only_letters(line) in map(only_letters, lines)
    return halves | {"by_script": dict(sorted(scripts.items()))}


def main(
    scenes: int,
    side: int,
    seed: int,
    processes: int,
    fonts: list[str],
    engine: list[str],
    models: str,
    folder: str | None,
) -> None:
    os.environ.update(ONE_THREAD)
    fonts = tuple(fonts or dejavu())
    source = Wide(ScenesConfig(count=max(1, scenes), side=side, seed=seed, planted=0, fonts=fonts))
    named = [{"engine": name} | ({"models": models} if name == "easyocr" else {}) for name in engine]
    config = OcrConfig.model_validate({"engines": named})
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        reads = pool.map(partial(read, source, config), range(scenes), chunksize=5)
    by_script = defaultdict(list)
    for one in reads:
        by_script[one.script].append(one)
    known = [one for one in reads if one.script in ("latin", "none")]
    plain = [one for one in known if (one.printed or "").isascii()]
    print(json.dumps({
        "benchmark": "ocr_quality", "engines": engine, "scenes": scenes, "side": side, "seed": seed,
        "fonts": [Path(font).name for font in fonts], **figures(reads),
        "by_script": {script: figures(some) for script, some in sorted(by_script.items())},
        "verdict_by_script": {script: of_verdict(some) for script, some in sorted(by_script.items())},
        "verdict": of_verdict(reads), "verdict_latin": of_verdict(known),
        "verdict_ascii": of_verdict(plain),
        "photographs": of_photographs(read_photographs(folder, config)) if folder else None,
        "seconds_per_image": round(sum(one.seconds for one in reads) / max(1, scenes), 3),
    }))  # fmt: skip


if __name__ == "__main__":
    import ocr_quality  # under its own name, so that the processes can import it too

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--scenes", type=int, default=500)
    options.add_argument("--side", type=int, default=448)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--fonts", nargs="*", default=[], help="font files for words in other scripts")
    options.add_argument("--engine", choices=["rapidocr", "easyocr"], nargs="+", default=["rapidocr"])
    options.add_argument("--models", default="easyocr-models", help="folder of EasyOCR's weights")
    options.add_argument("--photographs", dest="folder", help="folder of photographs with a transcription")
    ocr_quality.main(**vars(options.parse_args()))

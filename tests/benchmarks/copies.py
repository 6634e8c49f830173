"""Pictures that `[duplicates] compare = "pixels"` leaves out wrongly, and planted copies that it finds, by kind.

    python tests/benchmarks/copies.py [FOLDER OF PHOTOGRAPHS] [--half held-out] [--pictures 400] [--copied 10]

The drawings are those of `fine_hash.py`, which constants were fitted on, or with `--half held-out` those of
`held_out.py`, six layouts of a kind. Each kind is a corpus of its own: first its pictures alone are judged, and what is
left out is left out wrongly, as no two are equal. Then they are kept, and copies of some are judged among all of them:
a copy is found if it repeats its original. One line of JSON; `ms`: processor time of a comparison. With `--rows
1000000` instead, how long it takes to propose pairs among so many random hashes, of which one in a hundred has a copy.
"""

import argparse
import itertools
import json
import random
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import held_out
from benchmarks.fine_hash import COPIES, FIRST, card, certificate, form, hashes, images_of, logo, soft_noise, solid

from pipelines.dedup.decontamination import Hashes
from pipelines.dedup.judgement import judge
from pipelines.dedup.pixels import Picture, is_copy
from pipelines.dedup.proposals import proposed

LAYOUTS = range(1000, 1006)  # of a held-out kind; the layouts from 0 on were looked at when proposals were fitted
PICTURES = (".jpg", ".jpeg", ".png")
NOTHING = Hashes(
    *(np.empty(shape, kind) for shape, kind in ((0, int), ((0, 2), "u8"), (0, bool), (0, "u8"), (0, bool)))
)


class Comparing:
    """Answers by comparing pictures when it is asked, each pair once. A picture is named by its position."""

    def __init__(self):
        self.pictures, self.known, self.seconds = list[Picture](), dict[tuple[int, int], bool](), 0.0

    def first_copy(self, content: int, others: Sequence[int], apart: Sequence[int]) -> int | None:
        return next((other for other in others if self.compared(other, content)), None)

    def settled(self) -> bool:
        return True

    def compared(self, one: int, other: int) -> bool:
        if (one, other) not in self.known:
            started = time.process_time()
            self.known[one, other] = is_copy(self.pictures[one], self.pictures[other])
            self.seconds += time.process_time() - started
        return self.known[one, other]


def judged(hashed: list[tuple[str, str]], answers: Comparing, kept: int = 0) -> np.ndarray:
    """Of each picture, which one it repeats; -1: none. `kept`: how many, the first ones, were kept before."""
    before = np.arange(len(hashed)) < kept
    return judge(images_of(hashed, True)._replace(kept_before=before), NOTHING, FIRST, answers).of


def ticks(draws: random.Random) -> Image.Image:
    """Forms of which only the ticks differ, and one number."""
    image = form(random.Random(0))
    pen = ImageDraw.Draw(image)
    for number in range(12):
        left, top = 40 + 55 * number, 800
        pen.rectangle((left, top, left + 28, top + 28), "white", "black", 2)
        if draws.random() < 0.5:
            pen.line((left + 5, top + 14, left + 12, top + 23, left + 25, top + 3), "black", 4)
    return image


def of_layouts(kind: Callable[[random.Random, random.Random], Image.Image]) -> Callable[[random.Random], Image.Image]:
    """Pictures of a held-out kind, in several layouts."""
    return lambda draws: kind(random.Random(draws.choice(LAYOUTS)), draws)


DRAWN = {
    "fitted": {kind.__name__: kind for kind in (certificate, form, ticks, card, logo, solid)},
    "held-out": {kind.__name__: of_layouts(kind) for kind in (
        held_out.certificate, held_out.form, held_out.ticks, held_out.card, held_out.logo, held_out.solid,
    )},
}  # fmt: skip


def unlike(images: Iterable[Image.Image], count: int | None = None) -> list[Image.Image]:
    """The first pictures, no two of them equal."""
    by_pixels: dict[bytes, Image.Image] = {}
    for image in images:
        if len(by_pixels) == count:
            break
        by_pixels.setdefault(image.tobytes(), image)
    return [*by_pixels.values()]


def photographs(folder: Path) -> Iterator[Image.Image]:
    """Those in a folder, and in the tars in it."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                yield from (
                    Image.open(tar.extractfile(m)).convert("RGB") for m in tar if Path(m.name).suffix in PICTURES
                )
        elif path.suffix in PICTURES:
            yield Image.open(path).convert("RGB")


def measure(images: list[Image.Image], copied: int) -> dict[str, Any]:
    own, answers = [hashes(image) for image in images], Comparing()
    answers.pictures += map(Picture.of, images)
    wrongly = judged(own, answers) >= 0
    found = dict.fromkeys(COPIES, 0)
    originals = range(len(images[:copied]))
    planted = [(name, number) for name in COPIES for number in originals]
    copies = [COPIES[name](images[number]) for name, number in planted]
    answers.pictures += map(Picture.of, copies)
    of = judged([*own, *map(hashes, copies)], answers, len(own))[len(own) :]
    for (name, number), repeated in zip(planted, of.tolist(), strict=True):
        found[name] += repeated == number
    return {
        "pictures": len(images), "wrongly_left_out": round(float(wrongly.mean()), 4),
        "planted_of_each": len(originals), "found": found,
        "recall": round(sum(found.values()) / len(planted), 4), "pairs": len(answers.known),
        "ms": round(1000 * answers.seconds / max(len(answers.known), 1), 1),
    }  # fmt: skip


def proposals_of(rows: int) -> dict[str, Any]:
    numbers = np.random.default_rng(0)
    table = numbers.integers(0, 1 << 64, (rows, 5), np.uint64)
    planted = rows // 100
    table[:planted] = table[planted : 2 * planted] ^ np.uint64(0b1001)
    table = table[np.lexsort(table.T[::-1])]
    started = time.process_time()
    pairs, _ = proposed(table[:, 0], table[:, 1:], FIRST)
    seconds = time.process_time() - started
    return {"rows": rows, "planted": planted, "pairs": len(pairs), "seconds": round(seconds, 1)}


def main(options: argparse.Namespace) -> None:
    if options.rows:
        print(json.dumps({"benchmark": "copies", "proposals": proposals_of(options.rows)}))
        return
    kinds = {name: kind for name, kind in DRAWN[options.half].items() if options.only in ("", name)}
    measured = {
        name: measure(
            unlike((kind(random.Random(number)) for number in itertools.count()), options.pictures), options.copied
        )
        for name, kind in kinds.items()
    }
    if options.folder:
        images = unlike(photographs(Path(options.folder)))
        measured["photograph"] = measure(images, len(images))
    elif not options.only:
        some = [soft_noise(random.Random(number)) for number in range(options.copied)]
        measured["soft noise"] = measure(some, options.copied)
    found = sum(sum(kind["found"].values()) for kind in measured.values())
    planted = sum(kind["planted_of_each"] * len(COPIES) for kind in measured.values())
    bars = {"wrongly_left_out": 0.01, "recall": 0.98}
    print(
        json.dumps(
            {"benchmark": "copies", "half": options.half, "bars": bars, "recall": round(found / planted, 4), **measured}
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--half", choices=DRAWN, default="fitted")
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--copied", type=int, default=10)
    parser.add_argument("--rows", type=int, help="rows among which pairs are proposed, instead of all else")
    parser.add_argument("--only", default="", help="a kind, instead of all")
    main(parser.parse_args())

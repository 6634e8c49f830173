"""Pictures that the stage `duplicates` leaves out wrongly, and planted copies that it finds: by one hash, and by both.

    python tests/benchmarks/fine_hash.py [FOLDER OF PHOTOGRAPHS]

Certificates, forms, cards, logos and solid grounds are drawn with other words or colours each; photographs are those
of a folder, or soft noise. One line of JSON: of each kind, the share of its pictures that are left out though each is
another one, by the 64-bit hash alone and by both; pairs that are near by the first hash, of those the ones near by the
second, and least and median bits apart; of each kind of copy, how many are left out as duplicates of their original by
the 64-bit hash alone, and by both.
"""

import io
import itertools
import json
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines.dedup.decontamination import Hashes
from pipelines.dedup.fine_hash import NEAR, bits_apart
from pipelines.dedup.judgement import ImageHashes, judge
from pipelines.stages.images import inspect
from schemas.images import ImagesConfig

FIRST = 3  # duplicates.near, as `init` writes it
COUNT = 400  # drawn pictures of a kind
COPIED = 40  # of these, the ones that are copied; of photographs all
WORDS = (
    *("quick", "brown", "fox", "jumps", "over", "lazy", "dog", "while", "seven", "wizards", "judge", "boxing"),
    *("matches", "near", "old", "harbour", "town", "market", "square", "winter", "light"),
)
HASHES = {"first": False, "both": True}  # whether the 256-bit hash decides too
LIMITS = ImagesConfig(min_side=1)


def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def certificate(draws: random.Random) -> Image.Image:
    image = Image.new("RGB", (800, 600), "ivory")
    pen = ImageDraw.Draw(image)
    pen.rectangle((20, 20, 780, 580), outline="navy", width=12)
    pen.text((400, 120), "CERTIFICATE", "navy", font(70), anchor="mm")
    pen.text((400, 300), f"{draws.choice(WORDS)} {draws.choice(WORDS)}".title(), "black", font(44), anchor="mm")
    pen.text((400, 420), f"No. {draws.randrange(10**6)}", "black", font(30), anchor="mm")
    return image


def form(draws: random.Random) -> Image.Image:
    image = Image.new("RGB", (700, 900), "white")
    pen = ImageDraw.Draw(image)
    pen.text((350, 60), "APPLICATION FORM", "black", font(40), anchor="mm")
    for top, label in zip(range(150, 900, 110), ("Name", "Street", "Town", "Born", "Phone", "Remarks"), strict=False):
        pen.text((40, top), label, "black", font(26))
        pen.rectangle((220, top - 10, 660, top + 50), outline="black", width=3)
        pen.text((235, top), f"{draws.choice(WORDS)} {draws.randrange(10**4)}", "blue", font(26))
    return image


def card(draws: random.Random) -> Image.Image:
    image = Image.new("RGB", (640, 360), "white")
    pen = ImageDraw.Draw(image)
    for top in (140, 220):
        pen.text((320, top), f"{draws.choice(WORDS)} {draws.choice(WORDS)}", "black", font(48), anchor="mm")
    return image


def logo(draws: random.Random) -> Image.Image:
    image = Image.new("RGB", (400, 400), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((100, 100, 300, 300), tuple(draws.randrange(200) for _ in range(3)))
    pen.text((200, 200), draws.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), "white", font(120), anchor="mm")
    return image


def solid(draws: random.Random) -> Image.Image:
    return Image.new("RGB", (500, 400), tuple(draws.randrange(256) for _ in range(3)))


def soft_noise(draws: random.Random) -> Image.Image:
    """Something like a photograph: noise of several sizes."""
    numbers = np.random.default_rng(draws.randrange(1 << 30))
    layers = [
        np.asarray(Image.fromarray(numbers.integers(0, 256, (side * 3 // 4, side, 3), np.uint8)).resize((640, 480)))
        for side in (4, 12, 40, 160)
    ]
    return Image.fromarray(np.average(layers, axis=0, weights=(8, 5, 3, 1)).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def scaled(image: Image.Image, share: float) -> Image.Image:
    size = (round(image.width * share), round(image.height * share))
    return jpeg(image.resize(size, Image.Resampling.BICUBIC), 85)


def cropped(image: Image.Image) -> Image.Image:
    across, down = round(image.width * 0.01), round(image.height * 0.01)
    return image.crop((across, down, image.width - across, image.height - down))


def marked(image: Image.Image) -> Image.Image:
    image = image.copy()
    size = max(12, image.width // 25)
    corner = (image.width - 6, image.height - 6)
    ImageDraw.Draw(image, "RGBA").text(corner, "(c) example", (255, 255, 255, 140), font(size), anchor="rb")
    return image


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "quality 30": lambda image: jpeg(image, 30), "quality 60": lambda image: jpeg(image, 60),
    "half": lambda image: scaled(image, 0.5), "a third": lambda image: scaled(image, 1 / 3),
    "twice": lambda image: scaled(image, 2), "cropped by 2 %": cropped, "watermarked": marked,
}  # fmt: skip


def hashes(image: Image.Image) -> tuple[str, str]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    row = inspect(buffer.getvalue(), LIMITS)
    return row["phash"], row["phash256"]


def images_of(hashed: list[tuple[str, str]], both: bool) -> ImageHashes:
    """Rows of one partition with these hashes and different bytes."""
    numbers, none = np.arange(len(hashed)), np.zeros(len(hashed), bool)
    second = [[int(fine[at : at + 16], 16) * both for at in range(0, 64, 16)] for _, fine in hashed]
    return ImageHashes(
        none.astype(np.int32), numbers.astype(np.uint64), np.stack([numbers, numbers], axis=1).astype(np.uint64),
        np.array([int(first, 16) for first, _ in hashed], np.uint64), np.array(second, np.uint64), ~none, none, none,
        none.astype(np.int32), none.astype(np.uint64),
    )  # fmt: skip


def left_out(hashed: list[tuple[str, str]], both: bool) -> np.ndarray:
    """Of each picture, which earlier one it duplicates; -1: none."""
    nothing = (np.empty(shape, kind) for shape, kind in ((0, int), ((0, 2), "u8"), (0, bool), (0, "u8"), (0, bool)))
    return judge(images_of(hashed, both), Hashes(*nothing), FIRST).of


def measure(images: list[Image.Image], copied: int) -> dict[str, Any]:
    own = [hashes(image) for image in images]
    near = [(a, b) for a, b in itertools.combinations(own, 2) if bits_apart(a[0], b[0]) <= FIRST]
    apart = sorted(bits_apart(a[1], b[1]) for a, b in near)
    wrongly = {name: round(float((left_out(own, both) >= 0).mean()), 4) for name, both in HASHES.items()}
    pairs = {"first": len(near), "both": sum(bits <= NEAR for bits in apart)}
    pairs |= {"least": apart[0], "median": statistics.median(apart)} if apart else {}
    copies = {}
    for name, copy in COPIES.items():
        planted = [[one, hashes(copy(image))] for one, image in zip(own[:copied], images, strict=False)]
        copies[name] = {"planted": len(planted)} | {
            hashing: sum(int(left_out(pair, both)[1]) == 0 for pair in planted) for hashing, both in HASHES.items()
        }
    return {"images": len(images), "wrongly_left_out": wrongly, "pairs": pairs, "copies": copies}


def main() -> None:
    measured = {
        kind.__name__: measure([kind(random.Random(number)) for number in range(COUNT)], COPIED)
        for kind in (certificate, form, card, logo, solid)
    }
    if sys.argv[1:]:
        paths = [path for path in sorted(Path(sys.argv[1]).rglob("*")) if path.suffix in (".jpg", ".jpeg", ".png")]
        measured["photograph"] = measure([Image.open(path).convert("RGB") for path in paths], len(paths))
    else:
        measured["soft noise"] = measure([soft_noise(random.Random(number)) for number in range(COPIED)], COPIED)
    print(json.dumps({"benchmark": "fine_hash", "first": FIRST, "near": NEAR, **measured}))


if __name__ == "__main__":
    main()

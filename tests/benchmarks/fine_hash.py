"""What the 256-bit hash tells apart that the 64-bit one calls near, and the copies that it still calls near.

    python tests/benchmarks/fine_hash.py [FOLDER OF PHOTOGRAPHS]

Certificates, forms, cards, logos and solid grounds are drawn with other words or colours each; photographs are those
of a folder, or soft noise. One line of JSON: of each kind, pairs that are near by the first hash (at most 3 bits
apart), of those the ones near by the second (at most NEAR bits), and least and median bits apart; of each kind of
copy, how many are near by the first, by both, and the bits that 95 % of those stay below.
"""

import io
import itertools
import json
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines.dedup.fine_hash import NEAR, bits_apart
from pipelines.stages.images import inspect
from schemas.images import ImagesConfig

FIRST = 3  # duplicates.near, as `init` writes it
COUNT = 40
WORDS = (
    *("quick", "brown", "fox", "jumps", "over", "lazy", "dog", "while", "seven", "wizards", "judge", "boxing"),
    *("matches", "near", "old", "harbour", "town", "market", "square", "winter", "light"),
)
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


def main() -> None:
    kinds = {
        kind.__name__: [kind(random.Random(number)) for number in range(COUNT)]
        for kind in (certificate, form, card, logo, solid)
    }
    if sys.argv[1:]:
        paths = [path for path in sorted(Path(sys.argv[1]).rglob("*")) if path.suffix in (".jpg", ".jpeg", ".png")]
        kinds["photograph"] = [Image.open(path).convert("RGB") for path in paths[:COUNT]]
    else:
        kinds["soft noise"] = [soft_noise(random.Random(number)) for number in range(COUNT)]
    measured = {}
    for kind, images in kinds.items():
        own = [hashes(image) for image in images]
        near = [(a, b) for a, b in itertools.combinations(own, 2) if bits_apart(a[0], b[0]) <= FIRST]
        apart = sorted(bits_apart(a[1], b[1]) for a, b in near)
        others = {"pairs": len(near), "near": sum(bits <= NEAR for bits in apart)}
        others |= {"least": apart[0], "median": statistics.median(apart)} if apart else {}
        copies = {}
        for name, copied in COPIES.items():
            pairs = [(a, hashes(copied(image))) for a, image in zip(own, images, strict=False)]
            bits = sorted(bits_apart(a[1], b[1]) for a, b in pairs if bits_apart(a[0], b[0]) <= FIRST)
            both = sum(one <= NEAR for one in bits)
            copies[name] = {"first": len(bits), "both": both, "95 %": bits[int(0.95 * len(bits))] if bits else None}
        measured[kind] = {"images": len(images), "others": others, "copies": copies}
    print(json.dumps({"benchmark": "fine_hash", "first": FIRST, "near": NEAR, **measured}))


if __name__ == "__main__":
    main()

"""Small pictures with known text, drawn from a seed: enough to see the whole flow work without any data at hand."""

import io
import random
from collections.abc import Iterator

from PIL import Image, ImageDraw, ImageFont

from pipelines.sources.source import Source, SourceFile
from schemas.arrow import Row

VERSION = 1
SIDE = 224  # pixels
FILE = 1000  # pictures a source file
COLOURS = {
    "red": (214, 40, 40), "blue": (38, 84, 196), "green": (40, 140, 60), "yellow": (240, 200, 40),
    "black": (25, 25, 25), "purple": (120, 50, 160),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle")
WORDS = ("OPEN", "SALE", "EXIT", "BREAD", "TAXI", "HOTEL", "MARKET", "24 HOURS", "NO PARKING", "LIBRARY", "COFFEE")


class Rendered(Source):
    def files(self) -> list[SourceFile]:
        starts = range(0, self.config.count, FILE)
        return [SourceFile(f"{start:09d}", f"{VERSION}-{self._end(start) - start}") for start in starts]

    def buckets(self, file: str) -> int:
        return -(-(self._end(int(file)) - int(file)) // self.config.rows_per_partition)

    def rows(self, file: str) -> Iterator[Row]:
        for number in range(int(file), self._end(int(file))):
            colour, shape, words = describe(self.config.seed, number)
            text = f"a {colour} {shape} above the words {words}" if words else f"a {colour} {shape}"
            extra = {"colour": colour, "shape": shape, "words": words}
            names = (f"rendered-{VERSION}", str(self.config.seed), str(number))
            yield {"names": names, "member": str(number), "text": text, "extra": extra}

    def load(self, row: Row) -> bytes:
        return draw(*describe(self.config.seed, int(row["member"])))

    def _end(self, start: int) -> int:
        return min(start + FILE, self.config.count)


def describe(seed: int, number: int) -> tuple[str, str, str]:
    """Colour, shape and words of a picture; one in four has no words."""
    draws = random.Random(f"{seed}/{number}")
    colour, shape = draws.choice(list(COLOURS)), draws.choice(SHAPES)
    return colour, shape, draws.choice(WORDS) if draws.random() < 0.75 else ""


def draw(colour: str, shape: str, words: str) -> bytes:
    """A PNG of the shape above the words."""
    image = Image.new("RGB", (SIDE, SIDE), (245, 243, 238))
    pen, fill = ImageDraw.Draw(image), COLOURS[colour]
    if shape == "circle":
        pen.ellipse((62, 20, 162, 120), fill)
    elif shape == "square":
        pen.rectangle((62, 20, 162, 120), fill)
    else:
        pen.polygon(((112, 20), (62, 120), (162, 120)), fill)
    pen.text((SIDE // 2, 170), words, (20, 20, 20), font=ImageFont.load_default(28), anchor="mm")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()

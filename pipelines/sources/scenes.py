"""Web-like pictures whose content is known, drawn from a seed; some of them have planted faults.

Any picture can be drawn alone: everything about it follows from (seed, number). Its text is an alt text, as noisy as on
the web. `extra` has its scene, the kind of noise in its alt text, and the fault that was planted:

    {"scene": <schemas.scenes.scene.Scene>, "noise": "shouting", "planted": "duplicate", "of": 17}

With `questions`, a row also has a conversation, see `schemas.scenes.lessons`. With `letters`, `extra` has the left
and the right end of each printed character of each text, as shares of the picture's width:
`"letters": [[[0.31, 0.36], …]]`.

`planted` is the share of pictures with a fault. Of these, as PLANTED says, 30 % are exact duplicates of an earlier
picture, 30 % near duplicates (scaled by up to 10 %, encoded again), and 10 % each are truncated, random bytes, an HTML
page, and smaller than ten pixels. `noise` is the share of alt texts with one of the NOISES.
"""

import io
import math
from collections.abc import Iterator
from functools import cached_property, lru_cache
from hashlib import sha256
from itertools import pairwise
from random import Random

from PIL import Image, ImageDraw, ImageFont

from pipelines.engine.commit import canonical, digest
from pipelines.sources.scene_claims import claim_questions
from pipelines.sources.source import LARGEST, FileStamp, Source
from schemas.arrow import Row
from schemas.config.sources import ScenesConfig
from schemas.errors import UserError
from schemas.scenes.lessons import IMAGE, conversation
from schemas.scenes.scene import USUAL, WORDS, Printed, Scene, Thing, alt_text, cell, imagine

Ends = list[tuple[float, float]]  # left and right end of each character of a text, as shares of the width
HEIGHT = (0.12, 0.2)  # least and greatest height of printed type, as shares of the side

VERSION, CLAIMS_VERSION = 1, 3
FILE = 1000  # pictures per source file
PLANTED = {
    "duplicate": 0.3, "near_duplicate": 0.3, "truncated": 0.1, "random_bytes": 0.1, "html": 0.1, "tiny": 0.1,
}  # fmt: skip
HTML = "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body><p>/images/{}.jpg</p></body></html>\n"
FORMATS = {"JPEG": 0.6, "PNG": 0.25, "WEBP": 0.15}
RGB = {
    "red": (215, 35, 35), "orange": (240, 130, 25), "yellow": (245, 215, 40), "green": (35, 150, 60),
    "blue": (35, 85, 205), "purple": (120, 45, 165), "pink": (245, 135, 190), "black": (22, 22, 22),
    "white": (250, 250, 250), "beige": (228, 212, 182), "gray": (140, 140, 140),
}  # fmt: skip


class Scenes(Source[ScenesConfig]):
    def files(self) -> list[FileStamp]:
        config = self.config
        options = (config.noise, config.questions)
        options += tuple(name for name in ("letters", "quiz") if getattr(config, name))
        options += ("claims", CLAIMS_VERSION) if config.claims else ()
        made_of = digest([VERSION, config.seed, config.side, *options, config.planted, self.fonts, *self._kinds])
        starts = range(0, self.config.count, FILE)
        return [FileStamp(f"{start:09d}", f"{made_of}-{self._end(start) - start}") for start in starts]

    def count(self, file: str) -> int:
        return self._end(int(file)) - int(file)

    def rows(self, file: str) -> Iterator[Row]:
        for number in range(int(file), self._end(int(file))):
            planted, of = self.planted(number)
            original = number if of is None else of
            scene = self.scene(original)
            text, noise = alt_text(scene, self._draws(number, "text"), self.config.noise)
            drawn_from = (VERSION, self.config.seed, self.config.side, self.fonts, number, planted, of, *self._kinds)
            letters = {"letters": self.letters(original)} if self.config.letters else {}
            yield {
                "names": ("scenes", *map(str, drawn_from)),
                "member": str(number),
                "text": text,
                "conversation": self._conversation(scene, number),
                "extra": {"scene": scene, "noise": noise, "planted": planted, "of": of, **letters},
            }

    def _conversation(self, scene: Scene, number: int) -> str | None:
        if not self.config.questions:
            return None
        questions, draws = self.config.questions, self._draws(number, "questions")
        claims = claim_questions(scene, draws, questions * 3 // 4) if self.config.claims else []
        turns = conversation(scene, draws, questions, self.config.quiz, claims)
        return canonical({"turns": turns, "images": [IMAGE]}).decode()

    def load(self, row: Row, limit: int = LARGEST) -> bytes:
        number = int(row["member"])
        planted, of = self.planted(number)
        original = number if of is None else of
        draws = self._draws(number, "bytes")
        if planted == "html":
            return HTML.format(number).encode()
        if planted == "random_bytes":
            return draws.randbytes(draws.randint(200, 20_000))
        if planted == "duplicate":
            return encode(self.draw(original), self._draws(original, "bytes"))
        if planted == "near_duplicate":
            side = round(self.config.side * draws.uniform(0.9, 1.1))
            return encode(self.draw(original).resize((side, side), Image.Resampling.BICUBIC), draws)
        if planted == "tiny":
            return encode(self.draw(number).resize((draws.randint(1, 9), draws.randint(1, 9))), draws)
        data = encode(self.draw(number), draws)
        return data[: int(len(data) * draws.uniform(0.3, 0.9))] if planted == "truncated" else data

    def planted(self, number: int) -> tuple[str, int | None]:
        """The fault of a picture, one of PLANTED or "none", and the number of the original if it is a duplicate."""
        kind = self._kind(number)
        if not kind.endswith("duplicate"):
            return kind, None
        start = self._draws(number, "of").randrange(number)
        of = next((n for n in range(start, -1, -1) if self._kind(n) == "none"), None)
        return ("none" if of is None else kind), of

    def scene(self, number: int) -> Scene:
        return imagine(self._draws(number, "scene"), words(self.config.fonts), self.config.kinds())

    def draw(self, number: int) -> Image.Image:
        config = self.config
        draws = self._draws(number, "look")
        return draw(self.scene(number), draws, config.side, config.fonts, config.print_height)

    def letters(self, number: int) -> list[Ends]:
        """Where the printed characters of a picture stand."""
        config, draws = self.config, self._draws(number, "look")
        _, letters = paint(self.scene(number), draws, 2 * config.side, config.fonts, config.print_height)
        return [[(round(left, 4), round(right, 4)) for left, right in ends] for ends in letters]

    @cached_property
    def _kinds(self) -> list[str]:
        """The kinds of content that pictures are drawn from, as text; empty if they are the usual ones."""
        kinds = (*self.config.kinds(), self.config.print_height)
        return [] if kinds == (*USUAL, HEIGHT) else [repr(kinds)]

    def _kind(self, number: int) -> str:
        draws = self._draws(number, "planted")
        kind = draws.choices(list(PLANTED), list(PLANTED.values()))[0]
        return kind if draws.random() < self.config.planted and number else "none"

    def _draws(self, number: int, purpose: str) -> Random:
        return Random(f"{self.config.seed}/{number}/{purpose}")

    def _end(self, start: int) -> int:
        return min(start + FILE, self.config.count)

    @cached_property
    def fonts(self) -> str:
        """A digest of the font files besides Pillow's own. Raises `UserError` if one cannot be read."""
        return digest([font_digest(font) for font in self.config.fonts])


# Drawing


def _regular(corners: int, inner: float = 1.0) -> list[tuple[float, float]]:
    """The corners of a polygon around the origin, the first at the top; every second one lies at radius `inner`."""
    polar = [(inner if n % 2 else 1.0, math.tau * n / corners) for n in range(corners)]
    return [(radius * math.sin(turn), -radius * math.cos(turn)) for radius, turn in polar]


def _heart() -> list[tuple[float, float]]:
    turns = [math.tau * n / 40 for n in range(40)]
    return [
        (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16)
        for t in turns
    ]


# Without these, 133 pairs of 2,105 unrelated pictures have perceptual hashes at most 3 bits apart; with them, 0 to 2.
CLOUDS, CLOUDINESS = 9, 0.09
SHADES = {"white": (0, -75), "beige": (0, -75), "gray": (-35, 35), "black": (0, 65)}  # the two ends of a gradient
ARM = 0.3
CROSS = [(ARM, ARM), (ARM, 0.95), (-ARM, 0.95), (-ARM, ARM), (-0.95, ARM), (-0.95, -ARM)]
OUTLINES = {  # in a circle of radius 1
    "square": [(0.75, 0.75), (-0.75, 0.75), (-0.75, -0.75), (0.75, -0.75)],
    "triangle": _regular(3),
    "star": _regular(10, inner=0.42),
    "cross": CROSS + [(-x, -y) for x, y in CROSS],
    "heart": _heart(),
}


def draw(
    scene: Scene, draws: Random, side: int, fonts: tuple[str, ...] = (), height: tuple[float, float] = HEIGHT
) -> Image.Image:
    """The picture of a scene, side x side pixels. It is drawn at twice that size, so that edges are smooth."""
    image, _ = paint(scene, draws, 2 * side, fonts, height)
    image = _blended(image.reduce(2), CLOUDS, CLOUDINESS, draws)
    return _blended(image, side, draws.uniform(0.1, 0.2), draws) if scene["ground"]["texture"] == "noisy" else image


def paint(
    scene: Scene, draws: Random, side: int, fonts: tuple[str, ...], height: tuple[float, float]
) -> tuple[Image.Image, list[Ends]]:
    """The picture of a scene in even light, and where the characters of its texts stand."""
    image = _ground(scene, draws, side)
    pen = ImageDraw.Draw(image)
    for thing in scene["objects"]:
        _thing(pen, thing, draws, side)
    texts = [scene["printed"], *scene.get("also", ())] if scene["printed"] else []
    return image, [_print(image, printed, draws, fonts, height) for printed in texts]


def _ground(scene: Scene, draws: Random, side: int) -> Image.Image:
    ground = scene["ground"]
    colour = _near(RGB[ground["colour"]], draws)
    if ground["texture"] != "gradient":
        return Image.new("RGB", (side, side), colour)
    start, end = (tuple(max(0, c + shade) for c in colour) for shade in SHADES[ground["colour"]])
    image = Image.new("RGB", (side, side), start)
    image.paste(end, mask=Image.linear_gradient("L").rotate(draws.choice((0, 90, 180, 270))).resize(image.size))
    return image


def _blended(image: Image.Image, grains: int, strength: float, draws: Random) -> Image.Image:
    """The picture in uneven light: grains x grains random values are spread over it."""
    noise = Image.frombytes("L", (grains, grains), draws.randbytes(grains * grains))
    return Image.blend(image, noise.resize(image.size, Image.Resampling.BICUBIC).convert("RGB"), strength)


def _thing(pen: ImageDraw.ImageDraw, thing: Thing, draws: Random, side: int) -> None:
    row, column = cell(thing["place"])
    x, y = ((n + 0.5) / 3 * side + draws.uniform(-0.02, 0.02) * side for n in (column, row))
    radius = side * (draws.uniform(0.14, 0.155) if thing["size"] == "large" else draws.uniform(0.07, 0.085))
    colour = _near(RGB[thing["colour"]], draws)
    if thing["shape"] == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
        return
    turn = math.radians(draws.uniform(-12, 12))
    cos, sin = radius * math.cos(turn), radius * math.sin(turn)
    pen.polygon([(x + px * cos - py * sin, y + px * sin + py * cos) for px, py in OUTLINES[thing["shape"]]], colour)


def _print(
    image: Image.Image, printed: Printed, draws: Random, fonts: tuple[str, ...], heights: tuple[float, float]
) -> Ends:
    """Prints a text across its row, in a face that has all of its glyphs; returns where its characters are."""
    side = image.width
    row, _ = cell(printed["place"])
    x, y = side * draws.uniform(0.48, 0.52), side * ((row + 0.5) / 3 + draws.uniform(-0.03, 0.03))
    height, widest, colour = side * draws.uniform(*heights), side * 0.92, _near(RGB[printed["colour"]], draws)
    faces = [face for face in (*FACES, *fonts) if has_glyphs(face, printed["text"])]
    (face,) = draws.choices(faces, [1 if face == PIXELS else 4 for face in faces])
    if face == PIXELS:
        font = open_font(face)
        left, top, right, bottom = font.getbbox(printed["text"])
        mask = Image.new("L", (int(right - left), int(bottom - top)))
        ImageDraw.Draw(mask).text((-left, -top), printed["text"], 255, font)
        scale = max(1, int(min(height * 1.2 / mask.height, widest / mask.width)))
        mask = mask.resize((mask.width * scale, mask.height * scale), Image.Resampling.NEAREST)
        image.paste(colour, (int(x - mask.width / 2), int(y - mask.height / 2)), mask)
    else:
        size, scale = int(min(height, 40 * widest / open_font(face, 40).getlength(printed["text"]))), 1
        font = open_font(face, size)
        ImageDraw.Draw(image).text((x, y), printed["text"], colour, font, anchor="mm")
    ends = [scale * font.getlength(printed["text"][:n]) for n in range(len(printed["text"]) + 1)]
    return [((x + left - ends[-1] / 2) / side, (x + right - ends[-1] / 2) / side) for left, right in pairwise(ends)]


def _near(colour: tuple[int, ...], draws: Random) -> tuple[int, ...]:
    """A slightly different colour, which everyone would call by the same name."""
    shift = draws.randint(-8, 8)
    return tuple(min(255, max(0, c + shift + draws.randint(-5, 5))) for c in colour)


def encode(image: Image.Image, draws: Random) -> bytes:
    """The picture in one of FORMATS."""
    buffer, (kind,) = io.BytesIO(), draws.choices(list(FORMATS), list(FORMATS.values()))
    quality = draws.randint(60, 95)
    options = {"JPEG": {"quality": quality}, "PNG": {"compress_level": 3}, "WEBP": {"quality": quality, "method": 2}}
    image.save(buffer, kind, **options[kind])
    return buffer.getvalue()


# Faces


PLAIN, PIXELS = "plain", "pixels"  # the two that come with Pillow: Aileron for ASCII, a bitmap for Latin-1
FACES = (PLAIN, PIXELS)
NO_GLYPH = "\U000f0001"  # a font draws every character that it lacks like this one


@lru_cache
def words(fonts: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The words of `schemas.scenes.scene.WORDS` that can be printed, with their scripts."""
    return tuple(
        (word, script)
        for script, script_words in WORDS.items()
        for word in script_words
        if any(has_glyphs(face, word) for face in (*FACES, *fonts))
    )


@lru_cache(maxsize=4096)
def has_glyphs(face: str, text: str) -> bool:
    """Whether a face has a glyph for each character: it draws neither nothing nor the box for missing ones."""
    if face == PIXELS and any(ord(c) > 255 for c in text):
        return False
    font = open_font(face, 32)
    box = None if face == PIXELS else _glyph(font, NO_GLYPH)
    return all(glyph and glyph != box for glyph in (_glyph(font, c) for c in text if not c.isspace()))


def _glyph(font: ImageFont.ImageFont | ImageFont.FreeTypeFont, character: str) -> bytes | None:
    """What a font draws for a character; None if that is nothing."""
    mask = font.getmask(character)
    return bytes(mask) if mask.getbbox() else None  # pyright: ignore[reportArgumentType]  a buffer, by no declaration


@lru_cache(maxsize=512)
def open_font(face: str, size: int = 0) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    if face == PIXELS:
        return ImageFont.load_default_imagefont()
    if face == PLAIN:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(face, size)
    except OSError as error:
        raise UserError(f"source.fonts: {face} cannot be opened: {error}") from None


def font_digest(face: str) -> str:
    """The SHA-256 of a font file, which does not depend on where it lies."""
    path = getattr(open_font(face, 32), "path", face)
    with open(path, "rb") as file:
        return sha256(file.read()).hexdigest()


SOURCE = Scenes

"""Test inputs for an export: texts in many scripts, sizes of images, pictures."""

from random import Random

from PIL import Image, ImageDraw

from schemas.scenes.lessons import DESCRIBE, READ
from schemas.scenes.scene import caption, imagine

QUESTIONS = (DESCRIBE[0], READ[0], "Is there a red circle?")

LINES = (
    "A large red square on the left, and two small stars.", "OPEN 24 HOURS\nNO PARKING", "", " ", "\n", "\n\n\n", "\t",
    "  two  spaces   three", "trailing ", "\r\nwindows\r\n", "I'll, you've, it's, we'd, they're, I'm, can't, DON'T",
    "1234567890 3.14 1,000,000 ½ ² ٣ ४", "naïve café Ångström ſtraße İstanbul", "ελληνικά русский עברית العربية",
    "हिन्दी தமிழ் ไทย ខ្មែរ", "日本語の文章。漢字かなカナ", "中文，没有空格", "한국어 문장", "🎈👩‍👩‍👧‍👦🇩🇪 emoji",
    "e\u0301 combining", "\u00a0non\u2003breaking\u3000spaces\u200b\u200d", "\ufeffmark", "\x00\x01\x7f control",
    "<image>", "</image><slice></slice>", "a <image> in a sentence", "<|im_start|>user\n<|im_end|>", "<unk><s></s>",
    "<|endoftext|>", "<__media__>", "def f(x): return {'a': [1, 2]} # code", "https://example.com/a?b=c&d=%20",
    "-- *bold* _it_ `code` ~~no~~", "\"quoted\" 'single' “curly” ‘one’ «guillemets»", "…—–·•", "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "aB" * 40, "word " * 30, "\U0001f600\U00010348\U0010ffff",
)  # fmt: skip

RANGES = (
    (32, 127), (160, 592), (880, 1424), (1424, 1792), (2304, 2432), (0x3040, 0x3100), (0x4E00, 0x9FFF),
    (0x1F300, 0x1F700),
)  # fmt: skip


def texts(more: int = 400) -> list[str]:
    """Lines that are hard for tokenizers, captions, and `more` lines of random characters."""
    draws = Random(0)
    lines = [*LINES, *(caption(imagine(draws), draws) for _ in range(50))]
    for _ in range(more):
        start, stop = draws.choice(RANGES)
        letters = [
            chr(draws.choice((32, 10, 39, 46, 48, draws.randrange(start, stop)))) for _ in range(draws.randrange(1, 40))
        ]
        lines.append("".join(letters))
    return lines


def sizes(side: int) -> list[tuple[int, int]]:
    """Sixty sizes of images, width and height: odd, tiny, tall, wide, around `side`, and random."""
    fixed = [
        (1, 1), (1, 2), (2, 1), (3, 5), (13, 14), (14, 14), (15, 13), (17, 31), (1, side), (side, 1),
        (side, side), (side - 1, side), (side, side - 1), (side + 1, side), (side, side + 1), (side + 1, side + 1),
        (side - 1, side - 1), (2 * side, side), (side, 2 * side), (2 * side + 1, side - 1), (3 * side, 3 * side),
        (3 * side + 1, 3 * side - 1), (4 * side, 3 * side), (3 * side, 4 * side), (1, 5 * side), (5 * side, 1),
        (7, 9 * side), (9 * side, 7), (10 * side, 2 * side), (2 * side, 10 * side), (9 * side, side), (side, 9 * side),
    ]  # fmt: skip
    draws = Random(0)
    lot = [(draws.randrange(1, 4 * side), draws.randrange(1, 4 * side)) for _ in range(60 - len(fixed))]
    return fixed + lot


def drawn(count: int, side: int) -> list[Image.Image]:
    """Pictures of a few coloured shapes."""
    draws, pictures = Random(side), []
    for _ in range(count):
        image = Image.new("RGB", (side, side), draws.choice(("white", "beige", "lightblue", "black")))
        pen = ImageDraw.Draw(image)
        for _ in range(draws.randrange(1, 4)):
            left, top, size = (draws.randrange(side // 8, side // 2) for _ in range(3))
            shape = draws.choice((pen.rectangle, pen.ellipse))
            shape((left, top, left + size, top + size), draws.choice(("red", "green", "blue", "gold", "purple")))
        pictures.append(image)
    return pictures

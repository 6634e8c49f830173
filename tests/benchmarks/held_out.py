"""Pictures that nothing in `pipelines.dedup` was fitted on: layouts, fonts, words and colours that `fine_hash` lacks.

Each kind takes two draws: one of the layout, which many pictures share, and one of what differs among them. The fonts
are DejaVu's, as Debian's package `fonts-dejavu` installs them.
"""

import random

from PIL import Image, ImageDraw, ImageFont

FACES = ("DejaVuSerif.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf", "DejaVuSerif-Italic.ttf")
FIRST = (
    *("Amira", "Bruno", "Chiara", "Dmitri", "Elif", "Farid", "Greta", "Hiro", "Ines", "Jorge", "Katya", "Lamine"),
    *("Mei", "Noor", "Olga", "Pavel", "Quentin", "Rosa", "Sven", "Tariq", "Uma", "Viktor", "Wanda", "Yusuf"),
)
LAST = (
    *("Abbas", "Berg", "Costa", "Dubois", "Eriksen", "Fischer", "Gupta", "Haddad", "Ivanov", "Jansen", "Kaya"),
    *("Lindgren", "Moreau", "Nakamura", "Okafor", "Petrov", "Quispe", "Rossi", "Silva", "Takeda", "Ueda", "Varga"),
)
LABELS = ("Family name", "Given name", "Address", "City", "Postcode", "Date", "Reference", "Telephone", "Notes")
CHOICES = ("single", "married", "student", "employed", "retired", "new", "renewal", "by post", "by mail", "urgent")
GROUNDS = ("white", "#f7f3e8", "#eef4f8", "#fdf6f6")
INKS = ("#1a1a1a", "#12325c", "#5c1212", "#174d2b")


def font(face: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(face, size)


def name(draws: random.Random) -> str:
    return f"{draws.choice(FIRST)} {draws.choice(LAST)}"


def certificate(layout: random.Random, draws: random.Random) -> Image.Image:
    width, height = layout.choice(((900, 640), (620, 880), (1100, 780), (760, 760)))
    face, ink, ground = layout.choice(FACES), layout.choice(INKS), layout.choice(GROUNDS)
    image = Image.new("RGB", (width, height), ground)
    pen = ImageDraw.Draw(image)
    for edge in range(layout.randint(1, 3)):
        pen.rectangle((14 + 12 * edge, 14 + 12 * edge, width - 14 - 12 * edge, height - 14 - 12 * edge), None, ink, 4)
    title = layout.choice(("DIPLOMA", "AWARD", "OF MERIT", "GIFT CARD"))
    pen.text((width / 2, height * 0.22), title, ink, font(face, width // 12), "mm")
    pen.text((width / 2, height * 0.38), "is presented to", ink, font(face, width // 40), "mm")
    pen.text((width / 2, height * 0.52), name(draws), "black", font(face, width // 20), "mm")
    day = f"{draws.randint(1, 28)}.{draws.randint(1, 12)}.{draws.randint(1995, 2025)}"
    pen.text((width / 2, height * 0.72), f"{day}   {draws.randrange(10**5):05}", "black", font(face, width // 36), "mm")
    if layout.random() < 0.5:
        pen.ellipse((width * 0.72, height * 0.68, width * 0.84, height * 0.68 + width * 0.12), ink)
    return image


def form(layout: random.Random, draws: random.Random) -> Image.Image:
    return _page(layout, draws, texts=True)


def ticks(layout: random.Random, draws: random.Random) -> Image.Image:
    """Forms of which only the ticks differ, in four columns of boxes."""
    return _page(layout, draws, texts=False)


def _page(layout: random.Random, draws: random.Random, texts: bool) -> Image.Image:
    width, height = layout.choice(((744, 1052), (850, 1100), (1000, 760)))
    face, ink = layout.choice(FACES), layout.choice(INKS)
    image = Image.new("RGB", (width, height), layout.choice(GROUNDS))
    pen = ImageDraw.Draw(image)
    pen.text((40, 30), layout.choice(("REGISTRATION", "CLAIM FORM", "ORDER SHEET")), ink, font(face, 38))
    pen.line((40, 90, width - 40, 90), ink, 3)
    labels = layout.sample(LABELS, 6)
    boxed, step = layout.random() < 0.5, (height - 420) // len(labels)
    for top, label in zip(range(120, height, step), labels, strict=False):
        pen.text((40, top), label, ink, font(face, 20))
        if boxed:
            pen.rectangle((260, top - 6, width - 60, top + 32), None, ink, 2)
        else:
            pen.line((260, top + 30, width - 60, top + 30), ink, 2)
        value = f"{name(draws)} {draws.randrange(1000)}" if texts else f"{label} 17"
        pen.text((272, top), value, "#20208a", font(FACES[2], 22))
    for number, choice in enumerate(CHOICES):
        left, top = 40 + width // 4 * (number % 4), height - 250 + 60 * (number // 4)
        pen.rectangle((left, top, left + 24, top + 24), None, ink, 2)
        pen.text((left + 34, top), choice, ink, font(face, 18))
        if draws.random() < 0.4:
            pen.line((left + 4, top + 12, left + 10, top + 20, left + 22, top + 2), "#20208a", 4)
    return image


def card(layout: random.Random, draws: random.Random) -> Image.Image:
    width, height = layout.choice(((850, 550), (700, 440), (550, 850)))
    face, ink = layout.choice(FACES), layout.choice(INKS)
    image = Image.new("RGB", (width, height), layout.choice(GROUNDS))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, width if layout.random() < 0.5 else width // 8, height // 8), ink)
    left = width // 6
    pen.text((left, height * 0.4), name(draws), ink, font(face, 40))
    pen.text((left, height * 0.55), layout.choice(("Sales", "Engineer", "Head of design")), ink, font(face, 24))
    pen.text((left, height * 0.7), f"+49 {draws.randrange(10**7):07}", ink, font(face, 24))
    return image


def logo(layout: random.Random, draws: random.Random) -> Image.Image:
    side = layout.choice((256, 360, 512))
    image = Image.new("RGB", (side, side), layout.choice(GROUNDS))
    pen = ImageDraw.Draw(image)
    shape, colour = layout.randrange(4), tuple(draws.randrange(30, 220) for _ in range(3))
    if shape == 3:
        pen.ellipse((side * 0.2, side * 0.2, side * 0.8, side * 0.8), None, colour, side // 16)
    else:
        pen.regular_polygon((side / 2, side / 2, side * 0.36), (4, 6, 3)[shape], fill=colour)
    letters = "".join(draws.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(layout.randint(1, 2)))
    pen.text(
        (side / 2, side / 2), letters, "white" if shape < 3 else colour, font(layout.choice(FACES), side // 4), "mm"
    )
    return image


def solid(layout: random.Random, draws: random.Random) -> Image.Image:
    """Grounds of any colour, of one size."""
    size = layout.choice(((640, 480), (300, 300), (1200, 400)))
    return Image.new("RGB", size, tuple(draws.randrange(256) for _ in range(3)))

"""Generated scenes: what they show, and true and faulty texts and questions about them.

A scene is one to four flat shapes on a three by three grid, at most one short printed text, and a background.
`schemas.scenes.claims` reads sentences about scenes and holds them against this truth.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple, NotRequired, TypedDict


class Thing(TypedDict):
    shape: str              # one of SHAPES
    colour: str             # one of COLOURS
    size: str               # one of SIZES
    place: str              # one of PLACES


class Printed(TypedDict):
    text: str               # as printed
    script: str             # one of WORDS
    colour: str             # one of COLOURS
    place: str              # "top", "centre" or "bottom"; the text takes the whole row


class Ground(TypedDict):
    colour: str             # one of GROUNDS
    texture: str            # one of TEXTURES


class Scene(TypedDict):
    objects: list[Thing]    # no two in one place
    printed: Printed | None
    ground: Ground
    also: NotRequired[list[Printed]]    # more texts; no caption or question mentions them


SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white")
SIZES = ("small", "large")
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
TEXTURES = ("plain", "gradient", "noisy")
GROUNDS = {                 # background colour -> the colours of things and of text that stand out on it
    "white": (COLOURS[:-1], ("black", "blue", "red", "purple", "green")),
    "beige": (("red", "orange", "green", "blue", "purple", "pink", "black"), ("black", "blue", "red", "purple")),
    "gray": (COLOURS, ("black", "white", "yellow")),
    "black": ((*COLOURS[:-2], "white"), ("white", "yellow", "orange", "pink")),
}
WORDS = {                   # script -> the texts that can be printed in it
    "latin": (
        "OPEN", "CLOSED", "SALE", "EXIT", "BREAD", "TAXI", "HOTEL", "MARKET", "LIBRARY", "COFFEE", "STOP", "PIZZA",
        "24 HOURS", "NO PARKING", "FREE WIFI", "NEW MENU", "WET PAINT", "Welcome", "Hello", "Tickets", "Flowers",
        "CAFÉ", "ÉCOLE", "FRÜHSTÜCK", "SEÑORES", "FORÊT",
    ),
    "greek": ("ΑΝΟΙΚΤΟ", "ΕΞΟΔΟΣ", "ΨΩΜΙ", "ΚΑΦΕΣ", "ΤΑΞΙ", "ΦΑΡΜΑΚΕΙΟ", "ΛΙΜΑΝΙ", "Πλατεία"),
    "cyrillic": ("ОТКРЫТО", "ВЫХОД", "ХЛЕБ", "КАФЕ", "ТАКСИ", "АПТЕКА", "РЫНОК", "Музей"),
}
ASCII = tuple((word, "latin") for word in WORDS["latin"] if word.isascii())
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Kinds(NamedTuple):
    """From what kinds of content scenes are drawn."""

    objects: tuple[int, int] = (1, 4)       # fewest and most; a row with text has no room for any
    grounds: tuple[str, ...] = tuple(GROUNDS)
    printed: float = 0.6                    # share of scenes with text
    codes: float = 1 / 3                    # share of texts that are no words
    lines: int = 1                          # texts in a scene with text, at most two


USUAL = Kinds()


def imagine(draws: Random, words: Sequence[tuple[str, str]] = ASCII, kinds: Kinds = USUAL) -> Scene:
    """A scene. `words` are the texts that can be printed, with their scripts; some texts are codes instead."""
    ground = draws.choice(kinds.grounds)
    inks, text_inks = GROUNDS[ground]
    rows, texts = list(range(3)), []
    if draws.random() < kinds.printed:
        for _ in range(kinds.lines):
            row = rows.pop(draws.randrange(len(rows)))
            text, script = (_code(draws), "latin") if draws.random() < kinds.codes else draws.choice(words)
            colour = draws.choice(text_inks)
            texts.append(Printed(text=text, script=script, colour=colour, place=PLACES[3 * row + 1]))
    cells = [place for place in PLACES if cell(place)[0] in rows]
    objects: list[Thing] = []
    for place in draws.sample(cells, min(draws.randint(*kinds.objects), len(cells))):
        if objects and draws.random() < 0.25:       # the same again, so that there is something to count
            objects.append({**objects[-1], "place": place})
        else:
            shape, colour, size = draws.choice(SHAPES), draws.choice(inks), draws.choice(SIZES)
            objects.append(Thing(shape=shape, colour=colour, size=size, place=place))
    background = Ground(colour=ground, texture=draws.choice(TEXTURES))
    scene = Scene(objects=objects, printed=texts[0] if texts else None, ground=background)
    return {**scene, "also": texts[1:]} if texts[1:] else scene


def _code(draws: Random) -> str:
    """Letters and digits as on a number plate: a model can read them, but not guess them."""
    return "".join(draws.choices("ABCDEFGHJKLMNPRSTUVWXYZ", k=draws.randint(2, 3))) + f" {draws.randint(100, 9999)}"


def cell(place: str) -> tuple[int, int]:
    """Row and column of a place, each 0 to 2."""
    return divmod(PLACES.index(place), 3)


# Captions, in which everything is true


def caption(scene: Scene, draws: Random) -> str:
    """One to three sentences."""
    sentences = [_listing(scene, draws)]
    for kind in draws.sample((_property, _relation, _absence, _total, _ground, _reading), 2):
        if draws.random() < 0.4 and (sentence := kind(scene, draws)):
            sentences.append(sentence)
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def _listing(scene: Scene, draws: Random) -> str:
    """A list of what there is: each thing once, equal things as a number of them; sometimes not all things."""
    named, items = [], []
    for thing in scene["objects"][: draws.choice((1, 4, 4, 4))]:
        keys = ("shape", "colour", "size") if draws.random() < 0.6 else ("shape", "colour")
        if any(all(thing[key] == before[key] for key in told) for before, told in named):
            continue
        named.append((thing, keys))
        count = sum(all(thing[key] == other[key] for key in keys) for other in scene["objects"])
        items.append(_mention(thing, keys, count, draws))
        if count == 1 and draws.random() < 0.5:
            items[-1] += f" {_where(thing['place'], draws)}"
    printed = scene["printed"]
    if printed and draws.random() < 0.8:
        quote = f'"{printed["text"]}"'
        if printed["text"].isupper() and draws.random() < 0.5:
            quote = printed["text"]
        items.append(draws.choice(("the word{s} {q}", "a sign saying {q}", "text reading {q}", "the text {q}")).format(
            q=quote, s="s" if " " in printed["text"] else ""))
    opening = draws.choice(("", "", "a picture of ", "this image shows ", "there is ", "we can see "))
    ground = scene["ground"]
    closing = draws.choice(("", "", f" on a {ground['colour']} background", f" on a {ground['texture']} background"))
    return opening + _listed(items) + closing


def _mention(thing: Thing, keys: Sequence[str], count: int, draws: Random) -> str:
    size = draws.choice({"large": ("large", "big"), "small": ("small", "little", "tiny")}[thing["size"]])
    noun = draws.choice(("circle", "circle", "disc")) if thing["shape"] == "circle" else thing["shape"]
    words = [size] * ("size" in keys) + [thing["colour"], noun]
    if count == 1:
        return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"
    number = draws.choice((NUMBERS[count], str(count), "a pair of" if count == 2 else NUMBERS[count]))
    return f"{number} {' '.join(words)}{'es' if noun == 'cross' else 's'}"


def _where(place: str, draws: Random) -> str:
    if place == "centre":
        return draws.choice(("in the middle", "in the centre"))
    if " " in place:
        return draws.choice(("in the {} corner", "at the {}", "on the {}")).format(place)
    if place in ("left", "right"):                  # "on the left" would be true too of those above and below
        return f"on the {place}"
    return f"at the {place}"


def _property(scene: Scene, draws: Random) -> str:
    thing = draws.choice(scene["objects"])
    sentences = ("the {shape} is {colour}", "the {colour} {shape} is {size}", "the {size} {shape} is {colour}")
    return draws.choice(sentences).format(**thing) + draws.choice(("", f" and {_where(thing['place'], draws)}"))


def _relation(scene: Scene, draws: Random) -> str | None:
    if len(scene["objects"]) < 2:
        return None
    one, other = draws.sample(scene["objects"], 2)
    return "the {} {} is {} the {} {}".format(
        one["colour"], one["shape"], draws.choice(relations(one, other)), other["colour"], other["shape"])


def relations(one: Thing, other: Thing) -> list[str]:
    """The relations in which one thing stands to another; at least one, as no two things stand in one place."""
    (row, column), (row2, column2) = cell(one["place"]), cell(other["place"])
    holds = {"above": row < row2, "below": row > row2,
             "to the left of": column < column2, "to the right of": column > column2}
    return [relation for relation, true in holds.items() if true]


def _absence(scene: Scene, draws: Random) -> str | None:
    absent = [shape for shape in SHAPES if all(thing["shape"] != shape for thing in scene["objects"])]
    if not absent:
        return None
    return f"there is no {draws.choice(absent)}" + draws.choice(("", " in the picture"))


def _total(scene: Scene, draws: Random) -> str:
    count = len(scene["objects"])
    return "there is one shape" if count == 1 else f"there are {NUMBERS[count]} shapes"


def _ground(scene: Scene, draws: Random) -> str:
    return f"the background is {draws.choice(tuple(scene['ground'].values()))}"


def _reading(scene: Scene, draws: Random) -> str:
    if (printed := scene["printed"]) is None:
        return draws.choice(("there is no text", "no words are visible"))
    return draws.choice(('the sign says "{text}"', '"{text}" is written at the {place}', "the text is {colour}",
                         'the {colour} letters at the {place} read "{text}"')).format(**printed)


def _listed(items: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))


# Questions about a scene


class Question(NamedTuple):
    question: str
    answer: str             # "yes", "no", or a word or two
    statement: str          # question and answer as one sentence, always true


def questions(scene: Scene) -> list[Question]:
    """All questions of these kinds; of the yes/no questions, about half are answered by yes."""
    asked = [*_about_things(scene), *_about_counts(scene), *_about_ground(scene["ground"])]
    printed = scene["printed"]
    asked += _yes_no(printed is not None, "is there any text", "there is text", "there is no text")
    if printed:
        asked.append(Question("What does the text say?", printed["text"], f'The text says "{printed["text"]}".'))
        for text in (printed["text"], _other_text(printed)):
            asked += _yes_no(text == printed["text"], f'does the text say "{text}"', f'the text says "{text}"',
                             f'the text does not say "{text}"')
    return list(dict.fromkeys(asked))


def _other_text(printed: Printed) -> str:
    """A text that could stand there too: another word, or a code with another last digit."""
    text, words = printed["text"], WORDS[printed["script"]]
    if text[-1].isdigit():
        return f"{text[:-1]}{(int(text[-1]) + 1) % 10}"
    return words[(words.index(text) + 1 if text in words else 0) % len(words)]


def _yes_no(true: bool, question: str, yes: str, no: str) -> list[Question]:
    statement = yes if true else no
    return [Question(f"{question[0].upper()}{question[1:]}?", "yes" if true else "no",
                     f"{statement[0].upper()}{statement[1:]}.")]


def _about_things(scene: Scene) -> list[Question]:
    """Whether each thing is there, also in another colour; how and where a thing is, if its name is unique."""
    asked, things = [], scene["objects"]
    names = [(thing["colour"], thing["shape"]) for thing in things]
    for n, thing in enumerate(things):
        colour, shape = thing["colour"], thing["shape"]
        absent = [name for name in COLOURS if (name, shape) not in names]
        wrong = absent[(COLOURS.index(colour) + n) % len(absent)]
        a = "an" if colour == "orange" else "a"
        asked += _yes_no(True, f"is there {a} {colour} {shape}", f"there is {a} {colour} {shape}", "")
        a = "an" if wrong == "orange" else "a"
        asked += _yes_no(False, f"is there {a} {wrong} {shape}", "", f"there is no {wrong} {shape}")
        if [shape_named for _, shape_named in names].count(shape) == 1:
            asked.append(Question(f"What colour is the {shape}?", colour, f"The {shape} is {colour}."))
            for named in (colour, wrong):
                asked += _predicate(f"the {shape}", named, named == colour)
        if names.count((colour, shape)) == 1:
            name = f"the {colour} {shape}"
            for size in SIZES:
                asked += _predicate(name, size, size == thing["size"])
            opposite = PLACES[8 - PLACES.index(thing["place"])] if thing["place"] != "centre" else "top left"
            for place in (thing["place"], opposite):
                where = f"in the {place}" if place == "centre" or " " in place else f"at the {place}"
                asked += _predicate(name, where, place == thing["place"])
            for other in things[n + 1 :]:
                if names.count((other["colour"], other["shape"])) == 1:
                    relation = relations(thing, other)[0]
                    for subject, neighbour in ((thing, other), (other, thing)):
                        asked += _predicate(f"the {subject['colour']} {subject['shape']}",
                                            f"{relation} the {neighbour['colour']} {neighbour['shape']}",
                                            subject is thing)
    return asked


def _predicate(subject: str, predicate: str, true: bool) -> list[Question]:
    return _yes_no(true, f"is {subject} {predicate}", f"{subject} is {predicate}", f"{subject} is not {predicate}")


def _about_counts(scene: Scene) -> list[Question]:
    asked, counts = [], Counter(thing["shape"] for thing in scene["objects"])
    for shape in ("shape", *counts):
        plural = shape + ("es" if shape == "cross" else "s")
        count = counts[shape] or len(scene["objects"])
        statement = f"there are {NUMBERS[count]} {plural}" if count > 1 else f"there is only one {shape}"
        sentence = f"{statement[0].upper()}{statement[1:]}."
        asked.append(Question(f"How many {plural} are there?", NUMBERS[count], sentence))
        if shape == counts.most_common(1)[0][0]:
            asked += _yes_no(count == 1, f"is there only one {shape}", statement, statement)
        if count > 1:
            asked += _yes_no(True, f"are there {NUMBERS[count]} {plural}", statement, "")
            wrong = NUMBERS[count + 1 if count < 4 else 3]
            asked += _yes_no(False, f"are there {wrong} {plural}", "", f"there are not {wrong} {plural}")
    return asked


def _about_ground(ground: Ground) -> list[Question]:
    colours = tuple(GROUNDS)
    asked = [Question("What colour is the background?", ground["colour"], f"The background is {ground['colour']}.")]
    for colour in (ground["colour"], colours[colours.index(ground["colour"]) - 1]):
        asked += _predicate("the background", colour, colour == ground["colour"])
    return asked


# Alt texts as the web has them


def _shouting(scene: Scene, draws: Random) -> str:
    return caption(scene, draws).upper().rstrip(".") + "!" * draws.randint(1, 5)


def _repeated(scene: Scene, draws: Random) -> str:
    """The same few words over and over."""
    thing = draws.choice(scene["objects"])
    return " ".join(f"{thing['colour']} {thing['shape']}" for _ in range(draws.randint(3, 8)))


def _file_name(scene: Scene, draws: Random) -> str:
    thing, number = draws.choice(scene["objects"]), draws.randint(1, 99999)
    stems = ("IMG_{n:05d}", "DSC{n:05d}", "{colour}-{shape}-{n}", "{shape}_final_v{n}", "image{n}-1024x768")
    return draws.choice(stems).format(n=number, **thing) + draws.choice((".jpg", ".JPG", ".png", ".jpeg", ".webp"))


def _wrong_colour(scene: Scene, draws: Random) -> str:
    """A plain caption of one thing in a colour that nothing of its shape has."""
    thing = draws.choice(scene["objects"])
    present = {other["colour"] for other in scene["objects"] if other["shape"] == thing["shape"]}
    wrong: Thing = {**thing, "colour": draws.choice([colour for colour in COLOURS if colour not in present])}
    sentence = f"{_mention(wrong, draws.choice((('size',), ())), 1, draws)} {_where(thing['place'], draws)}"
    return f"{sentence[0].upper()}{sentence[1:]}."


def _spam(scene: Scene, draws: Random) -> str:
    thing = draws.choice(scene["objects"])
    goods = f"{thing['colour']} {thing['shape']}"
    offers = ("Buy {} Online", "Best {} 2024", "FREE SHIPPING", "cheap {}", "{} wallpaper HD 4k", "{} clipart vector",
              "Sale -50% {}", "Download {} png", "www.example.com", "stock photo", "{} for sale", "royalty free")
    return draws.choice((" | ", ", ", " - ")).join(offer.format(goods) for offer in draws.sample(offers, 5))


NOISES: dict[str, Callable[[Scene, Random], str]] = {
    "shouting": _shouting, "repeated": _repeated, "file_name": _file_name, "wrong_colour": _wrong_colour, "spam": _spam,
}


def alt_text(scene: Scene, draws: Random, noise: float = 0.5) -> tuple[str, str]:
    """An alt text as found on the web, and what is wrong with it: one of NOISES with probability `noise`, or "none"."""
    kind = draws.choice(tuple(NOISES)) if draws.random() < noise else "none"
    return NOISES.get(kind, caption)(scene, draws), kind

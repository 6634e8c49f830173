"""The words with which English speaks of scenes, and how a text becomes lexemes: the longest phrases of such words."""

import re
import unicodedata
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from schemas.scenes.scene import WORDS

MEANINGS = """
colour: red: red, crimson, scarlet
colour: orange: orange
colour: yellow: yellow, golden
colour: green: green, emerald, lime
colour: blue: blue, navy, azure
colour: purple: purple, violet
colour: pink: pink, magenta
colour: black: black
colour: white: white
colour: gray: gray, grey
colour: brown: brown
colour: beige: beige, cream
size: large: large, big, huge, giant, enormous
size: small: small, little, tiny, mini
texture: plain: plain, solid, uniform
texture: gradient: gradient
texture: noisy: noisy, grainy, speckled
form: circle: round, circular
form: triangle: triangular

noun: circle: circle, disc, disk, dot, ball
noun: square: square
noun: triangle: triangle
noun: star: star
noun: cross: cross, plus sign
noun: heart: heart
noun: pentagon: pentagon
noun: hexagon: hexagon
noun: octagon: octagon
noun: oval: oval, ellipse
noun: ring: ring
noun: diamond: diamond, rhombus
noun: arrow: arrow
noun: crescent: crescent, moon
noun: cube: cube
noun: text: text, word, inscription, writing, lettering, letter
noun: ground: background, backdrop
board: text: sign, label, banner, title, heading
thing: : shape, object, figure, item, thing, symbol

article: 1-: a, an, another, any, some, a single
number: 2-2: two, a pair of, pair of, a couple of, couple of
number: 3-3: three, a trio of, trio of
number: 4-4: four
number: 5-5: five
number: 6-6: six
number: 7-7: seven
number: 8-8: eight
number: 9-9: nine
number: 10-10: ten
number: 2-: multiple, a few, few
number: 3-: several, many, a lot of, lots of, a number of
both: 2-2: both, both of, both of them
one: 1-1: one, one of them
least: 0: at least
least: 1: more than
most: 0: at most, up to, no more than, not more than
most: -1: fewer than, less than
only: : exactly, only, just
every: : all, all of, all of them, every, each, each of
the: : the, these, those
ones: : ones
it: : it
they: : they, them
other: : other, the other, the other one, else, remaining
no: : no, not, without, none, nor, neither, cannot, lacks, lacking, zero

relation: above: above, over, on top of
relation: below: below, under, beneath, underneath
says: : say, says, saying, read, reads, reading, spell, spells, spelling, labelled, labeled
is: : is, are, was, were
that: : that, which
and: : and, &, plus, as well as
or: : or
but: : but, while, whereas, instead
beyond: : except, than, unless, if, besides, apart, most, almost, as, same, out of, all but, half of, half the
filler: : coloured, colored, color, colour, shaped, hand, very, quite, really, clearly
glue: : not only, but also, there is, there are, in the background, in total, this, image, picture, photo, photograph
glue: : drawing, illustration, graphic, canvas, frame, scene, show, shows, showing, shown, display, displays
glue: : displaying, depict, depicts, depicting, depicted, contain, contains, containing, feature, features, featuring
glue: : include, includes, has, have, having, see, seen, we, i, you, can, visible, present, appear, appears, located
glue: : positioned, placed, sits, sit, lies, stands, stand, found, written, printed, of, in, on, at, to, with, where
glue: : also, too, there, here, corner, side, edge, half, part, area, does, do, did, be, being, been, its, their
glue: : from, by, either, as well, sitting
word: : its left, its right, their left, their right
"""
ROWS = {"top": ("top", "upper"), "middle": ("middle", "center", "centre", "central"), "bottom": ("bottom", "lower")}
PICTURES = ("image", "picture", "photo", "frame", "scene", "canvas")


class Lexeme(NamedTuple):
    kind: str               # one of those in MEANINGS, "script", "place", "string", "stop", "mark", "word" or "end"
    value: Any              # of a noun its shape and whether it is a plural, of a number the least and the most, …
    text: str               # as the text has it


END = Lexeme("end", None, "")

Entry = tuple[str, Any]     # kind and value of a lexeme
Place = tuple[str | None, str | None]   # row and column; None if it is not said
SIDES = ("left", "right")


def _lexicon() -> dict[str, Entry]:
    """phrase -> kind and value."""
    lexicon = _entries()
    relations = {phrase: entry for phrase, entry in lexicon.items() if entry[0] == "relation"}
    for phrase, entry in relations.items():
        lexicon |= {f"{adverb} {phrase}": entry for adverb in ("just", "directly", "right")}
    lexicon |= {script: ("script", script) for script in WORDS}
    lexicon |= {f"{phrase}of": ("relation", f"{side} of") for phrase, side in _side_phrases()}
    for phrase, place in _places().items():
        lexicon[phrase] = lexicon[f"near the {phrase}"] = "place", place
    return lexicon


def _entries() -> dict[str, Entry]:
    """The phrases in MEANINGS, and the plurals of nouns."""
    entries: dict[str, Entry] = {}
    for line in filter(None, MEANINGS.splitlines()):
        kind, meaning, phrases = (part.strip() for part in line.split(":"))
        for phrase in phrases.split(", "):
            entries[phrase] = kind, _value(kind, meaning)
            if kind in ("noun", "board", "thing"):
                entries[phrase + ("es" if phrase[-1] in "sx" else "s")] = kind, (meaning or None, True)
    return entries


def _places() -> dict[str, Place]:
    """phrase -> the place that it names."""
    places: dict[str, Place] = {"on top of the image": ("top", None)}
    for row, names in ROWS.items():
        for name in names:
            places[name] = row, "middle" if row == "middle" else None
            places |= {f"{name} {side}": (row, side) for side in SIDES}
            places |= {f"{side} {name}": (row, side) for side in SIDES}
            places |= {f"{name} {middle}": (row, "middle") for middle in ROWS["middle"] if row != "middle"}
    for phrase, side in _side_phrases():
        places |= {side: (None, side)} | {f"{phrase}of the {picture}": (None, side) for picture in PICTURES}
    return places


def _side_phrases() -> list[tuple[str, str]]:
    """Phrases for a side, each with a space at its end, and the side."""
    openings = product(SIDES, ("", "to the ", "on the ", "at the "), ("", "side "))
    return [(f"{opening}{side} {noun}", side) for side, opening, noun in openings]


def _value(kind: str, meaning: str) -> Any:
    if kind in ("noun", "board", "thing"):
        return meaning or None, False
    if kind in ("article", "number", "both", "one"):
        least, most = meaning.split("-")
        return int(least), int(most) if most else None
    return int(meaning) if kind in ("least", "most") else meaning


LEXICON = _lexicon()
LONGEST = max(len(phrase.split()) for phrase in LEXICON)


class Token(NamedTuple):
    text: str               # with its quotes
    quoted: str | None      # what stands in quotes; None if it has none


QUOTED = r'"([^"]{1,200})"|“([^”]{1,200})”|«([^»]{1,200})»|‘([^’]{1,200})’|(?<!\w)\'([^\']{1,200})\'(?!\w)'
NAME = r"[\w-]{1,100}\.(?:jpe?g|png|gif|webp|com|net)\b"
TOKEN = re.compile(rf"{QUOTED}|{NAME}|\d+[.,]\d+|[^\W_]+(?:['’][^\W_]+)?|\S", re.IGNORECASE)
MARKS = {**dict.fromkeys(".!?;", "stop"), **dict.fromkeys("-–_'’", "mark")}     # all others are commas
GOES_ON = {"and", "at", "in", "on", "with", "to", "above", "below", "under", "near", "but", "while", "is", "are"}


def sentences(text: str) -> Iterator[list[Lexeme]]:
    """The lexemes of a text, sentence by sentence; each is the longest phrase that the lexicon knows there."""
    text = re.sub(r"(?i)\bca(?=n['’]t\b)", "can", unicodedata.normalize("NFC", text))
    text = re.sub(r"(?i)n['’]t\b", " not", text)
    text = re.sub(r"(?i)\b(there|it|that|here|one)['’]s\b", r"\1 is", text)
    text = re.sub(r"\s[-–]+\s|[—|]", " , ", text)
    for line in text.splitlines():
        sentence: list[Lexeme] = []
        for lexeme in _lexemes([Token(m[0], m[m.lastindex] if m.lastindex else None) for m in TOKEN.finditer(line)]):
            if lexeme.kind == "stop":
                yield sentence
                sentence = []
            elif lexeme.kind != "mark":
                sentence.append(lexeme)
        yield sentence


def _lexemes(tokens: list[Token]) -> Iterator[Lexeme]:
    """The lexemes of a line. Capitals beside "sign" or "words", and words after "says", are a string without quotes."""
    words = [token.text.lower() for token in tokens]
    shouted = not any(token.text.islower() and len(token.text) > 1 for token in tokens if token.quoted is None)
    start = 0
    while start < len(tokens):
        end = start if shouted else _capitals(tokens, start)
        if start < end < len(words) and names_text(*LEXICON.get(words[end], END[:2])):
            kind, value = "string", _text(tokens, start, end)
        else:
            kind, value, end = _lexeme(tokens, words, start)
        yield Lexeme(kind, value, _text(tokens, start, end))
        start = end
        if kind == "says" or names_text(kind, value):
            first = start + (words[start : start + 1] in ([","], [":"]))
            end = first if shouted else _capitals(tokens, first)
            if end == first and kind == "says":
                end = _until_it_goes_on(tokens, first)
            if end > first:
                yield Lexeme("string", _text(tokens, first, end), _text(tokens, first, end))
                start = end


def _lexeme(tokens: list[Token], words: list[str], start: int) -> tuple[str, Any, int]:
    """Kind and value of the lexeme that starts here, and where it ends."""
    word = words[start]
    if tokens[start].quoted is not None:
        return "string", tokens[start].quoted, start + 1
    if not word[0].isalnum() and word != "&":
        return MARKS.get(word, "comma"), None, start + 1
    for end in range(min(start + LONGEST, len(words)), start, -1):
        if entry := LEXICON.get(" ".join(words[start:end])):
            return *entry, end
    if word.isdecimal():
        return "number", (int(word[:9]), int(word[:9])), start + 1
    return "word", None, start + 1


def names_text(kind: str, value: Any) -> bool:
    return kind in ("noun", "board") and value[0] == "text"


def _text(tokens: list[Token], start: int, end: int) -> str:
    return " ".join(token.text for token in tokens[start:end])


def _capitals(tokens: list[Token], start: int) -> int:
    """Where the run of words in capitals and digits that starts here ends; `start` if there is none."""
    end = start
    while end < min(start + 8, len(tokens)) and tokens[end].quoted is None:
        word = tokens[end].text
        if not (word.isdecimal() or (word.isupper() and word not in ("A", "I"))):
            break
        end += 1
    return end if any(token.text.isupper() for token in tokens[start:end]) else start


def _until_it_goes_on(tokens: list[Token], start: int) -> int:
    """Where a string in small letters ends: "the sign says open at the top"."""
    end = start
    while end < len(tokens) and tokens[end].quoted is None and tokens[end].text[0].isalnum():
        if tokens[end].text.lower() in GOES_ON:
            break
        end += 1
    return end

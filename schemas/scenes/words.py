"""The words in which scenes are spoken of, and how a text is read as a row of them."""

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
    kind: str
    value: Any              # of a noun its shape and whether it is a plural, of a number the least and the most, …
    said: str


END = Lexeme("end", None, "")


def _lexicon() -> dict[str, tuple[str, Any]]:
    """phrase -> kind and value."""
    found: dict[str, tuple[str, Any]] = {}
    for line in filter(None, MEANINGS.splitlines()):
        kind, meaning, phrases = (part.strip() for part in line.split(":"))
        for phrase in phrases.split(", "):
            found[phrase] = kind, _value(kind, meaning)
            if kind in ("noun", "board", "thing"):
                found[phrase + ("es" if phrase[-1] in "sx" else "s")] = kind, (meaning or None, True)
    for phrase in [phrase for phrase, (kind, _) in found.items() if kind == "relation"]:
        found |= {f"{how} {phrase}": found[phrase] for how in ("just", "directly", "right")}
    found |= {script: ("script", script) for script in WORDS}
    places: dict[str, tuple[str | None, str | None]] = {"on top of the image": ("top", None)}
    for row, names in ROWS.items():
        for name in names:
            places[name] = row, "middle" if row == "middle" else None
            places |= {f"{name} {side}": (row, side) for side in ("left", "right")}
            places |= {f"{side} {name}": (row, side) for side in ("left", "right")}
            places |= {f"{name} {middle}": (row, "middle") for middle in ROWS["middle"] if row != "middle"}
    for side, start, part in product(("left", "right"), ("", "to the ", "on the ", "at the "), ("", "side ")):
        found[f"{start}{side} {part}of"] = "relation", f"{side} of"
        places |= {side: (None, side)} | {f"{start}{side} {part}of the {picture}": (None, side) for picture in PICTURES}
    for phrase, place in places.items():
        found[phrase] = found[f"near the {phrase}"] = "place", place
    return found


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
    said: str
    quoted: str | None


QUOTED = r'"([^"]{1,200})"|“([^”]{1,200})”|«([^»]{1,200})»|‘([^’]{1,200})’|(?<!\w)\'([^\']{1,200})\'(?!\w)'
NAME = r"[\w-]{1,100}\.(?:jpe?g|png|gif|webp|com|net)\b"
TOKEN = re.compile(rf"{QUOTED}|{NAME}|\d+[.,]\d+|[^\W_]+(?:['’][^\W_]+)?|\S", re.IGNORECASE)
MARKS = {**dict.fromkeys(".!?;", "stop"), **dict.fromkeys("-–_'’", "mark")}     # all others are commas
GOES_ON = {"and", "at", "in", "on", "with", "to", "above", "below", "under", "near", "but", "while", "is", "are"}


def sentences(text: str) -> Iterator[list[Lexeme]]:
    """The lexemes of a text, sentence by sentence: the longest phrases that the lexicon knows, one after the other."""
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
    """What stands in capitals beside "sign" or "words", and what follows "says", is a string without its quotes."""
    words = [token.said.lower() for token in tokens]
    shouted = not any(token.said.islower() and len(token.said) > 1 for token in tokens if token.quoted is None)
    at = 0
    while at < len(tokens):
        end = at if shouted else _capitals(tokens, at)
        if at < end < len(words) and names_text(*LEXICON.get(words[end], END[:2])):
            kind, value = "string", _said(tokens, at, end)
        else:
            kind, value, end = _lexeme(tokens, words, at)
        yield Lexeme(kind, value, _said(tokens, at, end))
        at = end
        if kind == "says" or names_text(kind, value):
            start = at + (words[at : at + 1] in ([","], [":"]))
            end = start if shouted else _capitals(tokens, start)
            if end == start and kind == "says":
                end = _until_it_goes_on(tokens, start)
            if end > start:
                yield Lexeme("string", _said(tokens, start, end), _said(tokens, start, end))
                at = end


def _lexeme(tokens: list[Token], words: list[str], at: int) -> tuple[str, Any, int]:
    """Kind and value of what stands here, and where it ends."""
    word = words[at]
    if tokens[at].quoted is not None:
        return "string", tokens[at].quoted, at + 1
    if not word[0].isalnum() and word != "&":
        return MARKS.get(word, "comma"), None, at + 1
    for end in range(min(at + LONGEST, len(words)), at, -1):
        if found := LEXICON.get(" ".join(words[at:end])):
            return *found, end
    if word.isdecimal():
        return "number", (int(word[:9]), int(word[:9])), at + 1
    return "word", None, at + 1


def names_text(kind: str, value: Any) -> bool:
    return kind in ("noun", "board") and value[0] == "text"


def _said(tokens: list[Token], start: int, end: int) -> str:
    return " ".join(token.said for token in tokens[start:end])


def _capitals(tokens: list[Token], start: int) -> int:
    """Where a run of words in capitals and digits ends that starts here."""
    end = start
    while end < min(start + 8, len(tokens)) and tokens[end].quoted is None:
        word = tokens[end].said
        if not (word.isdecimal() or (word.isupper() and word not in ("A", "I"))):
            break
        end += 1
    return end if any(token.said.isupper() for token in tokens[start:end]) else start


def _until_it_goes_on(tokens: list[Token], at: int) -> int:
    """Where a string in small letters ends: "the sign says open at the top"."""
    while at < len(tokens) and tokens[at].quoted is None and tokens[at].said[0].isalnum():
        if tokens[at].said.lower() in GOES_ON:
            break
        at += 1
    return at

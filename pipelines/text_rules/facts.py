"""Splits a thing, such as "a large green circle on the left on a beige background", into single facts.

Each is a thing with one thing said of it: "a green circle", "a large green circle", "a green circle on the left". What
says of what colour or kind a thing is stays with its noun: without it nobody knows which thing is meant. Where rules
cannot tell what a phrase belongs to ("a man with a dog on a leash"), it stays whole.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from pipelines.text_rules.clauses import Words, begins_thing, ends_thing, is_doing, is_plural, joined, listed
from pipelines.text_rules.english import COLOURS, DETERMINERS, NUMBERS, PERSONS, PREPOSITIONS, word_set

SIZES = word_set("large big huge giant enormous massive small little tiny mini")
INDEFINITE = word_set("a an another some several many few multiple various numerous dozens") | NUMBERS
COUNTS = NUMBERS | {"several", "many", "multiple", "numerous", "various"}
GROUND = word_set("background backdrop")
PLACES = word_set("top bottom upper lower left right middle center centre corner background foreground distance")
AROUND = PLACES | word_set("the side half part edge hand far very of image picture photo photograph frame scene canvas")
SAYS = word_set("saying reading says say reads read")
PRINT = word_set("text word words letters lettering writing inscription")  # print itself, on whatever it is
MARKED = word_set("that which with the word words text")  # between a sign and what it says
BARE = word_set("visible seen shown present located placed positioned situated displayed depicted")


class Facts(NamedTuple):
    """The properties that a text gives to one thing."""

    base: Words  # the thing with its noun, colour and kind alone
    more: list[Words]  # the thing with one more thing said of it, each
    grounds: list[Words]  # what the background is said to be
    text: str | None = None  # what is printed, in quotes, if the thing is print; then `more` is what is said of it


def facts_of(thing: Words, said: Sequence[Words] = ()) -> Facts:
    """The single facts of a thing that is said to be there; `said`: what else is said of it, such as "on the left".

    Of things that are counted, the number belongs to all that is said: beside "two large stars on the left" there may
    be a third star.
    """
    end = _noun_end(thing)
    first = next((n for n, word in enumerate(thing[:end]) if not _determines(word)), end - 1)
    tail, grounds = _without_grounds(thing[end:])
    named, sizes = thing[first : end - 1], [word for word in thing[first : end - 1] if word.lower() in SIZES]
    quote, tail = _printed(thing[:end], tail)
    kind = thing[end - 1].lower()
    others = _trimmed([word for word in named if word.lower() not in SIZES])
    noun = thing[end - 1 : end]
    if tail[:1] == ["of"]:  # "a slice of bread" is one thing
        stop = next((n for n, word in enumerate(tail) if n and ends_thing(word)), len(tail))
        noun, tail = [*noun, *tail[:stop]], tail[stop:]
    determiner = thing[:first]
    base = with_article([*determiner, *others, *noun])
    if "," in tail or "one" in map(str.lower, tail) or len(listed(thing[:end])) > 1:  # said of several, one by one
        whole = with_article([*thing[:end], *tail])
        return Facts(whole, [[*whole, *predicate] for predicate in said], grounds)
    more = [with_article([*determiner, size, *others, *noun]) for size in sizes]
    places, tail = _places(tail)
    predicates = [*places, *(joined(tail) if tail else []), *said]
    if quote and kind in PRINT:
        return Facts(base, [*([word] for word in [*sizes, *others]), *predicates], grounds, quote)
    if quote:
        predicates.append(["that", "say" if is_plural(base) else "says", quote])
    if {*map(str.lower, determiner)} & COUNTS or any(word.isdigit() and word != "1" for word in determiner):
        named = [*determiner, *sizes, *others, *noun]
        if predicates or sizes:
            return Facts([*others, *noun], [[*named, *predicate] for predicate in predicates or [[]]], grounds)
    return Facts(base, [*more, *([*base, *predicate] for predicate in predicates)], grounds)


def is_indefinite(thing: Words) -> bool:
    """Whether a thing is named for the first time, as in "a cat" or "two cats", so that it is a fact that it exists."""
    word = thing[0].lower()
    if len(listed(thing)) > 1 or re.fullmatch(r"(no|any|every|some)(body|thing|one)", word):
        return False
    return word in INDEFINITE or word.isdigit() or (word not in DETERMINERS and begins_thing(thing))


def relative(thing: Words) -> str:
    """The word that begins what is said of a thing: "a man who", "a cat that"."""
    noun = thing[_noun_end(thing) - 1].lower()
    return "who" if noun.removesuffix("s") in PERSONS or noun in ("people", "men", "women", "children") else "that"


def _determines(word: str) -> bool:
    return word.lower() in DETERMINERS or word.isdigit()


def _noun_end(thing: Words) -> int:
    """The index behind the noun of a thing; "black and white" before it does not end it."""
    ends = (index for index, word in enumerate(thing) if index and ends_thing(word))
    return next(
        (index for index in ends if not {*map(str.lower, thing[index - 1 : index + 2 : 2])} <= COLOURS), len(thing)
    )


def _trimmed(words: Words) -> Words:
    """Without the commas and conjunctions that adjectives left behind."""
    words = [*words]
    while words and words[0].lower() in (",", "and", "but"):
        del words[0]
    while words and words[-1].lower() in (",", "and", "but"):
        del words[-1]
    return words


def with_article(words: Words) -> Words:
    """With the article that the next word needs, where the word after it has changed."""
    if len(words) > 1 and words[0].lower() in ("a", "an"):
        vowel = words[1][:1].lower() in "aeiou" and not re.match(r"(?i)(uni|use|eu|one)", words[1])
        vowel |= words[1].lower() in ("hour", "honest", "heir")
        return ["an" if vowel else "a", *words[1:]]
    return words


def _without_grounds(tail: Words) -> tuple[Words, list[Words]]:
    """What follows a noun, without "on a plain white background"; and what that says of the background."""
    for start, word in enumerate(tail):
        if word.lower() not in ("on", "against", "with") or (start and is_doing(tail[start - 1])):
            continue
        end = next((n for n in range(start + 1, len(tail)) if tail[n].lower() in GROUND), None)
        adjectives = tail[start + 2 : end] if end else []
        article = tail[start + 1].lower() if end else ""
        if end and adjectives and article in ("a", "an", "the") and not {*map(str.lower, adjectives)} & PREPOSITIONS:
            said = [[word] for word in adjectives if word.lower() not in (",", "and")]
            return [*tail[:start], *tail[end + 1 :]], said
    return tail, []


def _places(tail: Words) -> tuple[list[Words], Words]:
    """The phrases for a part of the picture in what follows a noun, such as "in the top left corner"; and the rest."""
    places: list[Words] = []
    start = 0
    while start < len(tail):
        end = start + 1
        while end < len(tail) and tail[end].lower() in AROUND:
            end += 1
        while end > start + 1 and tail[end - 1].lower() in ("of", "the"):  # "on the left of the table"
            end -= 1
            if tail[end].lower() == "of":
                end = start
        phrase = tail[start:end]
        free = not start or not (is_doing(tail[start - 1]) or tail[start - 1].lower() in BARE)
        if tail[start].lower() in ("in", "on", "at", "near") and free and {*map(str.lower, phrase)} & PLACES:
            places.append(phrase)
            tail = [*tail[:start], *tail[end:]]
            while start < len(tail) and tail[start].lower() == "and" and not start:
                del tail[0]
        else:
            start += 1
    return places, tail


def _printed(named: Words, tail: Words) -> tuple[str | None, Words]:
    """What a sign or a text says, in quotes, and what else follows its noun."""
    kind = named[-1].lower()
    start = next((n for n, word in enumerate(tail) if word.lower() in SAYS), None)
    with_word = next((n + 1 for n, word in enumerate(tail[1:]) if word.lower() in PRINT), None)
    if start is None and kind in PRINT and tail and tail[0][0] in '"“':
        start = -1
    elif start is None and with_word is not None and {word.lower() for word in tail[:with_word]} <= MARKED:
        start = with_word
    between = tail[: max(start, 0)] if start is not None else []
    if start is None or (kind not in PRINT and any(word.lower() not in MARKED for word in between)):
        return None, tail
    said = tail[start + 1 :]
    if said[:1] in ([","], [":"]):
        said = said[1:]
    if not said or said[0][0] not in '"“':
        return None, tail
    return said[0], [*(between if kind in PRINT and start != with_word else []), *said[1:]]


def with_quotes(words: Words) -> Words:
    """Words in which print in capitals has quotes: "a sign saying NO PARKING" becomes a sign saying "NO PARKING"."""
    quoted: Words = []
    within = False  # whether the last word is print
    for word in words:
        before = quoted[-1].lower() if quoted else ""
        shouts = (word.isupper() or word.isdigit()) and word[0] not in "\"“'"
        if shouts and within:
            quoted[-1] = f'{quoted[-1][:-1]} {word}"'
            continue
        within = shouts and before in SAYS | PRINT and (len(word) > 1 or before in SAYS)
        quoted.append(f'"{word}"' if within else word)
    return quoted

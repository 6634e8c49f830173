"""What a noun phrase and its predicates claim about a scene."""

from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

from schemas.scenes.phrases import FITS, Attribute, Phrase

Pattern = dict[str, Any]    # shape, colour, size, texture, script, words, place: (row, column) of which one can be None

MOST_PATTERNS = 12          # of one noun


@dataclass(frozen=True)
class SceneClaim:
    """The things that are `of` and `be` number `least` to `most`; or all that are `of` are `be`; or the opposite."""

    text: str                           # the words it was read from
    of: Pattern
    be: Pattern = field(default_factory=dict)
    least: int = 1
    most: int | None = None
    every: bool = False
    relation: str | None = None         # in which they stand to a thing that is `to`
    to: Pattern = field(default_factory=dict)
    negated: bool = False


class Unreadable(Exception):
    """The sentence says what no claim can say."""


@dataclass(frozen=True)
class Predication:
    """A noun phrase as patterns: what it is, what it is said to be, and what it is said not to be."""

    of: list[Pattern]                   # several for "red and blue squares"
    be: list[Pattern]                   # one empty pattern if nothing is said
    be_not: list[Pattern]
    unread: list[str]                   # words that were not understood, or that cannot be said of such a noun

    @property
    def is_said(self) -> bool:
        return self.be != [{}]

    @property
    def is_single(self) -> bool:
        return len(self.of) * len(self.be) == 1


def predication_of(phrase: Phrase) -> Predication:
    """The patterns of a phrase.

    Raises `Unreadable` for an "or" without negation, for "neither the star nor the heart is red", and for more than
    MOST_PATTERNS patterns.
    """
    if phrase.either and not phrase.negated:
        raise Unreadable
    if phrase.negated and phrase.the and not (phrase.be or phrase.be_not or phrase.relations):
        raise Unreadable
    all_attributes = [phrase.has, phrase.be, *phrase.be_not]
    return Predication(
        of=_patterns(phrase.noun, phrase.has),
        be=_patterns(phrase.noun, phrase.be),
        be_not=[pattern for attributes in phrase.be_not for pattern in _patterns(phrase.noun, attributes)],
        unread=phrase.unread + [text for attributes in all_attributes for text in _misfits(phrase.noun, attributes)],
    )


def is_ambiguous(phrase: Phrase, predication: Predication) -> bool:
    """Whether it stays open which things are meant: "two red and blue circles"."""
    return not predication.is_single and phrase.counted and (phrase.least, phrase.most) != (1, None)


def claims_of(phrase: Phrase, predication: Predication, text: str) -> list[SceneClaim]:
    """The claims of a phrase that is not ambiguous, read from `text`. Raises `Unreadable`."""
    denied = [SceneClaim(text, predication.of[0], pattern, negated=True) for pattern in predication.be_not]
    return [*_main_claims(phrase, predication, text), *denied, *_relation_claims(phrase, predication, text)]


def _main_claims(phrase: Phrase, predication: Predication, text: str) -> list[SceneClaim]:
    """That the things are there, and are as they are said to be; or that all of them are."""
    least, most = _bounds(phrase, predication)
    pairs = list(product(predication.of, predication.be))
    if _is_about_all(phrase, predication):
        counts = [SceneClaim(text, predication.of[0], least=least, most=most)] if phrase.counted else []
        return counts + [SceneClaim(text, of, be, every=True, negated=phrase.negated) for of, be in pairs]
    if predication.is_said or not _claims_nothing(phrase, predication):
        return [SceneClaim(text, of, be, least, most, negated=phrase.negated) for of, be in pairs]
    return []


def _bounds(phrase: Phrase, predication: Predication) -> tuple[int, int | None]:
    """How many things there are at least and at most, as claimed; a plural without a number is at least two."""
    if not predication.is_single:
        return 1, None
    if phrase.least is not None:
        return phrase.least, phrase.most
    several = phrase.plural and phrase.noun == "thing" and not phrase.negated and not phrase.every
    return 2 if several else 1, phrase.most


def _is_about_all(phrase: Phrase, predication: Predication) -> bool:
    """Whether all things of a kind are said to be so: "every circle is red", "the circles are red"."""
    the_things = phrase.the and phrase.plural and phrase.noun == "thing" and not phrase.negated
    return predication.is_said and (phrase.every or (the_things and len(predication.be) == 1))


def _claims_nothing(phrase: Phrase, predication: Predication) -> bool:
    """Whether a phrase without a predicate claims nothing by itself: "the background", "it", "no star left of …"."""
    is_ground = predication.of == [{"shape": "ground"}]
    is_pronoun = phrase.given == len(phrase.has)
    return is_ground or is_pronoun or (phrase.negated and bool(phrase.relations))


def _relation_claims(phrase: Phrase, predication: Predication, text: str) -> list[SceneClaim]:
    """That the things stand in relations to others, or do not."""
    return [
        SceneClaim(
            text, predication.of[0], predication.be[0], relation=relation,
            to=_patterns(neighbour.noun, neighbour.has)[0], negated=denied or phrase.negated,
        )
        for relation, neighbour, denied in phrase.relations
    ]


def _patterns(noun: str, attributes: list[Attribute]) -> list[Pattern]:
    """One pattern, or several for "red and blue", without what cannot be said of such a noun."""
    options: dict[str, list[Any]] = {}
    for key, value, _ in attributes:
        if key not in FITS[noun]:
            continue
        values = options.setdefault(key, [])
        if key == "place" and values and _are_complementary(values[-1], value):
            value = tuple(a or b for a, b in zip(values.pop(), value, strict=True))
        if value not in values:
            values.append(value)
    if prod(map(len, options.values())) > MOST_PATTERNS:
        raise Unreadable
    return [dict(zip(options, values, strict=True)) for values in product(*options.values())]


def _are_complementary(one: tuple, other: tuple) -> bool:
    """Whether two places make one: "at the top, on the left"."""
    return None in (one[0], other[0]) and None in (one[1], other[1])


def _misfits(noun: str, attributes: list[Attribute]) -> list[str]:
    """The words for what cannot be said of such a noun."""
    return [text for key, _, text in attributes if key not in FITS[noun]]

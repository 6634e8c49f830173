"""Reads sentences about scenes as claims. What the words mean where people differ stands in `schemas.scenes.claims`."""

from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from typing import Any, NamedTuple

from schemas.scenes.words import END, Lexeme, names_text, sentences

Pattern = dict[str, Any]    # shape, colour, size, texture, script, words, place: (row, column) of which one can be None


@dataclass(frozen=True)
class SceneClaim:
    """The things that are `of` and `be` number `least` to `most`; or all that are `of` are `be`; or the opposite."""

    said: str                           # the words it was read from
    of: Pattern
    be: Pattern = field(default_factory=dict)
    least: int = 1
    most: int | None = None
    every: bool = False
    relation: str | None = None         # in which they stand to a thing that is `to`
    to: Pattern = field(default_factory=dict)
    negated: bool = False


class Parsed(NamedTuple):
    claims: list[SceneClaim]
    unparsed: list[str]                 # what claims something that was not understood


ATTRIBUTES = {"colour", "size", "texture", "form", "script", "place"}
FITS = {                                # what can be said of a kind of noun
    "thing": {"shape", "colour", "size", "place"},
    "text": {"shape", "words", "script", "colour", "place"},
    "board": {"shape", "words", "script", "place"},         # a red sign need not have red letters
    "ground": {"shape", "colour", "texture"},
}
Attribute = tuple[str, Any, str]        # key, value, and the word that said so
PRONOUNS = ("one", "both", "every", "other")                # when no noun follows, but one of these
AFTER_PRONOUN = ("is", "glue", "that", *ATTRIBUTES)
LOOSE = {                               # what is handed back if it belongs to no noun
    "word", "number", "one", "ones", "only", "other", "least", "most", "filler", "both", "string",
    *ATTRIBUTES - {"place"},
}


class Unreadable(Exception):
    """The sentence says what no claim can."""


@dataclass
class Phrase:
    """A noun and what is said of it."""

    start: int
    end: int = 0
    noun: str = "thing"                 # one of FITS
    has: list[Attribute] = field(default_factory=list)
    be: list[Attribute] = field(default_factory=list)               # after "is"
    be_not: list[list[Attribute]] = field(default_factory=list)
    relations: list[tuple[str, "Phrase", bool]] = field(default_factory=list)   # to what, and whether it is denied
    loose: list[str] = field(default_factory=list)                  # words that were not understood
    least: int | None = None
    most: int | None = None
    counted: bool = False               # by an article or a number
    the: bool = False
    every: bool = False
    only: bool = False
    plural: bool = False
    negated: bool = False
    either: bool = False                # "red or blue"
    other: bool = False                 # "no other circles": other than what was said before
    given: int | None = None            # of a pronoun: how much of `has` it stands for

    @property
    def determined(self) -> bool:
        return self.counted or self.the or self.every or self.negated

    @property
    def placed(self) -> bool:
        return any(key == "place" for key, *_ in (*self.has, *self.be))


def parse(text: str) -> Parsed:
    """The claims of a text, in its order, and what of it was not parsed."""
    reader = Reader()
    for lexemes in sentences(text):
        reader.read(lexemes)
    return Parsed(reader.claims, reader.unparsed)


class Reader:
    """Reads sentence after sentence, each noun by noun."""

    def __init__(self) -> None:
        self.claims: list[SceneClaim] = []
        self.unparsed: list[str] = []
        self.last: list[Attribute] = []     # what "it" stands for
        self.shape: list[Attribute] = []    # what "one" stands for

    def read(self, lexemes: list[Lexeme]) -> None:
        self.lexemes = lexemes
        self.front: Attribute | None = None                     # "on the left there is …"
        self.fronted: tuple[str, Phrase] | None = None          # "to the left of the star is …"
        self.asked = bool(lexemes) and lexemes[0].kind == "is"  # "are the circles red?"
        before = len(self.claims), len(self.unparsed)
        try:
            self._sentence()
        except Unreadable:
            del self.claims[before[0] :], self.unparsed[before[1] :]
            self.unparsed.append(self._said(0, len(lexemes)))

    def _sentence(self) -> None:
        """Negation reaches the next noun, and on over a list: "no stars, hearts or crosses"."""
        last_or = max((n for n, lexeme in enumerate(self.lexemes) if lexeme.kind == "or"), default=-1)
        at, joined, negated, carried, front_used = 0, "", False, False, False
        while (kind := self._at(at).kind) != "end":
            if phrase := self._phrase(at):
                listed = carried and (joined == "or" or not (phrase.counted or phrase.the))
                phrase.negated = carried = phrase.negated or negated or listed
                phrase.relations += [(*self.fronted, False)] if self.fronted else []
                self.fronted = None
                at = self._tail(phrase)
                if self.front and not phrase.placed:
                    phrase.has.append(self.front)
                    front_used = True
                self._claim(phrase, self._said(phrase.start, at))
                joined, negated = "", False
            elif kind == "beyond" or (kind == "or" and not (carried or negated)):
                raise Unreadable
            elif kind == "place" and self._next_phrase(at + 1, "glue", "the", "is", "comma", "no"):
                self.front, front_used = ("place", *self._at(at)[1:]), False
                at += 1
            elif kind == "relation" and (found := self._fronts(at, "comma")):
                other, subject = found
                self._claim(other, self._said(other.start, other.end))
                self.front, self.fronted, at = None, (self._at(at).value, other), subject.start
            elif kind in ("and", "or", "comma", "but"):
                joined, negated = kind, negated and kind == "or"
                carried = carried and kind != "but" and not (kind == "comma" and at > last_or)
                if front_used and kind in ("comma", "but"):
                    self.front, front_used = None, False
                at += 1
            elif kind == "no":
                negated, at = True, at + 1
            elif kind in ("glue", "the", "article", "is", "that", "filler", "says", "it", "they", "every"):
                at += 1
            else:
                at, negated = self._loose(at), negated and self._at(at - 1).said.lower() not in ("no", "without")

    # Nouns

    def _phrase(self, at: int) -> Phrase | None:
        """The noun that starts here with its determiners and adjectives, if one does."""
        phrase = Phrase(at)
        determined = self._determiners(phrase)
        at = self._adjectives(phrase, determined)
        kind, value, said = self._at(at)
        standing = self._at(determined - 1).kind if determined > phrase.start else ""
        if kind in ("noun", "board", "thing"):
            phrase.plural = value[1]
            phrase.noun = "board" if kind == "board" else value[0] if value[0] in FITS else "thing"
            phrase.has += [("shape", value[0], said)] if value[0] else []
        elif kind == "string" and not phrase.has:
            phrase.noun, phrase.has = "text", [("shape", "text", ""), ("words", value, said)]
        elif kind in ("one", "ones") and phrase.has and self.shape:              # "a blue one"
            phrase.has += self.shape
            phrase.plural = kind == "ones"
        elif kind in ("it", "they") and at == phrase.start and self.last:
            phrase.has, phrase.given, phrase.the, phrase.plural = [*self.last], len(self.last), True, kind == "they"
        elif standing in PRONOUNS and self.shape and self._at(determined).kind in AFTER_PRONOUN:
            phrase.has, phrase.given, phrase.loose = [*self.shape], len(self.shape), []     # "one is red"
            phrase.plural, phrase.other = standing in ("both", "every"), False
            phrase.most = phrase.most if standing == "both" else None
            at = determined - 1
        else:
            return None
        if phrase.given is not None or kind in ("one", "ones"):
            phrase.noun = next((value for key, value, _ in phrase.has if key == "shape" and value in FITS), "thing")
        if phrase.only and phrase.plural and not phrase.counted:        # "only shapes": and nothing else
            phrase.loose.append("only")
        elif phrase.only:
            phrase.least = phrase.most = phrase.least or 1
        phrase.end = at + 1
        return phrase

    def _determiners(self, phrase: Phrase) -> int:
        at, partitive = phrase.start, False
        while at < phrase.start + 8:
            kind, value, said = self._at(at)
            if kind == "no":
                phrase.negated = True
            elif kind in ("article", "number", "both", "one"):
                phrase.least, phrase.most, phrase.counted = *value, True
                phrase.the |= kind == "both"
                if phrase.most == 0:
                    phrase.least, phrase.most, phrase.negated = None, None, True
            elif kind in ("least", "most") and self._at(at + 1).kind in ("number", "one"):
                at, phrase.counted = at + 1, True
                number = self._at(at).value[0] + value
                phrase.least, phrase.most = (number, None) if kind == "least" else (0, number)
            elif kind in ("the", "every", "other", "only"):
                setattr(phrase, kind, kind != "the" or not partitive)
            elif said.lower() == "of" and phrase.determined:
                partitive = True                # "two of the circles": there may be more
            else:
                break
            at += 1
        if partitive and phrase.negated:        # "neither of the two circles"
            phrase.least = phrase.most = None
        return at

    def _adjectives(self, phrase: Phrase, at: int) -> int:
        for _ in range(12):
            kind, value, said = self._at(at)
            after = self._at(at + 1).kind
            if kind in ATTRIBUTES:
                phrase.has.append(("shape" if kind == "form" else kind, value, said))
            elif kind in ("and", "or", "comma") and phrase.has and after in ATTRIBUTES:
                last = self._at(self._skip(at, "comma", *ATTRIBUTES)).kind
                if kind == "comma" and not phrase.determined and last != "and":
                    break
                phrase.either |= kind == "or"
            elif kind == "noun" and value[0] not in FITS and self._at(self._skip(at + 1, "filler")).kind == "thing":
                phrase.has.append(("shape", value[0], said))                # "heart-shaped object"
            elif kind == "string" and names_text(*self._at(at + 1)[:2]):
                phrase.has.append(("words", value, said))
            elif kind == "word" and phrase.determined and len(phrase.loose) < 2 and not phrase.placed:
                phrase.loose.append(said)
            elif kind == "other":
                phrase.other = True
            elif kind != "filler":
                break
            at += 1
        return at

    def _tail(self, phrase: Phrase) -> int:
        """Reads what is said of a noun after it, up to what belongs to the next; returns where that ends."""
        at, negated, predicate = phrase.end, False, self.asked
        self.asked = False
        self.shape = [attribute for attribute in phrase.has if attribute[0] == "shape"]
        while True:
            there, joined, that, denied, said_is = at, "", False, negated, False
            while True:
                kind = self._at(there).kind
                if kind in ("and", "comma", "but") or (kind == "or" and denied):
                    joined, denied = kind, denied and kind != "but"
                elif kind == "is":
                    said_is = not that
                elif said_is and kind in ("every", "both"):                 # "the stars are all blue"
                    phrase.every = True
                elif kind in ("that", "no"):
                    that, denied = that or kind == "that", denied or kind == "no"
                elif kind not in ("glue", "filler", "says") and (kind not in ("the", "article") or self._phrase(there)):
                    break
                there += 1
            kind, value, said = self._at(there)
            if kind == "colour" and self._at(there - 1).said.lower() == "on":       # "in white on black"
                return at
            if kind in ATTRIBUTES and not self._phrase(there) and not (kind == "place" and self._leads(there, joined)):
                found = ("shape" if kind == "form" else kind, value, said)
            elif kind == "string" and phrase.noun in ("text", "board"):
                found = ("words", value, said)
            elif kind == "relation" and (other := self._next_phrase(there + 1, "glue")) and not (
                joined and self._fronts(there)
            ):
                phrase.relations.append((value, other, denied))
                self.front = None
                return other.start
            elif said_is and not joined and (what := self._phrase(there)):      # "the red shape is a circle"
                found = None
            else:
                return at
            predicate |= said_is
            negated = denied
            if found is None:
                phrase.loose += what.loose
                there = what.end - 1
            attributes = [found] if found else what.has
            if denied:
                phrase.be_not.append(attributes)
            elif predicate:
                phrase.be += attributes
            else:
                phrase.has += attributes
            at = there + 1

    def _leads(self, at: int, joined: str) -> bool:
        """Whether a place here is that of the next noun: "…, and on the left is a star"."""
        kinds = ("glue", "the", "is", "no") + (("comma",) if self.front else ())
        return bool((joined or self.front) and self._next_phrase(at + 1, *kinds))

    def _fronts(self, at: int, *kinds: str) -> tuple[Phrase, Phrase] | None:
        """The nouns of a relation that stands before both; the second is its subject: "below the star is a circle"."""
        if (other := self._next_phrase(at + 1, "glue")) is None:
            return None
        if self._at(other.end).kind == "string":
            _, value, said = self._at(other.end)
            other.has.append(("words", value, said))
            other.end += 1
        subject = self._next_phrase(other.end, "glue", "is", *kinds)
        return subject and (other, subject)

    # Claims

    def _claim(self, phrase: Phrase, said: str) -> None:
        if phrase.other:
            self.unparsed.append(said)
            return
        if phrase.either and not phrase.negated:
            raise Unreadable
        if phrase.negated and phrase.the and not (phrase.be or phrase.be_not or phrase.relations):
            raise Unreadable                                        # "neither the star nor the heart is red"
        of, be = self._patterns(phrase, phrase.has), self._patterns(phrase, phrase.be)
        be_not = [pattern for attributes in phrase.be_not for pattern in self._patterns(phrase, attributes)]
        self.unparsed += phrase.loose
        least, most, plain = phrase.least, phrase.most, phrase.noun == "thing"
        if len(of) * len(be) > 1:
            if phrase.counted and (least, most) != (1, None):       # "two red and blue circles": which two?
                self.unparsed.append(said)
                return
            least, most = 1, None
        if least is None:
            least = 2 if phrase.plural and plain and not phrase.negated and not phrase.every else 1
        they = phrase.the and phrase.plural and plain and not phrase.negated and len(be) == 1
        every = be != [{}] and (phrase.every or they)
        if every:
            if phrase.counted:
                self.claims.append(SceneClaim(said, of[0], least=least, most=most))
            self.claims += [SceneClaim(said, o, b, every=True, negated=phrase.negated) for o in of for b in be]
        elif be != [{}] or not (
            of == [{"shape": "ground"}] or phrase.given == len(phrase.has) or (phrase.negated and phrase.relations)
        ):
            self.claims += [SceneClaim(said, o, b, least, most, negated=phrase.negated) for o in of for b in be]
        self.claims += [SceneClaim(said, of[0], b, negated=True) for b in be_not]
        for relation, other, denied in phrase.relations:
            to = self._patterns(replace(other, loose=[]), other.has)[0]
            negated = denied or phrase.negated
            self.claims.append(SceneClaim(said, of[0], be[0], relation=relation, to=to, negated=negated))
        if phrase.noun != "ground" and not phrase.negated:
            self.last = [a for a in dict.fromkeys(phrase.has + phrase.be) if a[0] in FITS[phrase.noun]]

    def _patterns(self, phrase: Phrase, attributes: list[Attribute]) -> list[Pattern]:
        """One pattern, or several for "red and blue". What cannot be said of the noun becomes loose."""
        options: dict[str, list[Any]] = {}
        for key, value, said in attributes:
            if key not in FITS[phrase.noun]:
                phrase.loose.append(said)
                continue
            there = options.setdefault(key, [])
            if key == "place" and there and None in (there[-1][0], value[0]) and None in (there[-1][1], value[1]):
                value = tuple(a or b for a, b in zip(there.pop(), value))       # "at the top, on the left"
            if value not in there:
                there.append(value)
        if prod(map(len, options.values())) > 12:
            raise Unreadable
        return [dict(zip(options, values)) for values in product(*options.values())]

    # Lexemes

    def _at(self, at: int) -> Lexeme:
        return self.lexemes[at] if 0 <= at < len(self.lexemes) else END

    def _said(self, start: int, end: int) -> str:
        return " ".join(lexeme.said for lexeme in self.lexemes[start:end])

    def _skip(self, at: int, *kinds: str) -> int:
        while self._at(at).kind in kinds:
            at += 1
        return at

    def _next_phrase(self, at: int, *kinds: str) -> Phrase | None:
        """The next noun with nothing but these kinds of words before it."""
        while (phrase := self._phrase(at)) is None and self._at(at).kind in kinds:
            at += 1
        return phrase

    def _loose(self, at: int) -> int:
        """Hands a run of words back as not parsed; returns where it ends."""
        start = at
        while at == start or (self._at(at).kind in LOOSE and not self._phrase(at)):
            at += 1
        start -= self._at(start - 1).kind == "no"
        self.unparsed.append(self._said(start, at))
        return at

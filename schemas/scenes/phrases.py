"""Noun phrases of a sentence about a scene: "two small red circles", "a sign", "the other one", "it"."""

from dataclasses import dataclass, field
from typing import Any

from schemas.scenes.words import END, Lexeme, names_text

Attribute = tuple[str, Any, str]        # key, value, and the words of the text that name it

ATTRIBUTES = {"colour", "size", "texture", "form", "script", "place"}
FITS = {                                # kind of noun -> the keys of attributes that it can have
    "thing": {"shape", "colour", "size", "place"},
    "text": {"shape", "words", "script", "colour", "place"},
    "board": {"shape", "words", "script", "place"},         # a red sign need not have red letters
    "ground": {"shape", "colour", "texture"},
}
PRONOUNS = ("one", "both", "every", "other")    # pronouns if no noun follows, but one of AFTER_PRONOUN
AFTER_PRONOUN = ("is", "glue", "that", *ATTRIBUTES)


@dataclass
class Phrase:
    """A noun and what the sentence says of it."""

    start: int                          # index of its first lexeme
    end: int = 0                        # index after its last lexeme
    noun: str = "thing"                 # one of FITS
    has: list[Attribute] = field(default_factory=list)
    be: list[Attribute] = field(default_factory=list)               # after "is"
    be_not: list[list[Attribute]] = field(default_factory=list)     # after "is not"
    relations: list[tuple[str, "Phrase", bool]] = field(default_factory=list)   # relation, to what, whether denied
    unread: list[str] = field(default_factory=list)                 # words that were not understood
    least: int | None = None
    most: int | None = None
    counted: bool = False               # by an article or a number
    the: bool = False
    every: bool = False
    only: bool = False
    plural: bool = False
    negated: bool = False
    either: bool = False                # "red or blue"
    other: bool = False                 # "no other circles": other than those named before
    given: int | None = None            # of a pronoun: how many entries of `has` it stands for

    @property
    def determined(self) -> bool:
        return self.counted or self.the or self.every or self.negated

    @property
    def placed(self) -> bool:
        return any(key == "place" for key, *_ in (*self.has, *self.be))


@dataclass
class Antecedents:
    """What pronouns stand for at some point of a text."""

    thing: list[Attribute] = field(default_factory=list)        # of "it"
    shape: list[Attribute] = field(default_factory=list)        # of "one"


def attribute_of(lexeme: Lexeme) -> Attribute:
    """The attribute that a lexeme names, whose kind is one of ATTRIBUTES."""
    return "shape" if lexeme.kind == "form" else lexeme.kind, lexeme.value, lexeme.text


class PhraseReader:
    """Finds the noun phrases in the lexemes of one sentence."""

    def __init__(self, lexemes: list[Lexeme], antecedents: Antecedents) -> None:
        self.lexemes = lexemes
        self.antecedents = antecedents

    # Lexemes

    def lexeme(self, index: int) -> Lexeme:
        return self.lexemes[index] if 0 <= index < len(self.lexemes) else END

    def text(self, start: int, end: int) -> str:
        return " ".join(lexeme.text for lexeme in self.lexemes[start:end])

    def skip(self, index: int, *kinds: str) -> int:
        """The index of the first lexeme that is of none of these kinds."""
        while self.lexeme(index).kind in kinds:
            index += 1
        return index

    # Phrases

    def phrase(self, start: int) -> Phrase | None:
        """The noun that starts here with its determiners and adjectives; None if no noun starts here."""
        phrase = Phrase(start)
        determined = self._read_determiners(phrase)
        end = self._read_noun(phrase, determined, self._read_adjectives(phrase, determined))
        if end is None:
            return None
        if phrase.only and phrase.plural and not phrase.counted:        # "only shapes": and nothing else
            phrase.unread.append("only")
        elif phrase.only:
            phrase.least = phrase.most = phrase.least or 1
        phrase.end = end
        return phrase

    def next_phrase(self, index: int, *kinds: str) -> Phrase | None:
        """The next noun, if only lexemes of these kinds stand before it."""
        while (phrase := self.phrase(index)) is None and self.lexeme(index).kind in kinds:
            index += 1
        return phrase

    def _read_noun(self, phrase: Phrase, determined: int, index: int) -> int | None:
        """Reads the noun at `index`, after determiners that end at `determined`; returns where it ends.

        None if it is neither a noun nor a pronoun whose antecedent is known.
        """
        lexeme = self.lexeme(index)
        kind, value, text = lexeme
        pronoun = self._pronoun(phrase, determined)
        if kind in ("noun", "board", "thing"):
            _name(phrase, lexeme)
        elif kind == "string" and not phrase.has:
            phrase.noun, phrase.has = "text", [("shape", "text", ""), ("words", value, text)]
        elif kind in ("one", "ones") and phrase.has and self.antecedents.shape:         # "a blue one"
            phrase.has += self.antecedents.shape
            phrase.plural = kind == "ones"
            phrase.noun = _noun_of(phrase.has)
        elif kind in ("it", "they") and index == phrase.start and self.antecedents.thing:
            _refer(phrase, self.antecedents.thing)
            phrase.the, phrase.plural = True, kind == "they"
        elif pronoun:
            _refer(phrase, self.antecedents.shape)                                      # "one is red"
            phrase.unread, phrase.other = [], False
            phrase.plural = pronoun in ("both", "every")
            phrase.most = phrase.most if pronoun == "both" else None
            return determined
        else:
            return None
        return index + 1

    def _pronoun(self, phrase: Phrase, determined: int) -> str:
        """The last determiner, if it stands for a noun that was named before: "one is red"; otherwise ""."""
        kind = self.lexeme(determined - 1).kind if determined > phrase.start else ""
        stands_alone = kind in PRONOUNS and self.lexeme(determined).kind in AFTER_PRONOUN
        return kind if stands_alone and self.antecedents.shape else ""

    def _read_determiners(self, phrase: Phrase) -> int:
        """Reads articles, numbers and the like; returns where they end."""
        index, partitive = phrase.start, False
        while index < phrase.start + 8:
            kind, value, text = self.lexeme(index)
            if kind == "no":
                phrase.negated = True
            elif kind in ("article", "number", "both", "one"):
                _count(phrase, *value)
                phrase.the |= kind == "both"
            elif kind in ("least", "most") and self.lexeme(index + 1).kind in ("number", "one"):
                index, phrase.counted = index + 1, True
                number = self.lexeme(index).value[0] + value
                phrase.least, phrase.most = (number, None) if kind == "least" else (0, number)
            elif kind in ("the", "every", "other", "only"):
                setattr(phrase, kind, kind != "the" or not partitive)
            elif text.lower() == "of" and phrase.determined:
                partitive = True                # "two of the circles": there may be more
            else:
                break
            index += 1
        if partitive and phrase.negated:        # "neither of the two circles"
            phrase.least = phrase.most = None
        return index

    def _read_adjectives(self, phrase: Phrase, index: int) -> int:
        """Reads what stands between determiners and noun; returns where it ends."""
        end = index + 12
        while index < end and self._read_adjective(phrase, index):
            index += 1
        return index

    def _read_adjective(self, phrase: Phrase, index: int) -> bool:
        """Reads one lexeme between determiners and noun; returns whether it can stand there."""
        lexeme = self.lexeme(index)
        kind, value, text = lexeme
        if kind in ATTRIBUTES:
            phrase.has.append(attribute_of(lexeme))
        elif self._joins_adjectives(phrase, index):
            phrase.either |= kind == "or"
        elif kind == "noun" and value[0] not in FITS and self.lexeme(self.skip(index + 1, "filler")).kind == "thing":
            phrase.has.append(("shape", value[0], text))                # "heart-shaped object"
        elif kind == "string" and names_text(*self.lexeme(index + 1)[:2]):
            phrase.has.append(("words", value, text))
        elif kind == "word" and phrase.determined and len(phrase.unread) < 2 and not phrase.placed:
            phrase.unread.append(text)
        elif kind == "other":
            phrase.other = True
        else:
            return kind == "filler"
        return True

    def _joins_adjectives(self, phrase: Phrase, index: int) -> bool:
        """Whether this joins two adjectives of one noun. In a list without determiner, a comma does so before "and":
        "red, green and blue squares"."""
        kind, following = self.lexeme(index).kind, self.lexeme(index + 1).kind
        if kind not in ("and", "or", "comma") or not phrase.has or following not in ATTRIBUTES:
            return False
        after_list = self.lexeme(self.skip(index, "comma", *ATTRIBUTES)).kind
        return kind != "comma" or phrase.determined or after_list == "and"


def _name(phrase: Phrase, lexeme: Lexeme) -> None:
    """Gives a phrase its noun."""
    shape, phrase.plural = lexeme.value
    phrase.noun = "board" if lexeme.kind == "board" else shape if shape in FITS else "thing"
    if shape:
        phrase.has.append(("shape", shape, lexeme.text))


def _refer(phrase: Phrase, antecedent: list[Attribute]) -> None:
    """Makes a phrase stand for what was named before."""
    phrase.has, phrase.given = [*antecedent], len(antecedent)
    phrase.noun = _noun_of(phrase.has)


def _noun_of(attributes: list[Attribute]) -> str:
    return next((value for key, value, _ in attributes if key == "shape" and value in FITS), "thing")


def _count(phrase: Phrase, least: int, most: int | None) -> None:
    phrase.least, phrase.most, phrase.counted = least, most, True
    if most == 0:
        phrase.least, phrase.most, phrase.negated = None, None, True

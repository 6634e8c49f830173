"""Reads sentences about scenes as claims. `schemas.scenes.claims` says what words mean where people differ."""

from dataclasses import dataclass
from typing import NamedTuple

from schemas.scenes.phrases import ATTRIBUTES, FITS, Antecedents, Attribute, Phrase, PhraseReader, attribute_of
from schemas.scenes.statements import SceneClaim, Unreadable, claims_of, is_ambiguous, predication_of
from schemas.scenes.words import Lexeme, sentences

SILENT = ("glue", "the", "article", "is", "that", "filler", "says", "it", "they", "every")  # kinds that claim nothing
HANDED_BACK = {                               # kinds of lexemes that are handed back if they belong to no noun
    "word", "number", "one", "ones", "only", "other", "least", "most", "filler", "both", "string",
    *ATTRIBUTES - {"place"},
}


class Parsed(NamedTuple):
    claims: list[SceneClaim]
    unparsed: list[str]                 # words that claim something but were not understood


def parse(text: str) -> Parsed:
    """The claims of a text, and what of it was not parsed, each in its order."""
    parsed, antecedents = Parsed([], []), Antecedents()
    for lexemes in sentences(text):
        sentence = SentenceReader(lexemes, antecedents)
        try:
            sentence.read()
        except Unreadable:
            parsed.unparsed.append(sentence.words.text(0, len(lexemes)))
        else:
            parsed.claims.extend(sentence.claims)
            parsed.unparsed.extend(sentence.unparsed)
    return parsed


class Link(NamedTuple):
    """The words between a noun and what is said of it."""

    end: int                            # index after them
    joint: str                          # "and", "or", "comma", "but"; "" if there is none
    denied: bool
    copula: bool                        # "is" stands there
    every: bool                         # "are all"


class Complement(NamedTuple):
    """What is said of a noun, after the link."""

    attributes: list[Attribute]
    end: int                            # index after it
    unread: list[str]


@dataclass
class Context:
    """What earlier words of a sentence mean for the next noun."""

    last_or: int                        # index of the last "or" of the sentence
    asked: bool                         # "are the circles red?": the predicate follows without another "is"
    front: Attribute | None = None      # "on the left there is …"
    front_used: bool = False            # by a noun
    fronted: tuple[str, Phrase] | None = None   # relation and thing of "to the left of the star is …"
    joint: str = ""                     # "and", "or", "comma" or "but" before the next noun
    negated: bool = False               # "no" stands before the next noun
    carried: bool = False               # the last noun was negated: so are those that a list adds to it


class SentenceReader:
    """Reads one sentence, noun by noun."""

    def __init__(self, lexemes: list[Lexeme], antecedents: Antecedents) -> None:
        self.claims: list[SceneClaim] = []
        self.unparsed: list[str] = []
        self.antecedents = antecedents
        self.words = PhraseReader(lexemes, antecedents)
        self.context = Context(
            last_or=max((index for index, lexeme in enumerate(lexemes) if lexeme.kind == "or"), default=-1),
            asked=bool(lexemes) and lexemes[0].kind == "is",
        )

    def read(self) -> None:
        """Negation reaches the next noun, and on over a list: "no stars, hearts or crosses". Raises `Unreadable`."""
        index = 0
        while (kind := self.words.lexeme(index).kind) != "end":
            if phrase := self.words.phrase(index):
                index = self._read_noun(phrase)
            elif kind == "beyond" or (kind == "or" and not (self.context.carried or self.context.negated)):
                raise Unreadable
            elif kind == "place" and self.words.next_phrase(index + 1, "glue", "the", "is", "comma", "no"):
                self.context.front, self.context.front_used = attribute_of(self.words.lexeme(index)), False
                index += 1
            elif kind == "relation" and (fronted := self._fronted(index, "comma")):
                index = self._read_fronted(index, *fronted)
            else:
                index = self._read_connective(index)

    def _read_noun(self, phrase: Phrase) -> int:
        """Reads a noun with all that is said of it; returns where that ends."""
        context = self.context
        in_list = context.carried and (context.joint == "or" or not (phrase.counted or phrase.the))
        phrase.negated = context.carried = phrase.negated or context.negated or in_list
        if context.fronted:
            phrase.relations.append((*context.fronted, False))
            context.fronted = None
        end = self._read_predicates(phrase)
        if context.front and not phrase.placed:
            phrase.has.append(context.front)
            context.front_used = True
        self._add_claims(phrase, self.words.text(phrase.start, end))
        context.joint, context.negated = "", False
        return end

    def _read_fronted(self, index: int, neighbour: Phrase, subject: Phrase) -> int:
        """Reads "below the star" before its subject; returns where the subject starts."""
        self._add_claims(neighbour, self.words.text(neighbour.start, neighbour.end))
        self.context.front, self.context.fronted = None, (self.words.lexeme(index).value, neighbour)
        return subject.start

    def _read_connective(self, index: int) -> int:
        """Reads what stands between nouns and starts none; returns where it ends."""
        kind, context = self.words.lexeme(index).kind, self.context
        if kind in ("and", "or", "comma", "but"):
            self._read_joint(index)
        elif kind == "no":
            context.negated = True
        elif kind not in SILENT:
            just_before = self.words.lexeme(index - 1).text.lower() in ("no", "without")        # it negates these words
            context.negated = context.negated and not just_before
            return self._hand_back(index)
        return index + 1

    def _read_joint(self, index: int) -> None:
        """Notes "and", "or", a comma or "but", and what they end: a negation, a list, a place in front."""
        kind, context = self.words.lexeme(index).kind, self.context
        context.joint, context.negated = kind, context.negated and kind == "or"
        ends_list = kind == "but" or (kind == "comma" and index > context.last_or)
        context.carried = context.carried and not ends_list
        if context.front_used and kind in ("comma", "but"):
            context.front, context.front_used = None, False

    def _hand_back(self, start: int) -> int:
        """Hands a run of words back as not parsed; returns where it ends."""
        end = start + 1
        while self.words.lexeme(end).kind in HANDED_BACK and not self.words.phrase(end):
            end += 1
        start -= self.words.lexeme(start - 1).kind == "no"
        self.unparsed.append(self.words.text(start, end))
        return end

    # What is said of a noun

    def _read_predicates(self, phrase: Phrase) -> int:
        """Reads what is said of a noun after it, up to what belongs to the next noun; returns where that ends."""
        end, denied, predicate = phrase.end, False, self.context.asked
        self.context.asked = False
        self.antecedents.shape = [attribute for attribute in phrase.has if attribute[0] == "shape"]
        while True:
            link = self._link(end, denied)
            phrase.every |= link.every
            if neighbour := self._neighbour(link):
                phrase.relations.append((self.words.lexeme(link.end).value, neighbour, link.denied))
                self.context.front = None
                return neighbour.start
            complement = self._complement(phrase, link)
            if complement is None:
                return end
            predicate |= link.copula
            _add_complement(phrase, complement, predicate, link.denied)
            end, denied = complement.end, link.denied

    def _link(self, start: int, denied: bool) -> Link:
        """The link that starts here; `denied` says whether what was said before it was denied."""
        index, joint, that, copula, every = start, "", False, False, False
        while True:
            kind = self.words.lexeme(index).kind
            if kind in ("and", "comma", "but") or (kind == "or" and denied):
                joint, denied = kind, denied and kind != "but"
            elif kind == "is":
                copula = not that
            elif copula and kind in ("every", "both"):                  # "the stars are all blue"
                every = True
            elif kind == "that":
                that = True
            elif kind == "no":
                denied = True
            elif not self._is_passed_over(index):
                return Link(index, joint, denied, copula, every)
            index += 1

    def _is_passed_over(self, index: int) -> bool:
        """Whether a word in a link says nothing by itself; an article does if it starts a noun."""
        kind = self.words.lexeme(index).kind
        return kind in ("glue", "filler", "says") or (kind in ("the", "article") and not self.words.phrase(index))

    def _neighbour(self, link: Link) -> Phrase | None:
        """The thing to which a relation after the link leads, unless the relation belongs to the next noun."""
        if self.words.lexeme(link.end).kind != "relation":
            return None
        neighbour = self.words.next_phrase(link.end + 1, "glue")
        return None if link.joint and self._fronted(link.end) else neighbour

    def _complement(self, phrase: Phrase, link: Link) -> Complement | None:
        """The adjective, place, string or noun after the link, if it is said of the phrase."""
        index, lexeme = link.end, self.words.lexeme(link.end)
        if lexeme.kind == "colour" and self.words.lexeme(index - 1).text.lower() == "on":       # "in white on black"
            return None
        noun = self.words.phrase(index)
        if lexeme.kind in ATTRIBUTES and not noun and not self._leads(link):
            return Complement([attribute_of(lexeme)], index + 1, [])
        if lexeme.kind == "string" and phrase.noun in ("text", "board"):
            return Complement([("words", lexeme.value, lexeme.text)], index + 1, [])
        if link.copula and not link.joint and noun:                     # "the red shape is a circle"
            return Complement(noun.has, noun.end, noun.unread)
        return None

    def _leads(self, link: Link) -> bool:
        """Whether a place after the link is that of the next noun: "…, and on the left is a star"."""
        front = self.context.front
        if self.words.lexeme(link.end).kind != "place" or not (link.joint or front):
            return False
        comma = ("comma",) if front else ()
        return self.words.next_phrase(link.end + 1, "glue", "the", "is", "no", *comma) is not None

    def _fronted(self, index: int, *kinds: str) -> tuple[Phrase, Phrase] | None:
        """The nouns of a relation that stands before both; the second is its subject: "below the star is a circle".

        Lexemes of these `kinds`, besides "is" and glue, may stand between the two.
        """
        if (neighbour := self.words.next_phrase(index + 1, "glue")) is None:
            return None
        if self.words.lexeme(neighbour.end).kind == "string":
            _, value, text = self.words.lexeme(neighbour.end)
            neighbour.has.append(("words", value, text))
            neighbour.end += 1
        subject = self.words.next_phrase(neighbour.end, "glue", "is", *kinds)
        return subject and (neighbour, subject)

    # Claims

    def _add_claims(self, phrase: Phrase, text: str) -> None:
        """Adds what a phrase, read from `text`, claims; or hands the text back if it is open which things are meant."""
        if phrase.other:
            self.unparsed.append(text)
            return
        predication = predication_of(phrase)
        self.unparsed += predication.unread
        if is_ambiguous(phrase, predication):
            self.unparsed.append(text)
            return
        self.claims += claims_of(phrase, predication, text)
        if phrase.noun != "ground" and not phrase.negated:
            fitting = [attribute for attribute in phrase.has + phrase.be if attribute[0] in FITS[phrase.noun]]
            self.antecedents.thing = list(dict.fromkeys(fitting))


def _add_complement(phrase: Phrase, complement: Complement, predicate: bool, denied: bool) -> None:
    """Adds what is said to the noun itself ("a star that is red"), or to what it is said to be, or not to be."""
    phrase.unread += complement.unread
    if denied:
        phrase.be_not.append(complement.attributes)
    elif predicate:
        phrase.be += complement.attributes
    else:
        phrase.has += complement.attributes

"""Divides plain English sentences about a picture into claims, each with its yes/no question, by rules alone.

For offline use, and for policies that speak plainly; a model does more. Whatever a sentence says becomes claims, or the
sentence is named: as an opinion, which claims nothing that could be wrong, or as undivided. It is never dropped.

- "A red circle and two blue squares are on the left." is two claims, "The dog is brown and a cat sleeps." too.
- A caption without a verb says that there is such a thing. Judging adjectives fall out: "a lovely car" is a car.
- A sentence of feelings, moods, guesses and maybes is an opinion, so are questions and what speaks to the reader.
- "It", "they" and the like are replaced by the one thing that they can mean; else the sentence is undivided, and so is
  one with "one", "the other", "if" or "or".
- Tense and negation stay, in claim and question.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipelines.text_rules.clauses import (
    Unclear,
    Words,
    agreed,
    begins_thing,
    clauses,
    head,
    in_place,
    is_plural,
    joined,
    listed,
    lowered,
    things_in,
    verb_at,
)
from pipelines.text_rules.english import (
    ALONE,
    AUXILIARIES,
    BE,
    DEGREES,
    DETERMINERS,
    FEELINGS,
    FORMS,
    HAVE,
    JUDGING,
    MAYBE,
    OBJECTS,
    PERSONS,
    POSSESSIVES,
    PREPOSITIONS,
    PRONOUNS,
    RELATIVES,
    UNCLEAR,
    WE,
)
from schemas.claims import Claim

VERSION = 1  # raised when the same text would give other claims

PICTURE = r"(?:image|picture|photo|photograph|scene|drawing|illustration|painting|graphic|snapshot|shot|close-up)"
SHOWS = r"(?:shows|depicts|displays|features|contains|includes|captures|presents|portrays|showcases)"
LEADS = re.compile(
    rf"(?:(?:in|on|within) (?:the|this) {PICTURE},? )?(?:"
    rf"(?:the|this|that) {PICTURE} {SHOWS}(?: that)? |"
    rf"(?:this|it|that|here) is (?:an?|the) (?:[\w-]+ ){{0,2}}{PICTURE} of |(?:an? (?:[\w-]+ )?)?{PICTURE} of |"
    r"(?:we|you|i|one) (?:can )?(?:also )?(?:clearly )?see (?:that )?|"
    r"(?:it (?:appears|seems) that ))?",
    re.IGNORECASE,
)
SAID_BEFORE = re.compile(
    r"^(?:additionally|also|furthermore|moreover|however|overall|finally|in addition|besides|meanwhile|specifically|"
    r"notably|lastly|then),? ",
    re.IGNORECASE,
)
TOKEN = re.compile(
    r"[\"“][^\"”]{1,200}[\"”]|(?<!\w)'[^']{1,200}'(?!\w)|\d+(?:[.,:]\d+)*%?|[^\W_]+(?:[-'’][^\W_]+)*|[,;:()]|\S"
)
SENTENCE = re.compile(
    r"(?:[\"“][^\"”\n]*[\"”]|[^.!?\n\"“]|\.(?=\w)|(?<=\b[A-Z])\.|(?<=\bMr)\.|(?<=\bSt)\.|[\"“])+[.!?]*"
)
NEITHER = {"neither", "none"}
LONGEST = 120  # words of a plain sentence
BULLET = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,2}[.)])\s+|\*\*|__|^#+\s+", re.MULTILINE)


@dataclass
class Divided:
    claims: list[Claim] = field(default_factory=list)
    opinions: list[str] = field(default_factory=list)  # sentences
    undivided: list[str] = field(default_factory=list)  # sentences


def divide(text: str) -> Divided:
    """The claims of a text, in its order; each once, however often it is said."""
    divided, seen, things = Divided(), set(), []
    for sentence in sentences(text):
        if is_opinion(sentence):
            divided.opinions.append(sentence)
            things.clear()
            continue
        try:
            claims = list(_claims(sentence, things))
        except Unclear:
            divided.undivided.append(sentence)
            things.clear()
            continue
        for claim in claims:
            if claim["question"] not in seen:
                seen.add(claim["question"])
                divided.claims.append(claim)
    return divided


def sentences(text: str) -> list[str]:
    found = (match[0].strip() for match in SENTENCE.finditer(BULLET.sub("", text)))
    return [one for one in found if re.search(r"\w", one)]


def is_opinion(sentence: str) -> bool:
    """Whether a sentence says how something is felt or what may be, asks, or speaks to the reader."""
    if (
        sentence.endswith("?")
        or re.match(r"(what an?|how) .*!", sentence, re.I)
        or re.match(r"(please|note|let|imagine|feel free|i hope|sure|certainly)\b", sentence, re.I)
    ):
        return True
    words = [word.lower() for word in words_of(sentence) if word[0] not in "\"“'"]
    if {*words} & (FEELINGS | MAYBE):
        return True
    verb = next((at for at, word in enumerate(words) if word in BE), None)
    if verb is None:
        return False
    said = [word for word in words[verb + 1 :] if word not in DEGREES | {"and", ",", "not", "."}]
    return bool(said) and all(word in JUDGING for word in said)


def words_of(text: str) -> Words:
    text = re.sub(r"(?i)\bcan['’]t\b|\bcannot\b", "can not", text)
    text = re.sub(r"(?i)n['’]t\b", " not", text)
    text = re.sub(r"(?i)\b(there|it|that|here|he|she|what)['’]s (?=\w)", r"\1 is ", text)
    text = re.sub(r"(?i)\b(they|there)['’]re\b", r"\1 are", text)
    text = re.sub(r"(?i)\b(?:appears|seems) to (be|have)\b", lambda m: {"be": "is", "have": "has"}[m[1].lower()], text)
    text = re.sub(r"(?i)\b(?:appear|seem) to (be|have)\b", lambda m: {"be": "are", "have": "have"}[m[1].lower()], text)
    words = TOKEN.findall(text.rstrip().rstrip(".!?;:"))
    return [word for at, word in enumerate(words) if not _is_judging(words, at)]


def _is_judging(words: Words, at: int) -> bool:
    """Whether a word only judges the thing whose name follows it: "a very nice red car"."""
    end = at
    while end < len(words) and words[end].lower() in DEGREES:
        end += 1
    if end == len(words) or words[end].lower() not in JUDGING:
        return False
    before = next((w.lower() for w in reversed(words[:at]) if w.lower() not in JUDGING | DEGREES | {","}), "")
    after = words[end + 1].lower() if end + 1 < len(words) else ","
    return before in DETERMINERS and after not in PREPOSITIONS | {",", "and", "but"}


# Claims


def _claims(sentence: str, things: list[Words]) -> Iterator[Claim]:
    """What one sentence says. `things` are what "it" can mean: those of the sentence before, and then its own."""
    sentence = SAID_BEFORE.sub("", sentence)
    words = words_of(sentence[LEADS.match(sentence).end() :])
    if not 0 < len(words) <= LONGEST or any(word.lower() in ("or", "if", "unless", "except") for word in words):
        raise Unclear
    speaker = _Speaker(before=things)
    for clause in clauses(words):
        yield from speaker.clause(in_place(clause))
    if speaker.things:
        things[:] = speaker.things


@dataclass
class _Speaker:
    """Says the clauses of a sentence, and knows what they were about."""

    before: list[Words]  # things of the sentence before
    things: list[Words] = field(default_factory=list)

    def clause(self, words: Words) -> Iterator[Claim]:
        words = self._meant(words)
        if words[0].lower() == "there" and len(words) > 2 and words[1].lower() in BE:
            yield from self._there(words[1].lower(), words[2:])
            return
        verb = verb_at(words)
        if verb is None:
            if not begins_thing(words):
                raise Unclear
            yield from self._there("is", words)
            return
        subject, said, rest = words[:verb], words[verb], words[verb + 1 :]
        if not rest and said.lower() in BE.keys() | HAVE:
            raise Unclear
        first = subject[0].lower()
        if first in PREPOSITIONS | RELATIVES | NEITHER or {one.lower() for one in subject} <= WE | UNCLEAR | {"the"}:
            raise Unclear
        subjects = listed(subject)
        if subject[-1] == "," or any(word.lower() in ALONE | {"between"} for word in rest):
            subjects = [subject]
        self.things += [one for one in subjects if one not in self.things]
        for one in subjects:
            for predicate in _predicates(said, rest):
                several = is_plural(one) or len(listed(one)) > 1
                yield claim(one, agreed(said, several) if len(subjects) > 1 else said, predicate)

    def _there(self, said: str, words: Words) -> Iterator[Claim]:
        """That there is something: the claims of a list of things."""
        things = [words] if words[0].lower() == "not" else listed(words)
        if any(thing[0].lower() in UNCLEAR and not begins_thing(thing) for thing in things):
            raise Unclear
        for thing in things:
            self.things.append([word for word in thing if word.lower() not in ("only", "also", "not")])
            past = said in ("was", "were")
            be = ("were" if past else "are") if is_plural(thing) else ("was" if past else "is")
            yield claim(["there"], said if len(things) == 1 and said != "is" else be, lowered(thing))

    def _meant(self, words: Words) -> Words:
        """A clause whose pronouns are replaced by what they mean, as far as it does not say so itself."""
        verb = verb_at(words)
        before = verb if verb is not None else 0
        found: Words = []
        for at, word in enumerate(words):
            low = word.lower()
            of = POSSESSIVES.get(low) or OBJECTS.get(low)
            bound = of and any(meant(of, thing) for thing in things_in(words[:at]))  # by what stands before it here
            her = low == "her" and begins_no_thing(words[at + 1 :])
            if low in PRONOUNS and (at < before or at == 0):
                found += self._antecedent(low)
            elif low in POSSESSIVES and not bound and not her:
                thing = core(self._antecedent(POSSESSIVES[low]))
                found += [*thing[:-1], thing[-1] + ("'" if thing[-1].endswith("s") else "'s")]
            elif low in OBJECTS and (her or low not in POSSESSIVES) and not bound and at:
                found += self._antecedent(OBJECTS[low])
            else:
                found.append(word)
        return found

    def _antecedent(self, pronoun: str) -> Words:
        """The one thing, of this sentence or else of the one before, that a pronoun can mean."""
        for things in (self.things, self.before):
            fitting = [one for thing in things if (one := meant(pronoun, thing))]
            if len(fitting) == 1:
                return _definite(fitting[0])
            if fitting:
                break
        raise Unclear


def meant(pronoun: str, thing: Words) -> Words | None:
    """What a pronoun means of what is spoken of: the thing, or the woman of "the woman's hair"; None if neither."""
    if is_plural(thing) != PRONOUNS[pronoun]:
        return None
    if pronoun not in ("he", "she"):
        return None if head(thing).lower() in PERSONS else thing
    owner = next((at for at, word in enumerate(thing) if word.lower().removesuffix("'s") in PERSONS), len(thing))
    if owner < len(thing) and thing[owner].endswith("'s"):
        return [*thing[:owner], thing[owner].removesuffix("'s")]
    return thing if head(thing).lower() in PERSONS else None


def core(thing: Words) -> Words:
    """A thing without what tells where or which it is."""
    return thing[: thing.index(head(thing)) + 1]


def begins_no_thing(words: Words) -> bool:
    """Whether "her" before these words is no "his": it ends there, or a place follows."""
    return not words or words[0].lower() in PREPOSITIONS | AUXILIARIES | {",", "and", "but"}


def _predicates(verb: str, rest: Words) -> list[Words]:
    """What is said, one by one; what is denied or said of a helper verb stays whole."""
    denied = [word.lower() for word in rest[:1]] in (["not"], ["no"])
    if verb.lower() in BE or verb.lower() in HAVE or verb.lower() in FORMS:
        return [rest] if denied and len(joined(rest[1:])) > 1 else joined(rest) if rest else [[]]
    return [rest]


def claim(subject: Words, verb: str, rest: Words) -> Claim:
    """A sentence, and the question that asks for it: with its helping verb first, or with one of "do"."""
    said = _text([*subject, verb, *rest])
    verb, before = verb.lower(), lowered(subject)
    helps = verb in AUXILIARIES - HAVE or (verb in HAVE and rest[:1] in (["been"], ["not"]))
    if not helps:
        form = FORMS[verb]
        verb, before = {"past": "did", "third": "does", "base": "do"}[form.form], [*before, form.base]
    return Claim(claim=f"{said}.", question=f"{_text([verb, *before, *rest])}?")


def _definite(thing: Words) -> Words:
    """A thing that was spoken of before."""
    end = next((at for at, word in enumerate(thing) if at and word.lower() in RELATIVES), len(thing))
    thing = thing[:end]
    first = thing[0].lower()
    if first in ("a", "an", "one", "some", "another", "several", "many", "multiple"):
        return ["the", *thing[1:]]
    return lowered(thing) if first in DETERMINERS & {"the", *POSSESSIVES} else ["the", *lowered(thing)]


def _text(words: Words) -> str:
    text = re.sub(r"\s+([,;:)])", r"\1", " ".join(words)).replace("( ", "(")
    return text[:1].upper() + text[1:]

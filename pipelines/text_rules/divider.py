"""Divides plain English sentences about a picture into claims, each with its yes/no question, by rules alone.

This is for offline use, and for models that write plainly; a language model divides more. A sentence is never dropped:
it becomes claims, or is listed as an opinion, which claims nothing that could be wrong, or as undivided.

- "A red circle and two blue squares are on the left." is two claims, "The dog is brown and a cat sleeps." too.
- A caption without a verb claims that there is such a thing. Adjectives of taste are left out: "a lovely car" is a car.
- A sentence about feelings, moods or guesses is an opinion, and so is a question or an address to the reader.
- "It", "they" and the like are replaced by the one thing that they can mean; if there is not one such thing, the
  sentence is undivided. So is a sentence with "one", "the other", "if" or "or".
- Claim and question keep tense and negation.
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
LONGEST = 120  # words; a longer sentence is undivided
BULLET = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,2}[.)])\s+|\*\*|__|^#+\s+", re.MULTILINE)


@dataclass
class Divided:
    claims: list[Claim] = field(default_factory=list)
    opinions: list[str] = field(default_factory=list)  # sentences
    undivided: list[str] = field(default_factory=list)  # sentences


def divide(text: str) -> Divided:
    """The claims of a text, in its order; a repeated claim comes once."""
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
    stripped = (match[0].strip() for match in SENTENCE.finditer(BULLET.sub("", text)))
    return [sentence for sentence in stripped if re.search(r"\w", sentence)]


def is_opinion(sentence: str) -> bool:
    """Whether a sentence is about feelings or possibilities, asks a question, or addresses the reader."""
    if (
        sentence.endswith("?")
        or re.match(r"(what an?|how) .*!", sentence, re.I)
        or re.match(r"(please|note|let|imagine|feel free|i hope|sure|certainly)\b", sentence, re.I)
    ):
        return True
    words = [word.lower() for word in words_of(sentence) if word[0] not in "\"“'"]
    if {*words} & (FEELINGS | MAYBE):
        return True
    verb = next((index for index, word in enumerate(words) if word in BE), None)
    if verb is None:
        return False
    predicate = [word for word in words[verb + 1 :] if word not in DEGREES | {"and", ",", "not", "."}]
    return bool(predicate) and all(word in JUDGING for word in predicate)


def words_of(text: str) -> Words:
    """The words of a sentence, with short forms written out and without words that only judge."""
    text = re.sub(r"(?i)\bcan['’]t\b|\bcannot\b", "can not", text)
    text = re.sub(r"(?i)n['’]t\b", " not", text)
    text = re.sub(r"(?i)\b(there|it|that|here|he|she|what)['’]s (?=\w)", r"\1 is ", text)
    text = re.sub(r"(?i)\b(they|there)['’]re\b", r"\1 are", text)
    text = re.sub(r"(?i)\b(?:appears|seems) to (be|have)\b", lambda m: {"be": "is", "have": "has"}[m[1].lower()], text)
    text = re.sub(r"(?i)\b(?:appear|seem) to (be|have)\b", lambda m: {"be": "are", "have": "have"}[m[1].lower()], text)
    words = TOKEN.findall(text.rstrip().rstrip(".!?;:"))
    return [word for index, word in enumerate(words) if not _is_judging(words, index)]


def _is_judging(words: Words, index: int) -> bool:
    """Whether a word only judges the thing whose name follows it: "a very nice red car"."""
    end = index
    while end < len(words) and words[end].lower() in DEGREES:
        end += 1
    if end == len(words) or words[end].lower() not in JUDGING:
        return False
    before = next((w.lower() for w in reversed(words[:index]) if w.lower() not in JUDGING | DEGREES | {","}), "")
    after = words[end + 1].lower() if end + 1 < len(words) else ","
    return before in DETERMINERS and after not in PREPOSITIONS | {",", "and", "but"}


# Claims


def _claims(sentence: str, things: list[Words]) -> Iterator[Claim]:
    """The claims of one sentence. "It" can mean one of `things`, those of the sentence before; its own replace them."""
    sentence = SAID_BEFORE.sub("", sentence)
    lead = LEADS.match(sentence)
    words = words_of(sentence[lead.end() :] if lead else sentence)
    if not 0 < len(words) <= LONGEST or any(word.lower() in ("or", "if", "unless", "except") for word in words):
        raise Unclear
    speaker = _Speaker(before=things)
    for clause in clauses(words):
        yield from speaker.clause(in_place(clause))
    if speaker.things:
        things[:] = speaker.things


@dataclass
class _Speaker:
    """Turns the clauses of a sentence into claims, and remembers the things that they were about."""

    before: list[Words]  # things of the sentence before
    things: list[Words] = field(default_factory=list)

    def clause(self, words: Words) -> Iterator[Claim]:
        """The claims of one clause. Raises `Unclear`."""
        words = self._resolved(words)
        if words[0].lower() == "there" and len(words) > 2 and words[1].lower() in BE:
            yield from self._existence(words[1].lower(), words[2:])
            return
        verb = verb_at(words)
        if verb is None:
            if not begins_thing(words):
                raise Unclear
            yield from self._existence("is", words)
            return
        subject, spoken, rest = words[:verb], words[verb], words[verb + 1 :]
        if (not rest and spoken.lower() in BE.keys() | HAVE) or _is_unclear(subject):
            raise Unclear
        things = listed(subject)
        if subject[-1] == "," or any(word.lower() in ALONE | {"between"} for word in rest):
            things = [subject]
        self.things += [thing for thing in things if thing not in self.things]
        for thing in things:
            for predicate in _predicates(spoken, rest):
                several = is_plural(thing) or len(listed(thing)) > 1
                yield claim(thing, agreed(spoken, several) if len(things) > 1 else spoken, predicate)

    def _existence(self, verb: str, words: Words) -> Iterator[Claim]:
        """The claims that there are the things of a list."""
        things = [words] if words[0].lower() == "not" else listed(words)
        if any(thing[0].lower() in UNCLEAR and not begins_thing(thing) for thing in things):
            raise Unclear
        for thing in things:
            self.things.append([word for word in thing if word.lower() not in ("only", "also", "not")])
            past = verb in ("was", "were")
            be = ("were" if past else "are") if is_plural(thing) else ("was" if past else "is")
            yield claim(["there"], verb if len(things) == 1 and verb != "is" else be, lowered(thing))

    def _resolved(self, words: Words) -> Words:
        """A clause whose pronouns are replaced by what they mean, unless a thing in the clause itself is meant."""
        verb = verb_at(words)
        subject_end = verb if verb is not None else 0
        resolved: Words = []
        for index, word in enumerate(words):
            low = word.lower()
            pronoun = POSSESSIVES.get(low) or OBJECTS.get(low)
            bound = pronoun and any(meant(pronoun, thing) for thing in things_in(words[:index]))
            objective_her = low == "her" and begins_no_thing(words[index + 1 :])
            if low in PRONOUNS and (index < subject_end or index == 0):
                resolved += self._antecedent(low)
            elif low in POSSESSIVES and not bound and not objective_her:
                thing = core(self._antecedent(POSSESSIVES[low]))
                resolved += [*thing[:-1], thing[-1] + ("'" if thing[-1].endswith("s") else "'s")]
            elif low in OBJECTS and (objective_her or low not in POSSESSIVES) and not bound and index:
                resolved += self._antecedent(OBJECTS[low])
            else:
                resolved.append(word)
        return resolved

    def _antecedent(self, pronoun: str) -> Words:
        """The one thing of this sentence, or else of the sentence before, that a pronoun can mean. Raises `Unclear`."""
        for things in (self.things, self.before):
            fitting = [antecedent for thing in things if (antecedent := meant(pronoun, thing))]
            if len(fitting) == 1:
                return _definite(fitting[0])
            if fitting:
                break
        raise Unclear


def meant(pronoun: str, thing: Words) -> Words | None:
    """What a pronoun can mean in a thing: the thing, or the woman of "the woman's hair"; None if neither."""
    if is_plural(thing) != PRONOUNS[pronoun]:
        return None
    if pronoun not in ("he", "she"):
        return None if head(thing).lower() in PERSONS else thing
    owner = next((index for index, word in enumerate(thing) if word.lower().removesuffix("'s") in PERSONS), len(thing))
    if owner < len(thing) and thing[owner].endswith("'s"):
        return [*thing[:owner], thing[owner].removesuffix("'s")]
    return thing if head(thing).lower() in PERSONS else None


def core(thing: Words) -> Words:
    """A thing without the words that say where or which it is."""
    return thing[: thing.index(head(thing)) + 1]


def begins_no_thing(words: Words) -> bool:
    """Whether no thing follows "her", so that it corresponds to "him", not "his": nothing or a place follows."""
    return not words or words[0].lower() in PREPOSITIONS | AUXILIARIES | {",", "and", "but"}


def _is_unclear(subject: Words) -> bool:
    """Whether a subject names no thing that a claim could be about."""
    if subject[0].lower() in PREPOSITIONS | RELATIVES | NEITHER:
        return True
    return {word.lower() for word in subject} <= WE | UNCLEAR | {"the"}


def _predicates(verb: str, rest: Words) -> list[Words]:
    """The predicates, one by one; denied ones, and those of other helping verbs, stay together."""
    denied = [word.lower() for word in rest[:1]] in (["not"], ["no"])
    if verb.lower() in BE or verb.lower() in HAVE or verb.lower() in FORMS:
        return [rest] if denied and len(joined(rest[1:])) > 1 else joined(rest) if rest else [[]]
    return [rest]


def claim(subject: Words, verb: str, rest: Words) -> Claim:
    """A sentence, and the question that asks for it: with its helping verb first, or with a form of "do"."""
    sentence = _text([*subject, verb, *rest])
    verb, before = verb.lower(), lowered(subject)
    helps = verb in AUXILIARIES - HAVE or (verb in HAVE and rest[:1] in (["been"], ["not"]))
    if not helps:
        form = FORMS[verb]
        verb, before = {"past": "did", "third": "does", "base": "do"}[form.form], [*before, form.base]
    return Claim(claim=f"{sentence}.", question=f"{_text([verb, *before, *rest])}?")


def _definite(thing: Words) -> Words:
    """A thing that was named before: with "the"."""
    end = next((n for n, word in enumerate(thing) if n and word.lower() in RELATIVES), len(thing))
    thing = thing[:end]
    first = thing[0].lower()
    if first in ("a", "an", "one", "some", "another", "several", "many", "multiple"):
        return ["the", *thing[1:]]
    return lowered(thing) if first in DETERMINERS & {"the", *POSSESSIVES} else ["the", *lowered(thing)]


def _text(words: Words) -> str:
    text = re.sub(r"\s+([,;:)])", r"\1", " ".join(words)).replace("( ", "(")
    return text[:1].upper() + text[1:]

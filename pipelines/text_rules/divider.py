"""Divides plain English sentences about a picture into claims, each with its yes/no question, by rules alone.

This is for offline use, and for models that write plainly; a language model divides more. A sentence is never dropped:
it becomes claims, or is listed as an opinion, which claims nothing that could be wrong, or as undivided.

- A claim is a single fact: "A large red circle is on the left." claims that there is a red circle, a large red circle,
  and a red circle on the left. `pipelines.text_rules.facts` says what stays together.
- A caption without a verb claims that there is such a thing. Adjectives of taste are left out: "a lovely car" is a car.
- A sentence about feelings, moods or guesses is an opinion, and so is a question or an address to the reader.
- "It", "they" and the like are replaced by the one thing that they can mean; if there is not one such thing, the
  sentence is undivided. So is a sentence with "one", "the other", "if" or "or".
- Claim and question keep the tense. A claim that denies something keeps it; its question asks for what it denies.
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
    kind_of,
    listed,
    lowered,
    things_in,
    verb_at,
)
from pipelines.text_rules.denial import DENIAL
from pipelines.text_rules.english import (
    ALONE,
    AUXILIARIES,
    BE,
    COLOURS,
    DETERMINERS,
    FORMS,
    HAVE,
    MASSES,
    MODALS,
    OBJECTS,
    PERSONS,
    POSSESSIVES,
    PREPOSITIONS,
    PRONOUNS,
    RELATIVES,
    UNCLEAR,
    WE,
)
from pipelines.text_rules.facts import BARE, Facts, facts_of, is_indefinite, relative, with_article
from pipelines.text_rules.sentences import LEADS, SAID_BEFORE, is_opinion, sentences, words_of
from schemas.claims import Claim

VERSION = 2  # raised when the same text would give other claims

NEITHER = {"neither", "none"}
SOMEBODY = {"nobody": "anybody", "nothing": "anything", "nowhere": "anywhere"}
LONGEST = 120  # words; a longer sentence is undivided


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
        if spoken.lower() == "can" and rest[:2] == ["be", "seen"]:
            spoken, rest = "are" if is_plural(subject) else "is", rest[2 if kind_of(rest[2:]) == "place" else 1 :]
        if (not rest and spoken.lower() in BE.keys() | HAVE) or _is_unclear(subject):
            raise Unclear
        things = listed(subject)
        if subject[-1] == "," or any(word.lower() in ALONE | {"between"} for word in rest):
            things = [subject]
        self.things += [thing for thing in things if thing not in self.things]
        for thing in things:
            several = is_plural(thing) or len(listed(thing)) > 1
            predicates = _predicates(spoken, rest)
            new = is_indefinite(thing) or facts_of(thing).text
            if new and not _is_denied(rest) and spoken.lower() not in MODALS:
                yield from self._said_of(lowered(thing), spoken.lower(), several, predicates)
                continue
            for predicate in predicates:
                yield claim(thing, agreed(spoken, several) if len(things) > 1 else spoken, predicate)

    def _existence(self, verb: str, words: Words) -> Iterator[Claim]:
        """The claims that there are the things of a list."""
        if words[0].lower() == "not":
            yield claim(["there"], verb, words)
            return
        things = listed(words)
        if any(thing[0].lower() in UNCLEAR and not begins_thing(thing) for thing in things):
            raise Unclear
        past = verb in ("was", "were")
        for thing in map(lowered, things):
            if thing[0].lower() in ("no", "only"):
                self.things.append(thing[1:])
                yield claim(["there"], agreed("was" if past else "is", is_plural(thing)), thing)
                continue
            facts = facts_of(thing)
            self.things.append(facts.base)
            yield from self._facts(facts, past)

    def _said_of(self, thing: Words, verb: str, several: bool, predicates: list[Words]) -> Iterator[Claim]:
        """The claims that there is a thing of which these predicates hold."""
        past = verb in ("was", "were") or (verb in FORMS and FORMS[verb].form == "past")
        phrases = []
        for predicate in predicates:
            if verb in BE and predicate[0].lower() in BARE and kind_of(predicate[1:]) in ("place", "none"):
                phrases.append(predicate[1:])
            elif verb in BE and (kind_of(predicate) in ("place", "doing") or _is_done(predicate)):
                phrases.append(predicate)
            else:
                phrases.append([relative(thing), agreed(verb, several), *predicate])
        yield from self._facts(facts_of(thing, [phrase for phrase in phrases if phrase]), past)

    def _facts(self, facts: Facts, past: bool) -> Iterator[Claim]:
        """The claims that a thing exists, and that it has the properties that the text gives it."""
        be = "was" if past else "is"
        if facts.text:
            yield claim(["the", "text"], "said" if past else "says", [facts.text])
            for said in facts.more:
                yield claim(["the", "text"], be, said)
        else:
            for words in [facts.base, *facts.more]:
                yield claim(["there"], agreed(be, is_plural(facts.base)), words)
        for said in facts.grounds:
            yield claim(["the", "background"], be, said)

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
    """A sentence, and the question that asks for it: with its helping verb first, or with a form of "do". If the
    sentence denies something, the question asks for what it denies."""
    sentence = _text([*subject, verb, *rest])
    subject, rest = _asserted(subject, rest)
    verb, before = verb.lower(), lowered(subject)
    helps = verb in AUXILIARIES - HAVE or (verb in HAVE and rest[:1] in (["been"], ["not"]))
    if not helps:
        form = FORMS[verb]
        verb, before = {"past": "did", "third": "does", "base": "do"}[form.form], [*before, form.base]
    return Claim(claim=f"{sentence}.", question=f"{_text([verb, *before, *rest])}?")


def _is_done(predicate: Words) -> bool:
    """Whether a predicate is one like "parked on the street"."""
    return len(predicate) > 1 and predicate[0].endswith("ed") and predicate[0].lower() not in COLOURS


def _is_denied(rest: Words) -> bool:
    return [word.lower() for word in rest[:1]] in (["not"], ["no"])


def _asserted(subject: Words, rest: Words) -> tuple[Words, Words]:
    """Subject and predicate without the one word that denies; as they are if there is none, or another one."""
    places = [n for n, word in enumerate([*subject, *rest]) if DENIAL.search(word.lower()) and word[0] not in "\"“'"]
    if len(places) != 1 or any(word.lower() in ("and", ",") for word in rest if rest[:1] == ["no"]):
        return subject, rest
    words = [subject, rest][places[0] >= len(subject)]
    at = places[0] - (0 if words is subject else len(subject))
    word = words[at].lower()
    if word in SOMEBODY:
        there = [SOMEBODY[word], *words[at + 1 :]]
    elif word == "no" and words[at + 1 :]:
        thing = words[at + 1 :]
        one = not is_plural(["the", *thing]) and thing[0].lower() not in MASSES
        there = with_article(["a", *thing]) if one else ["any", *thing]
    elif word == "not":
        there = words[at + 1 :]
    else:
        return subject, rest
    words = [*words[:at], *there]
    return (words, rest) if places[0] < len(subject) else (subject, words)


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

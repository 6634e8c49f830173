"""Takes a sentence, as a list of words, apart: clauses, their verbs, lists of things and lists of predicates."""

from collections.abc import Iterator
from itertools import pairwise

from pipelines.text_rules.english import (
    AUXILIARIES,
    BE,
    COLOURS,
    DETERMINERS,
    FEW_PLURALS,
    FORMS,
    INGS,
    MASSES,
    PLURAL,
    PREPOSITIONS,
    PRONOUNS,
    RELATIVES,
    plural_word,
    third,
    word_set,
)

Words = list[str]
OF = word_set("one some all both each many several")  # "one of the cats"


class Unclear(ValueError):
    """These rules cannot divide the sentence."""


def verb_at(words: Words) -> int | None:
    """The index of the finite verb of a clause, after any "that is …" within its subject."""
    open_relatives = 0
    for index, word in enumerate(words):
        if index and word.lower() in RELATIVES:
            open_relatives += 1
        elif index and _is_finite(words, index):
            if not open_relatives:
                return index
            open_relatives -= 1
    return None


def _is_finite(words: Words, index: int) -> bool:
    """Whether the word at `index` is a finite verb there."""
    word, before = words[index].lower(), words[index - 1].lower() if index else ""
    after = words[index + 1].lower() if index + 1 < len(words) else ""
    if word in AUXILIARIES:
        return True
    form = FORMS.get(word)
    if form is None or before in PREPOSITIONS or after in AUXILIARIES or (before in DETERMINERS and before != "that"):
        return False
    if form.form == "third":
        return not plural_word(before) or before in ("", ",")
    if form.form == "past":
        return True
    return plural_word(before) or before in {"they", "we", "you", "i", ","} or "and" in words[:index] or not index


def is_plural(thing: Words) -> bool:
    words = [word.lower() for word in thing]
    if words[0] in ("a", "an") and words[1:2] in (["couple"], ["pair"], ["few"], ["group"], ["number"], ["lot"]):
        return words[1] not in ("group", "pair")
    if words[0] in ("a", "an", "one", "each", "every", "another", "this", "that"):
        return False
    if any(word in PLURAL or (word.isdigit() and word != "1") for word in words[:2]):
        return True
    return plural_word(head(thing))


def head(thing: Words) -> str:
    """The noun of a thing: its last word before anything that only says where or which it is."""
    end = next((index for index, word in enumerate(thing) if index and ends_thing(word)), len(thing))
    return thing[end - 1]


def ends_thing(word: str) -> bool:
    word = word.lower()
    return word in PREPOSITIONS | RELATIVES | {",", "and", "not"} or word[0] in "\"“'" or is_doing(word)


def is_doing(word: str) -> bool:
    """Whether a word says what something does: "riding", but not "building"."""
    return word.endswith("ing") and len(word) > 4 and word not in INGS


def begins_thing(words: Words) -> bool:
    """Whether the words begin with a thing: a noun after a determiner or number, or a plural or mass noun without."""
    if not words:
        return False
    word, after = words[0].lower(), words[1].lower() if len(words) > 1 else ","
    if word in DETERMINERS or word.isdigit():
        return after not in PREPOSITIONS | RELATIVES | {",", "and"} or (after == "of" and word in OF)
    return word in MASSES or (not ends_thing(word) and word not in FORMS and plural_word(head(words)))


def listed(words: Words) -> list[Words]:
    """The things in "a red circle, a star and two blue squares"; "between a cat and a dog" is not parted."""
    things, start, between = [], 0, False
    for index, word in enumerate(words):
        between |= word.lower() == "between"
        if word.lower() not in ("and", ",") or index < start:
            continue
        after = index + 1 + (words[index + 1 : index + 2] in (["and"], ["also"])) if word == "," else index + 1
        if word == "and" and between:
            between = False
        elif begins_thing(words[after:]) and index > start:
            things.append(words[start:index])
            start = after
    return [*things, words[start:]]


def joined(words: Words) -> list[Words]:
    """The predicates in "red and on the left", "sitting on a mat and holding a cup"; two colours stay together."""
    kind = kind_of(words)
    if kind == "thing":
        return listed(words)
    predicates, start = [], 0
    for index, word in enumerate(words):
        after = index + 1 + (words[index + 1 : index + 2] in (["and"], ["but"]))
        if word.lower() in ("and", ",", "but") and index > start and after < len(words):
            left, right = words[start:index], words[after:]
            both_colours = {words[index - 1].lower(), right[0].lower()} <= COLOURS
            quoted = words[index - 1][0] in "\"“'"  # "OPEN" and "CLOSED"
            kinds = (kind,) if kind != "word" or word == "," else (kind, "place", "doing")
            alike = not quoted and kind_of(right) in kinds
            long = kind == "word" and (len(left) > 3 or {w.lower() for w in left} & PREPOSITIONS)
            if alike and not both_colours and (not long or right[0].endswith("ed")):
                predicates.append(left)
                start = after
    return [*predicates, words[start:]]


def kind_of(words: Words) -> str:
    """Of a predicate: "place", "doing", "thing", "word", such as an adjective, or "none"."""
    if not words:
        return "none"
    word = words[0].lower()
    if word in PREPOSITIONS:
        return "place"
    if is_doing(word):
        return "doing"
    return "thing" if begins_thing(words) and word not in ("all", "both", "no") else "word"


def clauses(words: Words) -> Iterator[Words]:
    """The clauses of a sentence; the subject of two verbs is repeated, so that each verb has a clause of its own."""
    for index, word in enumerate(words):
        if word.lower() not in ("and", "but", "while", "whereas", ";", ","):
            continue
        left, right = words[:index], words[index + 1 :]
        if left and left[-1] == ",":
            left = left[:-1]
        while right and right[0].lower() in ("and", "but", "while", "whereas", "also", ","):
            right = right[1:]
        verb = verb_at(left)
        if verb is None or not right:
            continue
        right_verb = verb_at(right)
        has_subject = right[0].lower() in {"there", *PRONOUNS} or (right[0].lower() in PREPOSITIONS and word != ",")
        if right_verb and (has_subject or begins_thing(right[:right_verb])):
            yield left
            yield from clauses(right)
            return
        if word != "," and _is_finite(right, 0) and left[0].lower() != "there":
            yield left
            yield from clauses([*left[:verb], *right])
            return
    yield words


def things_in(words: Words) -> list[Words]:
    """The things that the words name, each from its determiner on."""
    starts = [n for n, word in enumerate(words) if word.lower() in DETERMINERS or (not n and plural_word(word))]
    return [words[start:end] for start, end in pairwise([*starts, len(words)]) if end > start + (start > 0)]


def in_place(words: Words) -> Words:
    """A clause in its usual order, with the place last: "On the left is a star", "In the corner, a dog sleeps"."""
    if words[0].lower() not in PREPOSITIONS:
        return words
    if "," in words[:8] and verb_at(words[words.index(",") + 1 :]):
        comma = words.index(",")
        return [*words[comma + 1 :], *lowered(words[:comma])]
    verb = next((index for index, word in enumerate(words) if word.lower() in BE), None)
    if verb and words[verb - 1].lower() == "there":
        return [*words[verb - 1 :], *lowered(words[: verb - 1])]
    if verb and begins_thing(words[verb + 1 :]) and verb_at(words[verb + 1 :]) is None:
        things = listed(words[verb + 1 :])
        several = len(things) > 1 or is_plural(things[0])
        return [*words[verb + 1 :], agreed(words[verb], several), *lowered(words[:verb])]
    raise Unclear


def agreed(verb: str, several: bool) -> str:
    """A verb in the form for one thing or for several."""
    verb = verb.lower()
    if verb in BE:
        return {True: {"is": "are", "was": "were"}, False: {"are": "is", "were": "was"}}[several].get(verb, verb)
    form = FORMS.get(verb)
    if form is None or form.form == "past":
        return verb
    return form.base if several else third(form.base)


def lowered(words: Words) -> Words:
    """Words that no longer begin a sentence: without their capital, unless it is that of a name."""
    known = DETERMINERS | PREPOSITIONS | COLOURS | FEW_PLURALS | MASSES | {"there"}
    if (
        words
        and (words[0].lower() in known or plural_word(words[0]))
        and (len(words[0]) == 1 or not words[0].isupper())
    ):
        return [words[0].lower(), *words[1:]]
    return words

"""A sentence as words, taken apart: its clauses, their verbs, lists of things and of what is said of them."""

from collections.abc import Iterator

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
    some,
    third,
)

Words = list[str]
OF = some("one some all both each many several")  # "one of the cats"


class Unclear(ValueError):
    """A sentence that these rules make nothing of."""


def verb_at(words: Words) -> int | None:
    """Where the finite verb of a clause stands, past any "that is …" within its subject."""
    inside = 0
    for at, word in enumerate(words):
        if at and word.lower() in RELATIVES:
            inside += 1
        elif at and _is_finite(words, at):
            if not inside:
                return at
            inside -= 1
    return None


def _is_finite(words: Words, at: int) -> bool:
    word, before = words[at].lower(), words[at - 1].lower() if at else ""
    after = words[at + 1].lower() if at + 1 < len(words) else ""
    if word in AUXILIARIES:
        return True
    form = FORMS.get(word)
    if form is None or before in PREPOSITIONS or after in AUXILIARIES or (before in DETERMINERS and before != "that"):
        return False
    if form.form == "third":
        return not plural_word(before) or before in ("", ",")
    if form.form == "past":
        return True
    return plural_word(before) or before in {"they", "we", "you", "i", ","} or "and" in words[:at] or not at


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
    """The noun of a thing: its last word before anything that only tells where or which."""
    end = next((at for at, word in enumerate(thing) if at and _ends_thing(word)), len(thing))
    return thing[end - 1]


def _ends_thing(word: str) -> bool:
    word = word.lower()
    return word in PREPOSITIONS | RELATIVES | {",", "and", "not"} or word[0] in "\"“'" or is_doing(word)


def is_doing(word: str) -> bool:
    """Whether a word says what something does: "riding", and not "building"."""
    return word.endswith("ing") and len(word) > 4 and word not in INGS


def begins_thing(words: Words) -> bool:
    """Whether a thing is named here: after a determiner or number, or several without any."""
    if not words:
        return False
    word, after = words[0].lower(), words[1].lower() if len(words) > 1 else ","
    if word in DETERMINERS or word.isdigit():
        return after not in PREPOSITIONS | RELATIVES | {",", "and"} or (after == "of" and word in OF)
    return word in MASSES or (not _ends_thing(word) and word not in FORMS and plural_word(head(words)))


def listed(words: Words) -> list[Words]:
    """The things in "a red circle, a star and two blue squares"; not of one "between a cat and a dog"."""
    found, start, between = [], 0, False
    for at, word in enumerate(words):
        between |= word.lower() == "between"
        if word.lower() not in ("and", ",") or at < start:
            continue
        after = at + 1 + (words[at + 1 : at + 2] in (["and"], ["also"])) if word == "," else at + 1
        if word == "and" and between:
            between = False
        elif begins_thing(words[after:]) and at > start:
            found.append(words[start:at])
            start = after
    return [*found, words[start:]]


def joined(words: Words) -> list[Words]:
    """The predicates in "red and on the left", "sitting on a mat and holding a cup"; two colours stay together."""
    kind = _kind(words)
    if kind == "thing":
        return listed(words)
    found, start = [], 0
    for at, word in enumerate(words):
        after = at + 1 + (words[at + 1 : at + 2] in (["and"], ["but"]))
        if word.lower() in ("and", ",", "but") and at > start and after < len(words):
            one, other = words[start:at], words[after:]
            both = {words[at - 1].lower(), other[0].lower()} <= COLOURS
            quoted = words[at - 1][0] in "\"“'"  # "OPEN" and "CLOSED"
            kinds = (kind,) if kind != "word" or word == "," else (kind, "place", "doing")
            alike = not quoted and _kind(other) in kinds
            long = kind == "word" and (len(one) > 3 or {w.lower() for w in one} & PREPOSITIONS)
            if alike and not both and (not long or other[0].endswith("ed")):
                found.append(one)
                start = after
    return [*found, words[start:]]


def _kind(words: Words) -> str:
    word = words[0].lower() if words else ""
    if word in PREPOSITIONS:
        return "place"
    if is_doing(word):
        return "doing"
    return "thing" if begins_thing(words) and word not in ("all", "both", "no") else "word"


def clauses(words: Words) -> Iterator[Words]:
    """The clauses of a sentence that say something of themselves; the second of two verbs gets the subject of both."""
    for at, word in enumerate(words):
        if word.lower() not in ("and", "but", "while", "whereas", ";", ","):
            continue
        left, right = words[:at], words[at + 1 :]
        if left and left[-1] == ",":
            left = left[:-1]
        while right and right[0].lower() in ("and", "but", "while", "whereas", "also", ","):
            right = right[1:]
        verb = verb_at(left)
        if verb is None or not right:
            continue
        other = verb_at(right)
        said_of = right[0].lower() in {"there", *PRONOUNS} or (right[0].lower() in PREPOSITIONS and word != ",")
        if other and (said_of or begins_thing(right[:other])):
            yield left
            yield from clauses(right)
            return
        if word != "," and _is_finite(right, 0) and left[0].lower() != "there":
            yield left
            yield from clauses([*left[:verb], *right])
            return
    yield words


def things_in(words: Words) -> list[Words]:
    """The things that are named in some words, each from its determiner on."""
    starts = [at for at, word in enumerate(words) if word.lower() in DETERMINERS or (not at and plural_word(word))]
    return [words[start:end] for start, end in zip(starts, [*starts[1:], len(words)]) if end > start + (start > 0)]


def in_place(words: Words) -> Words:
    """A clause in its usual order: "On the left is a star" and "In the corner, a dog sleeps" tell the place last."""
    if words[0].lower() not in PREPOSITIONS:
        return words
    if "," in words[:8] and verb_at(words[words.index(",") + 1 :]):
        at = words.index(",")
        return [*words[at + 1 :], *lowered(words[:at])]
    at = next((at for at, word in enumerate(words) if word.lower() in BE), None)
    if at and words[at - 1].lower() == "there":
        return [*words[at - 1 :], *lowered(words[: at - 1])]
    if at and begins_thing(words[at + 1 :]) and verb_at(words[at + 1 :]) is None:
        things = listed(words[at + 1 :])
        several = len(things) > 1 or is_plural(things[0])
        return [*words[at + 1 :], agreed(words[at], several), *lowered(words[:at])]
    raise Unclear


def agreed(verb: str, several: bool) -> str:
    """A verb of the present, for one or several."""
    low = verb.lower()
    if low in BE:
        return {True: {"is": "are", "was": "were"}, False: {"are": "is", "were": "was"}}[several].get(low, low)
    form = FORMS.get(low)
    if form is None or form.form == "past":
        return low
    return form.base if several else third(form.base)


def lowered(words: Words) -> Words:
    """Words that stand no longer first; a name keeps its capital."""
    known = DETERMINERS | PREPOSITIONS | COLOURS | FEW_PLURALS | MASSES | {"there"}
    if (
        words
        and (words[0].lower() in known or plural_word(words[0]))
        and (len(words[0]) == 1 or not words[0].isupper())
    ):
        return [words[0].lower(), *words[1:]]
    return words

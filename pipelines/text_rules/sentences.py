"""Reads English sentences for the divider: where each ends, what only leads to it, and its words."""

import re

from pipelines.text_rules.clauses import Words
from pipelines.text_rules.english import BE, DEGREES, DETERMINERS, FEELINGS, JUDGING, MAYBE, PREPOSITIONS, word_set
from pipelines.text_rules.facts import SIZES, with_quotes

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
PAIR = re.compile(r"(?i)\ba (?:pair|couple) of ((?:[\w-]+ ){0,3}?)([\w-]+s)\b")
WORN = word_set("glasses sunglasses goggles scissors pants trousers jeans shorts shoes boots socks gloves skis")
BULLET = re.compile(r"^[^\S\n]*(?:[-*•–]|\(?\d{1,2}[.)])\s+|\*\*|__|^#+\s+", re.MULTILINE)


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
    text = PAIR.sub(lambda m: m[0] if m[2].lower() in WORN else f"two {m[1]}{m[2]}", text)
    text = re.sub(r"(?i)n['’]t\b", " not", text)
    text = re.sub(r"(?i)\b(there|it|that|here|he|she|what)['’]s (?=\w)", r"\1 is ", text)
    text = re.sub(r"(?i)\b(they|there)['’]re\b", r"\1 are", text)
    text = re.sub(r"(?i)\b(?:appears|seems) to (be|have)\b", lambda m: {"be": "is", "have": "has"}[m[1].lower()], text)
    text = re.sub(r"(?i)\b(?:appear|seem) to (be|have)\b", lambda m: {"be": "are", "have": "have"}[m[1].lower()], text)
    words = TOKEN.findall(text.rstrip().rstrip(".!?;:"))
    words = [word for word, judges in zip(words, _judging(words), strict=True) if not judges]
    return with_quotes(
        [word for index, word in enumerate(words) if not (word == "," and _lists_adjectives(words, index))]
    )


def _lists_adjectives(words: Words, index: int) -> bool:
    """Whether a comma only parts a size from more adjectives: "a large, old table"."""
    before = [word.lower() for word in words[max(0, index - 2) : index]]
    return len(before) == 2 and before[0] in DETERMINERS and before[1] in SIZES


def _judging(words: Words) -> list[bool]:
    """Which words only judge the thing whose name follows them: "a very nice red car"."""
    lower = [word.lower() for word in words]
    before, named = [], ""  # the last word before each that neither judges nor says how much
    for word in lower:
        before.append(named)
        named = named if word in JUDGING | DEGREES | {","} else word
    found, end = [False] * len(words), len(words)
    for index in reversed(range(len(words))):
        end = end if lower[index] in DEGREES else index  # the first word from here on that does not say how much
        after = lower[end + 1] if end + 1 < len(words) else ","
        found[index] = (
            end < len(words)
            and lower[end] in JUDGING
            and before[index] in DETERMINERS
            and after not in PREPOSITIONS | {",", "and", "but"}
        )
    return found

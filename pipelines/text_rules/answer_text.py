"""The text of a model's answer without thoughts, marks of its template, chatter and further turns.

One way for captions, responses and claims. What is said is never changed, only cut. An answer that cannot be told from
its thoughts, or that repeats itself, has a fault instead.
"""

import re
from typing import NamedTuple

THOUGHT = "think|thinking|thought|thoughts|reasoning|reflection|scratchpad"
OPENED = re.compile(rf"<\|?(?:{THOUGHT})\|?>|\[THINK\]|◁think▷", re.I)
CLOSED = re.compile(rf"<\|?/(?:{THOUGHT})\|?>|</\|?(?:{THOUGHT})\|?>|\[/THINK\]|◁/think▷", re.I)
CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]{0,80}<\|message\|>", re.I)  # of gpt-oss
TURN = re.compile(r"<\|(?:im_start|start|start_header_id)\|>\s*\w*(?:<\|end_header_id\|>)?|<start_of_turn>\s*\w*", re.I)
TURN_END = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|end|endoftext|end_of_text|return|eot|end_of_turn|user|system)\|>|</s>|<eos>"
    r"|<end_of_turn>|<｜end▁of▁sentence｜>|<\|end▁of▁sentence\|>",
    re.I,
)
MARK = re.compile(
    r"<\|[A-Za-z0-9_ ▁/-]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|<(?:bos|eos|pad|unk)>|\[/?INST\]|<</?SYS>>", re.I
)

NAME = r"(?:\*\*)?{}(?:\*\*)?\s*[:：](?:\*\*)?"
QUESTION, ANSWER = NAME.format("Question"), NAME.format("Answer")
SPEAKER = NAME.format("(?:User|Human|USER|Assistant|ASSISTANT|Q)")
SECOND = re.compile(rf"\n[ \t*#>]*(?:{QUESTION}|{SPEAKER})|(?<=[.!?。？！]\s)(?:\*\*)?{QUESTION}")
SPOKEN = re.compile(rf"\s*(?:{ANSWER}|{NAME.format('(?:Assistant|ASSISTANT)')})\s*")
OPENING = re.compile(
    r"(?:(?:sure|certainly|of course|absolutely|okay|ok|alright|great|got it|yes, of course)(?: thing)?\s*[!,.]+\s*)?"
    r"(?:here(?:'s|’s| is| are)|below (?:is|are)|this is|the following (?:is|are))\b[^.!?\n:：]{0,100}"
    r"\b(?:caption|captions|sentence|sentences|question|answer|answers|description|version|rewrite|rewriting|list|facts"
    r"|text|alt text|response|output|json)\b[^.!?\n:：]{0,60}[:：]\s*"
    r"|(?:sure|certainly|of course|absolutely)(?: thing)?\s*!\s*",
    re.I,
)
CLOSING = re.compile(
    r"(?:please )?let me know (?:if|whether|what|how|in case|which)\b"
    r"|i hope (?:this|that|it) (?:helps|is|meets|works)\b|hope (?:this|that|it) helps\b|(?:please )?feel free to ask\b"
    r"|feel free to (?:let|adjust|modify|change|reach)\b|would you like (?:me to|any|another|more)\b"
    r"|is there anything else\b|(?:please )?(?:do not|don't|don’t) hesitate to (?:ask|let|reach)\b"
    r"|if you have any (?:other |more |further |additional )?(?:questions|changes|requests)\b"
    r"|if you need (?:any|me|more|further)\b|if you(?: would|'d|’d) like (?:me|any|another|more)\b"
    r"|i(?:'m|’m| am) happy to (?:help|assist|adjust|provide)\b"
    r"|i can (?:also )?(?:help|provide|adjust|rewrite|change)\b"
    r"|\(?note[:：] (?:i|the (?:caption|rewritten|alt|original|answer)|this (?:caption|answer|is a))\b",
    re.I,
)
SENTENCE = re.compile(r"(?<=[.!?。！？…])[\"'”’)\]*]*\s+|\n+")
LETTERS = re.compile(r"([^\W\d_]{2,8}?)\1{4,}|([^\W\d_])\2{9,}")
WORDS_AGAIN, PERIOD = 12, 20  # words that a loop has, at least; words of its round, at most


class Cleaned(NamedTuple):
    """`fault`: a word of `schemas.answers.OF_ANSWERS`; None if `text` is the answer."""

    text: str
    fault: str | None = None


def without_marks(text: str) -> Cleaned:
    """An answer without thoughts and without the marks of its template; the text after its turn is dropped."""
    if channels := [*CHANNEL.finditer(text)]:
        last = channels[-1]
        if last[1].lower() != "final":
            return Cleaned("", "thinking")
        text = text[last.end() :]
    *_, end = (0, *(found.end() for found in CLOSED.finditer(text)))
    text = text[end:]
    if opened := OPENED.search(text):
        return Cleaned(text[: opened.start()].strip(), "thinking")
    while begun := TURN.match(text.lstrip()):
        text = text.lstrip()[begun.end() :]
    parts = [part for part in TURN_END.split(TURN.split(text)[0]) if part.strip()]
    return Cleaned(MARK.sub("", parts[0] if parts else "").strip())


def cleaned(text: str) -> Cleaned:
    """An answer in prose: also without chatter around it, and without the questions that a model then asks itself."""
    said = without_marks(text)
    if said.fault:
        return said
    text = said.text
    if spoken := SPOKEN.match(text):
        text = text[spoken.end() :]
    text = without_chatter(first_turn(text))
    return Cleaned(text, "loops" if loops(text) else None)


def first_turn(text: str) -> str:
    """A text until a second question begins in it, or another speaker."""
    second = SECOND.search(text, 1)
    return text[: second.start()].strip() if second else text.strip()


def without_chatter(text: str) -> str:
    """A text without what models say before and behind what they were asked for."""
    opening = OPENING.match(text)
    if opening and text[opening.end() :].strip():
        text = text[opening.end() :]
    while True:
        ends = [*SENTENCE.finditer(text.rstrip())]
        if not ends or not CLOSING.match(text[ends[-1].end() :].lstrip("*_ -")):
            return text.strip()
        text = text[: ends[-1].end()].rstrip()


def loops(text: str) -> bool:
    """Whether letters, or words at the end of a text, repeat many times."""
    if LETTERS.search(text):
        return True
    words = text.lower().split()[-20 * PERIOD :]
    for period in range(1, PERIOD + 1):
        same = 0
        while same + period < len(words) and words[-1 - same] == words[-1 - same - period]:
            same += 1
        if same + period >= max(WORDS_AGAIN, 4 * period) and any(map(str.isalpha, "".join(words[-period:]))):
            return True
    return False

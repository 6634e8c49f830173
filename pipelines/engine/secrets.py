"""Secrets that no file, log, message or artifact may hold: API keys, credentials of stores, signatures in URLs.

A secret is also found if it is broken by blanks, escaped, in base64 or in hex. All runs of more than SHOWN of its
characters are replaced, so that a text can be cut anywhere, before or after. What looks like a secret (a password in a
URL, a signature, `Authorization: Bearer …`) is replaced as well.

Data of the source does not change: the URL in the column `url` is the one that is requested, with its signature.
"""

import base64
import html
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

HIDDEN = "***"
SHOWN = 4  # characters of a secret in a row that may be shown
SHORT = 8  # characters; shorter keys, such as "EMPTY", are words, and are replaced only as a whole
SIGNS, DIGITS = 7, 2 * (SHOWN + 1)  # of base64 and of hex that are as much
LONGEST = 10_000  # characters of a message that are looked at; the rest is dropped
NAMES = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN",
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING",
)  # fmt: skip  # environment variables that hold secrets
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")

SIGNED = (
    "x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature|x-goog-credential|awsaccesskeyid|signature"
    "|sig|token|auth|authorization|key|secret|password|passwd|policy|credential|session"
    r"|(?:access|api|auth|id|refresh|sas|secret|security|session|client|private|storage|shared)[-_]?(?:key|token|secret)"
)
PATTERNS = (
    (re.compile(r"(?<=://)[^/?#\s@'\"<>]+@"), f"{HIDDEN}@"),
    (re.compile(rf"([?&;](?:amp;)?(?:{SIGNED})=)[^&#\s'\"<>]+", re.I), rf"\g<1>{HIDDEN}"),
    (re.compile(r"\b(bearer|basic)([ :=]+)[A-Za-z0-9._~+/=*-]{8,}", re.I), rf"\g<1>\g<2>{HIDDEN}"),
    (re.compile(r"(<AWSAccessKeyId>|<SignatureProvided>)[^<]+"), rf"\g<1>{HIDDEN}"),
)
LIKELY = re.compile(r"://|=|bearer|basic|<AWS", re.I)

LOWER = {upper: upper + 32 for upper in range(65, 91)}  # of ASCII alone, so that lengths stay
BLANK = re.compile(r"[\s\x00-\x1f\x7f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]+")
ESCAPE = re.compile(
    r"(?P<blank>\\+[nrtfv]|<br/?>)|%(?P<percent>[0-9a-f]{2})|\\+u00(?P<u>[0-9a-f]{2})|\\+u\{0*(?P<braced>[0-9a-f]{2})\}"
    r"|\\+x(?P<x>[0-9a-f]{2})|\\+(?P<escaped>[^a-z0-9])|&\#0*(?P<decimal>\d{2,3});|&\#x0*(?P<hex>[0-9a-f]{2});"
    r"|&(?P<name>amp|lt|gt|quot|apos);",
    re.I,
)
NO_DIGIT = re.compile(r"0x|[^0-9a-fA-F]+", re.I)  # of hex

Span = tuple[int, int]


def unescape(found: re.Match) -> str:
    """What an escape of JSON, of URLs or of HTML stands for."""
    kind, value = next((kind, text) for kind, text in found.groupdict().items() if text is not None)
    if kind == "blank":
        return ""
    if kind in ("escaped", "name"):
        return value if kind == "escaped" else html.unescape(f"&{value};")
    return chr(int(value, 10 if kind == "decimal" else 16))


STEPS = ((BLANK, lambda found: ""), *[(ESCAPE, unescape)] * 3)  # decoded again where the result has escapes


class View(NamedTuple):
    """A text as it can be read, and where each of its characters stands in the text as it came."""

    text: str
    spans: list[Span]

    def changed(self, pattern: re.Pattern, change: Callable[[re.Match], str]) -> "View":
        """The text with each match replaced; the replacement keeps the place of the whole match."""
        parts, spans, end = [], [], 0
        for found in pattern.finditer(self.text):
            value = change(found)
            parts += [self.text[end : found.start()], value]
            spans += self.spans[end : found.start()]
            spans += [(self.spans[found.start()][0], self.spans[found.end() - 1][1])] * len(value)
            end = found.end()
        return View("".join(parts) + self.text[end:], spans + self.spans[end:])


def grams(text: str, size: int) -> frozenset[str]:
    return frozenset(text[n : n + size] for n in range(len(text) - size + 1))


class Secrets:
    """Some secrets, and how to find them in texts."""

    def __init__(self, values: Iterable[str]):
        self.short = sorted({value for value in values if SHOWN < len(value) < SHORT}, key=len, reverse=True)
        self.plain, self.odd, self.base64, self.hex = (set() for _ in range(4))
        self.words = {SHORT: set(), 2 * SHORT: set()}  # parts of these lengths; the longer ones in lower case
        for value in values:
            if len(value) < SHORT:
                continue
            self.plain |= grams(value.translate(LOWER), SHOWN + 1)
            self.odd |= {piece for piece in self.plain if re.search(r"\d", piece) and re.search(r"[a-z]", piece)}
            self.odd |= {piece for piece in grams(value, SHOWN + 1) if re.search(r"[a-z][A-Z]", piece)}
            self.words[SHORT] |= grams(value, SHORT)
            self.words[2 * SHORT] |= grams(value.translate(LOWER), 2 * SHORT)
            data = value.encode("utf-8", "surrogatepass")
            self.hex |= grams(data.hex(), DIGITS)
            for before in range(3):
                packed = base64.b64encode(bytes(before) + data).decode().rstrip("=")
                end = len(packed) - ((before + len(data)) % 3 > 0)  # of other bits are the first ones and the last one
                self.base64 |= grams(packed[(0, 2, 3)[before] : end], SIGNS)

    def _holds(self, text: str, answer: bool) -> bool:
        """Whether a reading of a text holds a part of a secret; in an `answer`, common words do not count as parts."""
        lower = text.translate(LOWER)
        of_words = answer and (
            not self.odd.isdisjoint(grams(text, SHOWN + 1))
            or not self.words[SHORT].isdisjoint(grams(text, SHORT))
            or not self.words[2 * SHORT].isdisjoint(grams(lower, 2 * SHORT))
        )
        return of_words or not (
            (self.odd if answer else self.plain).isdisjoint(grams(lower, SHOWN + 1))
            and self.base64.isdisjoint(grams(text.replace("-", "+").replace("_", "/"), SIGNS))
            and self.hex.isdisjoint(grams(NO_DIGIT.sub("", text).translate(LOWER), DIGITS))
        )

    def said(self, text: str) -> bool:
        """Whether an answer holds a secret or a part of it. Unlike in `hidden`, common words do not count as parts."""
        return bool(self.plain) and any(self._holds(reading, True) for reading in readings(text))

    def spans(self, text: str) -> list[Span]:
        """Where more than SHOWN characters of a secret stand in a text, however they are written."""
        found = [match.span() for value in self.short for match in re.finditer(re.escape(value), text)]
        if not self.plain or not any(self._holds(reading, False) for reading in readings(text)):
            return found
        view = View(text, [(n, n + 1) for n in range(len(text))])
        for pattern, change in STEPS:
            view = view.changed(pattern, change)
            numbers = view.changed(NO_DIGIT, lambda match: "")
            for read, kind, pieces, size in (
                (view, view.text.translate(LOWER), self.plain, SHOWN + 1),
                (view, view.text.replace("-", "+").replace("_", "/"), self.base64, SIGNS),
                (numbers, numbers.text.translate(LOWER), self.hex, DIGITS),
            ):
                starts = (n for n in range(len(kind) - size + 1) if kind[n : n + size] in pieces)
                found += [(read.spans[n][0], read.spans[n + size - 1][1]) for n in starts]
        return found

    def hidden(self, text: str) -> str:
        """A text without these secrets."""
        return replaced(text, self.spans(text))


def readings(text: str) -> Iterator[str]:
    """Readings of a text: without blanks, and with its escapes decoded, repeatedly if they are nested."""
    before = None
    for pattern, change in STEPS:
        text = pattern.sub(change, text)
        if text == before:
            return
        yield text
        before = text


def replaced(text: str, spans: Iterable[Span]) -> str:
    """A text with HIDDEN in place of each run of spans."""
    parts, end = [], 0
    for start, stop in sorted(spans):
        if start > end or not parts:
            parts += [text[end:start], HIDDEN]
        end = max(end, stop)
    return "".join(parts) + text[end:] if parts else text


# The secrets of this process

remembered: set[str] = set()


def remember(value: str | None) -> None:
    """Remembers a secret, so that it appears in no text."""
    if value:
        remembered.add(value)


def known() -> Secrets:
    """All secrets that this process knows: those given to `remember`, and those of its environment."""
    values = {os.environ.get(name, "") for name in NAMES} | {_password(os.environ.get(name, "")) for name in PROXIES}
    return _secrets(frozenset(values | remembered))


@lru_cache(8)
def _secrets(values: frozenset[str]) -> Secrets:
    return Secrets(values)


def _password(url: str) -> str:
    try:
        return urlsplit(url).password or ""
    except ValueError:
        return ""


def hidden(text: str, longest: int | None = LONGEST) -> str:
    """A text without secrets: those that are known, and what looks like one."""
    text = known().hidden(text[:longest])
    if LIKELY.search(text):
        for pattern, instead in PATTERNS:
            text = pattern.sub(instead, text)
    return text


def told(error: object, most: int = 500) -> str:
    """A message for a cell or a line: without secrets, valid Unicode, on one line, cut after that."""
    text = str(error) or type(error).__name__
    return " ".join(hidden(text).split()).encode("utf-8", "replace").decode()[:most]


@contextmanager
def hiding() -> Iterator[None]:
    """Takes secrets out of errors raised in the block, before they are logged."""
    try:
        yield
    except BaseException as error:
        hide(error)
        raise


def hide(error: BaseException | None) -> None:
    """Takes secrets out of an error and out of the errors that caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.args = tuple(hidden(arg) if isinstance(arg, str) else arg for arg in error.args)
        for name in ("detail", "message", "strerror", "filename"):
            value = getattr(error, name, None)
            if isinstance(value, str) and hidden(value) != value:
                setattr(error, name, hidden(value))
        error = error.__cause__ or error.__context__

"""Secrets that no file, log, message or artifact may hold: API keys, credentials of stores, signatures in URLs.

A text is looked through as a reader could put a secret together from it. It is brought back step by step to what it
stands for: without blanks and colours of a terminal, with escapes decoded, in plain letters. In each of these readings
parts of a secret are looked for: as they are, and in base64 and hex, also of UTF-16, of hex and of base64. All runs of
more than SHOWN characters of a secret are replaced, so that a text can be cut anywhere, before or after. What looks
like a secret (a password in a URL, a signature, `Authorization: Bearer …`) is replaced as well.

Data of the source does not change: the URL in the column `url` is the one that is requested, with its signature.
"""

import base64
import html
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import ceil
from typing import NamedTuple
from urllib.parse import urlsplit

HIDDEN = "***"
SHOWN = 4  # characters of a secret in a row that may be shown
SHORT = 8  # characters; shorter keys, such as "EMPTY", are words, and are replaced only as a whole
ROUNDS = 3  # escapes in escapes that are decoded
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
USER, HOST_ENDS = r"[^/?#\s@:'\"<>]{0,100}", r"(?::\d+)?(?:[/?#\s'\"<>]|$)"
PATTERNS = (
    (re.compile(rf"(?<=://){USER}:(?!\d+[/?#])[^\s'\"<>]{{1,300}}@(?=[\w.-]{{1,253}}{HOST_ENDS})"), f"{HIDDEN}@"),
    (re.compile(r"(?<=://)[^/?#\s'\"<>]+@"), f"{HIDDEN}@"),
    (re.compile(rf"([?&;](?:amp;)?(?:{SIGNED})=)[^&#\s'\"<>]+", re.I), rf"\g<1>{HIDDEN}"),
    (re.compile(r"\b(bearer|basic)([ :=]+)[A-Za-z0-9._~+/=*-]{8,}", re.I), rf"\g<1>\g<2>{HIDDEN}"),
    (re.compile(r"(<AWSAccessKeyId>|<SignatureProvided>)[^<]+"), rf"\g<1>{HIDDEN}"),
)
LIKELY = re.compile(r"://|=|bearer|basic|<AWS", re.I)

LOWER = {upper: upper + 32 for upper in range(65, 91)}  # of ASCII alone, so that lengths stay
NOISE = re.compile(  # between letters: colours and the like of a terminal, and what it does not show
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)"
    r"|[\s\x00-\x1a\x1c-\x1f\x7f-\x9a\x9c-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]+|[\x1b\x9b]"
)
ESCAPE = re.compile(
    r"(?P<blank>\\+[nrtfv]|<br/?>)|%(?P<percent>[0-9a-f]{2})|\\+u(?:0000)?00(?P<u>[0-9a-f]{2})"
    r"|\\+u\{0*(?P<braced>[0-9a-f]{2})\}|\\+x\{?(?P<x>[0-9a-f]{2})\}?|\\+o\{0*(?P<octals>[0-7]{2,3})\}"
    r"|\\+(?:0(?=0[4-7]|1[0-7]))?(?P<octal>[0-3][0-7]{2})|\\+e(?=\[)|\\+(?P<escaped>[^a-z0-9])"
    r"|&\#0*(?P<decimal>\d{2,3});?|&\#x0*(?P<hex>[0-9a-f]{2});?|&(?P<name>[a-z]{2,30});",
    re.I,
)
LETTER = re.compile(  # a letter or digit with a mark, wide, bold, raised, in a circle, …
    r"[\u00aa-\u024f\u02b0-\u036f\u1d00-\u1eff\u2070-\u209c\u2100-\u218b\u2460-\u24ff\uff01-\uff5e"
    r"\U0001d400-\U0001d7ff\U0001f100-\U0001f1ff]"
)
NO_WORD = re.compile(r"[a-z][A-Z]|[A-Z].*[^A-Za-z0-9]|[^A-Za-z0-9].*[A-Z]")  # parts of a key that are no words
NO_DIGIT = re.compile(r"0x|[^0-9a-fA-F]+", re.I)  # of hex

Span = tuple[int, int]


def unescape(found: re.Match) -> str:
    """The character that an escape of JSON, of URLs or of HTML means."""
    kind = found.lastgroup
    if kind is None:  # \\e
        return "\x1b"
    value = found[kind]
    if kind == "blank":
        return ""
    if kind in ("escaped", "name"):
        return value if kind == "escaped" else html.unescape(found[0])
    return chr(int(value, 10 if kind == "decimal" else 8 if kind.startswith("octal") else 16))


@lru_cache(10_000)
def _plain(letter: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(c))


QUIET = ((NOISE, lambda found: ""),)
STEPS = (QUIET, *[((ESCAPE, unescape), (LETTER, lambda found: _plain(found[0])), *QUIET)] * ROUNDS)


class View(NamedTuple):
    """A text as it can be read, and the place of each of its characters in the original text."""

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


def _signs(size: int) -> int:
    """How many signs of base64 hold so many bytes."""
    return ceil(size * 8 / 6)


def _packed(data: bytes) -> Iterator[bytes]:
    """What base64 makes of data wherever they begin, without the signs at both ends that hold bits of other data."""
    for before in range(3):
        packed = base64.b64encode(bytes(before) + data).rstrip(b"=")
        yield packed[(0, 2, 3)[before] : len(packed) - ((before + len(data)) % 3 > 0)]


def _have_none(by_size: dict[int, set[str]], text: str) -> bool:
    return all(pieces.isdisjoint(grams(text, size)) for size, pieces in by_size.items())


class Secrets:
    """Some secrets, and how to find them in texts."""

    def __init__(self, values: Iterable[str]):
        self.short = sorted({value for value in values if SHOWN < len(value) < SHORT}, key=len, reverse=True)
        self.plain, self.odd = set(), set()
        self.base64, self.hex = defaultdict(set), defaultdict(set)  # length -> pieces
        self.words = {SHORT: set(), 2 * SHORT: set()}  # parts of these lengths; the longer ones in lower case
        for value in values:
            if len(value) < SHORT:
                continue
            self.plain |= grams(value.translate(LOWER), SHOWN + 1)
            self.odd |= {piece for piece in self.plain if re.search(r"\d", piece) and re.search(r"[a-z]", piece)}
            self.odd |= {piece for piece in grams(value, SHOWN + 1) if NO_WORD.search(piece)}
            self.words[SHORT] |= grams(value, SHORT)
            self.words[2 * SHORT] |= grams(value.translate(LOWER), 2 * SHORT)
            data = value.encode("utf-8", "surrogatepass")
            wide = [value.encode(code, "surrogatepass") for code in ("utf-16-le", "utf-16-be")]
            digits = [data.hex().encode(), data.hex().upper().encode()]
            forms = {SHOWN + 1: [data], 2 * (SHOWN + 1): wide + digits, _signs(SHOWN + 1): [*_packed(data)]}
            for size, written in forms.items():  # bytes that encode more of the secret than may be shown
                for form in written:
                    self.hex[2 * size] |= grams(form.hex(), 2 * size)
                    for packed in _packed(form):
                        self.base64[_signs(size)] |= grams(packed.decode(), _signs(size))

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
            and _have_none(self.base64, text.replace("-", "+").replace("_", "/"))
            and _have_none(self.hex, NO_DIGIT.sub("", text).translate(LOWER))
        )

    def said(self, text: str) -> bool:
        """Whether an answer holds a secret or a part of it. Unlike in `hidden`, common words do not count as parts."""
        return bool(self.plain) and any(self._holds(reading, True) for reading in readings(text))

    def spans(self, text: str) -> list[Span]:
        """The places in a text with more than SHOWN characters of a secret, however they are written."""
        found = [match.span() for value in self.short for match in re.finditer(re.escape(value), text)]
        if not self.plain or not any(self._holds(reading, False) for reading in readings(text)):
            return found
        view = View(text, [(n, n + 1) for n in range(len(text))])
        before = None
        for step in STEPS:
            for pattern, change in step:
                view = view.changed(pattern, change)
            if view.text == before:
                break
            before, numbers = view.text, view.changed(NO_DIGIT, lambda match: "")
            for read, kind, by_size in (
                (view, view.text.translate(LOWER), {SHOWN + 1: self.plain}),
                (view, view.text.replace("-", "+").replace("_", "/"), self.base64),
                (numbers, numbers.text.translate(LOWER), self.hex),
            ):
                for size, pieces in by_size.items():
                    starts = (n for n in range(len(kind) - size + 1) if kind[n : n + size] in pieces)
                    found += [(read.spans[n][0], read.spans[n + size - 1][1]) for n in starts]
        return found

    def hidden(self, text: str) -> str:
        """A text without these secrets."""
        return replaced(text, self.spans(text))


def readings(text: str) -> Iterator[str]:
    """A text as it can be read: without noise, and with its escapes decoded, as often as there are any."""
    before = None
    for step in STEPS:
        for pattern, change in step:
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

"""Reads cells of tables as texts; a cell that is not a text gives a reason, and no object is printed as text.

Strings are texts, and so are bytes that are UTF-8. Numbers are the texts that JSON writes for them, dates and times are
written as ISO 8601 has them. Lists, objects and other bytes are not texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256
from typing import Any

from pipelines.engine.commit import digest
from schemas.texts import is_empty, is_wide, wide

MAX_TEXT = 200_000  # characters of a cell
MAX_LIST = 1_000  # texts of a cell
PRINTED = (int, float, Decimal, date, datetime, time, timedelta)


class BadCell(ValueError):
    """A cell of another kind than needed; the message says which kind."""


@dataclass(frozen=True)
class Unread:
    """A cell whose value Python cannot hold, or which is too large."""

    why: str
    text: str | None = None  # the value as Arrow writes it


def text_of(value: Any) -> str | None:
    """A cell as text; None for null and for NaN, which pandas writes for missing values. Raises `BadCell`."""
    if value is None or isinstance(value, str):
        text = value
    elif isinstance(value, bytes):
        text = _decoded(value)
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, PRINTED):
        text = None if value != value else str(value)
    else:
        raise BadCell(_kind(value))
    if text is not None and len(text) > MAX_TEXT:
        raise BadCell(f"has {len(text)} characters; {MAX_TEXT} are the most")
    return text


def texts_of(value: Any) -> list[str]:
    """A list of texts without nulls. Raises `BadCell`."""
    if len(value) > MAX_LIST:
        raise BadCell(f"is a list of {len(value)}; {MAX_LIST} are the most")
    return [text for text in map(text_of, value) if text is not None]


def choose(texts: Sequence[str], how: str, seed: int, key: str) -> str | None:
    """The one of several captions that `how` asks for: "first", "longest", or "random" by hash(seed, key). Where that
    one is empty, the others are chosen from."""
    text = _choice(texts, how, seed, key) if texts else None
    others = [other for other in texts if not is_empty(other)]
    return _choice(others, how, seed, key) if is_empty(text) and others else text


def _choice(texts: Sequence[str], how: str, seed: int, key: str) -> str:
    if how == "first":
        return texts[0]
    if how == "longest":
        return max(texts, key=len)  # the first of equally long ones
    lot = int.from_bytes(sha256(f"{seed}/{key}".encode()).digest()[:8])
    return texts[lot % len(texts)]


def plain(value: Any) -> Any:
    """A cell for `extra`: bytes that are UTF-8 are text; other bytes and what cannot be read are null."""
    if isinstance(value, bytes):
        try:
            return text_of(value)
        except BadCell:
            return None
    if isinstance(value, Unread):
        return value.text
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return None
    return value


def named(value: Any) -> str:
    """A text that is equal for equal cells, for the key of a row whose cell is not text."""
    try:
        return str(text_of(value))
    except BadCell:
        return "\0" + (_hash_of(value) if isinstance(value, str) else digest(_hashed(value)))


@lru_cache(64)
def _hash_of(text: str) -> str:
    """The hash of a long text, which many rows may share."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _hashed(value: Any) -> Any:
    if isinstance(value, bytes):
        return sha256(value).hexdigest()
    if isinstance(value, dict):
        return {str(name): _hashed(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_hashed(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _decoded(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BadCell(f"holds bytes that are not UTF-8, at byte {error.start}") from None
    if is_wide(text):
        raise BadCell(wide(text))
    return text


def _kind(value: Any) -> str:
    """Says what a cell is if it is not text."""
    if isinstance(value, Unread):
        return value.why
    kinds = {dict: "an object", list: "a list", tuple: "a list"}
    return f"is {kinds.get(type(value), f'of the type {type(value).__name__}')}, not a text"

"""Lines of text, and JSON in them: in UTF-8, or in UTF-16 or UTF-32 if a byte order mark says so.

Other encodings must be named by `source.encoding`; none is guessed. With a named encoding, a line with bytes that it
does not have becomes a row with a reason.
"""

import codecs
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

from pipelines.sources.files import Unreadable
from pipelines.sources.opening import PLAIN_FIX, packed_size
from pipelines.sources.source import MOST_VALUES, Overfull, object_of
from schemas.checked import LEVELS, too_deep
from schemas.errors import UserError
from schemas.texts import is_wide, wide

MAX_LINE = 64 << 20  # characters
SMALL, RATIO, VALUES = (
    64 << 20,
    50,
    2,
)  # characters of compressed JSON; else characters and values for each of its bytes
BAD = "\udc80"  # takes the place of bytes that are not of the encoding; no encoding has it
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return BAD, error.end


codecs.register_error("shardmill.bad", _stand_in)


class Lost(NamedTuple):
    """Takes the place of a record that cannot be read."""

    reason: str
    detail: str


def decoded(raw: BinaryIO, encoding: str | None, newline: str) -> io.TextIOWrapper:
    """The characters of a file. Bytes that are not of its encoding become `BAD`. A byte order mark is left out."""
    if not isinstance(raw, io.BufferedReader) or not raw.seekable():
        raw = io.BufferedReader(raw)  # pyright: ignore[reportArgumentType]  typed as if it might lack readinto
    head = raw.peek(4)[:4]
    marked = next((name for bom, name in BOMS if head.startswith(bom)), None)
    return io.TextIOWrapper(raw, marked or encoding or "utf-8", "shardmill.bad", newline=newline)


def check_characters(text: str, file: str, line: int | None, encoding: str | None) -> Lost | None:
    """The reason for a text that holds bytes of another encoding, or is UTF-16 without its mark. A null character
    among others stays.

    Raises `UserError` if no encoding is configured: for UTF-16 in the first line only, as in all of it.
    """
    bad, null = text.count(BAD), is_wide(text)
    if not bad and not null:
        return None
    place = f"{file}, line {line}," if line else file
    if encoding is None and null and line in (None, 1):
        raise UserError(f'source.encoding: {place} has null characters; write encoding = "utf-16-le" or what it is')
    if not bad:
        return Lost("bad_text", f"{place} {wide(text)}")
    if encoding is None:
        raise UserError(
            f'source.encoding: {place} is not UTF-8; write encoding = "latin-1" or whatever it is; '
            'with "utf-8", such rows are left out'
        )
    return Lost("bad_text", f"{place} has {bad} characters that are not {encoding}")


def json_records(raw: BinaryIO, file: str, encoding: str | None) -> Iterator[dict[str, Any] | Lost]:
    """The objects of JSON lines. A line that is not an object is kept as it is under `json`."""
    for number, line in enumerate(lines_of(decoded(raw, encoding, "\n")), 1):
        if line is None:
            yield too_long(file, number)
        elif text := line.strip(" \t\r\n\v\f"):
            yield check_characters(text, file, number, encoding) or _record(text, f"{file}, line {number}")


def _record(text: str, place: str) -> dict[str, Any] | Lost:
    try:
        return object_of(text)
    except Overfull as error:
        return Lost("bad_text", f"{place}: {error}")


def read_json(raw: BinaryIO, file: str, encoding: str | None) -> Any:
    """The value in a JSON file. Raises `UserError`, and `Unreadable` for a compressed file that expands to far more
    characters or values than people write, since all of it has to be in memory."""
    text = _whole(raw, file, encoding)
    check_characters(text, file, None, encoding)
    try:
        return json.loads(text, strict="\0" not in text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"source.path: {file} is not valid JSON: {error}") from None


def _whole(raw: BinaryIO, file: str, encoding: str | None) -> str:
    """All characters of a JSON file. Raises `Unreadable`, see `read_json`."""
    characters, packed = decoded(raw, encoding, "\n"), packed_size(raw)
    if packed is None:
        return characters.read()
    pieces, left, values = [], max(SMALL, RATIO * packed), max(MOST_VALUES, VALUES * packed)
    while piece := characters.read(1 << 20):
        pieces.append(piece)
        left, values = left - len(piece), values - sum(map(piece.count, "[{,"))
        if left < 0 or values < 0:
            raise Unreadable(f"{file}: expands to far more than people write; {PLAIN_FIX}")
    return "".join(pieces)


def with_lost(records: Iterable[dict[str, Any]], file: str, encoding: str | None) -> Iterator[dict[str, Any] | Lost]:
    """The records of a JSON file; those that hold bytes of another encoding, or too many levels, are `Lost`."""
    for number, record in enumerate(records):
        if too_deep(record):
            yield Lost("bad_text", f"{file} has more than {LEVELS} levels, in entry {number}")
            continue
        bad = encoding and check_characters(json.dumps(record, ensure_ascii=False), file, None, encoding)
        yield Lost(bad.reason, f"{bad.detail}, in entry {number}") if bad else record


def lines_of(text: io.TextIOWrapper) -> Iterator[str | None]:
    """The lines of a text; None in the place of one that is too long."""
    while line := text.readline(MAX_LINE):
        if len(line) < MAX_LINE or line.endswith("\n"):
            yield line
            continue
        while line and not line.endswith("\n"):
            line = text.readline(MAX_LINE)
        yield None


def too_long(file: str, line: int) -> Lost:
    return Lost("bad_text", f"{file}, line {line}: has more than {MAX_LINE} characters")

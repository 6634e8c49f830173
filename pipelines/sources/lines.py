"""Tables of lines: CSV, TSV and JSON lines, in UTF-8, or in UTF-16 or UTF-32 if a byte order mark says so.

Other encodings must be named by `source.encoding`; none is guessed. With a named encoding, a line with bytes that it
does not have becomes a row with a reason.
"""

import codecs
import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

from pipelines.sources.source import object_of
from schemas.errors import UserError

MAX_LINE = 64 << 20  # characters
BAD = "\udc80"  # stands for bytes that are not of the encoding; no encoding has it
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
DELIMITERS = {"csv": ",", "tsv": "\t"}
OTHERS = ("|", ";", "\t", ",")  # what else may be between columns

csv.field_size_limit(MAX_LINE)
codecs.register_error("shardmill.bad", lambda error: (BAD, error.end))


class Lost(NamedTuple):
    """In the place of a record that cannot be read."""

    reason: str
    detail: str


def decoded(raw: BinaryIO, encoding: str | None, newline: str) -> io.TextIOWrapper:
    """The characters of a file. What is not of its encoding is `BAD`. A byte order mark is left out."""
    if not raw.seekable() or not hasattr(raw, "peek"):
        raw = io.BufferedReader(raw)
    head = raw.peek(4)[:4]
    marked = next((name for bom, name in BOMS if head.startswith(bom)), None)
    return io.TextIOWrapper(raw, marked or encoding or "utf-8", "shardmill.bad", newline=newline)


def check_characters(text: str, file: str, line: int | None, encoding: str | None) -> Lost | None:
    """The reason for a text that holds bytes of another encoding. Raises `UserError` if no encoding is configured."""
    if not (bad := text.count(BAD)):
        return None
    place = f"{file}, line {line}," if line else file
    if encoding is None:
        raise UserError(
            f'source.encoding: {place} is not UTF-8; write encoding = "latin-1" or whatever it is; '
            'with "utf-8", such rows are left out'
        )
    return Lost("bad_text", f"{place} has {bad} characters that are not {encoding}")


def json_records(raw: BinaryIO, file: str, encoding: str | None) -> Iterator[dict[str, Any] | Lost]:
    """The objects of JSON lines. A line that is no object is kept as it is under `json`."""
    for number, line in enumerate(_lines(decoded(raw, encoding, "\n")), 1):
        if line is None:
            yield _too_long(file, number)
        elif text := line.strip(" \t\r\n\v\f"):
            yield check_characters(text, file, number, encoding) or object_of(text)


def read_json(raw: BinaryIO, file: str, encoding: str | None) -> Any:
    """The value in a JSON file. Raises `UserError`."""
    text = decoded(raw, encoding, "\n").read()
    check_characters(text, file, None, encoding)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"source.path: {file} is no JSON: {error}") from None


def with_lost(records: Iterable[dict[str, Any]], file: str, encoding: str | None) -> Iterator[dict[str, Any] | Lost]:
    """The records of a JSON file; those that hold bytes of another encoding are `Lost`."""
    for number, record in enumerate(records):
        bad = encoding and check_characters(json.dumps(record, ensure_ascii=False), file, None, encoding)
        yield Lost(bad.reason, f"{bad.detail}, in entry {number}") if bad else record


def csv_records(raw: BinaryIO, file: str, encoding: str | None, delimiter: str) -> Iterator[dict[str, Any] | Lost]:
    """The records of CSV or TSV by the names in its first line. An empty field is None.

    Quotes must be closed, and each record must have as many fields as the first line has.
    """
    lost: list[Lost] = []

    def lines() -> Iterator[str]:
        for number, line in enumerate(_lines(decoded(raw, encoding, "")), 1):
            if line is None:
                lost.append(_too_long(file, number))
            else:
                yield line

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        first = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield Lost("wrong_fields", f"{file}, lines {first} to {reader.line_num}: {error}")
            continue
        yield from lost
        lost.clear()
        if not fields:
            continue
        bad = check_characters("".join(fields), file, first, encoding)
        if names is None:
            names = fields
            if twice := [name for name in names if name and names.count(name) > 1]:
                raise UserError(f"source.path: {file} has two columns {twice[0]!r}; rename one")
            _check_delimiter(names, delimiter, file)
        elif bad:
            yield bad
        elif len(fields) != len(names):
            yield Lost("wrong_fields", f"{file}, line {first}: {len(fields)} fields, the first line has {len(names)}")
        else:
            yield {name: value or None for name, value in zip(names, fields)}
    yield from lost


def _check_delimiter(names: list[str], delimiter: str, file: str) -> None:
    """Raises `UserError` if the only name in the first line has another delimiter in it."""
    if len(names) == 1 and (other := next((mark for mark in OTHERS if mark in names[0]), None)):
        kinds = {",": ".csv with commas", "\t": ".tsv with tabs"}
        raise UserError(
            f"source.path: {file} has {other!r} between its columns, not {delimiter!r}; "
            f"write it as {kinds.get(other, ' or '.join(kinds.values()))}"
        )


def _lines(text: io.TextIOWrapper) -> Iterator[str | None]:
    """The lines of a text; None in the place of one that is too long."""
    while line := text.readline(MAX_LINE):
        if len(line) < MAX_LINE or line.endswith("\n"):
            yield line
            continue
        while line and not line.endswith("\n"):
            line = text.readline(MAX_LINE)
        yield None


def _too_long(file: str, line: int) -> Lost:
    return Lost("bad_text", f"{file}, line {line}: has more than {MAX_LINE} characters")

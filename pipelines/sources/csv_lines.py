"""CSV and TSV: records by the names in the first line.

Each line that a quote runs over is looked at: a record of several lines is one only where all of its quotes close, its
fields are as many as the first line has, and none of its lines is a record of its own. Otherwise its first line is read
alone, and the next record begins on the next line, so that a quote that does not close loses no other line. In CSV the
first line has a reason then. In TSV, which many tools write without quotes, it is read without them.
"""

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from pipelines.sources.columnar import distinct
from pipelines.sources.lines import MAX_LINE, Lost, check_characters, decoded, lines_of, too_long
from schemas.errors import UserError

DELIMITERS = {"csv": ",", "tsv": "\t"}
OTHERS = ("|", ";", "\t", ",")  # what else may be between columns
CELL_LINES = 1000  # over which a quote may run
FEW_LINES = 10  # over which one may run where so many did not close that lines are read again and again
AGAIN = 10_000_000  # characters that may be read again, besides FEW_LINES times those that were read

csv.field_size_limit(MAX_LINE)


def csv_records(
    raw: BinaryIO, file: str, encoding: str | None, delimiter: str
) -> Iterator[dict[str, str | None] | Lost]:
    """The records of CSV or TSV by the names in its first line. An empty field is None.

    Quotes must be closed, and each record must have as many fields as the first line has. Raises `UserError` for
    columns of one name, another delimiter, or an encoding that is not configured.
    """
    names: list[str] | None = None
    for number, fields in _Reader(raw, file, encoding, delimiter).records():
        if isinstance(fields, Lost):
            yield fields
        elif bad := check_characters("".join(fields), file, number, encoding):
            yield bad
        elif names is not None:
            yield {name: value or None for name, value in zip(names, fields, strict=True)}
        else:
            if twice := next((name for name, times in Counter(fields).items() if name and times > 1), None):
                raise UserError(f"source.path: {file} has two columns {twice[:200]!r}; rename one")
            _check_delimiter(fields, delimiter, file)
            names = distinct(fields)


class _Reader:
    """Reads lines, and gives those back that are not part of a record."""

    def __init__(self, raw: BinaryIO, file: str, encoding: str | None, delimiter: str) -> None:
        self.file, self.delimiter = file, delimiter
        self.lines = enumerate(lines_of(decoded(raw, encoding, "")), 1)
        self.returned: deque[tuple[int, str]] = deque()
        self.taken: list[tuple[int, str]] = []  # of the record that is being read
        self.lost: list[Lost] = []
        self.again = AGAIN

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while True:
            number, line = self.returned.popleft() if self.returned else next(self.lines)
            if line is not None:
                break
            self.lost.append(too_long(self.file, number))
        self.taken.append((number, line))
        if len(self.taken) > (most := CELL_LINES if self.again > 0 else FEW_LINES):
            raise csv.Error(f"a quote runs over more than {most} lines")
        return line

    def records(self) -> Iterator[tuple[int, list[str] | Lost]]:
        """The fields of each record, or why it has none, with the number of its first line."""
        reader, width = csv.reader(self, delimiter=self.delimiter, strict=True), None
        while True:
            self.taken.clear()
            try:
                fields, problem = next(reader), None
            except StopIteration:
                break
            except csv.Error as error:
                fields, problem = None, str(error)
            yield from ((0, lost) for lost in self.lost)
            self.lost.clear()
            if fields == []:
                continue
            first, line = self.taken[0]
            self.again += FEW_LINES * len(line)
            if fields is not None and width is not None:
                problem = self._problem(fields, width)
            if problem:
                self.returned.extendleft(reversed(self.taken[1:]))
                self.again -= sum(len(text) for _, text in self.taken[1:])
                plain = line.rstrip("\r\n").split(self.delimiter)
                fields = plain if self.delimiter == "\t" and len(plain) == width else None
            width = width or (len(fields) if fields else None)
            yield first, fields or Lost("wrong_fields", f"{self.file}, line {first}: {problem}")
        yield from ((0, lost) for lost in self.lost)

    def _problem(self, fields: Sequence[str], width: int) -> str | None:
        """Why some lines are not a record."""
        if len(fields) != width:
            several = f" to the end of line {self.taken[-1][0]}" if len(self.taken) > 1 else ""
            return f"{len(fields)} fields{several}, the first line has {width}"
        if len(self.taken) == 1:
            return None
        (_, first), *more = self.taken
        begin = self._alone(first)
        for number, line in more:
            alone = self._alone(line)
            if len(alone) == width and (_alike(alone[0], begin[0]) or _alike(alone[-1], begin[-1])):
                return f"a quote runs over line {number}, which is a record of its own"
        return None

    def _alone(self, line: str) -> list[str]:
        """The fields of a line that is read by itself."""
        return next(csv.reader([line], delimiter=self.delimiter)) or [""]


def _alike(one: str, other: str) -> bool:
    """Whether two fields are both URLs, both numbers, or files with the same suffix."""
    return _shape(one) is not None and _shape(one) == _shape(other)


def _shape(field: str) -> str | None:
    text = field.strip(' "\r\n')
    if text.startswith(("http://", "https://")):
        return "URL"
    if re.fullmatch(r"-?\d+", text):
        return "number"
    suffix = re.search(r"[.]\w{2,5}$", text)
    return suffix[0].lower() if suffix else None


def _check_delimiter(names: list[str], delimiter: str, file: str) -> None:
    """Raises `UserError` if the only name in the first line has another delimiter in it."""
    if len(names) == 1 and (other := next((mark for mark in OTHERS if mark in names[0]), None)):
        written = other.replace("\t", "\\t")
        raise UserError(
            f'source.delimiter: {file} has "{written}" between its columns; write delimiter = "{written}" in [source]'
        )

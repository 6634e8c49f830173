"""Answers that name one of several choices: the number of a choice in a list beside the answer, or its letter.

ScienceQA: {"choices": ["Maine", "Ohio"], "answer": 1} is answered by "Ohio". Numbers count from 0, as they do in
ScienceQA and AI2D.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from string import ascii_uppercase
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines.sources.cells import BadCell, text_of
from pipelines.sources.columnar import is_list, is_text
from schemas.arrow import Row
from schemas.errors import UserError

CHOICES = ("choices", "options", "answer_choices", "multiple_choices", "candidates")  # usual names of their column


class Choices(NamedTuple):
    """The choices that answers may name."""

    column: str
    configured: bool  # whether the configuration says that answers name them
    letters: tuple[str, ...] = ()  # columns of one choice each, as MMBench has them, in the place of one of lists

    def reader(self, record: Row) -> Callable[[Any], str | None]:
        """How the answer of a record is read."""
        cell = [record.get(letter) for letter in self.letters] if self.letters else record.get(self.column)
        return partial(_chosen, self, cell)


def choices_of(
    schema: pa.Schema, file: str, answer: str, configured: str | None, others: Sequence[str],
    first: Callable[[str], Any],
) -> Choices | None:  # fmt: skip
    """The choices that the column `answer` may name; None if there are none.

    `configured`: their column in the configuration; "" if answers name no choices. `others`: columns that say something
    else. `first`: the first value of a column. Raises `UserError` if answers may be the numbers of texts in a list.
    """
    if configured and configured not in schema.names:
        raise UserError(f"source.choices_column: {file} has no column {configured!r}; it has {', '.join(schema.names)}")
    if configured is not None:
        return Choices(configured, True) if configured else None
    lists = [field.name for field in schema if is_list(field.type) and is_text(field.type.value_type)]
    lists = [name for name in lists if name not in (answer, *others)]
    if usual := next((name for name in CHOICES if name in lists), None):
        return Choices(usual, False)
    letters = tuple(takewhile(schema.names.__contains__, ascii_uppercase))
    if len(letters) > 1:
        return Choices("columns A to " + letters[-1], False, letters)
    if not lists or not pa.types.is_integer(schema.field(answer).type):
        return None
    number = first(answer)
    able = [name for name in lists if isinstance(number, int) and 0 <= number < len(first(name) or ())]
    if not able:
        return None
    raise UserError(
        f"source.choices_column: {file} has numbers in {answer}, and lists of texts in {', '.join(able)}; write "
        f'choices_column = "{able[0]}" if they are the numbers of its texts, or choices_column = "" if they are not'
    )


def _chosen(choices: Choices, cell: Any, answer: Any) -> str | None:
    """The text of an answer beside a cell of choices.

    A number is that of a choice; of texts, those that are a choice's own stay as they are, and "B" is the second one.
    Raises `BadCell` for the number of no choice, and where it is not clear whether a text is one.
    """
    given = answer if isinstance(answer, int) and not isinstance(answer, bool) else None
    if given is not None and not isinstance(cell, list | tuple):
        raise BadCell(f"is {answer}, but {choices.column} is not a list")
    if given is None and not (isinstance(answer, str | bytes) and isinstance(cell, list | tuple)):
        return text_of(answer)
    texts = [text_of(one) for one in cell]
    if given is not None:
        return _numbered(given, texts, choices.column)
    text = text_of(answer)
    word, own = (text or "").strip(), [(one or "").strip() for one in texts]
    number = int(word) if word.isascii() and word.isdigit() and len(word) <= 3 else None
    if word in own:
        if choices.configured and number is not None and number < len(own) and own[number] != word:
            raise BadCell(f"is {text!r}, which is one of {choices.column} and the number of another")
        return text
    if number is not None and choices.configured:
        return _numbered(number, texts, choices.column)
    if number is not None and number <= len(texts):
        raise BadCell(
            f"is {text!r} beside {choices.column}: write choices_column = '{choices.column}' if it is the number of "
            'one, from 0, or choices_column = "" if it is the answer itself'
        )
    is_letter = len(word) == 1 and 0 <= ord(word) - ord("A") < len(texts)
    return _numbered(ord(word) - ord("A"), texts, choices.column) if is_letter else text


def _numbered(number: int, texts: Sequence[str | None], column: str) -> str | None:
    if not 0 <= number < len(texts):
        raise BadCell(f"is {number}, but {column} has {len(texts)} texts, numbered from 0")
    return texts[number]

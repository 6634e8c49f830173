"""An empty text is one in which nothing can be seen, and Python and SQL agree on it."""

import sys
import unicodedata

import duckdb
import pytest

from schemas.texts import is_empty, not_empty_sql

EMPTY = ["", " ", "\n\r\n\t", "\u00a0", "\u200b\u200b", "\ufeff", "\u2028\u2029", "\u3000 ", "\u2060\u00ad", "\x00\x1f",
         "\u3164", "\u2800", "\U000e0020", "\u200e\u200f"]  # fmt: skip
SEEN = ["a", ".", "\u00a0a\u00a0", "0", "\u4e2d", "\U0001f600", "\u0301", "\u2063x", "\u0600", "\ufffd", "\ue000"]


@pytest.mark.parametrize("text", EMPTY)
def test_nothing_of_it_can_be_seen(text):
    assert is_empty(text)


@pytest.mark.parametrize("text", SEEN)
def test_something_of_it_can_be_seen(text):
    assert not is_empty(text)


def test_all_white_space_and_no_letter_is_empty():
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        if character.isspace():
            assert is_empty(character), hex(number)
        kind = unicodedata.category(character)
        if kind[0] in "LNPS" and is_empty(character):
            assert number in (0x115F, 0x1160, 0x2800, 0x3164, 0xFFA0), hex(number)  # fillers and a blank


def test_sql_says_the_same_of_every_character():
    numbers = [number for number in range(1, sys.maxunicode + 1) if not 0xD800 <= number < 0xE000]
    texts = [chr(number) for number in numbers]
    with duckdb.connect() as connection:
        import pyarrow as pa

        table = pa.table({"text": texts})
        connection.register("texts", table)
        seen = connection.sql(f"SELECT {not_empty_sql('text')} AS seen FROM texts").to_arrow_table()["seen"].to_pylist()
        assert [not is_empty(text) for text in texts] == seen
        question = f"SELECT {not_empty_sql('NULL::VARCHAR')}, {not_empty_sql(chr(39) * 2)}"
        assert connection.sql(question).fetchall() == [(False, False)]

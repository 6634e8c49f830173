"""How `plan` says what changed."""

import pytest

from pipelines.build.plan import change_of

RAPID, EASY = {"engine": "rapidocr"}, {"engine": "easyocr"}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (100, 200, "x 100 -> 200"),
        (None, 200, "x unset -> 200"),
        (["en"], ["en", "de"], "x ['en'] -> ['en', 'de']"),
        (None, ["en"], "x is new"),
        (None, [EASY], "x is new"),
        ([RAPID], None, "x is gone"),
        ([RAPID], [RAPID, EASY], "x changed"),
        ({"a": 1, "b": {"c": 1}}, {"a": 1, "b": {"c": 2}}, "x.b.c 1 -> 2"),
        ({"a": 1}, {}, "x.a 1 -> unset"),
        ({"a": 1}, None, "x is gone"),
        ("0" * 32, "1" * 32, "x changed"),
    ],
)
def test_what_changed_is_told_in_words_of_the_configuration(before, after, said):
    assert change_of("x", before, after) == said

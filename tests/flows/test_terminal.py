"""The words of what commands print: numbers with their nouns, sizes, and why a stage has to be made."""

import pytest

from flows.commands.build import why_of
from flows.commands.terminal import counted, size_text


@pytest.mark.parametrize(("count", "said"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (12_345, "12,345 files")])
def test_a_number_has_its_noun(count, said):
    assert counted(count, "file") == said


@pytest.mark.parametrize(
    ("size", "said"),
    [(1, "1 byte"), (999, "999 bytes"), (29_184, "29 kB"), (1_000_000, "1.0 MB"), (2_500_000, "2.5 MB")],
)
def test_a_size_is_never_rounded_to_nothing(size, said):
    assert size_text(size) == said


def test_the_plan_counts_partitions_only_where_there_are_several_reasons():
    assert why_of([]) == "current"
    assert why_of([("new file", 3)]) == "new file"
    assert why_of([("new file", 1_200), ("file changed", 1)]) == "new file (1,200); file changed (1)"
    five = [(f"reason {n}", 9 - n) for n in range(5)]
    assert why_of(five) == "reason 0 (9); reason 1 (8); reason 2 (7); reason 3 (6); …"

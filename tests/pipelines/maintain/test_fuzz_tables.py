"""Tables that someone has been at: no crash, and each row is as it was written or has a reason."""

import pytest
from support.fuzz_tables import fuzz_tables
from support.parquet_fuzzing import fuzz_parquet


def test_mutated_tables_are_read_as_they_were_written_or_have_a_reason(tmp_path):
    said = fuzz_tables(tmp_path, 105)
    assert (said["silent"], said["crashes"]) == ([], [])
    assert said["reasons"].keys() > {"damaged", "unreadable_file", "bad_text", "wrong_fields"}
    assert said["slowest"] < 10


@pytest.mark.slow
def test_parquet_broken_along_its_structure_stops_nothing(tmp_path):
    check(fuzz_parquet(tmp_path, count=120))


@pytest.mark.slow
@pytest.mark.far
def test_parquet_broken_along_its_structure_for_minutes(tmp_path):
    """By hand: minutes of random inputs. `make test` has 120 of these files."""
    check(fuzz_parquet(tmp_path, seconds=180, seed=1))


def check(said: dict) -> None:
    assert said["wrong"] == []
    assert said["ends"].keys() == {"kept", "damaged", "unreadable_file", "root: read", "root: refused"}
    assert said["slowest"] < 10 and said["memory"] < 1 << 30

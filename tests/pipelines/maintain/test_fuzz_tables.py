"""Tables that someone has been at: no crash, and each row is as it was written or has a reason."""

from support.fuzz_tables import fuzz_tables


def test_mutated_tables_are_read_as_they_were_written_or_have_a_reason(tmp_path):
    said = fuzz_tables(tmp_path, 105)
    assert (said["silent"], said["crashes"]) == ([], [])
    assert said["reasons"].keys() > {"damaged", "unreadable_file", "bad_text", "wrong_fields"}
    assert said["slowest"] < 10

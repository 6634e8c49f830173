"""Images and tars that someone has been at: no crash, no hang, and each row is intact or has a reason."""

import pytest
from support.fuzzing import fuzz
from support.tar_fuzzing import fuzz_headers


@pytest.mark.slow
def test_mutated_images_and_tars_are_intact_or_have_a_reason(tmp_path):
    said = fuzz(tmp_path, images=150, tars=60)
    assert (said["wrong"], said["problems"]) == ([], [])
    assert said["rows"] > 300 and said["reasons"].keys() > {"kept", "unreadable", "truncated", "cut_tar"}


@pytest.mark.slow
def test_headers_that_claim_anything_leave_rows_intact_or_with_a_reason(tmp_path):
    check(fuzz_headers(tmp_path, count=250))


@pytest.mark.slow
@pytest.mark.far
def test_headers_that_claim_anything_for_minutes(tmp_path):
    """By hand: minutes of random inputs. `make test` has 250 of these tars."""
    check(fuzz_headers(tmp_path, seconds=180, seed=1))


def check(said: dict) -> None:
    assert said["wrong"] == []
    assert said["reasons"].keys() > {"kept", "cut_tar", "sparse", "broken_link", "no_image"}
    assert said["slowest"] < 10 and said["memory"] < 1 << 30

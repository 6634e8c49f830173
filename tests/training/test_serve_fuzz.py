"""Requests to `training.serve` broken along their structure: each is answered, or refused in one line."""

import pytest
from support.serve_fuzzing import fuzz_serve


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_broken_requests_are_answered_or_refused(tmp_path):
    check(fuzz_serve(tmp_path, count=300))


@pytest.mark.slow
@pytest.mark.far
@pytest.mark.filterwarnings("ignore")
def test_many_broken_requests_are_answered_or_refused(tmp_path):
    """By hand: minutes of random inputs. `make test` has some of these requests."""
    check(fuzz_serve(tmp_path, seconds=120, seed=1))


def check(said: dict) -> None:
    assert said["wrong"] == []
    assert said["ends"]["200"] > 10 and said["ends"]["400"] > 10
    assert said["slowest"] < 10 and said["memory"] < 1 << 30

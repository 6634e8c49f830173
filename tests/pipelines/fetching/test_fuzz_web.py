"""robots.txt and lists of opt-outs of odd parts: each is read in bounded time and memory, whatever is in it."""

import pytest
from support.web_fuzzing import fuzz_opt_outs, fuzz_robots


@pytest.mark.slow
@pytest.mark.parametrize("fuzz", [fuzz_robots, fuzz_opt_outs])
def test_odd_rules_are_read(fuzz, tmp_path):
    check(fuzz(tmp_path, count=200))


@pytest.mark.slow
@pytest.mark.far
@pytest.mark.parametrize("fuzz", [fuzz_robots, fuzz_opt_outs])
def test_odd_rules_are_read_for_minutes(fuzz, tmp_path):
    """By hand: minutes of random inputs. `make test` has 200 of each."""
    check(fuzz(tmp_path, seconds=120, seed=1))


def check(said: dict) -> None:
    assert said["wrong"] == []
    assert all(count > 10 for count in said["ends"].values()) and len(said["ends"]) > 1
    assert said["slowest"] < 10 and said["memory"] < 1 << 30

"""Whatever a corpus goes through, its files are those of a run that was made at once; see `histories`."""

import pytest
from support.histories import history_of
from support.scripted_server import Scripted


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_history_leaves_what_one_run_makes_of_its_end(seed, tmp_path):
    (tmp_path / "answers").mkdir()
    with Scripted() as server:
        history = history_of(seed, tmp_path / "history", tmp_path / "answers", server.url)
        assert history.live() == [], history.said

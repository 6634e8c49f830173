"""What Beam is given, and what it would drop in silence."""

import re

import pytest

from pipelines.engine.beam import open_pipeline


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--direct_num_worker=1", "unknown option --direct_num_worker; did you mean --direct_num_workers?"),
        ("--paralelism=4", "unknown option --paralelism; did you mean --parallelism?"),
        ("--zzzqqq", "unknown option --zzzqqq; remove it"),
    ],
)
def test_an_option_that_nobody_knows_is_refused(option, says):
    with pytest.raises(ValueError, match=re.escape(f"beam.options: {says}")):
        open_pipeline("FnApiRunner", [option], is_local=True)


def test_options_of_a_server_are_passed_on():
    open_pipeline("PortableRunner", ["--own_option=4", "--job_endpoint=127.0.0.1:1"], is_local=False)


def test_known_options_are_taken():
    _, workers = open_pipeline(
        "FnApiRunner", ["--direct_running_mode=multi_processing", "--direct_num_workers=3"], is_local=True
    )
    assert workers == 3

"""What Prefect shows of a run: names, keys, a line for each stage, and how it ended."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.texts import artifact_key, label, run_line, run_title, stage_line
from pipelines.build.run import StageReport
from pipelines.engine.root import Root
from schemas.errors import UserError


def test_a_run_is_named_by_its_configuration_and_its_time():
    assert (
        run_title(Path("/data/team-a/my.toml"), datetime(2026, 11, 29, 3, tzinfo=UTC)) == "team-a-my 2026-11-29 03:00"
    )
    assert label(Path("/my.toml")) == "my"
    assert label(Path("/data/a b%c/my set.toml")) == "a-b-c-my-set"


def test_each_corpus_has_artifacts_of_its_own():
    roots = ("/data/team-a/corpus", "/data/team-b/corpus", "/other/team-a/corpus", "s3://bucket/corpus", "/C")
    keys = [artifact_key("accounting", root) for root in roots]
    assert len({*keys}) == len(roots) and all(re.fullmatch(r"[a-z0-9-]+", key) for key in keys)
    assert artifact_key("progress", "/data/corpus", "own_stage").endswith("-own-stage")


def test_a_stage_is_told_in_a_line():
    report = StageReport("ocr", 3, 30, 121, 117, {"upstream": 1, "too_short": 3})
    assert stage_line(report) == "ocr: 3 of 30 partitions made, 117 rows kept, 4 left out: 3 too_short, 1 upstream"
    current = StageReport("rows", 0, 30, 1200, 1200, {})
    assert stage_line(current) == "rows: nothing to make, 1,200 rows kept"
    shards = StageReport("shards", 2, 5, 117, 117, {})
    assert stage_line(shards) == "shards: 2 of 5 shards made, 117 samples"
    assert run_line([current, report, shards]) == "made: ocr 3, shards 2; 117 samples"
    assert run_line([current]) == run_line([]) == "nothing to make: everything is current"


def test_the_accounting_of_a_run_that_never_began_has_no_rows(tmp_path, monkeypatch):
    from flows import build_corpus

    shown = []
    monkeypatch.setattr(build_corpus.sender, "send", lambda key, job: job())
    monkeypatch.setattr(
        build_corpus, "create_table_artifact", lambda table, key, description: shown.append(description)
    )
    for lines, says in (([], "no rows yet"), ([("rows", 1)], "every row accounted for")):
        monkeypatch.setattr(build_corpus, "corpus_stats", lambda root, lines=lines: [("", ("stage", "rows in"), lines)])
        build_corpus.publish_accounting(Root(str(tmp_path)), "my", "ended")
        assert shown.pop() == f"ended\n\nmy: {says}"


@pytest.mark.parametrize("line", ["\x1b[2J\x07 gone", "a\u202eb", "two\nlines", "Bearer sk-0123456789abcdef is wrong"])
def test_how_a_run_ended_is_told_in_a_printable_line_without_secrets(line):
    from flows.build_corpus import failed

    message = failed(UserError(line), line).message
    assert message.isprintable() and "sk-0" not in message

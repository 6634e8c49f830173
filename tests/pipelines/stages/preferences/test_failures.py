"""What a failure, a budget or a wrong key changes in preferences, and what it leaves as it is."""

import json
import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from itertools import count
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.corpora import build, data_files, shardmill
from support.paths import PROJECT, TESTS
from support.preference_runs import check_accounting, kinds, rows

from pipelines.catalog.catalog import query
from pipelines.engine.commit import file_of
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root


@pytest.mark.slow
def test_one_in_five_answers_failing_leaves_every_key_accounted_for_and_all_others_as_they_were(
    configured, instructions, server, tmp_path
):
    clean = build(configured(draws=6))
    scores = {row["key"]: row["score"] for row in query(clean, "select key, score from scores").to_pylist()}
    pairs = {row["key"]: row for row in rows(clean, "pairs")}
    os.rename(tmp_path / "corpus", tmp_path / "clean")
    server.does(fail=[{"how": "500", "share": 0.2}])
    rough = build(configured(draws=6))
    check_accounting(rough)
    responses, claims, verdicts = (rows(rough, stage) for stage in ("responses", "claims", "verdicts"))
    for stage, found in (("responses", responses), ("claims", claims), ("verdicts", verdicts)):
        own = [row for row in found if row["reason"] not in (None, "upstream")]
        assert own, f"some of {stage} failed"
        assert {row["reason"] for row in own} == {"http_5xx"}
    now = {row["key"]: row["score"] for row in query(rough, "select key, score from scores").to_pylist()}
    assert now.keys() == scores.keys()
    survived = {key for key, score in now.items() if score is not None}
    assert 0 < len(survived) < len(now)
    assert {key: now[key] for key in survived} == {key: scores[key] for key in survived}
    failed = {row["instruction"] for row in (*responses, *claims, *verdicts) if row["reason"]}
    untouched = {row["key"] for row in rows(rough, "instructions")} - failed
    assert {k: v for k, v in pairs.items() if v["instruction"] in untouched} == {
        row["key"]: row for row in rows(rough, "pairs") if row["instruction"] in untouched
    }


@pytest.mark.slow
def test_a_failed_verdict_leaves_its_response_unscored(configured, instructions, server):
    server.does(fail=[{"how": "neither", "share": 0.1}])
    root = build(configured())
    check_accounting(root)
    failed = [row for row in rows(root, "verdicts") if row["reason"]]
    assert {(row["reason"], row["detail"]) for row in failed} == {("no_yes_no", "'The' 0.9, 'I' 0.082")}
    unscored = {row["key"] for row in query(root, "select key from scores where score is null").to_pylist()}
    assert unscored == {row["response"] for row in failed}
    assert not unscored & {
        row[name] for row in rows(root, "pairs") for name in ("chosen", "rejected") if not row["reason"]
    }


@pytest.mark.slow
def test_a_server_without_schemas_is_asked_for_bullets(configured, instructions, server):
    server.does(schema=False)
    root = build(configured())
    check_accounting(root)
    text = {row["key"]: row["text"] for row in rows(root, "responses")}
    assert {row["key"]: " ".join(one["claim"] for one in row["claims"]) for row in rows(root, "claims")} == text
    asked = Counter("JSON" in one["text"] for one in server.asked() if "Write " in one["text"])
    assert asked == {True: 1, False: 40}, "once it said no, no other request asks for JSON"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "match", "reason"),
    [
        ("empty", "Sentences:", "empty_answer"),
        ("filtered", "Answer:", "filtered"),
    ],
)
def test_a_response_that_is_not_divided_has_a_named_reason(configured, instructions, server, how, match, reason):
    server.does(fail=[{"how": how, "match": match, "share": 0.4}])
    root = build(configured())
    check_accounting(root)
    found = [row for row in rows(root, "claims") if row["reason"]]
    assert found and {row["reason"] for row in found} == {reason}
    assert all(row["claims"] == [] for row in found)


@pytest.mark.slow
def test_rules_divide_plain_sentences_without_a_model(configured, instructions, server):
    root = build(configured(claims=""))
    check_accounting(root)
    assert kinds(server.asked()).keys() == {"responses", "verdicts"}
    claims = rows(root, "claims")
    assert {row["reason"] for row in claims} == {None}
    for row in claims:
        text = next(one["text"] for one in rows(root, "responses") if one["key"] == row["key"])
        assert len(row["claims"]) >= text.count(".")


@pytest.mark.slow
def test_a_response_that_was_cut_off_is_kept_and_nothing_is_asked_about_it(configured, instructions, server):
    server.does(fail=[{"how": "cut", "share": 0.3}])
    root = build(configured(claims=""))
    responses = {row["key"]: row for row in rows(root, "responses")}
    cut = {key for key, row in responses.items() if row["cut"]}
    assert 0 < len(cut) < len(responses)
    assert {key for key, row in responses.items() if row["reason"]} == cut
    assert all(responses[key]["reason"] == "cut" and responses[key]["text"] for key in cut)
    assert not any(row["claims"] for row in rows(root, "claims") if row["key"] in cut)
    paired = {row[side] for row in rows(root, "pairs") for side in ("chosen", "rejected") if row["chosen"]}
    assert paired and not paired & cut
    assert not query(root, "select 1 from preferences where cut").num_rows
    assert verify_root(root).problems == []


@pytest.mark.slow
def test_a_labeler_that_begins_a_sentence_gives_no_verdict_until_its_floor_is_lowered(configured, instructions, server):
    server.does(fail=[{"how": "tail"}])
    config = Path(configured())
    build(config, "pairs")
    verdicts = rows(root := Root(str(config.parent / "corpus")), "verdicts")
    assert {row["reason"] for row in verdicts} == {"no_yes_no"}
    assert all(0 < row["p_yes"] < row["p_no"] < 0.001 and "'The' 0.98" in row["detail"] for row in verdicts)
    assert {row["reason"] for row in rows(root, "pairs")} == {"unscored"}
    asked = server.count()
    config.write_text(config.read_text().replace("[verdicts]", "[verdicts]\nmin_mass = 0"))
    build(config, "pairs")
    assert server.count() == asked, "the view decides from what is stored"
    assert not {row["reason"] for row in rows(root, "pairs")} & {"unscored"}
    assert {row["why_not"] for row in query(root, "select why_not from scores").to_pylist()} == {None}


# What stops a run, and how it goes on


@pytest.mark.slow
def test_a_budget_ends_a_run_and_the_next_goes_on_where_it_ended(configured, instructions, server, tmp_path):
    build(configured())
    clean, once = data_files(tmp_path / "corpus"), kinds(server.asked())
    os.rename(tmp_path / "corpus", tmp_path / "clean")
    server.does()
    before, stops = len(server.asked()), Counter()
    for attempt in count():
        assert attempt < 30
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.build", configured(endpoint="max_calls = 35\nconcurrency = 4")],
            capture_output=True, text=True, cwd=PROJECT,
        )  # fmt: skip
        if done.returncode == 0:
            break
        assert done.returncode == 1
        (stopped,) = re.findall(r"(\w+): max_calls = 35 is reached; run again to continue", done.stderr)
        stops[stopped] += 1
        assert verify_root(Root(str(tmp_path / "corpus"))).garbage == []
    assert data_files(tmp_path / "corpus") == clean
    again = kinds(server.asked()[before:]) - once
    assert again.keys() <= {"facts"}, "no answer that a row was made of is asked for twice"
    assert stops["divider"] == 1 < stops["labeler"]
    assert again["facts"] <= 4, "of responses in flight: their facts were listed, and no questions asked yet"


@pytest.mark.slow
def test_a_wrong_key_stops_a_run_in_one_line_and_nothing_false_is_committed(configured, instructions, server, tmp_path):
    config = configured()
    server.does(keys=["sesame"])
    said = shardmill("run", config, PREFECT_HOME=str(tmp_path / "prefect"))
    assert said.returncode == 1
    (line,) = [line for line in said.stderr.splitlines() if "shardmill:" in line]
    assert "endpoints.policy: " in line and "refuses requests without a key" in line
    root = Root(str(tmp_path / "corpus"))
    assert root.exists(file_of("instructions", 0))
    assert not root.exists(file_of("responses", 0))


def everything_in(path: Path) -> bytes:
    """What a file says: of Parquet its rows, of a tar its members, else its bytes."""
    if path.suffix == ".parquet":
        return path.read_bytes() + json.dumps(pq.read_table(path).to_pylist(), default=str).encode()
    if path.suffix == ".tar":
        with tarfile.open(path) as tar:
            return b"".join(tar.extractfile(member).read() for member in tar if member.isfile())
    return path.read_bytes()


@pytest.mark.slow
def test_a_key_is_in_no_file_no_log_and_no_artifact(configure, instructions, tmp_path):
    """Prefect's database, Beam's and the server's logs, temporary files, the report: all of them lie in one folder."""
    key = "sesame-4711-open"
    plan = {"keys": ["KEY"], "echo_key": True, "fail": [{"how": "500", "share": 0.2}]}
    script, server = tmp_path / "serve.sh", TESTS / "support/scripted_server.py"
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    script.write_text(
        "echo the key is $MODEL_KEY\n"
        f'exec {sys.executable} {server} "$(sed "s/KEY/$MODEL_KEY/" {tmp_path / "plan.json"})" $1\n'
    )
    config = configure(
        f'[source]\nkind = "instructions"\npath = "data"\n'
        f'[endpoints.m]\nmodel = "scripted"\ncommand = "bash {script} {{port}}"\n'
        'api_key_env = "MODEL_KEY"\ntries = 2\n'
        '[responses]\nendpoint = "m"\ndraws = 3\n[claims]\nendpoint = "m"\n[verdicts]\nlabelers = ["m"]\n'
        '[sets.dpo]\ntask = "preference"\n'
    )
    home = {"PREFECT_HOME": str(tmp_path / "prefect"), "TMPDIR": str(tmp_path / "tmp"), "HOME": str(tmp_path)}
    (tmp_path / "tmp").mkdir()
    said = subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", "run", config], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "MODEL_KEY": key, **home}, timeout=1500,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "server-m.log" for path in files)
    assert "the key is ***" in next(path for path in files if path.name == "server-m.log").read_text()
    assert any(path.suffix == ".db" for path in files), "Prefect's"
    assert [path for path in files if key.encode() in everything_in(path)] == []
    assert key not in said.stdout + said.stderr
    failed = query(Root(str(tmp_path / "corpus")), "select detail from responses where reason = 'http_5xx'").to_pylist()
    assert failed and all("oops, ***" in row["detail"] for row in failed)

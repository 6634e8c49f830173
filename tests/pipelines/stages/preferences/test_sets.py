"""Pairs and best responses: which are chosen, by which models and prompts."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.corpora import build
from support.paths import PROJECT
from support.preference_runs import QUESTIONS, check_accounting, kinds, rows

from pipelines.catalog.catalog import query
from pipelines.catalog.gates import GateFailed
from pipelines.engine.commit import digest
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from schemas.errors import UserError


@pytest.mark.slow
def test_sets_of_pairs_are_chosen_by_what_the_verdicts_say(configured, instructions, server):
    config = Path(configured())
    build(config, "pairs")
    where = "chosen_claims > 2 and rejected_false >= 1 and mass > 0.9 and chosen_words < rejected_words and not cut"
    config.write_text(config.read_text().replace("[sets.dpo]", f'[sets.dpo]\nwhere = "{where}"'))
    root = build(config)
    wanted = query(root, f"select key, chosen_false, chosen_score from preferences where {where}").to_pylist()
    packed = {row["sample"] for row in query(root, "select sample from shards").to_pylist()}
    assert packed == {f"{row['key']}-preference" for row in wanted} and packed
    assert all(row["chosen_false"] == -row["chosen_score"] for row in wanted)
    assert verify_root(root).problems == []


@pytest.mark.slow
def test_a_gate_holds_how_often_the_chosen_text_is_shorter(configured, instructions, server):
    config = Path(configured())
    config.write_text(config.read_text() + '[gates]\nlength = "chosen_shorter_share > 1"\n')
    with pytest.raises(GateFailed) as failed:
        build(config)
    root = Root(str(config.parent / "corpus"))
    texts = query(root, "select chosen, rejected from preferences").to_pylist()
    shorter = [len(row["chosen"].split()) < len(row["rejected"].split()) for row in texts]
    assert any(shorter) and f"chosen_shorter_share = {sum(shorter) / len(shorter):.4g})" in str(failed.value)


@pytest.mark.slow
def test_facts_and_questions_may_have_a_model_each(configured, instructions, server):
    config = Path(configured(("labeler",), claims='endpoint = "divider"\nquestions_endpoint = "policy"'))
    root = build(config)
    check_accounting(root)
    calls = query(root, "select endpoint, count(*) as n from calls where stage = 'claims' group by all").to_pylist()
    assert {row["endpoint"]: row["n"] for row in calls} == {"divider": 20, "policy": 20}
    config.write_text(config.read_text().replace('endpoint = "divider"\n', "", 1))
    with pytest.raises(UserError, match="questions_endpoint: needs claims"):
        build(config)


@pytest.mark.slow
def test_a_prompt_that_says_its_own_form_is_answered_in_it(configured, instructions, server, tmp_path):
    """A server that takes JSON schemas is sent none: it would answer in JSON all the same."""
    (tmp_path / "facts.txt").write_text("List the facts as bullets.\n\nQuestion: {question}\nAnswer: {response}\n")
    (tmp_path / "questions.txt").write_text("Ask for each, as bullets.\n\nSentences:\n{facts}\n")
    prompts = 'facts_prompt = "facts.txt"\nquestions_prompt = "questions.txt"'
    root = build(configured(claims=f'endpoint = "divider"\n{prompts}'))
    check_accounting(root)
    listing = [one for one in server.asked() if "as bullets" in one["text"]]
    assert len(listing) == 40 and not any("response_format" in one["sent"] for one in listing)
    assert all(raw.startswith("- ") for row in rows(root, "claims") for raw in row["raw"])


@pytest.mark.slow
def test_what_the_packaged_prompts_of_before_were_answered_is_not_paid_again(
    configured, instructions, server, monkeypatch
):
    from pipelines.stages import claims as stage

    config, now = configured(draws=2), stage.read_prompt
    before = {"facts": "List the facts. {form}\nAnswer: {response}", "questions": "Ask. {form}\nSentences:\n{facts}"}
    monkeypatch.setattr(stage, "read_prompt", lambda place, file, name, blanks: before[name])
    root = build(config)
    old, asked = rows(root, "claims"), server.count()
    monkeypatch.setattr(stage, "read_prompt", now)
    monkeypatch.setattr(stage, "EARLIER", {name: {digest(prompt)} for name, prompt in before.items()})
    build(config)
    assert server.count() == asked
    assert [{**row, "made_from": ""} for row in rows(root, "claims")] == [{**row, "made_from": ""} for row in old]
    assert verify_root(root).problems == []


FLOW = """
import json, sys
from pathlib import Path
from prefect.client.orchestration import get_client
from flows.build_preferences import build_preferences
from flows.server import server
with server():
    state = build_preferences(Path(sys.argv[1]), return_state=True)
    with get_client(sync_client=True) as client:
        (cost,) = [one.data for one in client.read_artifacts() if one.key.startswith("shardmill-cost-")]
print(json.dumps([state.name, json.loads(cost)]))
"""


@pytest.mark.slow
def test_the_flow_publishes_what_it_cost(configured, instructions, server, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FLOW, configured()], capture_output=True, text=True, timeout=1200,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "PREFECT_HOME": str(tmp_path / "prefect")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    name, cost = json.loads(done.stdout.splitlines()[-1])
    assert name == "Completed"
    assert [row["stage"] for row in cost] == ["claims", "responses", "verdicts"]
    assert {row["stage"]: row["calls"] for row in cost}["responses"] == kinds(server.asked())["responses"]


@pytest.mark.slow
def test_the_fifteen_public_instructions_become_shards_and_every_stage_has_its_view(configured, shared, server):
    root = build(configured(path=str(shared / "rlaifv"), draws=10))
    check_accounting(root)
    assert len(rows(root, "responses")) == 150
    answer = query(root, "select stage, sum(rows) as rows from accounting group by stage").to_pylist()
    chain = {"instructions", "responses", "claims", "verdicts", "pairs"}
    assert {row["stage"] for row in answer} == {"rows", "images", "selection", *chain}
    kept = query(root, "select * from preferences").to_pylist()
    assert kept and all(row["chosen_score"] > row["rejected_score"] for row in kept)
    assert len({one["image"] for one in server.asked() if one["image"]}) == 15


@pytest.mark.slow
def test_the_best_response_to_an_instruction_is_a_conversation(configured, instructions, server):
    config = Path(configured())
    best = '[sets.best]\ntask = "best"\nmin_score = -1\nmin_judged = 3\nwhere = "words > 5"\n'
    config.write_text(config.read_text().replace("[sets.dpo]", f"{best}[sets.dpo]"))
    root = build(config)
    responses = {row["key"]: row for row in query(root, "select * from scores where score is not null").to_pylist()}
    highest = {}
    for row in responses.values():
        highest[row["instruction"]] = max(highest.get(row["instruction"], -99), row["score"])
    samples = {}
    for tar in sorted((Path(root.url) / "shards").glob("best-*.tar")):
        with tarfile.open(tar) as members:
            for name in members.getnames():
                if name.endswith(".json"):
                    samples[name.split("-")[0]] = json.load(members.extractfile(name))
    assert samples.keys() == {key for key, score in highest.items() if score >= -1}
    for key, document in samples.items():
        told = document["best"]
        row = responses[f"{key}_{told['draw']:02d}"]
        assert (told["score"], told["claims"], told["judged"]) == (highest[key], row["claims"], 4)
        question, answer = document["conversation"]["turns"]
        assert question["content"].startswith("<image>") and question["content"][7:] in QUESTIONS
        assert answer == {"role": "assistant", "content": row["text"]}
    assert verify_root(root).problems == []
    (card,) = [json.loads((Path(root.url) / "shards/best.json").read_text())]
    assert card["task"] == "conversation" and card["settings"]["min_judged"] == 3


@pytest.mark.parametrize("unused", ["min_score = -1", "min_judged = 2"])
def test_settings_of_best_responses_are_of_no_other_set(configured, instructions, unused):
    config = Path(configured())
    config.write_text(config.read_text().replace("[sets.dpo]", f"[sets.dpo]\n{unused}"))
    with pytest.raises(UserError, match="min_score and min_judged are of task"):
        build(config)

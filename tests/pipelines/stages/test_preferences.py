"""From instructions to pairs by way of a server: what is asked, what is asked again, and what a failure changes."""

import json
import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from itertools import count, pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.corpora import build, data_files, picture, shardmill
from support.paths import PROJECT, TESTS
from support.scripted_server import Scripted

from pipelines.build.corpus import open_corpus
from pipelines.build.estimate import estimate
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.catalog.gates import GateFailed
from pipelines.engine.commit import digest, file_of
from pipelines.engine.parquet import read_rows
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from schemas.errors import UserError
from schemas.views import STAGES

QUESTIONS = ("Describe the picture.", "What is on the left?")


@pytest.fixture
def server():
    with Scripted() as server:
        yield server


@pytest.fixture
def instructions(tmp_path) -> Path:
    """Four pictures, the first asked about twice."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(picture(number)[0])
    write(folder, [(number, QUESTIONS[0]) for number in range(4)] + [(0, QUESTIONS[1])])
    return folder


def write(folder: Path, asked: list[tuple[int, str]]) -> None:
    lines = [{"image_path": f"{number}.png", "question": question} for number, question in asked]
    (folder / "instructions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def configured(configure, server):
    def write(
        labelers: tuple[str, ...] = ("labeler",), draws: int = 4, claims: str = 'endpoint = "divider"',
        path: str = "data", endpoint: str = "",
    ):  # fmt: skip
        said = f'model = "scripted"\nurl = "{server.url}"\ntries = 2\n{endpoint}\n'
        names = dict.fromkeys(("policy", "divider", *labelers))
        endpoints = "".join(f'[endpoints.{name}]\nrevision = "{name}"\n{said}' for name in names)
        return configure(
            f'[source]\nkind = "instructions"\npath = "{path}"\n{endpoints}'
            f'[responses]\nendpoint = "policy"\ndraws = {draws}\n[claims]\n{claims}\n'
            f"[verdicts]\nlabelers = {list(labelers)}\n[pairs]\nlength_balance = false\n"
            '[sets.dpo]\ntask = "preference"\n'
        )

    return write


def rows(root: Root, stage: str) -> list[dict]:
    names = [name for name in root.files(stage) if name[0].isdigit()]
    return sorted((row for name in names for row in read_rows(root, f"{stage}/{name}")), key=lambda row: row["key"])


def kinds(asked: list[dict]) -> Counter[str]:
    """How many requests of each kind a server was asked."""

    def kind(text: str) -> str:
        if "answer yes or no" in text:
            return "verdicts"
        return "questions" if "Sentences:" in text else "facts" if "Answer:" in text else "responses"

    return Counter(kind(one["text"]) for one in asked)


def check_accounting(root: Root) -> None:
    """Every row of a stage has its rows in the next, or one that says why not."""
    assert verify_root(root).problems == []
    responses, claims, verdicts = (rows(root, stage) for stage in ("responses", "claims", "verdicts"))
    assert {row["key"] for row in claims} == {row["key"] for row in responses}
    assert {row["response"] for row in verdicts} == {row["key"] for row in responses}


def test_instructions_become_pairs_and_every_row_is_there(configured, instructions, server):
    root = build(configured(("labeler", "other")))
    check_accounting(root)
    responses, claims, verdicts = (rows(root, stage) for stage in ("responses", "claims", "verdicts"))
    assert len(responses) == 5 * 4
    assert Counter(row["draw"] for row in responses) == {0: 5, 1: 5, 2: 5, 3: 5}
    assert len({row["text"] for row in responses}) == 20, "a seed a draw"
    for row in claims:
        text = next(one["text"] for one in responses if one["key"] == row["key"])
        assert " ".join(claim["claim"] for claim in row["claims"]) == text
        assert all(claim["question"].startswith("Is it true that there is a ") for claim in row["claims"])
    assert len(verdicts) == 2 * sum(len(row["claims"]) for row in claims)
    assert all(0 < row["p_yes"] < 1 and row["p_yes"] + row["p_no"] == pytest.approx(0.98) for row in verdicts)
    by_labeler = [[row["p_yes"] for row in verdicts if row["labeler"] == name] for name in ("labeler", "other")]
    assert by_labeler[0] == by_labeler[1], "the server answers both alike; each has its rows"
    assert query(root, "select count(*) as n from preferences").to_pylist()[0]["n"] > 0


def test_equal_questions_about_one_image_are_asked_once_and_count_for_each_claim(configured, instructions, server):
    root = build(configured())
    verdicts, images = rows(root, "verdicts"), {row["key"]: row["image"] for row in rows(root, "instructions")}
    claims = {row["key"]: row["claims"] for row in rows(root, "claims")}
    of = [(images[row["instruction"]], claims[row["response"]][row["number"]]["question"]) for row in verdicts]
    assert len(set(of)) < len(of), "some claims are made twice"
    assert kinds(server.asked())["verdicts"] == len(set(of))
    said = {}
    for asked, row in zip(of, verdicts, strict=True):
        assert said.setdefault(asked, row["p_yes"]) == row["p_yes"]


def test_requests_about_one_image_stand_together(configured, instructions, server):
    build(configured(endpoint="concurrency = 1"))
    images = [one["image"] for one in server.asked() if one["image"] and "yes or no" in one["text"]]
    changes = sum(one != other for one, other in pairwise(images))
    assert changes == len(set(images)) - 1


def test_the_same_answers_make_the_same_bytes(configured, instructions, server, tmp_path):
    build(configured())
    first = data_files(tmp_path / "corpus")
    server.does(fail=[{"how": how, "share": 0.2, "times": 1} for how in ("429", "500", "reset", "half-json")])
    root = build(configured(endpoint="concurrency = 3").rename(tmp_path / "again.toml"))
    assert data_files(tmp_path / "corpus") == first
    os.rename(tmp_path / "corpus", tmp_path / "before")
    build(tmp_path / "again.toml")
    assert data_files(tmp_path / "corpus") == first, "whatever had to be asked twice, and in whatever order"
    assert root.url == str(tmp_path / "corpus")


def test_what_it_costs_is_in_the_ledger_and_what_it_will_cost_in_the_plan(configured, instructions, server):
    server.does(fail=[{"how": "500", "share": 0.3, "times": 1}])
    config = configured()
    root = build(config)
    asked = kinds(server.asked())
    cost = {row["stage"]: row for row in query(root, "from cost").to_pylist()}
    assert {stage: row["calls"] for stage, row in cost.items()} == {
        "responses": asked["responses"], "claims": asked["facts"] + asked["questions"], "verdicts": asked["verdicts"],
    }  # fmt: skip
    assert cost["responses"]["answers"] == 20 < cost["responses"]["calls"]
    kept = query(root, "select count(*) as n from pairs where reason is null").to_pylist()[0]["n"]
    for row in cost.values():
        assert row["calls_a_pair"] == round(row["calls"] / kept, 1)
        assert row["tokens_in"] > 0 and row["seconds"] > 0
    assert estimate(open_corpus(config), plan(open_corpus(config)).stages) == []
    other = open_corpus(configured(("another",)))
    (verdicts,) = estimate(other, plan(other).stages)
    spent = cost["verdicts"]["tokens_in"] + cost["verdicts"]["tokens_out"]
    assert verdicts == ("verdicts", ("another",), cost["verdicts"]["calls"], spent)


# What a change asks for


def test_nothing_is_asked_twice(configured, instructions, server):
    build(configured())
    before = len(server.asked())
    build(configured())
    assert len(server.asked()) == before


def test_a_changed_claim_prompt_asks_nothing_of_responses(configured, instructions, server, tmp_path):
    build(configured())
    before = len(server.asked())
    (tmp_path / "facts.txt").write_text("List the facts.\n\nQuestion: {question}\nAnswer: {response}\n")
    config = configured(claims='endpoint = "divider"\nfacts_prompt = "facts.txt"')
    waiting = {step.stage: [why for why, _ in step.reasons()] for step in plan(open_corpus(config)).stages}
    assert waiting["responses"] == []
    assert waiting["claims"][0].startswith("facts ")
    build(config)
    asked = kinds(server.asked()[before:])
    assert asked == {"facts": 20, "questions": 20}, "the claims came out the same, so no verdict is asked for"


def test_a_changed_labeler_asks_only_for_verdicts_and_another_one_only_for_its_own(configured, instructions, server):
    build(configured(("labeler",)))
    once, before = kinds(server.asked())["verdicts"], len(server.asked())
    build(configured(("another",)))
    assert kinds(server.asked()[before:]) == {"verdicts": once}
    before = len(server.asked())
    build(configured(("another", "third")))
    assert kinds(server.asked()[before:]) == {"verdicts": once}


def test_an_added_image_asks_only_for_itself(configured, instructions, server):
    build(configured())
    before, first = len(server.asked()), kinds(server.asked())
    (instructions / "9.png").write_bytes(picture(9)[0])
    write(instructions, [*((number, QUESTIONS[0]) for number in range(4)), (0, QUESTIONS[1]), (9, QUESTIONS[0])])
    root = build(configured())
    new = server.asked()[before:]
    assert kinds(new)["responses"] == 4
    assert kinds(new)["facts"] == 4
    assert len({one["image"] for one in new if one["image"]}) == 1
    assert first["responses"] == 20
    check_accounting(root)


def test_more_draws_ask_only_for_those_that_are_new(configured, instructions, server):
    build(configured(draws=4))
    before = len(server.asked())
    root = build(configured(draws=5))
    assert kinds(server.asked()[before:])["responses"] == 5
    assert len(rows(root, "responses")) == 25


# What a failure changes


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


def test_a_server_without_schemas_is_asked_for_bullets(configured, instructions, server):
    server.does(schema=False)
    root = build(configured())
    check_accounting(root)
    text = {row["key"]: row["text"] for row in rows(root, "responses")}
    assert {row["key"]: " ".join(one["claim"] for one in row["claims"]) for row in rows(root, "claims")} == text
    asked = Counter("JSON" in one["text"] for one in server.asked() if "Write " in one["text"])
    assert asked == {True: 1, False: 40}, "once it said no, no other request asks for JSON"


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


def test_rules_divide_plain_sentences_without_a_model(configured, instructions, server):
    root = build(configured(claims=""))
    check_accounting(root)
    assert kinds(server.asked()).keys() == {"responses", "verdicts"}
    claims = rows(root, "claims")
    assert {row["reason"] for row in claims} == {None}
    for row in claims:
        text = next(one["text"] for one in rows(root, "responses") if one["key"] == row["key"])
        assert len(row["claims"]) >= text.count(".")


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


def test_a_gate_holds_how_often_the_chosen_text_is_shorter(configured, instructions, server):
    config = Path(configured())
    config.write_text(config.read_text() + '[gates]\nlength = "chosen_shorter_share > 1"\n')
    with pytest.raises(GateFailed) as failed:
        build(config)
    root = Root(str(config.parent / "corpus"))
    texts = query(root, "select chosen, rejected from preferences").to_pylist()
    shorter = [len(row["chosen"].split()) < len(row["rejected"].split()) for row in texts]
    assert any(shorter) and f"chosen_shorter_share = {sum(shorter) / len(shorter):.4g}," in str(failed.value)


def test_facts_and_questions_may_have_a_model_each(configured, instructions, server):
    config = Path(configured(("labeler",), claims='endpoint = "divider"\nquestions_endpoint = "policy"'))
    root = build(config)
    check_accounting(root)
    calls = query(root, "select endpoint, count(*) as n from calls where stage = 'claims' group by all").to_pylist()
    assert {row["endpoint"]: row["n"] for row in calls} == {"divider": 20, "policy": 20}
    config.write_text(config.read_text().replace('endpoint = "divider"\n', "", 1))
    with pytest.raises(UserError, match="questions_endpoint: needs claims"):
        build(config)


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
    assert "endpoints.policy: " in line and "does not take the key" in line
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


FLOW = """
import json, sys
from pathlib import Path
from prefect.client.orchestration import get_client
from flows.build_preferences import build_preferences
from flows.server import server
with server():
    state = build_preferences(Path(sys.argv[1]), return_state=True)
    with get_client(sync_client=True) as client:
        (cost,) = [one.data for one in client.read_artifacts() if one.key == "shardmill-cost"]
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


def test_the_fifteen_public_instructions_become_shards_and_every_stage_has_its_view(configured, shared, server):
    root = build(configured(path=str(shared / "rlaifv"), draws=10))
    check_accounting(root)
    assert len(rows(root, "responses")) == 150
    answer = query(root, "select stage, sum(rows) as rows from accounting group by stage").to_pylist()
    assert {row["stage"] for row in answer} >= {*STAGES} - {"duplicates", "ocr", "captions"}
    kept = query(root, "select * from preferences").to_pylist()
    assert kept and all(row["chosen_score"] > row["rejected_score"] for row in kept)
    assert len({one["image"] for one in server.asked() if one["image"]}) == 15


def test_stored_answers_are_read_anew_by_a_new_version_and_none_is_paid_again(
    configured, instructions, server, monkeypatch
):
    """As they were kept by the version before: thoughts, marks and chatter in the text."""
    from pipelines.stages.responses import Respond

    def as_before(raw: str, cut: bool) -> dict:
        wrapped = f"<think>\n- look\n</think>\n{raw.strip()}<|im_end|>" if len(raw) % 2 else raw.strip()
        return {"text": wrapped, "raw": None, "cut": cut}

    config = configured(draws=3)
    monkeypatch.setattr(Respond, "version", Respond.version - 1)
    monkeypatch.setattr("pipelines.stages.responses.read_response", as_before)
    root = build(config, "responses")
    before, asked = rows(root, "responses"), server.count()
    assert any("<think>" in row["text"] for row in before) and asked
    monkeypatch.undo()
    build(config, "responses")
    after = rows(root, "responses")
    assert server.count() == asked
    assert [row["text"] for row in after] == [
        row["text"].removeprefix("<think>\n- look\n</think>\n").removesuffix("<|im_end|>") for row in before
    ]
    assert [row["raw"] for row in after] == [row["text"] if "<" in row["text"] else None for row in before]
    build(config)
    assert verify_root(root).problems == []


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

"""Pairs that a source brings, as RLAIF-V-Dataset and TRL have them: taken as they are, or judged again."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from support.corpora import build, data_files, picture, say
from support.scripted_server import Scripted

from pipelines.catalog.catalog import query
from pipelines.maintain.verify import verify_root

SOURCE = '[source]\nkind = "huggingface"\npath = "hub"\n'
AS_THEY_ARE = '[responses]\nfrom_source = true\n[sets.pairs]\ntask = "preference"\n'


@pytest.fixture
def hub(tmp_path) -> Path:
    (tmp_path / "hub").mkdir()
    pairs = [
        ("What?", "A square.", "A cat."),
        ("Who?", "Nobody.", " Nobody. "),
        ("Where?", "Left.", ""),
        ("<image>\nWhy?", "So.", "No."),
    ]
    columns = {
        "image": [{"bytes": picture(number)[0], "path": None} for number in range(4)],
        "question": [pair[0] for pair in pairs], "chosen": [pair[1] for pair in pairs],
        "rejected": [pair[2] for pair in pairs], "idx": ["a", "b", "c", "d"],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "hub/a.parquet")
    return tmp_path / "hub"


def samples(root) -> dict[str, dict]:
    found = webdataset.WebDataset(say("urls", root.url, "pairs").out.split(), shardshuffle=False)
    return {json.loads(one["json"])["instruction"]: one for one in found}


@pytest.mark.slow
def test_pairs_of_the_source_are_trained_on_as_they_are(hub, configure):
    root = build(configure(SOURCE + AS_THEY_ARE))
    found = samples(root)
    assert found.keys() == {"a", "d"}
    assert found["a"]["png"] == picture(0)[0] and found["d"]["png"] == picture(3)[0]
    assert json.loads(found["a"]["json"])["pair"] == {
        "question": "What?", "chosen": "A square.", "rejected": "A cat.", "chosen_score": None, "rejected_score": None,
        "margin": None, "agreement": None,
    }  # fmt: skip
    assert json.loads(found["d"]["json"])["pair"]["question"] == "Why?"
    reasons = query(root, "select reason, count(*) as n from pairs group by all order by all").to_pylist()
    assert [tuple(row.values()) for row in reasons] == [("no_candidate", 3), ("upstream", 1), (None, 2)]
    assert query(root, "select count(*) as n from responses where reason = 'not_brought'").to_pylist() == [{"n": 1}]
    assert verify_root(root).problems == []
    before = data_files(Path(root.url))
    build(configure(SOURCE + AS_THEY_ARE))
    assert data_files(Path(root.url)) == before
    assert say("report", root.url).code == 0


@pytest.mark.slow
def test_pairs_of_the_source_are_judged_again_where_there_are_labelers(hub, configure):
    with Scripted() as server:
        endpoint = f'[endpoints.labeler]\nmodel = "scripted"\nurl = "{server.url}"\n'
        judged = AS_THEY_ARE.replace("[sets", '[verdicts]\nlabelers = ["labeler"]\n[sets')
        root = build(configure(SOURCE + endpoint + judged + "[gates]\nempty_sets = false\n"))
        asked = server.asked()
    scored = query(root, "select text from scores where score is not null").to_pylist()
    assert {"A square.", "A cat."} <= {row["text"] for row in scored} or len(scored) > 2
    assert len(asked) > 0 and {one["image"] for one in asked} <= {one["image"] for one in asked if one["image"]}
    pairs = query(root, "select chosen_score, rejected_score, margin from pairs where reason is null").to_pylist()
    assert all(pair["margin"] == pair["chosen_score"] - pair["rejected_score"] > 0 for pair in pairs)
    assert query(root, "select distinct draw from responses order by draw").to_pylist() == [{"draw": 0}, {"draw": 1}]
    assert verify_root(root).problems == []


@pytest.mark.slow
def test_what_goes_out_for_trl_comes_in_again(hub, configure, tmp_path):
    root = build(configure(SOURCE + AS_THEY_ARE))
    for form in ("trl", "rlaif-v"):
        said = say("export-set", root.url, "pairs", tmp_path / form, "--form", form)
        assert said.code == 0, said.err
        toml = SOURCE.replace("hub", form) + AS_THEY_ARE
        again = build(configure(toml, name=f"{form}.toml", root=f"again-{form}"))
        assert _said(again) == _said(root)
        assert verify_root(again).problems == []


def turns(question: str | None, answer: str) -> list[dict[str, str]]:
    asked = [{"role": "user", "content": question}] if question else []
    return [*asked, {"role": "assistant", "content": answer}]


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [None, "text", "turns"])
def test_pairs_of_whole_conversations_ask_what_both_say(configure, tmp_path, prompt):
    """As TRL has them with an implicit prompt, and as UltraFeedback has them beside a prompt."""
    asked = ["What?", "Who?", "Where?"]
    columns = {
        "images": [[{"bytes": picture(number)[0], "path": None}] for number in range(3)],
        "chosen": [turns(question, "A square.") for question in asked],
        "rejected": [turns(question, "A cat.") for question in (*asked[:2], "When?")],
    }
    if prompt:
        columns["prompt"] = asked if prompt == "text" else [[{"role": "user", "content": text}] for text in asked]
    (tmp_path / "hub").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "hub/a.parquet")
    root = build(configure(SOURCE + AS_THEY_ARE))
    assert [pair[:3] for pair in _said(root)] == [(text, "A square.", "A cat.") for text in ("What?", "Who?")]
    (left_out,) = query(root, "select reason, detail from rows where reason is not null").to_pylist()
    assert left_out == {"reason": "bad_conversation", "detail": "a.parquet, row 2: rejected answers another question"}


def _said(root) -> list[tuple]:
    question = "select question, chosen, rejected, sha256 from preferences order by question"
    return [tuple(row.values()) for row in query(root, question).to_pylist()]


def test_one_of_both_is_asked_for(hub, configure):
    for table, fix in (("", "name the policy, or write from_source = true"),
                       ('endpoint = "m"\nfrom_source = true', "remove one of the two")):  # fmt: skip
        said = say("plan", configure(f"{SOURCE}[responses]\n{table}\n"))
        assert said.code == 2 and said.err.endswith(f"responses: endpoint and from_source: {fix}\n")

"""Columns of the Hub: classes, choices, several captions, conversations and pairs."""

import json
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import build, facts, rows_of, say
from support.hub import IMAGE, PICTURES, TEXT, TOML, dataset, datasets, held

from pipelines.catalog.catalog import query
from pipelines.engine.commit import key_of
from pipelines.maintain.verify import verify_root
from pipelines.sources.features import class_names
from schemas.errors import UserError


def test_classes_are_called_by_their_names(hub):
    features = {"img": IMAGE, "label": datasets.ClassLabel(names=["a cat", "a dog"])}
    dataset(features, img=held(0, 1, 2), label=[1, 0, -1]).to_parquet(hub / "a.parquet")
    assert facts(rows_of("huggingface", hub), "text", "reason") == [("a dog", None), ("a cat", None), (None, None)]
    features = {"image": IMAGE, "caption": TEXT, "label": datasets.ClassLabel(names=["a cat", "a dog"])}
    dataset(features, image=held(0), caption=["zero"], label=[1]).to_parquet(hub / "a.parquet")
    assert facts(rows_of("huggingface", hub), "text", "extra") == [("zero", '{"label": "a dog"}')]


CLASS = datasets.ClassLabel(names=["a cat", "a dog"])


@pytest.mark.parametrize(
    ("feature", "cell", "named"),
    [
        (datasets.List(CLASS), [1, 0, -1], ["a dog", "a cat", None]),
        ({"kind": CLASS, "box": datasets.List(datasets.Value("int64"))}, {"kind": 1, "box": [0, 1]},
         {"kind": "a dog", "box": [0, 1]}),
        (datasets.Sequence({"category": CLASS, "id": datasets.Value("int64")}), {"category": [0, 1], "id": [1, 0]},
         {"category": ["a cat", "a dog"], "id": [1, 0]}),
        (datasets.List({"category": CLASS}), [{"category": 1}], [{"category": "a dog"}]),
        (datasets.List(datasets.List(CLASS)), [[1], []], [["a dog"], []]),
    ],
)  # fmt: skip
def test_classes_inside_lists_and_objects_are_called_by_their_names_too(feature, cell, named, hub):
    data = dataset({"image": IMAGE, "caption": TEXT, "objects": feature}, image=held(0), caption=["a"], objects=[cell])
    data.to_parquet(hub / "a.parquet")
    (row,) = rows_of("huggingface", hub)
    assert json.loads(row["extra"]) == {"objects": named}
    assert class_names({"objects": [1]}, {"objects": [{"_type": "ClassLabel", "names": ["a", "b"]}]}) == {
        "objects": ["b"]
    }, "as older versions of datasets wrote it"


def test_lists_of_classes_are_captions_as_lists_of_texts_are(hub):
    data = dataset({"image": IMAGE, "tags": datasets.List(CLASS)}, image=held(0, 1), tags=[[1, 0], []])
    data.to_parquet(hub / "a.parquet")
    rows = rows_of("huggingface", hub, text_column="tags", captions="first")
    assert facts(rows, "text") == [("a dog",), (None,)]


def test_of_several_classes_the_user_names_one(hub, configure):
    features = {"image": IMAGE, "fine": CLASS, "coarse": datasets.ClassLabel(names=["a pet"])}
    dataset(features, image=held(0), fine=[1], coarse=[0]).to_parquet(hub / "a.parquet")
    said = say("plan", configure(TOML))
    assert said.err == "shardmill: source.text_column: a.parquet has classes in fine, coarse; write which one\n"
    assert facts(rows_of("huggingface", hub, text_column="coarse"), "text") == [("a pet",)]
    by_person = {"image": IMAGE, "query": TEXT, "label": datasets.List(TEXT), "by": CLASS}  # as ChartQA has it
    dataset(by_person, image=held(0), query=["Q?"], label=[["3"]], by=[1]).to_parquet(hub / "a.parquet")
    said = say("plan", configure(TOML))
    assert said.err == (
        "shardmill: source.text_column: a.parquet has classes in by, and texts in query, label; write which one\n"
    )
    named = {"image": IMAGE, "id": TEXT, "label": CLASS}
    dataset(named, image=held(0), id=["7"], label=[1]).to_parquet(hub / "a.parquet")
    assert facts(rows_of("huggingface", hub), "text") == [("a dog",)]
    features |= {"question": TEXT, "answer": TEXT}
    dataset(features, image=held(0), fine=[1], coarse=[0], question=["Q?"], answer=["A."]).to_parquet(hub / "a.parquet")
    assert facts(rows_of("huggingface", hub), "reason", "extra") == [
        (None, '{"answer": "A.", "coarse": "a pet", "fine": "a dog", "question": "Q?"}')
    ]


def test_captions_of_paths_may_be_classes(hub):
    (hub / "0.png").write_bytes(PICTURES[0])
    dataset({"file_name": TEXT, "label": CLASS}, file_name=["0.png"], label=[1]).to_parquet(hub / "a.parquet")
    rows = rows_of("folder", hub / "a.parquet", text_column="label")
    assert facts(rows, "file", "text") == [("0.png", "a dog")]


# Answers that name a choice


def answers(hub: Path, fields: dict | None = None, **columns: list) -> list[tuple[str | None, str | None]]:
    """The answer and the reason of each row of questions with answers."""
    count = len(columns["answer"])
    table = {"image": held(*[0] * count), "question": ["Which?"] * count, **columns}
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), hub / "a.parquet")
    rows = rows_of("huggingface", hub, **(fields or {}))
    said = [json.loads(row["conversation"])["turns"][1]["content"] if row["conversation"] else None for row in rows]
    return [(text, row["reason"]) for text, row in zip(said, rows, strict=False)]


STATES = ["Maine", "Ohio", "Iowa"]


@pytest.mark.parametrize("name", ["choices", "options", "answer_choices"])
def test_an_answer_that_is_a_number_is_the_text_of_its_choice(name, hub):
    """As ScienceQA has it."""
    assert answers(hub, answer=[1, 2, 3, None], **{name: [STATES] * 4}) == [
        ("Ohio", None), ("Iowa", None), (None, "bad_text"), (None, "bad_conversation"),
    ]  # fmt: skip
    assert answers(hub, answer=[0, 1], **{name: [["2", "7"], None]}) == [("2", None), (None, "bad_text")]
    (row, _) = rows_of("huggingface", hub)
    assert json.loads(row["extra"])[name] == ["2", "7"], "the choices stay at hand"


def test_a_letter_is_the_text_of_its_column(hub):
    """As MMBench has it."""
    letters = {"A": ["Maine"] * 5, "B": ["Ohio"] * 5, "C": ["Iowa", None, None, None, None]}
    assert answers(hub, answer=["B", "A", "C", "Ohio", "none"], **letters) == [
        ("Ohio", None), ("Maine", None), (None, "bad_conversation"), ("Ohio", None), ("none", None),
    ]  # fmt: skip
    assert answers(hub, answer=["B"], A=["one column"]) == [("B", None)]


def test_one_of_several_answers_is_asked_for(hub):
    """As DocVQA and ChartQA have them."""
    columns = {"answers": [["0.28", "0,28 percent"], ["yes"], []], "question": ["Q?"] * 3, "image": held(0, 1, 2)}
    pq.write_table(pa.table(columns), hub / "a.parquet")
    for how in (None, "all"):
        with pytest.raises(UserError, match=r"source.captions: a.parquet has lists in the column 'answers'"):
            rows_of("huggingface", hub, answer_column="answers", captions=how)
    for how, said in (("first", "0.28"), ("longest", "0,28 percent")):
        rows = rows_of("huggingface", hub, answer_column="answers", captions=how)
        assert json.loads(rows[0]["conversation"])["turns"][1]["content"] == said
        assert [row["reason"] for row in rows] == [None, None, "bad_conversation"]


def test_a_text_that_may_be_the_number_of_a_choice_is_asked_about(hub):
    texts = ["Ohio", "B", "1", "12", "none of them"]
    assert answers(hub, answer=texts, options=[STATES] * 5) == [
        ("Ohio", None), ("Ohio", None), (None, "bad_text"), ("12", None), ("none of them", None),
    ]  # fmt: skip
    assert rows_of("huggingface", hub)[2]["detail"] == (
        "a.parquet, row 2: answer is '1' beside options: write choices_column = 'options' if it is the number of one, "
        'from 0, or choices_column = "" if it is the answer itself'
    )
    configured = {"choices_column": "options"}
    assert answers(hub, configured, answer=["1", "2", "3"], options=[STATES, ["1", "2", "3"], STATES]) == [
        ("Ohio", None), (None, "bad_text"), (None, "bad_text"),
    ]  # fmt: skip
    assert answers(hub, {"choices_column": ""}, answer=["1", "B"], options=[STATES] * 2) == [("1", None), ("B", None)]


def test_a_number_beside_any_other_list_of_texts_is_asked_about(hub, configure):
    columns = {"answer": [2], "tags": [STATES]}
    with pytest.raises(UserError, match=r"choices_column: a.parquet has numbers in answer, and lists of texts in tags"):
        answers(hub, **columns)
    assert answers(hub, {"choices_column": "tags"}, **columns) == [("Iowa", None)]
    assert answers(hub, {"choices_column": ""}, **columns) == [("2", None)]
    assert answers(hub, answer=[7], tags=[STATES]) == [("7", None)], "no number of a tag"
    assert answers(hub, answer=[2], boxes=[[0, 1, 2]]) == [("2", None)], "no texts"
    assert answers(hub, answer=["red"], tags=[STATES]) == [("red", None)]
    with pytest.raises(UserError, match=r"source.choices_column: a.parquet has no column 'x'"):
        answers(hub, {"choices_column": "x"}, **columns)


@pytest.mark.slow
def test_several_captions_of_an_image(hub, configure):
    features = {"image": IMAGE, "caption": datasets.Sequence(TEXT)}
    dataset(features, image=held(0, 1), caption=[["one", "two"], ["three"]]).to_parquet(hub / "a.parquet")
    said = say("plan", configure(TOML))
    assert said.code == 2 and said.err.startswith("shardmill: source.captions: a.parquet has lists in the column 'cap")
    root = build(configure(TOML.replace("[sets", 'captions = "all"\n[duplicates]\n[sets')))
    rows = query(root, "select text, reason from samples order by text").to_pylist()
    assert [(row["text"], row["reason"]) for row in rows] == [("one", None), ("three", None), ("two", None)]


@pytest.mark.slow
def test_conversations_in_the_forms_of_the_hub(hub, configure):
    asked = {"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "A square."}
    forms = {
        "messages": [[*asked], [{"role": "user", "content": "Which, <image> or <image>?"}, asked[1]], [*asked]],
        "conversations": [
            [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A square."}],
            [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": "A square."}],
            [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A square."}],
        ],
        "texts": [[{"user": "What?", "assistant": "A square.", "source": "x"}]] * 3,
    }
    for name, turns in forms.items():
        pq.write_table(pa.table({"images": [held(0), held(1, 2), []], name: turns}), hub / f"{name}.parquet")
    root = build(configure(TOML.replace("[sets.train]", '[sets.talk]\ntask = "conversation"')))
    question = "select file, byte_offset as n, part, reason, conversation from rows order by all"
    rows = [tuple(row.values()) for row in query(root, question).to_pylist()]
    assert Counter((row[0], row[3]) for row in rows) == {
        ("conversations.parquet", None): 3, ("messages.parquet", None): 3, ("texts.parquet", None): 3,
        (None, None): 1, (None, "bad_conversation"): 2,
    }  # fmt: skip
    talks = [json.loads(row[4]) for row in rows if row[4]]
    assert {"turns": [*asked], "images": ["<image>"]} in talks
    which = {"role": "user", "content": "Which, <image_00> or <image_01>?"}
    assert {"turns": [which, asked[1]], "images": ["<image_00>", "<image_01>"]} in talks
    assert {"turns": [{"role": "user", "content": "What?"}, asked[1]], "images": []} in talks
    (tar,) = say("urls", root.url, "talk").out.split()
    import webdataset

    found = {json.loads(one["json"])["key"]: one for one in webdataset.WebDataset(tar, shardshuffle=False)}
    (two,) = (one for key, one in found.items() if key == key_of("messages.parquet", "1"))
    assert (two["0.png"], two["1.png"]) == (PICTURES[1], PICTURES[2])
    assert verify_root(root).problems == []


def test_questions_with_answers_are_conversations(hub):
    columns = {"image": held(0, 1), "question": ["What?", "Who?"], "answer": ["A square.", ""], "id": [1, 2]}
    pq.write_table(pa.table(columns), hub / "a.parquet")
    rows = rows_of("huggingface", hub)
    assert [row["reason"] for row in rows] == [None, "bad_conversation"]
    assert json.loads(rows[0]["conversation"]) == {
        "images": ["<image>"],
        "turns": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A square."}],
    }
    assert rows[1]["detail"] == "a.parquet, row 1: a turn of the assistant is empty"


RLAIF_V = {  # as the card of RLAIF-V-Dataset has them
    "ds_name": ["RLAIF-V"], "image": held(0), "question": ["What?"], "chosen": ["A square."], "rejected": ["A cat."],
    "origin_dataset": ["x"], "origin_split": ['{"model": "m"}'], "idx": ["7"], "image_path": ["0.jpg"],
}  # fmt: skip
TRL = {
    "images": [held(0)], "prompt": [[{"role": "user", "content": "<image>\nWhat?"}]],
    "chosen": [[{"role": "assistant", "content": "A square."}]],
    "rejected": [[{"role": "assistant", "content": "A cat."}]],
}  # fmt: skip


@pytest.mark.parametrize(("columns", "question"), [(RLAIF_V, "What?"), (TRL, "<image>\nWhat?")])
def test_pairs_are_questions_with_the_answers_that_the_source_brings(columns, question, hub):
    pq.write_table(pa.table(columns), hub / "a.parquet")
    (row,) = rows_of("huggingface", hub)
    (asked,) = json.loads(row["extra"])["instructions"]
    assert (row["reason"], row["sha256"], asked["question"]) == (
        None,
        sha256(PICTURES[0]).hexdigest(),
        question,
    )
    assert (asked["extra"]["chosen"], asked["extra"]["rejected"]) == ("A square.", "A cat.")
    if columns is RLAIF_V:
        more = {"ds_name": "RLAIF-V", "origin_dataset": "x", "origin_split": '{"model": "m"}', "image_path": "0.jpg"}
        assert asked["name"] == "7" and asked["extra"] == more | {"chosen": "A square.", "rejected": "A cat."}

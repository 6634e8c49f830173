"""What the policy is asked of each image: by its source or by templates, and no question without an answer for it."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import build, facts, picture, rows_of, say
from support.preferences import ASKING, Response, build_preferences

from pipelines.catalog.catalog import query
from pipelines.engine.commit import key_of
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from pipelines.stages.instructions import draw
from schemas.instructions import InstructionsConfig

SOURCE = '[source]\nkind = "instructions"\npath = "asked.jsonl"\nimages = "pictures"\n'
FOLDER = '[source]\nkind = "folder"\npath = "pictures"\n'


def ask(tmp_path: Path, *records: object) -> None:
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def instructions(root: Root) -> list[dict]:
    return query(root, "SELECT * EXCLUDE (partition, made_from) FROM instructions ORDER BY image, question").to_pylist()


def silent(row: dict) -> list[Response]:
    return []


def test_rlaif_v_s_own_input_is_read_as_it_is(shared, configure):
    """15 of its examples, with their real images."""
    config = configure(f'[source]\nkind = "instructions"\npath = "{shared}/rlaifv"\n{ASKING}')
    rows = instructions(build(config, "instructions"))
    asked = [json.loads(line) for line in (shared / "rlaifv/instructions.jsonl").read_text().splitlines()]
    assert {(row["name"], row["question"]) for row in rows} == {(a["ds_question_id"], a["question"]) for a in asked}
    assert {(row["reason"], row["origin"]) for row in rows} == {(None, "source")}
    assert len({row["key"] for row in rows}) == 15


def test_all_questions_about_an_image_stand_in_its_one_row(pictures, tmp_path):
    ask(tmp_path, {"image": "0.png", "question": "What?", "id": 7, "origin_dataset": "a"},
        {"image": "1.png", "question": "Where?"}, {"image": "0.png", "question": "Who?"})  # fmt: skip
    rows = rows_of("instructions", tmp_path / "asked.jsonl", images=str(pictures))
    assert facts(rows, "file", "reason") == [("0.png", None), ("1.png", None)]
    assert json.loads(rows[0]["extra"]) == {"instructions": [
        {"question": "What?", "name": "7", "extra": {"origin_dataset": "a"}}, {"question": "Who?", "name": None},
    ]}  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_columns_are_found_or_named(pictures, tmp_path, kind):
    said = {"img_path": ["0.png"], "prompt": ["What?"], "question_id": ["q"]}
    pq.write_table(pa.table(said), tmp_path / "asked.parquet")
    (tmp_path / "asked.jsonl").write_text(json.dumps({name: value[0] for name, value in said.items()}))
    rows = rows_of("instructions", tmp_path / f"asked.{kind}", images=str(pictures))
    assert json.loads(rows[0]["extra"])["instructions"] == [{"question": "What?", "name": "q"}]
    named = {"image_column": "prompt", "question_column": "question_id"}
    assert rows_of("instructions", tmp_path / f"asked.{kind}", images=str(pictures), **named)[0]["reason"] == "no_image"


def test_a_file_without_questions_is_the_users_to_mend(pictures, tmp_path, configure):
    ask(tmp_path, {"image": "0.png", "caption": "A square."})
    said = say("plan", configure(SOURCE))
    assert said.code == 2
    assert said.err == (
        "shardmill: source.question_column: asked.jsonl has none of the columns question, instruction, prompt, text; "
        'it has image, caption; write question_column = "…" with one of these\n'
    )


@pytest.mark.slow
def test_a_bad_line_has_a_reason_and_stops_no_other(pictures, tmp_path, configure):
    ask(tmp_path, {"image": "0.png", "question": "What?"}, {"image": "0.png", "question": " What? "},
        {"image": "0.png", "question": " "}, {"image": "0.png"}, {"image": "0.png", "question": 3},
        {"image": "../0.png", "question": "Out?"}, {"question": "Of what?"}, {"image": "gone.png", "question": "Here?"},
        {"image": "1.png", "question": "What?"}, ["no", "object"])  # fmt: skip
    root = build_preferences(configure(SOURCE + ASKING), silent)
    rows = instructions(root)
    assert Counter((row["question"], row["reason"]) for row in rows) == {
        ("What?", None): 2, ("What?", "equal_keys"): 1, ("3", None): 1, (None, "no_question"): 2, (None, "upstream"): 4,
    }  # fmt: skip
    assert {row["detail"] for row in rows if row["reason"] == "upstream"} == {"rows: no_image"}
    (twice,) = (row for row in rows if row["reason"] == "equal_keys")
    assert twice["detail"] == key_of(twice["image"], "What?")
    assert verify_root(root).problems == []


def test_the_mark_of_the_image_is_taken_out_of_a_question(pictures, tmp_path, configure):
    """One image, one mark: the image itself goes with the question."""
    asked = {
        "<image>\nWhat is it?": ("What is it?", None), "Describe it.\n<image>": ("Describe it.", None),
        "<|image_1|> Where?": ("Where?", None), "<image>": (None, "no_question"),
        "What does <image_00> show?": ("What does image_00 show?", None),
        "What is on the left?": ("What is on the left?", None),
        "<image>\n<image>\nWhat differs?": ("What differs?", "other_images"), "<video>\nWho?": ("Who?", "other_images"),
    }  # fmt: skip
    ask(tmp_path, *({"image": "0.png", "question": question} for question in asked))
    rows = instructions(build(configure(SOURCE + ASKING), "instructions"))
    assert sorted(facts(rows, "question", "reason"), key=str) == sorted(asked.values(), key=str)
    (plain,) = (row for row in rows if row["question"] == "What is on the left?")
    assert plain["key"] == key_of(plain["image"], "What is on the left?")


def test_what_a_caption_table_asks_may_be_called_anything(pictures, tmp_path, configure):
    names = ["a", 7, True, ["b"], {"c": 1}, None]
    asked = [{"question": f"What is it, {number}?", "name": name} for number, name in enumerate(names)]
    (pictures / "asked.jsonl").write_text(json.dumps({"image": "0.png", "text": "a picture", "instructions": asked}))
    found = facts(instructions(build(configure(FOLDER + ASKING), "instructions")), "question", "name", "reason")
    expected = ["a", "7", "true", '["b"]', '{"c": 1}', None]
    assert found == [(f"What is it, {number}?", name, None) for number, name in enumerate(expected)]


@pytest.mark.slow
def test_one_image_in_two_files_is_asked_each_question_once(pictures, tmp_path, configure):
    (tmp_path / "all").mkdir()
    for name, questions in (("a", ("What?", "Who?")), ("b", ("What?", "Why?"))):
        lines = [json.dumps({"image": "0.png", "question": question}) for question in questions]
        (tmp_path / f"all/{name}.jsonl").write_text("\n".join(lines))
    root = build_preferences(configure(SOURCE.replace("asked.jsonl", "all") + ASKING), silent)
    found = query(root, "SELECT partition, question, reason FROM instructions ORDER BY ALL").to_pylist()
    assert [tuple(row.values()) for row in found] == [
        (0, "What?", None), (0, "Who?", None), (1, "What?", "equal_keys"), (1, "Why?", None),
    ]  # fmt: skip
    assert verify_root(root).problems == []


@pytest.mark.slow
def test_templates_are_asked_of_images_for_which_the_condition_holds(pictures, configure):
    (pictures / "4.png").write_bytes(picture(4)[0][:50])
    questions = "\n[instructions]\nquestions = ['What?', 'Where?', 'Who?']\nper_image = 2\nwhere = {!r}\nseed = 3\n"
    root = build_preferences(configure(FOLDER + ASKING + questions.format("width = 224")), silent)
    rows = instructions(root)
    asked = Counter(row["image"] for row in rows if not row["reason"])
    assert len(asked) == 4
    assert set(asked.values()) == {2}
    assert {row["key"] for row in rows if not row["reason"]} == {
        key_of(row["image"], row["question"]) for row in rows if not row["reason"]
    }
    assert {row["origin"] for row in rows if row["question"]} == {"template"}
    (broken,) = (row for row in rows if row["reason"])
    assert broken["reason"] == "upstream"
    none = build_preferences(configure(FOLDER + ASKING + questions.format("width > 224"), root="none"), silent)
    assert {row["reason"] for row in instructions(none)} == {"not_asked", "upstream"}


def test_a_condition_that_is_none_is_answered_in_one_line(pictures, configure):
    said = say("plan", configure(FOLDER + ASKING + '[instructions]\nwhere = "widht > 3"'))
    assert said.code == 2
    assert "instructions.where: " in said.err
    assert said.err.count("\n") == 1
    assert '"width"' in said.err


def test_a_template_more_changes_what_few_images_are_asked():
    keys = [f"{n:016x}" for n in range(1000)]
    few, more = (InstructionsConfig(questions=tuple(map(str, range(n)))) for n in (4, 5))
    changed = [draw(more, key) for key in keys if draw(few, key) != draw(more, key)]
    assert set(map(tuple, changed)) == {("4",)}
    assert 150 < len(changed) < 250
    drawn = Counter(draw(few, key)[0] for key in keys)
    assert min(drawn.values()) > 200
    assert [draw(few, key) for key in keys] != [draw(few.model_copy(update={"seed": 1}), key) for key in keys]


def test_a_conversation_without_an_image_is_asked_nothing(tmp_path, configure):
    turns = [{"role": "user", "content": "Two and two?"}, {"role": "assistant", "content": "Four."}]
    (tmp_path / "all.json").write_text(json.dumps([{"id": "one", "conversations": turns}]))
    source = '[source]\nkind = "conversations"\npath = "all.json"\n[instructions]\nquestions = ["What?"]\n'
    root = build_preferences(configure(source + ASKING), silent)
    assert [row["reason"] for row in instructions(root)] == ["no_image"]

"""Tables that hold their images, made by the real `datasets`: read once, in order, their bytes never in `rows/`."""

import io
import json
import os
import random
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.corpora import build, data_files, facts, picture, rows_of, say

from pipelines.catalog.catalog import query
from pipelines.engine.commit import key_of
from pipelines.maintain.verify import verify_root
from pipelines.sources.features import class_names
from pipelines.sources.tables import Tables
from schemas.errors import UserError

os.environ["HF_HUB_OFFLINE"] = "1"
datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()

PICTURES = [picture(number)[0] for number in range(4)]
IMAGE = datasets.Image()
TEXT = datasets.Value("string")
TURNS = [{"role": TEXT, "content": TEXT}]


def dataset(features: dict, **columns: list) -> "datasets.Dataset":
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def held(*numbers: int) -> list[dict]:
    return [{"bytes": PICTURES[number], "path": f"{number}.png"} for number in numbers]


def pixels(root, row: dict) -> bytes:
    """The bytes kept of a row."""
    tar = Path(root.url) / "images" / row["payload"]
    return tar.read_bytes()[row["byte_offset"] : row["byte_offset"] + row["size"]]


CAPTIONED = {"image": IMAGE, "caption": TEXT, "score": datasets.Value("float32")}
TOML = '[source]\nkind = "huggingface"\npath = "hub"\n[sets.train]\n'


@pytest.fixture
def hub(tmp_path) -> Path:
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


@pytest.mark.parametrize("form", ["parquet", "disk", "splits"])
def test_a_data_set_of_images_and_captions_comes_out_whole(form, hub, configure):
    data = dataset(CAPTIONED, image=held(0, 1, 2, 3), caption=["zero", "one", "two", None], score=[0.5, 1, 2, 3])
    if form == "parquet":
        data.to_parquet(hub / "train-00000-of-00001.parquet", batch_size=2)
    elif form == "disk":
        data.save_to_disk(hub / "train", num_shards=2)
    else:
        datasets.DatasetDict({"train": data.select(range(3)), "test": data.select([3])}).save_to_disk(hub / "all")
    root = build(configure(TOML))
    rows = query(root, "select text, reason, extra, sha256, file, byte_offset from rows order by text").to_pylist()
    assert [(row["text"], row["reason"]) for row in rows] == [
        ("one", None),
        ("two", None),
        ("zero", None),
        (None, None),
    ]
    assert json.loads(rows[2]["extra"]) == {"score": 0.5}
    found = query(root, "select text, i.* from images i join rows r using (partition, key)").to_pylist()
    commits = {path.name[:5]: path.name for path in (Path(root.url) / "images").glob("*.tar")}
    kept = {row["text"]: pixels(root, row | {"payload": commits[f"{row['partition']:05d}"]}) for row in found}
    assert kept == {"zero": PICTURES[0], "one": PICTURES[1], "two": PICTURES[2], None: PICTURES[3]}
    assert query(root, "select count(*) as n from shards").to_pylist() == [{"n": 3}]
    assert verify_root(root).problems == []
    before = data_files(Path(root.url))
    build(configure(TOML))
    assert data_files(Path(root.url)) == before


def test_a_key_names_file_and_row_and_a_text_that_changes_touches_no_image(hub, configure):
    dataset(CAPTIONED, image=held(0, 1), caption=["zero", "one"], score=[0, 1]).to_parquet(hub / "a.parquet")
    root = build(configure(TOML))
    rows = query(root, "select key from rows order by byte_offset").to_pylist()
    assert [row["key"] for row in rows] == [key_of("a.parquet", "0"), key_of("a.parquet", "1")]
    before = data_files(Path(root.url))
    dataset(CAPTIONED, image=held(0, 1), caption=["zero", "another"], score=[0, 1]).to_parquet(hub / "a.parquet")
    build(configure(TOML))
    changed = {name.split("/")[0] for name, _ in before.items() ^ data_files(Path(root.url)).items()}
    assert changed == {"root.json", "rows", "shards"} or changed == {"root.json", "rows", "selection", "shards"}


def test_bytes_as_img2dataset_writes_them_and_their_urls(hub, configure):
    table = {
        "key": ["000", "001", "002"], "status": ["success", "success", "failed_to_download"],
        "url": [f"http://{host}.example/a.jpg" for host in "abc"], "caption": ["zero", "one", "two"],
        "jpg": [PICTURES[0], b"no image", None], "width": [224, 0, None],
    }  # fmt: skip
    pq.write_table(pa.table(table), hub / "00000.parquet")
    root = build(configure(TOML))
    question = "select url, host, text, left_out_by, reason, extra from samples order by url"
    rows = query(root, question).to_pylist()
    assert [(row["host"], row["text"], row["left_out_by"], row["reason"]) for row in rows] == [
        ("a.example", "zero", None, None), ("b.example", "one", "images", "not_an_image"),
        ("c.example", None, "rows", "no_image"),
    ]  # fmt: skip
    assert json.loads(rows[0]["extra"]) == {"key": "000", "status": "success", "url": rows[0]["url"], "width": 224}
    (row,) = (row for row in rows_of("laion", hub) if row["text"] == "zero")
    assert (row["url"], row["member"], row["reason"]) == ("http://a.example/a.jpg", "jpg/0", None)


@pytest.mark.parametrize("kind", ["folder", "laion", "instructions"])
def test_other_kinds_read_images_inside_tables_too(kind, hub):
    columns = {"image": held(0, 1), "question": ["What?", "Who?"], "text": ["zero", "one"], "url": ["u", "v"]}
    pq.write_table(pa.table(columns), hub / "a.parquet")
    rows = rows_of(kind, hub, **({"text_column": "text"} if kind != "instructions" else {}))
    assert facts(rows, "file", "member", "byte_offset", "reason") == [
        ("a.parquet", "image/0", 0, None), ("a.parquet", "image/0", 1, None),
    ]  # fmt: skip
    assert [row["text"] for row in rows] == ([None, None] if kind == "instructions" else ["zero", "one"])


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


def test_several_captions_of_an_image(hub, configure):
    features = {"image": IMAGE, "caption": datasets.Sequence(TEXT)}
    dataset(features, image=held(0, 1), caption=[["one", "two"], ["three"]]).to_parquet(hub / "a.parquet")
    said = say("plan", configure(TOML))
    assert said.code == 2 and said.err.startswith("shardmill: source.captions: a.parquet has lists in the column 'cap")
    root = build(configure(TOML.replace("[sets", 'captions = "all"\n[duplicates]\n[sets')))
    rows = query(root, "select text, reason from samples order by text").to_pylist()
    assert [(row["text"], row["reason"]) for row in rows] == [("one", None), ("three", None), ("two", None)]


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


def test_bytes_never_enter_rows(hub, configure):
    """12 MB in, under 1 MB of rows; nothing of an image in any text."""
    draws = np.random.default_rng(0)
    images = []
    for _ in range(80):
        buffer = io.BytesIO()
        Image.fromarray(draws.integers(0, 256, (224, 224, 3), np.uint8)).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
    table = pa.table({"image": images, "mask": images[::-1], "text": [f"text {n}" for n in range(80)]})
    pq.write_table(table, hub / "a.parquet", row_group_size=10)
    assert (hub / "a.parquet").stat().st_size > 12_000_000
    root = build(configure(TOML), "rows")
    written = sum(path.stat().st_size for path in (Path(root.url) / "rows").iterdir())
    assert written < 100_000
    assert query(root, "select max(length(extra)) as n from rows").to_pylist() == [{"n": 2}]


def test_a_file_is_read_once_by_each_stage_and_in_its_order(hub, configure, monkeypatch):
    columns = {"image": held(*[n % 4 for n in range(40)]), "text": [f"text {n}" for n in range(40)]}
    pq.write_table(pa.table(columns), hub / "a.parquet", row_group_size=5)
    root = build(configure(TOML), "rows")
    reads = Counter()
    numbered = Tables._numbered

    def counted(self, file, *more):
        reads[file] += 1
        return numbered(self, file, *more)

    monkeypatch.setattr(Tables, "_numbered", counted)
    build(configure(TOML))
    assert reads == {"a.parquet": 1}
    assert query(root, "select count(*) as n from images where reason is null").to_pylist() == [{"n": 40}]


def test_a_damaged_row_group_leaves_the_others(hub, configure):
    columns = {"image": held(*[n % 4 for n in range(40)]), "text": [f"text {n}" for n in range(40)]}
    pq.write_table(
        pa.table(columns), hub / "a.parquet", row_group_size=10, compression="zstd", write_page_checksum=True
    )
    data = bytearray((hub / "a.parquet").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    (hub / "a.parquet").write_bytes(data)
    root = build(configure(TOML))
    reasons = query(root, "select reason, count(*) as n from samples group by reason").to_pylist()
    said = {row["reason"]: row["n"] for row in reasons}
    assert said.keys() == {None, "damaged"} and 0 < said["damaged"] <= 20 and sum(said.values()) == 40
    assert verify_root(root).problems == []


def test_a_damaged_arrow_file_is_read_up_to_there_and_kills_nothing(hub):
    data = dataset({"image": IMAGE, "text": TEXT}, image=held(0, 1, 2, 3) * 5, text=[f"text {n}" for n in range(20)])
    data.save_to_disk(hub / "whole", max_shard_size="1GB")
    (path,) = (hub / "whole").glob("*.arrow")
    whole, draws = path.read_bytes(), random.Random(0)
    said = Counter()
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(draws.choice((1, 4))):
            place = draws.randrange(len(broken))
            broken[place : place + 8] = draws.randbytes(8)
        path.write_bytes(broken[: draws.randrange(len(broken))] if draws.random() < 0.3 else broken)
        said.update(row["reason"] for row in rows_of("huggingface", path))
    assert said["unreadable_file"] > 5 and said[None] > 100


def test_a_file_that_changed_under_the_rows_is_told(hub, configure):
    pq.write_table(pa.table({"image": held(0, 1), "text": ["a", "b"]}), hub / "a.parquet")
    root = build(configure(TOML), "rows")
    stamp = (hub / "a.parquet").stat()
    pq.write_table(pa.table({"image": held(0, 2), "text": ["a", "b"]}), hub / "b.parquet")
    data = (hub / "b.parquet").read_bytes()
    (hub / "b.parquet").unlink()
    from pipelines.build.corpus import open_corpus

    images = open_corpus(configure(TOML)).made["images"].ready(root, None)
    (hub / "a.parquet").write_bytes(data)
    os.utime(hub / "a.parquet", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    rows = query(root, "from rows order by byte_offset").to_pylist()
    loaded = [data for _, data in images.sources.loads(rows)]
    assert loaded == [PICTURES[0], PICTURES[2]]
    made = dict(images.make([{"rows": row, "before": None} for row in rows], root))
    assert made[rows[0]["key"]]["format"] == "PNG" and made[rows[1]["key"]].reason == "changed_in_source"


def test_images_by_path_and_rows_without_one(hub):
    (hub / "0.png").write_bytes(PICTURES[0])
    images = [
        {"bytes": None, "path": "0.png"},
        {"bytes": None, "path": "/etc/hostname"},
        None,
        {"bytes": PICTURES[1], "path": None},
    ]
    pq.write_table(pa.table({"image": images, "text": ["a", "b", "c", "d"]}), hub / "a.parquet")
    rows = rows_of("huggingface", hub)
    assert facts(rows, "file", "member", "reason") == [
        ("0.png", None, None), (None, None, "no_image"), (None, None, "no_image"), ("a.parquet", "image/0", None),
    ]  # fmt: skip
    assert rows[2]["detail"] == "a.parquet, row 2: image holds no image"


def test_what_is_not_clear_is_asked_for(hub, configure):
    pq.write_table(pa.table({"url": ["http://a.example/1.jpg"], "text": ["a"]}), hub / "a.parquet")
    assert say("plan", configure(TOML)).err == (
        "shardmill: source.image_column: a.parquet has no column of images; it has url, text. For URLs write "
        'kind = "laion", for paths of files kind = "folder"\n'
    )
    pq.write_table(pa.table({"left": held(0), "right": held(1), "text": ["a"]}), hub / "a.parquet")
    said = say("plan", configure(TOML))
    assert said.err == "shardmill: source.image_column: a.parquet has images in left, right; write which one\n"
    (row,) = rows_of("huggingface", hub, image_column="right")
    assert (row["member"], row["extra"]) == ("right/0", "{}")
    said = say("plan", configure(TOML.replace("[sets", 'text_column = "words"\n[sets')))
    assert said.err.startswith("shardmill: source.image_column: ")
    pq.write_table(pa.table({"image": held(0), "images": [held(1, 2)], "mask": held(3)}), hub / "a.parquet")
    assert say("plan", configure(TOML)).err == (
        "shardmill: source.image_column: a.parquet has images in image, images; write which one\n"
    )
    pq.write_table(pa.table({"left": held(0), "right": held(1), "text": ["a"]}), hub / "a.parquet")
    said = say("plan", configure(TOML.replace("[sets", 'image_column = "left"\ntext_column = "words"\n[sets')))
    assert said.err == "shardmill: source.text_column: a.parquet has no column 'words'; it has left, right, text\n"

"""Which column of a table is read, and which caption of a list."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import facts, rows_of, say
from support.tables import write

from pipelines.engine.commit import key_of
from pipelines.sources.cells import choose


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_lists_of_captions_are_asked_for(name, pictures, configure):
    write(pictures / name, columns={"image": ["0.png"], "caption": [["one", "the second"]]})
    said = say("plan", configure('[source]\nkind = "folder"\npath = "pictures"'))
    assert said.code == 2
    assert said.err == (
        f"shardmill: source.captions: {name} has lists in the column 'caption'; "
        'write captions = "first", "longest", "random" or "all"\n'
    )


LISTS = {"image": ["0.png", "1.png", "2.png"], "caption": [["one", "the second", "x" * 10], ["alone"], []]}


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_one_caption_of_a_list_or_all_of_them(name, pictures):
    write(pictures / name, columns=LISTS)
    said = {how: facts(rows_of("folder", pictures, captions=how), "file", "text") for how in ("first", "longest")}
    assert said == {
        "first": [("0.png", "one"), ("1.png", "alone"), ("2.png", None)],
        "longest": [("0.png", "the second"), ("1.png", "alone"), ("2.png", None)],
    }
    rows = rows_of("folder", pictures, captions="all")
    texts = [("0.png", "one"), ("0.png", "the second"), ("0.png", "x" * 10), ("1.png", "alone"), ("2.png", None)]
    assert facts(rows, "file", "text") == texts
    assert [row["key"] for row in rows] == [key_of(file, str(text)) for file, text in texts], "as if it were exploded"


def test_a_random_caption_follows_from_the_seed_and_the_key():
    texts = ["a", "b", "c"]
    empty = ["", "\u200b", "a", "bb"]
    assert [choose(empty, how, 0, "") for how in ("first", "longest")] == ["a", "bb"]
    assert {choose(empty, "random", 0, f"{n:016x}") for n in range(30)} == {"a", "bb"}
    assert choose(["", " "], "first", 0, "") == "" and choose([], "first", 0, "") is None
    drawn = [choose(texts, "random", 0, f"{n:016x}") for n in range(3000)]
    assert drawn == [choose(texts, "random", 0, f"{n:016x}") for n in range(3000)]
    assert all(900 < drawn.count(text) < 1100 for text in texts)
    assert drawn != [choose(texts, "random", 1, f"{n:016x}") for n in range(3000)]


def test_the_seed_changes_no_key(pictures):
    write(pictures / "a.jsonl", columns=LISTS)
    of_seeds = [rows_of("folder", pictures, captions="random", seed=seed) for seed in range(8)]
    assert len({tuple(row["key"] for row in rows) for rows in of_seeds}) == 1
    assert len({rows[0]["text"] for rows in of_seeds}) > 1


# JSON of COCO

COCO = {
    "info": {"year": 2017},
    "images": [
        {"id": 5, "file_name": "0.png", "license": 3}, {"id": 7, "file_name": "1.png"},
        {"id": 9, "file_name": "gone.png"},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "caption": "one"}, {"id": 2, "image_id": 5, "caption": "zero"},
        {"id": 3, "image_id": 7, "caption": "another one"}, {"id": 4, "image_id": 11, "caption": "of nothing"},
    ],
}  # fmt: skip


def test_captions_of_coco_are_asked_for_and_read(pictures, tmp_path, configure):
    (tmp_path / "captions_val.json").write_text(json.dumps(COCO))
    toml = f'[source]\nkind = "folder"\npath = "captions_val.json"\nimages = "{pictures}"\n'
    said = say("plan", configure(toml))
    assert said.code == 2 and said.err.startswith("shardmill: source.captions: captions_val.json has lists in")
    rows = rows_of("folder", tmp_path / "captions_val.json", images=str(pictures), captions="all")
    assert facts(rows, "file", "text", "reason") == [
        ("0.png", "zero", None), ("1.png", "one", None), ("1.png", "another one", None),
        ("gone.png", None, "no_image"), (None, "of nothing", "no_image"),
    ]  # fmt: skip
    assert json.loads(rows[0]["extra"]) == {"id": 5, "license": 3}
    rows = rows_of("folder", tmp_path / "captions_val.json", images=str(pictures), captions="longest")
    assert [row["text"] for row in rows] == ["zero", "another one", None, "of nothing"]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"images": [], "annotations": [{"bbox": [0, 0, 1, 1]}]}, "has annotations of COCO, but no captions"),
        ({"a": 1}, "holds neither a list of records nor captions of COCO"), ("text", "holds neither"),
    ],
)  # fmt: skip
def test_other_json_is_refused(value, complaint, tmp_path, configure):
    (tmp_path / "a.json").write_text(json.dumps(value))
    said = say("plan", configure('[source]\nkind = "folder"\npath = "a.json"\n'))
    assert said.code == 2 and complaint in said.err


def test_two_columns_of_one_name_are_asked_for(tmp_path, configure):
    table = pa.table([["0.png"], ["a"], ["b"]], names=["image", "text", "text"])
    (tmp_path / "src").mkdir()
    pq.write_table(table, tmp_path / "src/a.parquet")
    config = configure('[source]\nkind = "folder"\npath = "src"')
    said = say("plan", config)
    assert (said.code, said.err) == (2, "shardmill: source.text_column: a.parquet has two columns 'text'; rename one\n")
    (tmp_path / "src/a.parquet").unlink()
    (tmp_path / "src/a.csv").write_text("image,text,text\n0.png,a,b\n")
    assert say("plan", config).err == "shardmill: source.path: a.csv has two columns 'text'; rename one\n"


@pytest.mark.parametrize(("kind", "columns", "note"), [
    ("folder", {"image": "0.png", "text": "a", "caption": "b"}, "text_column is 'text' in {}, before 'caption'"),
    ("folder", {"path": "1.png", "image_path": "0.png", "TEXT": "a"},
     "image_column is 'image_path' in {}, before 'path'"),
    ("laion", {"URL": "u", "url": "v", "caption": "b"}, "url_column is 'url' in {}, before 'URL'"),
    ("huggingface", {"image": [{"bytes": b"\xff", "path": None}], "messages": "[]", "conversations": "[]"},
     "conversations_column is 'conversations' in {}, before 'messages'"),
    ("huggingface", {"image": {"bytes": b"\xff", "path": None}, "question": "Q?", "answers": ["a", "b"]},
     "{} asks questions without answers; answer_column or text_column names what is meant"),
    ("huggingface", {"image": {"bytes": b"\xff", "path": None}, "reference": "a"},
     "{} has no column of captions with a usual name; text_column names it"),
    ("folder", {"image": "0.png", "text": "a"}, None),
])  # fmt: skip
def test_which_of_several_columns_is_read_is_told(kind, columns, note, tmp_path, configure):
    for name in ("a.parquet", "b.parquet"):
        write(tmp_path / "src" / name, columns={name: [cell] for name, cell in columns.items()})
    said = say("plan", configure(f'[source]\nkind = "{kind}"\npath = "src"'))
    assert said.code == 0 and (note is None or f"source: {note.format('a.parquet')}" in " ".join(said.out.split()))
    assert note or "before" not in said.out
    if note and kind == "folder":
        write(tmp_path / "src/a.jsonl", columns={name: [cell] for name, cell in columns.items()})
        said = say("plan", configure(f'[source]\nkind = "{kind}"\npath = "src/a.jsonl"'))
        assert f"source: {note.format('a.jsonl')}" in " ".join(said.out.split())
        field, column = note.split()[0], note.split()[-1].strip("'")
        said = say("plan", configure(f'[source]\nkind = "{kind}"\npath = "src"\n{field} = "{column}"'))
        assert said.code == 0 and "before" not in said.out

"""MiniCPM-V's fine-tune JSON into shards: one image, several, or none; a conversation stands and falls as a whole."""

import json
from pathlib import Path

import pytest
import webdataset
from support.corpora import ONE_PROCESS, build, data_files, facts, picture, rows_of, say

from pipelines.catalog.catalog import query
from pipelines.engine.commit import key_of
from pipelines.maintain.verify import verify_root
from pipelines.sources.conversations import read_conversation


def turns(question: str, answer: str = "A square.") -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


ONE = {"id": "one", "image": "0.png", "conversations": turns("<image>\nWhat is this?"), "from": "a test"}
TWO = {
    "id": "two", "image": {"<image_00>": "1.png", "<image_01>": "deep/2.png"},
    "conversations": turns("Compare <image_00> with <image_01>.", "Both are squares."),
}  # fmt: skip
NONE = {"id": "none", "conversations": turns("What is two and two?", "Four.")}
BROKEN = {"id": "broken", "image": {"<image_00>": "0.png", "<image_01>": "broken.png"}, "conversations": turns("Well?")}
GONE = {"id": "gone", "image": {"<image_00>": "gone.png", "<image_01>": "3.png"}, "conversations": turns("And?")}
ALL = [ONE, TWO, NONE, BROKEN, GONE]

TOML = f"""
root = "corpus"
[source]
kind = "conversations"
path = "all.json"
images = "pictures"
rows_per_partition = 2
[sets.talk]
task = "conversation"
[sets.captions]
[gates]
empty_sets = false
{ONE_PROCESS}"""


@pytest.fixture
def here(tmp_path) -> Path:
    (tmp_path / "pictures/deep").mkdir(parents=True)
    for name, number in (("0", 0), ("1", 1), ("deep/2", 2), ("3", 3)):
        (tmp_path / f"pictures/{name}.png").write_bytes(picture(number)[0])
    (tmp_path / "pictures/broken.png").write_bytes(picture(4)[0][:200])
    (tmp_path / "my.toml").write_text(TOML)
    (tmp_path / "all.json").write_text(json.dumps(ALL))
    return tmp_path


def samples(root) -> dict[str, dict[str, bytes]]:
    """What plain webdataset reads, by the conversation's id."""
    found = webdataset.WebDataset(say("urls", root.url, "talk").out.split(), shardshuffle=False)
    return {json.loads(sample["json"])["extra"]["id"]: sample for sample in found}


@pytest.mark.slow
def test_conversations_come_out_with_all_of_their_images(here):
    root = build(here / "my.toml")
    found = samples(root)
    assert found.keys() == {"one", "two", "none"}
    images = {name: {n: d for n, d in s.items() if n.endswith("png")} for name, s in found.items()}
    assert images == {
        "one": {"0.png": picture(0)[0]}, "two": {"0.png": picture(1)[0], "1.png": picture(2)[0]}, "none": {},
    }  # fmt: skip
    for entry, marks in ((ONE, ["<image>"]), (TWO, ["<image_00>", "<image_01>"]), (NONE, [])):
        document = json.loads(found[entry["id"]]["json"])
        assert document["conversation"] == {"images": marks, "turns": entry["conversations"]}
        assert document["key"] == key_of("conversation", entry["id"]) and document["task"] == "conversation"
        assert "txt" not in found[entry["id"]]
    assert json.loads(found["one"]["json"])["extra"] == {"id": "one", "from": "a test"}
    assert say("urls", root.url, "captions").out == ""


@pytest.mark.slow
def test_every_row_is_accounted_for(here):
    root = build(here / "my.toml")
    sql = """select coalesce(p.extra::json, s.extra)->>'id' as id, s.part, s.left_out_by, s.reason
             from samples s left join rows p on p.key = s.part_of"""
    said = {(row["id"], row["part"]): (row["left_out_by"], row["reason"]) for row in query(root, sql).to_pylist()}
    assert said == {
        ("one", 0): (None, None), ("two", 0): (None, None), ("two", 1): (None, None), ("none", 0): (None, None),
        ("broken", 0): ("selection", "incomplete"), ("broken", 1): ("images", "truncated"),
        ("gone", 0): ("rows", "no_image"), ("gone", 1): ("selection", "incomplete"),
    }  # fmt: skip
    placed = query(root, "select sum(len(samples)) as n from selection").to_pylist()
    assert placed == [{"n": 3}] and (verify_root(root).problems, verify_root(root).garbage) == ([], [])


@pytest.mark.slow
def test_a_turn_that_changes_touches_no_image(here):
    root = build(here / "my.toml")
    before = data_files(Path(root.url))
    changed = {**TWO, "conversations": turns("Compare <image_00> with <image_01>.", "Both are red.")}
    (here / "all.json").write_text(json.dumps([ONE, changed, NONE, BROKEN, GONE]))
    build(here / "my.toml")
    after = data_files(Path(root.url))
    changed = {name.split("/")[0] for name, _ in before.items() ^ after.items()}
    assert changed == {"root.json", "rows", "selection", "shards"}
    assert b"Both are red." in samples(root)["two"]["json"]
    run = "run = (select max(run) from runs)"
    said = query(root, f"select stage, change from changes where {run} order by stage").to_pylist()
    assert [tuple(row.values()) for row in said] == [("rows", "changed"), ("shards", "changed")]


@pytest.mark.slow
def test_an_image_that_is_mended_brings_its_conversation_in(here):
    root = build(here / "my.toml")
    (here / "pictures/broken.png").write_bytes(picture(4)[0])
    (here / "all.json").write_text(json.dumps(ALL, indent=1))  # the list is what is looked at
    build(here / "my.toml")
    assert samples(root)["broken"]["1.png"] == picture(4)[0]
    assert verify_root(root).problems == []


def test_json_lines_and_entries_without_an_id(here):
    lines = [{name: value for name, value in entry.items() if name != "id"} for entry in (ONE, NONE, ONE)]
    (here / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, [1, 2]]) + "\nno JSON\n")
    rows = rows_of("conversations", here / "all.jsonl", images=str(here / "pictures"))
    assert facts(rows, "file", "reason") == [
        ("0.png", None), (None, None), ("0.png", "equal_keys"), (None, "bad_conversation"), (None, "bad_conversation"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("conversation", "image", "complaint"),
    [
        (None, None, "conversations is not a list of turns"),
        ([], None, "conversations is not a list of turns"),
        ([{"role": "user"}], None, "a turn is not {role, content}"),
        ([{"role": ["user"], "content": "hi"}], None, "a turn is not {role, content}"),
        ([{"role": "human", "content": "hi"}], None, "a turn is not {role, content}"),
        ([{"role": "user", "content": "hi"}], None, "no turn of the assistant: nothing to learn"),
        (turns("hi"), {"first": "0.png"}, "'first' is not a mark of an image; write <image_00>"),
        (turns("<image_02>"), {"<image_00>": "0.png"}, "<image_02> is in the text, but no image has that mark"),
        (turns("<image> <image>"), "0.png", "<image> is in the text more than once"),
        (turns("<image>"), ["0.png", "1.png"], "1 marks of images in the text, 2 images"),
    ],
)
def test_what_the_format_does_not_allow_is_named(conversation, image, complaint):
    with pytest.raises(ValueError) as error:
        read_conversation(conversation, image)
    assert str(error.value).startswith(complaint)


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (5, "image is neither a path nor {mark: path}: 5"), ({"<image_00>": 5}, "image is neither a path"),
        ("/etc/passwd", "image is '/etc/passwd', which is not in the folder "),
        ({"<image_00>": "../0.png"}, "image is '../0.png', which leaves its folder by .."),
        ([{"url": "x"}], "image is neither a path"),
    ],
)  # fmt: skip
def test_an_image_that_is_no_path_in_the_folder_is_a_reason(image, complaint, here):
    (here / "all.json").write_text(json.dumps([{"id": 1, "image": image, "conversations": turns("hi")}]))
    (row,) = rows_of("conversations", here / "all.json", images=str(here / "pictures"))
    assert row["reason"] == "bad_conversation" and row["detail"].startswith(f"1: {complaint}")


@pytest.mark.parametrize(
    "mark", ["<image>", "<image_00>", "<video>", "<|image|>", "<|image_1|>", "<|vision_start|>", "<IMG_CONTEXT>",
             "<start_of_image>", "<img>", "[IMG]"],
)  # fmt: skip
def test_a_text_that_names_an_image_but_brings_none_is_never_a_sample(mark, here):
    asked = [f"{mark}\nWhat is this?", f"What is this? {mark}", f"One.\n{mark}\nTwo."]
    entries = [{"id": n, "conversations": turns(text)} for n, text in enumerate(asked)]
    entries.append({"id": 3, "conversations": turns("What?", f"{mark}"), "images": []})
    (here / "all.json").write_text(json.dumps(entries))
    rows = rows_of("conversations", here / "all.json", images=str(here / "pictures"))
    assert {row["reason"] for row in rows} == {"bad_conversation"}
    assert rows[0]["detail"] == f"0: {mark} is in the text, but the entry brings nothing for it"


@pytest.mark.parametrize(
    "text", ["What does the <img> tag do?", "Write `<image>` in a template.", '<img src="a.png">', "See <video> here.",
             "```\n<video>\n</video>\n```", "A <figure> has a <figcaption>.", "List<Image> images"],
)  # fmt: skip
def test_texts_about_html_are_kept(text):
    assert read_conversation(turns(text, text), None) == (turns(text, text), {})


def test_images_beside_images_are_read_or_a_reason(here):
    entries = [
        {"id": 0, "images": ["0.png"], "conversations": turns("<image>\nWhat is this?")},
        {"id": 1, "images": ["0.png", "1.png"], "messages": turns("<image><image>\nCompare.")},
        {"id": 2, "images": ["0.png", "1.png"], "conversations": turns("<image>\nCompare.")},
        {"id": 3, "image": "0.png", "video": "a.mp4", "conversations": turns("<image>\nWhat?")},
        {"id": 4, "image": "0.png", "conversations": turns("<image>\nWhat is in the\n<video>")},
        {"id": 5, "images": [], "conversations": turns("Two and two?")},
        {"id": 6, "images": [{"path": "1.png", "bytes": None}], "messages": turns("<image>\nWhat?")},
        {"id": 7, "images": [{"path": "1.png", "bytes": "x"}], "messages": turns("<image>\nWhat?")},
    ]
    (here / "all.json").write_text(json.dumps(entries))
    rows = rows_of("conversations", here / "all.json", images=str(here / "pictures"))
    assert facts(rows, "file", "reason", "part") == [
        ("0.png", None, 0), ("0.png", None, 0), ("1.png", None, 1), (None, "bad_conversation", None),
        (None, "bad_conversation", None), (None, "bad_conversation", None), (None, None, 0), ("1.png", None, 0),
        (None, "bad_conversation", None),
    ]  # fmt: skip
    assert json.loads(rows[1]["conversation"]) == {
        "turns": turns("<image_00><image_01>\nCompare."), "images": ["<image_00>", "<image_01>"],
    }  # fmt: skip
    assert json.loads(rows[6]["extra"]) == {"id": 5, "images": []}


@pytest.mark.parametrize("answer", ["", "  ", "\n", "<image> shows a box.", "A box <image>", "`<image>`"])
def test_an_answer_that_is_empty_or_holds_an_image_is_a_reason(answer):
    for said in ([*turns("<image>\nWhat?", "A box."), *turns("And?", answer)], turns("What?", answer)):
        with pytest.raises(ValueError, match=r"empty|in an answer|more than once"):
            read_conversation(said, "0.png")


@pytest.mark.parametrize("empty", ["\u00a0", "\u200b\u200b", "\u2028", "\ufeff \n", "\u3000", "\u2800"])
def test_what_nobody_can_see_is_no_answer_and_no_question(empty):
    with pytest.raises(ValueError, match="a turn of the assistant is empty"):
        read_conversation(turns("What?", empty), None)
    for said, image in ((turns(empty), None), ([*turns("<image>"), *turns(empty)], "0.png")):
        with pytest.raises(ValueError, match="a turn of the user is empty"):
            read_conversation(said, image)
    assert read_conversation(turns(empty), "0.png")[1] == {"<image>": "0.png"}, "the image stands in it"
    assert read_conversation([{"role": "system", "content": empty}, *turns("What?")], None)


# Entries of one id, and fields beside fields


def test_entries_with_one_id_that_say_other_things_are_other_samples(here):
    """As in mixtures of LLaVA's JSON, whose ids repeat."""
    same, image, other = turns("<image>\nWhat?"), {"image": "0.png"}, turns("<image>\nWhat?", "A box.")
    entries = [
        {"id": "a", "conversations": same, **image}, {"id": "a", "conversations": other, **image},
        {"id": "a", "conversations": same, "image": "1.png"}, {"id": "a", "conversations": same, **image, "n": 1},
        {"id": "a", "conversations": same, **image, "system": "Be short."}, {"id": "b", "conversations": same, **image},
        {"id": "a", "conversations": other, **image}, {"id": 7, "conversations": same, **image},
    ]  # fmt: skip
    (here / "all.json").write_text(json.dumps(entries))
    rows = rows_of("conversations", here / "all.json", images=str(here / "pictures"))
    assert [row["reason"] for row in rows] == [None, None, None, "equal_keys", None, None, "equal_keys", None]
    keys = [key_of("conversation", name) for name in ("a", "b", "7")]
    assert [rows[0]["key"], rows[5]["key"], rows[7]["key"]] == keys, "as they were"
    (here / "all.json").write_text(json.dumps([entries[0], entries[2], entries[1]]))
    again = rows_of("conversations", here / "all.json", images=str(here / "pictures"))
    assert {row["key"] for row in again} == {row["key"] for row in rows[:3]}, "whatever their order"


def test_a_system_beside_the_turns_is_the_first_turn(here):
    """LLaMA-Factory's field."""
    system = {"role": "system", "content": "Be short."}
    entries = [
        {"id": 0, "messages": turns("What?"), "system": "Be short."},
        {"id": 1, "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A square."}],
         "system": "Be short.", "tools": ""},
        {"id": 2, "messages": [system, *turns("What?")], "system": "Be short."},
        {"id": 3, "messages": turns("What?"), "system": ""},
        {"id": 4, "messages": turns("What?"), "system": {"a": 1}},
        {"id": 5, "messages": turns("What?"), "system": "<image>"},
    ]  # fmt: skip
    (here / "all.json").write_text(json.dumps(entries))
    rows = rows_of("conversations", here / "all.json")
    said = [json.loads(row["conversation"])["turns"] if row["conversation"] else row["reason"] for row in rows]
    assert said == [[system, *turns("What?")]] * 3 + [turns("What?"), "bad_conversation", "bad_conversation"]
    assert json.loads(rows[0]["extra"]) == {"id": 0, "system": "Be short."}


def test_fields_beside_fields_must_say_the_same(here):
    one, two = turns("What?"), turns("What?", "Another.")
    entries = [
        {"id": 0, "conversations": one, "messages": two}, {"id": 1, "conversations": one, "messages": one},
        {"id": 2, "conversations": [], "messages": two}, {"id": 3, "conversations": None, "messages": two},
        {"id": 4, "conversations": one, "image": "0.png", "images": ["0.png", "1.png"]},
        {"id": 5, "conversations": one, "image": "0.png", "images": ["0.png"]},
        {"id": 6, "conversations": one, "image": "", "images": ["1.png"]},
    ]  # fmt: skip
    (here / "all.json").write_text(json.dumps(entries))
    rows = rows_of("conversations", here / "all.json", images=str(here / "pictures"))
    assert facts(rows, "file", "reason") == [
        (None, "bad_conversation"), (None, None), (None, None), (None, None), (None, "bad_conversation"),
        ("0.png", None), ("1.png", None),
    ]  # fmt: skip
    assert [rows[0]["detail"], rows[4]["detail"]] == [
        "0: has both conversations and messages, and they differ", "4: has both image and images, and they differ",
    ]  # fmt: skip
    assert json.loads(rows[2]["conversation"])["turns"] == two


LLAVA = [
    {"id": "a", "image": "0.png", "conversations": [
        {"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A square."}]},
    {"id": "b", "conversations": [
        {"from": "system", "value": "Be short."}, {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello."}]},
    {"id": "c", "image": ["0.png", "1.png"], "conversations": [
        {"from": "human", "value": "<image> or <image>?"}, {"from": "gpt", "value": "The first."}]},
    {"id": "d", "conversations": [{"from": "human", "value": "Hi"}, {"from": "function", "value": "{}"}]},
]  # fmt: skip


@pytest.mark.slow
def test_llava_and_sharegpt_come_out_as_minicpm_v(here):
    (here / "all.json").write_text(json.dumps(LLAVA))
    root = build(here / "my.toml")
    found = {name: json.loads(sample["json"])["conversation"] for name, sample in samples(root).items()}
    assert found == {
        "a": {"images": ["<image>"], "turns": turns("<image>\nWhat is this?")},
        "b": {"images": [], "turns": [{"role": "system", "content": "Be short."}, *turns("Hi", "Hello.")]},
        "c": {"images": ["<image_00>", "<image_01>"], "turns": turns("<image_00> or <image_01>?", "The first.")},
    }
    (bad,) = query(root, "select detail from rows where reason is not null").to_pylist()
    assert bad["detail"].startswith("d: a turn is not {role, content}: {'from': 'function'")


def test_vqa_is_its_questions_with_the_answers_beside_them(here):
    questions = [
        {"question_id": 10, "image_id": 5, "question": "What?"},
        {"question_id": 11, "image_id": 5, "question": "?"},
    ]
    answers = [{"question_id": 10, "image_id": 5, "multiple_choice_answer": "a square", "answer_type": "other"}]
    (here / "vqa").mkdir()
    name = here / "vqa/v2_OpenEnded_mscoco_train2014_questions.json"
    name.write_text(json.dumps({"data_subtype": "train2014", "questions": questions}))
    said = say("plan", here / "my.toml")
    assert said.code == 0
    toml = (here / "my.toml").read_text().replace("all.json", "vqa")
    (here / "vqa.toml").write_text(toml.replace("corpus", "vqa-corpus"))
    said = say("plan", here / "vqa.toml")
    assert said.code == 2 and said.err.startswith(f"shardmill: source.path: {name.name} holds questions of VQA without")
    (here / "vqa/v2_mscoco_train2014_annotations.json").write_text(json.dumps({"annotations": answers}))
    (here / "pictures/COCO_train2014_000000000005.jpg").write_bytes(picture(5)[0])
    rows = rows_of("conversations", here / "vqa", images=str(here / "pictures"))
    assert facts(rows, "file", "reason") == [("COCO_train2014_000000000005.jpg", None), (None, "bad_conversation")]
    assert json.loads(rows[0]["conversation"])["turns"] == turns("What?", "a square")
    assert json.loads(rows[0]["extra"]) == {"id": 10, "answer_type": "other"}


def test_another_encoding_of_json_is_asked_for(here):
    (here / "all.json").write_bytes(
        json.dumps([NONE, ONE | {"conversations": turns("Käse?")}], ensure_ascii=False).encode("latin-1")
    )
    said = say("plan", here / "my.toml")
    assert said.code == 2 and said.err.startswith(
        "shardmill: source.encoding: all.json is not UTF-8; write encoding = "
    )
    options = {"images": str(here / "pictures")}
    rows = rows_of("conversations", here / "all.json", encoding="latin-1", **options)
    assert [row["reason"] for row in rows] == [None, None] and "Käse?" in rows[1]["conversation"]
    rows = rows_of("conversations", here / "all.json", encoding="utf-8", **options)
    assert [row["reason"] for row in rows] == [None, "bad_text"]
    assert rows[1]["detail"] == "all.json has 1 characters that are not utf-8, in entry 1"
    (here / "all.json").write_bytes(json.dumps([NONE, ONE]).encode("utf-16"))
    assert [row["reason"] for row in rows_of("conversations", here / "all.json", **options)] == [None, None]


@pytest.mark.parametrize(("text", "complaint"), [("{", "is not valid JSON"), ('{"id": 1}', "holds no list; write")])
def test_a_file_that_is_no_list_is_answered_in_one_line(text, complaint, here):
    (here / "all.json").write_text(text)
    said = say("run", here / "my.toml")
    assert said.code == 2 and said.err.startswith(f"shardmill: source.path: all.json {complaint}")
    assert len(said.err.splitlines()) == 1 and not (here / "corpus").exists()


@pytest.mark.slow
def test_names_that_are_no_files_and_halves_of_characters_stop_nothing(here):
    (here / "pictures/folder.png").mkdir()
    names = ["3.png\0", ".", "folder.png/", "0.png/x", "x" * 300 + ".png", "folder.png"]
    strange = [{"id": f"n{n}", "image": name, "conversations": turns("What?")} for n, name in enumerate(names)]
    half = {"id": "half", "image": "3.png", "conversations": turns("half \ud800 a pair"), "note": "\udfff"}
    (here / "all.json").write_text(json.dumps([*strange, half, {"image": float("nan"), "conversations": []}]))
    root = build(here / "my.toml")
    said = query(root, "select reason, count(*) as n from rows group by reason order by reason").to_pylist()
    assert [tuple(row.values()) for row in said] == [("bad_conversation", 1), ("no_image", 6), (None, 1)]
    (sample,) = samples(root).values()
    assert json.loads(sample["json"])["conversation"]["turns"][0]["content"] == "half \ufffd a pair"
    assert verify_root(root).problems == []


def test_a_folder_of_images_that_is_not_there_is_named(here):
    (here / "my.toml").write_text(TOML.replace('images = "pictures"', 'images = "picturse"'))
    said = say("plan", here / "my.toml")
    assert (said.code, said.err) == (2, f"shardmill: source.images: {here}/picturse does not exist\n")

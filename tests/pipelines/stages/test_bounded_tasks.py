"""Bounds on the images of conversations and of pairs."""

import io
import json
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image
from support.corpora import build, picture, say
from support.preferences import ASKING, Response, build_preferences, yes_or_no

from pipelines.catalog.catalog import query
from pipelines.engine.parquet import read_rows
from pipelines.engine.releases import read_card
from pipelines.engine.root import Root
from pipelines.exports.samples import samples
from pipelines.maintain.verify import verify_root
from training.pixels import size_of
from training.sample_text import conversation_of
from training.shards import Shards


@pytest.fixture
def images(tmp_path) -> Path:
    """Three PNGs and a JPEG of 224 x 224."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(picture(number)[0])
    Image.open(io.BytesIO(picture(3)[0])).save(folder / "3.jpg")
    return folder


def indexed(root: Root, name: str) -> list[dict]:
    return [row for entry in read_card(root, name)["shards"] for row in read_rows(root, f"shards/{entry['index']}")]


# Conversations


def entry(name: str, *files: str) -> dict:
    marks = {f"<image_{number:02d}>": file for number, file in enumerate(files)}
    turns = [("user", " ".join(["Well?", *marks])), ("assistant", "Yes.")]
    said = {"id": name, "conversations": [{"role": role, "content": content} for role, content in turns]}
    return said | ({"image": marks} if marks else {})


ENTRIES = [entry("two", "0.png", "1.png"), entry("mixed", "2.png", "3.jpg"), entry("none"), entry("jpeg", "3.jpg")]
TALK = """[source]
kind = "conversations"
path = "all.json"
images = "pictures"
[duplicates]
near = -1
[sets.talk]
task = "conversation"
format = "jpg"
"""


@pytest.mark.slow
@pytest.mark.parametrize("stable", [False, True])
def test_each_image_of_a_conversation_is_within_the_bounds(configure, tmp_path, images, stable):
    (tmp_path / "all.json").write_text(json.dumps(ENTRIES[:3]))
    root = build(configure(f"{TALK}max_side = 112\nstable_json = {str(stable).lower()}\n"))
    read = {}
    for sample in Shards(root.url, "talk"):
        conversation = conversation_of(sample)
        read[len(conversation["images"])] = sorted(name for name in sample if name.endswith("jpg"))
        assert all(size_of(sample[name]) == (112, 112) for name in sample if name.endswith("jpg"))
    assert read == {2: ["0.jpg", "1.jpg"], 0: []}
    told = {row["sample"]: [picture["ext"] for picture in row["pictures"]] for row in indexed(root, "talk")}
    assert sorted(told.values()) == [[], ["0.jpg", "1.jpg"], ["0.jpg", "1.jpg"]]
    (exported,) = (list(samples(root, shard, "conversation")) for shard in read_card(root, "talk")["shards"])
    assert all(len(sample.document["conversation"]["turns"]) == 2 for sample in exported)
    assert verify_root(root).problems == []


@pytest.mark.slow
def test_a_conversation_with_an_image_of_another_format_is_left_out_as_a_whole(configure, tmp_path, images):
    (tmp_path / "all.json").write_text(json.dumps(ENTRIES))
    root = build(configure(f'{TALK}other_formats = "leave_out"\n'))
    assert sorted(len(row["pictures"]) for row in indexed(root, "talk")) == [0, 1], "one without images stays"
    left = query(root, "SELECT reason FROM selection WHERE reason = 'other_format'").num_rows
    assert left == 4, "two conversations, each with its second image"
    assert verify_root(root).problems == []


# Pairs

PAIRS = f"""[source]
kind = "instructions"
path = "asked"
{ASKING}[sets.dpo]
task = "preference"
max_side = 112
[sets.jpegs]
task = "preference"
format = "jpg"
other_formats = "leave_out"
stable_json = true
[sets.plain]
task = "preference"
"""


def answer(instruction: dict) -> list[Response]:
    return [Response("a square", yes_or_no(True)), Response("a circle", yes_or_no(False))]


@pytest.mark.slow
def test_pairs_go_by_the_same_bounds(configure, tmp_path, images):
    images.rename(tmp_path / "asked")
    lines = [{"image_path": name, "question": f"What is {n}?"} for n in (1, 2) for name in ("0.png", "1.png", "3.jpg")]
    (tmp_path / "asked/instructions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    root = build_preferences(configure(PAIRS), answer)
    counts = {name: len(list(Shards(root.url, name))) for name in ("dpo", "jpegs", "plain")}
    assert counts["dpo"] == counts["plain"] > counts["jpegs"] > 0
    for sample in Shards(root.url, "dpo"):
        (name,) = sample.keys() & {"jpg", "png"}
        document = json.loads(sample["json"])
        assert size_of(sample[name]) == (document["width"], document["height"]) == (112, 112)
        assert document["pictures"][0]["original"]["sha256"] == document["sha256"]
    for sample in Shards(root.url, "jpegs"):
        document = json.loads(sample["json"])
        assert sha256(sample["jpg"]).hexdigest() == document["sha256"], "as it came"
        assert document["pair"]["chosen"] == "a square" and isinstance(document["extra"], str)
    assert verify_root(root).problems == []


# Settings


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("max_side = 0", "sets.train.max_side: "),
        ('format = "gif"', "sets.train.format: "),
        ("quality = 101\nmax_side = 9", "sets.train.quality: "),
        ("quality = 80", "sets.train: quality is of images that are encoded here; add max_side or format"),
        ('other_formats = "leave_out"', "sets.train: other_formats needs a format; add it"),
        ("max_width = 100", "sets.train.max_width: unknown; "),
    ],
)
def test_bounds_that_cannot_be_are_one_line(configure, tmp_path, toml, message):
    (tmp_path / "source").mkdir()
    said = say("plan", configure(f'[source]\nkind = "webdataset"\npath = "source"\n[sets.train]\n{toml}\n'))
    assert said.code == 2 and message in said.err and said.err.count("\n") == 1

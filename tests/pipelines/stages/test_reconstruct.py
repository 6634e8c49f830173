"""Shard sets of the task `reconstruct`: text in images is corrupted, and samples ask what stood there."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFont
from support.corpora import build, data_files, say

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.engine.releases import read_card
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from pipelines.stages import bounded_images
from schemas.selection import QUESTION
from training.shards import Shards

TOML = """
[source]
kind = "folder"
path = "pictures"
[ocr]
[sets.plain]
task = "ocr"
[sets.train]
task = "reconstruct"
corrupted = 0.5
"""
LINES = {
    "sign": ("FIRE EXIT", "NO PARKING", "Museum", "market"),
    "menu": ("Soup of the day", "Bread", "Coffee 250", "Tea"),
    "notice": ("Museum closed",),
    "nothing": (),
}


def drawn(*lines: str) -> Image.Image:
    image, font = Image.new("RGB", (420, 300), "white"), ImageFont.load_default(32)
    for n, line in enumerate(lines):
        ImageDraw.Draw(image).text((24, 20 + 66 * n), line, "black", font)
    return image


def write(folder: Path) -> None:
    folder.mkdir()
    for name, lines in LINES.items():
        drawn(*lines).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"A {name}.")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    write(tmp_path / "pictures")
    return tmp_path / "pictures"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Root:
    """Built once; tests read it."""
    folder = tmp_path_factory.mktemp("reconstruct")
    write(folder / "pictures")
    (folder / "my.toml").write_text('root = "corpus"\n' + TOML)
    return build(folder / "my.toml")


@contextmanager
def encodes() -> Iterator[list[int]]:
    """Counts the images that are encoded."""
    done, real = [], bounded_images.encode
    with patch.object(bounded_images, "encode", lambda *given: done.append(1) or real(*given)):
        yield done


def samples(root: Root, name: str = "train") -> dict[str, dict]:
    """By the words of their caption."""
    return {json.loads(sample["json"])["text"][2:-1]: sample for sample in Shards(root.url, name)}


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.slow
def test_a_sample_teaches_what_stood_in_its_corrupted_lines(built):
    found = samples(built)
    assert {*found} == {"sign", "menu", "notice"}
    for name, sample in found.items():
        document, image = json.loads(sample["json"]), pixels(sample["png"])
        assert sample["__key__"].endswith("-reconstruct") and document["task"] == "reconstruct"
        lines = [document["ocr"][line["line"]] for line in document["corrupted"]]
        assert sample["txt"].decode().split("\n") == [line["text"] for line in lines]
        assert {*sample["txt"].decode().split("\n")} <= {*LINES[name]} and len(lines) == max(1, len(LINES[name]) // 2)
        was, left = (
            pixels((Path(built.url).parent / f"pictures/{name}.png").read_bytes()),
            np.zeros(image.shape[:2], bool),
        )
        for line, chosen in zip(lines, document["corrupted"], strict=True):
            x, y = line["box"][::2], line["box"][1::2]
            inside = np.s_[int(min(y)) : int(max(y)) + 1, int(min(x)) : int(max(x)) + 1]
            assert (image[inside] != was[inside]).any(-1).mean() > 0.1
            if chosen["level"] == "high":
                assert (image[inside] == 0).all()
            left[max(0, int(min(y)) - 9) : int(max(y)) + 10, max(0, int(min(x)) - 9) : int(max(x)) + 10] = True
        assert (image == was)[~left].all()  # all other lines can be read
        (told,) = document["pictures"]
        assert told["format"] == "PNG" and told["original"]["sha256"] == document["sha256"] != told["sha256"]


def test_an_image_without_a_line_to_corrupt_has_a_reason(built):
    rows = query(built, "SELECT r.text, s.reason FROM rows r JOIN selection s USING (key)").to_pylist()
    assert {row["text"]: row["reason"] for row in rows if row["reason"]} == {"A nothing.": "no_ocr"}
    other = query(
        built, "SELECT text, samples FROM samples WHERE list_contains([s.task for s in samples], 'reconstruct')"
    )
    assert other.num_rows == 3


@pytest.mark.slow
def test_only_reconstruct_without_a_line_has_its_own_reason(pictures, configure):
    toml = TOML.replace('[sets.plain]\ntask = "ocr"\n', "").replace("[ocr]", "[ocr]\ngood_length = 99")
    root = build(configure(toml + "[gates]\nempty_sets = false\n"))
    rows = query(root, "SELECT DISTINCT reason FROM selection").to_pylist()
    assert rows == [{"reason": "no_reconstruct"}]


@pytest.mark.slow
def test_what_was_made_is_verified_and_equal_everywhere(built, pictures, configure):
    assert verify_root(built).problems == []
    (card,) = (read_card(built, name) for name in ["train"])
    assert card["task"] == "reconstruct" and card["settings"]["corruption"] == {
        "seed": 0,
        "corrupted": 0.5,
        "corruptor": 1,
    }
    again = build(configure(TOML))
    files = [
        {name: d for name, d in data_files(Path(root.url)).items() if "shards/" in name} for root in (built, again)
    ]
    assert files[0] == files[1] and any("shards/train-" in name for name in files[0])
    assert not plan(open_corpus(pictures.parent / "my.toml")).work()


@pytest.mark.slow
def test_the_set_without_corruption_stays_as_it_was(built, pictures, configure):
    root = build(configure(TOML.split("[sets.train]")[0]))
    alone = {name: d for name, d in data_files(Path(root.url)).items() if "shards/plain-" in name}
    assert len(alone) == 2 and alone.items() <= data_files(Path(built.url)).items()


@pytest.mark.slow
def test_bounds_scale_the_picture_before_the_lines_are_corrupted(pictures, configure):
    root = build(configure(TOML + 'max_side = 210\nformat = "jpg"\nlevels = { high = 1 }\n'))
    for sample in samples(root).values():
        document, image = json.loads(sample["json"]), pixels(sample["jpg"])
        assert image.shape[:2] == (150, 210) == (document["height"], document["width"])
        for chosen in document["corrupted"]:
            x, y = (document["ocr"][chosen["line"]]["box"][n::2] for n in (0, 1))
            assert image[int(min(y)) + 2 : int(max(y)) - 1, int(min(x)) + 2 : int(max(x)) - 1].max() < 40


@pytest.mark.slow
def test_a_picture_is_corrupted_again_only_where_its_sample_changed(pictures, configure):
    config = configure(TOML)
    with encodes() as done:
        build(config)
        assert len(done) == 3
    (pictures / "menu.txt").write_text("A dinner.")
    with encodes() as done:
        root = build(config)
        assert len(done) == 1 and {*samples(root)} == {"sign", "dinner", "notice"}
    with encodes() as done:
        build(configure(TOML + "seed = 1\n"))
        assert len(done) == 3
    made = data_files(Path(root.url))
    (pictures.parent / "fresh.toml").write_text('root = "fresh"\n' + TOML + "seed = 1\n")
    fresh = data_files(Path(build(pictures.parent / "fresh.toml").url))
    mine = {name for name in fresh if "shards/train-" in name}
    assert mine and {name: made[name] for name in mine} == {name: fresh[name] for name in mine}


@pytest.mark.slow
def test_two_samples_of_one_picture_each_have_their_own_lines(tmp_path, configure):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(6):
        drawn("ONE WORD", "TWO WORDS", "THREE WORDS").save(folder / f"{n}.png")
        (folder / f"{n}.txt").write_text(f"A {n}.")
    found = samples(build(configure(TOML.replace("0.5", "0.3"))))
    targets = {name: sample["txt"] for name, sample in found.items()}
    assert len(found) == 6 and len({*targets.values()}) > 1
    for name, sample in found.items():
        for other, data in ((name, sample["png"]) for name, sample in found.items()):
            assert targets[name] == targets[other] or sample["png"] != data


@pytest.mark.slow
@pytest.mark.parametrize("task", ["ocr", "reconstruct"])
def test_of_a_conversation_about_several_images_the_first_one_is_read(task, tmp_path, configure):
    write(tmp_path / "pictures")
    talk = {"id": "1", "image": {f"<image_0{n}>": f"{name}.png" for n, name in enumerate(("menu", "sign"))}}
    turns = [("user", "<image_00> <image_01> Which is larger?"), ("assistant", "The menu.")]
    talk["conversations"] = [{"role": role, "content": text} for role, text in turns]
    (tmp_path / "pictures/talks.json").write_text(json.dumps([talk]))
    toml = '[source]\nkind = "conversations"\npath = "pictures/talks.json"\n[ocr]\n[sets.train]\n'
    root = build(configure(f'{toml}task = "{task}"\n'))
    (sample,) = Shards(root.url, "train")
    assert {*sample} == {"__key__", "png", "json", "txt"}
    assert {*sample["txt"].decode().split("\n")} <= {*LINES["menu"]} and verify_root(root).problems == []


@pytest.mark.slow
def test_exports_ask_what_stood_there(built, tmp_path):
    from datasets import load_dataset

    assert say("export-set", built.url, "train", tmp_path / "hub", "--form", "huggingface").code == 0
    rows = load_dataset(str(tmp_path / "hub"), split="train", cache_dir=str(tmp_path / "cache")).to_list()
    found = samples(built)
    for row in rows:
        sample = found[row["caption"][2:-1]]
        assert row["text"] == sample["txt"].decode()
        assert json.loads(row["more"])["corrupted"] == json.loads(sample["json"])["corrupted"]
    assert say("export-set", built.url, "train", tmp_path / "llava", "--form", "llava").code == 0
    talks = json.loads((tmp_path / "llava/conversations.json").read_text())
    assert {talk["conversations"][0]["value"] for talk in talks} == {f"<image>\n{QUESTION}"}
    assert {talk["conversations"][1]["value"] for talk in talks} == {s["txt"].decode() for s in found.values()}


@pytest.mark.slow
def test_a_model_trains_on_them_and_is_asked_what_stood_there(built, tmp_path):
    from support.releases import small_tokenizer
    from support.training_runs import SHAPE

    from training.look import look
    from training.recipe import Recipe
    from training.train import World, train

    small_tokenizer(tmp_path / "tokenizer", [QUESTION, *(line for lines in LINES.values() for line in lines)])
    (tmp_path / "shape.json").write_text(json.dumps(SHAPE.as_dict()))
    recipe = Recipe.model_validate({
        "shape": str(tmp_path / "shape.json"), "tokenizer": str(tmp_path / "tokenizer"),
        "data": {"corrupted": {"root": built.url, "set": "train"}},
        "stages": [{"name": "sft", "sets": {"corrupted": 1.0}, "steps": 2, "batch": 1, "micro": 1, "length": 768,
                    "rate": 1e-3, "precision": "float32"}],
    })  # fmt: skip
    targets = {sample["__key__"]: sample["txt"].decode() for sample in Shards(built.url, "train")}
    shown, lost, _ = look(recipe, recipe.stages[0], 3)
    assert not lost and {sample.name for sample in shown} == {*targets}
    for sample in shown:
        learned = "".join(piece.text for piece in sample.pieces if piece.learned and piece.kind == "text")
        assert learned == targets[sample.name]
        assert QUESTION in "".join(piece.text for piece in sample.pieces if not piece.learned)
    train(recipe, tmp_path / "run", World())
    (log,) = (tmp_path / "run").glob("**/log.parquet")
    rows = pq.read_table(log).to_pylist()
    assert rows[-1]["step"] == 2 and rows[-1]["loss"] > 0

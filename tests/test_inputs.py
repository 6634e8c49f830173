"""docs/inputs.md says what is so: each input is made by the packages that people use, and its TOML is run over it.

The page is read by its headings. A function here makes the files of an input and returns the samples that must come
out. The figures are those of the table of the page.
"""

import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
from support.corpora import ONE_PROCESS, build, picture, say
from support.paths import PROJECT, TESTS
from support.picture_server import serving

from pipelines.catalog.catalog import query
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from schemas.config.file import read_config

os.environ["HF_HUB_OFFLINE"] = "1"
datasets = pytest.importorskip("datasets")
pandas = pytest.importorskip("pandas")
webdataset = pytest.importorskip("webdataset")
datasets.disable_progress_bars()

PAGE = (PROJECT / "docs/inputs.md").read_text()
PICTURES = [picture(number)[0] for number in range(8)]
CAPTIONS = [f"A square in colour {number}, above some print." for number in range(8)]
IMAGE, TEXT = datasets.Image(), datasets.Value("string")

Sample = tuple[str | tuple[str, ...], list[bytes]]  # the caption, or what is said; the images


class Line(NamedTuple):
    """A line of the table of the page."""

    kinds: tuple[str, ...]
    rows: int
    samples: int
    left_out: dict[str, int]


# The page


def sections() -> dict[str, str]:
    """The text of each input by its heading."""
    parts = re.split(r"^### (.+)$", PAGE, flags=re.M)[1:]
    return {heading: text.partition("\n## ")[0] for heading, text in zip(parts[::2], parts[1::2], strict=False)}


def table() -> dict[str, Line]:
    lines = {}
    for line in re.findall(r"^\| \[.*\|$", PAGE, re.M):
        name, kind, rows, samples, left_out = (cell.strip() for cell in line.strip("|").split("|"))
        heading, anchor = re.fullmatch(r"\[(.+)\]\(#(.+)\)", name).groups()
        assert anchor == re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        reasons = {reason: int(count) for count, reason in re.findall(r"(\d+) `(\w+)`", left_out)}
        lines[heading] = Line(tuple(re.findall(r"`(\w+)`", kind)), int(rows), int(samples), reasons)
    return lines


def code(heading: str, language: str) -> str:
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", sections()[heading], re.M | re.S))


# Inputs


MAKERS: dict[str, Callable[[Path], list[Sample]]] = {}


def makes(heading: str) -> Callable:
    """The function makes the files of the input with this heading, and returns the samples that come of them."""

    def keep(maker: Callable[[Path], list[Sample]]) -> Callable[[Path], list[Sample]]:
        MAKERS[heading] = maker
        return maker

    return keep


def captioned(*numbers: int) -> list[Sample]:
    return [(CAPTIONS[number], [PICTURES[number]]) for number in numbers]


def write_pictures(folder: Path, *numbers: int, beside: str = "") -> None:
    """Pictures as 0.png, 1.png, …; `beside`: the suffix of their captions."""
    folder.mkdir(parents=True)
    for number in numbers:
        (folder / f"{number}.png").write_bytes(PICTURES[number])
        if beside:
            (folder / f"{number}.{beside}").write_text(CAPTIONS[number])


@makes("Images with `.txt` beside them")
def images_with_texts(here: Path) -> list[Sample]:
    write_pictures(here / "photos", 0, 1, beside="txt")
    write_pictures(here / "photos/more", 2, 3, beside="txt")
    (here / "photos/more/3.png").write_bytes(PICTURES[3][:-200])
    (here / "photos/4.png").write_bytes(PICTURES[4])
    return captioned(0, 1, 2)


@makes("Training folders of sd-scripts")
def training_folders(here: Path) -> list[Sample]:
    write_pictures(here / "train/10_bread", 0, 1, beside="caption")
    write_pictures(here / "train/3_taxi", 2, beside="txt")
    return captioned(0, 1, 2)


@makes("CSV of paths and captions")
def csv(here: Path) -> list[Sample]:
    write_pictures(here / "photos", 0, 1, 2)
    columns = {"filepath": [f"{n}.png" for n in range(4)], "title": ['A "square",\nred; blue | é', *CAPTIONS[1:4]]}
    pandas.DataFrame(columns).to_csv(here / "captions.csv")
    return [(columns["title"][0], [PICTURES[0]]), *captioned(1, 2)]


def paths_and_captions(here: Path, folder: str) -> "pandas.DataFrame":
    write_pictures(here / folder, 0, 1, 2)
    columns = {"image": ["0.png", "1.png", "2.png"], "caption": CAPTIONS[:3], "score": [0.5, 0.9, 0.2]}
    return pandas.DataFrame(columns)


@makes("TSV of paths and captions")
def tsv(here: Path) -> list[Sample]:
    frame = paths_and_captions(here, "photos")
    frame["image"] = "photos/" + frame["image"]
    frame.to_csv(here / "captions.tsv", sep="\t", index=False)
    return captioned(0, 1, 2)


@makes("JSON lines of paths and captions")
def json_lines(here: Path) -> list[Sample]:
    paths_and_captions(here, "photos").to_json(here / "captions.jsonl.gz", orient="records", lines=True)
    return captioned(0, 1)


@makes("Parquet of paths and captions")
def parquet(here: Path) -> list[Sample]:
    paths_and_captions(here, "photos").to_parquet(here / "captions.parquet")
    return captioned(0, 1, 2)


@makes("ImageFolder with metadata files")
def image_folder(here: Path) -> list[Sample]:
    write_pictures(here / "imagefolder/train", 0, 1)
    write_pictures(here / "imagefolder/test", 0, 1)
    (here / "imagefolder/test/0.png").write_bytes(PICTURES[2])
    (here / "imagefolder/test/1.png").write_bytes(PICTURES[3])
    for split, captions in (("train", CAPTIONS[:2]), ("test", CAPTIONS[2:4])):
        frame = pandas.DataFrame({"file_name": ["0.png", "1.png"], "text": captions})
        frame.to_csv(here / f"imagefolder/{split}/metadata.csv", index=False)
    read = datasets.load_dataset("imagefolder", data_dir=str(here / "imagefolder"))
    assert {split: len(rows) for split, rows in read.items()} == {"train": 2, "test": 2}, "datasets reads it, too"
    return captioned(0, 1, 2, 3)


@makes("COCO captions")
def coco(here: Path) -> list[Sample]:
    """tests/data/coco_captions.json is what `COCO.loadRes` of pycocotools 2.0.11 made of these captions."""
    write_pictures(here / "coco/val2017", 0, 1)
    (here / "coco/annotations").mkdir()
    shutil.copy(TESTS / "data/coco_captions.json", here / "coco/annotations/captions_val2017.json")
    said = ["A square, number 0.", "A square, number 1.", "Another caption.", "One more.", "And a third one."]
    return [(text, [PICTURES[number]]) for text, number in zip(said, (0, 1, 0, 1, 1), strict=False)]


# img2dataset


def img2dataset(here: Path, output: str) -> list[Sample]:
    """What the package made of four URLs and one that was answered with 404, see
    tests/pipelines/sources/test_img2dataset.py."""
    with tarfile.open(TESTS / "data/img2dataset.tar.gz") as tar:
        names = [name for name in tar.getnames() if re.fullmatch(r"files/\d+/\d+\.jpg", name)]
        read = [(tar.extractfile(f"{name[:-4]}.txt").read().decode(), [tar.extractfile(name).read()]) for name in names]
        tar.extractall(here, filter="data")
    (here / output).rename(here / "laion")
    return read


@makes("img2dataset, output `webdataset`")
def img2dataset_tars(here: Path) -> list[Sample]:
    return img2dataset(here, "webdataset")


@makes("img2dataset, output `files`")
def img2dataset_files(here: Path) -> list[Sample]:
    return img2dataset(here, "files")


@makes("img2dataset, output `parquet`")
def img2dataset_parquet(here: Path) -> list[Sample]:
    return img2dataset(here, "parquet")


# WebDataset


def write_shards(folder: Path, *numbers: int, caption: str = "txt", suffix: str = "tar") -> None:
    """Tars of two samples; `caption`: where the captions are, in .txt or in a field of .json."""
    folder.mkdir()
    with webdataset.ShardWriter(f"{folder}/shard-%06d.{suffix}", maxcount=2, verbose=0) as writer:
        for number in numbers:
            said = {"txt": CAPTIONS[number]} if caption == "txt" else {"json": {caption: CAPTIONS[number], "n": number}}
            writer.write({"__key__": f"sample{number:04d}", "png": PICTURES[number], **said})


@makes("WebDataset tars with `.txt`")
def tars(here: Path) -> list[Sample]:
    write_shards(here / "shards", 0, 1, 2, 3)
    return captioned(0, 1, 2, 3)


@makes("WebDataset tars with captions in `.json`")
def tars_with_json(here: Path) -> list[Sample]:
    write_shards(here / "shards", 0, 1, 2, 3, caption="caption")
    return captioned(0, 1, 2, 3)


@makes("Compressed WebDataset tars")
def compressed_tars(here: Path) -> list[Sample]:
    write_shards(here / "shards", 0, 1, suffix="tar.gz")
    write_shards(here / "more", 2, 3, suffix="tar.gz")
    (here / "more/shard-000000.tar.gz").rename(here / "shards/called.tar")
    return captioned(0, 1, 2, 3)


# URLs


served = ""  # the URL of the server below


@pytest.fixture(scope="module", autouse=True)
def server():
    """Answers /0.png to /2.png, and all else with 404."""
    global served
    with serving(dict(enumerate(PICTURES[:3]))) as (served, _):
        yield


def urls(count: int) -> list[str]:
    return [f"{served}/{number}.png" for number in range(count)]


@makes("LAION: Parquet of URLs")
def laion(here: Path) -> list[Sample]:
    (here / "laion").mkdir()
    columns = {"URL": urls(4), "TEXT": CAPTIONS[:4], "WIDTH": [224] * 4, "HEIGHT": [224] * 4, "similarity": [0.35] * 4}
    pandas.DataFrame(columns).to_parquet(here / "laion/part-00000.snappy.parquet")
    return captioned(0, 1, 2)


@makes("CC3M and CC12M: TSV of URLs")
def cc3m(here: Path) -> list[Sample]:
    lines = [f"{caption}\t{url}\n" for caption, url in zip(CAPTIONS, urls(3), strict=False)]
    (here / "Train_GCC-training.tsv").write_text("".join(lines))
    return captioned(0, 1, 2)


# Hugging Face


def held(*numbers: int) -> list[dict]:
    return [{"bytes": PICTURES[number], "path": f"{number}.png"} for number in numbers]


def dataset(features: dict, **columns: list) -> "datasets.Dataset":
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@makes("Hugging Face Parquet with images")
def hub_parquet(here: Path) -> list[Sample]:
    (here / "hub/data").mkdir(parents=True)
    data = dataset({"photo": IMAGE, "description": TEXT}, photo=held(0, 1, 2, 3), description=[*CAPTIONS[:3], None])
    for number in range(2):
        data.shard(2, number).to_parquet(here / f"hub/data/train-{number:05d}-of-00002.parquet")
    return captioned(0, 1, 2)


@makes("Several captions of an image")
def several_captions(here: Path) -> list[Sample]:
    (here / "hub").mkdir()
    said = [CAPTIONS[:3], CAPTIONS[3:5]]
    data = dataset({"image": IMAGE, "caption": datasets.Sequence(TEXT)}, image=held(0, 1), caption=said)
    data.to_parquet(here / "hub/test.parquet")
    return [(text, [PICTURES[number]]) for number, texts in enumerate(said) for text in texts]


@makes("Folders of `save_to_disk`")
def saved(here: Path) -> list[Sample]:
    data = dataset({"image": IMAGE, "text": TEXT}, image=held(0, 1, 2, 3), text=CAPTIONS[:4])
    splits = datasets.DatasetDict({"train": data.select(range(3)), "test": data.select([3])})
    splits.save_to_disk(here / "saved", num_shards={"train": 2, "test": 1})
    return captioned(0, 1, 2, 3)


@makes("Classes instead of captions")
def classes(here: Path) -> list[Sample]:
    (here / "cifar").mkdir()
    features = {"img": IMAGE, "label": datasets.ClassLabel(names=["airplane", "cat"])}
    dataset(features, img=held(0, 1, 2), label=[1, 0, 1]).to_parquet(here / "cifar/train.parquet")
    return [(text, [PICTURES[number]]) for number, text in enumerate(["cat", "airplane", "cat"])]


@makes("A folder for each class")
def folders_of_classes(here: Path) -> list[Sample]:
    write_pictures(here / "animals/cat", 0, 1)
    write_pictures(here / "animals/dog", 2, 3)
    return [(name, [PICTURES[number]]) for number, name in enumerate(["cat", "cat", "dog", "dog"])]


QUESTION, ANSWER = "What is printed below the square?", "There is a word in dark letters."


@makes("Questions with answers on the Hub")
def hub_answers(here: Path) -> list[Sample]:
    (here / "vqa").mkdir()
    features = {"image": IMAGE, "question": TEXT, "answer": TEXT}
    data = dataset(features, image=held(0, 1, 2), question=[QUESTION] * 3, answer=[ANSWER, "Nothing.", ""])
    data.to_parquet(here / "vqa/validation.parquet")
    return [((QUESTION, ANSWER), [PICTURES[0]]), ((QUESTION, "Nothing."), [PICTURES[1]])]


@makes("Questions with choices")
def scienceqa(here: Path) -> list[Sample]:
    (here / "scienceqa").mkdir()
    choices = [["Maine", "Ohio"], ["yes", "no"], ["a", "b", "c"], ["red", "blue"]]
    features = {"image": IMAGE, "question": TEXT, "choices": datasets.List(TEXT), "answer": datasets.Value("int64")}
    dataset(
        features | {"hint": TEXT}, image=[*held(0, 1, 2), None], question=CAPTIONS[:4], choices=choices,
        answer=[1, 0, 2, 0], hint=["", "x", "", ""],
    ).to_parquet(here / "scienceqa/test-00000-of-00001.parquet")  # fmt: skip
    said = ["Ohio", "yes", "c"]
    return [((CAPTIONS[number], said[number]), [PICTURES[number]]) for number in range(3)]


@makes("Conversations on the Hub")
def hub_conversations(here: Path) -> list[Sample]:
    (here / "llava").mkdir()
    turn = [{"role": TEXT, "content": TEXT}]
    asked = [{"role": "user", "content": f"<image>\n{QUESTION}"}, {"role": "assistant", "content": ANSWER}]
    images = [held(0), held(1, 2), []]
    two = [{"role": "user", "content": f"<image>\n<image>\n{QUESTION}"}, asked[1]]
    data = dataset({"images": datasets.Sequence(IMAGE), "messages": turn}, images=images, messages=[asked, two, asked])
    data.to_parquet(here / "llava/train.parquet")
    return [
        ((f"<image>\n{QUESTION}", ANSWER), [PICTURES[0]]),
        ((f"<image_00>\n<image_01>\n{QUESTION}", ANSWER), PICTURES[1:3]),
    ]


# Conversations in JSON


def talk(*said: str, form: str = "openai") -> list[dict]:
    """Turns of the user and the assistant by turns."""
    roles, names = {
        "openai": (("user", "assistant"), ("role", "content")),
        "llava": (("human", "gpt"), ("from", "value")),
    }[form]
    return [{names[0]: roles[at % 2], names[1]: text} for at, text in enumerate(said)]


@makes("LLaVA's JSON")
def llava(here: Path) -> list[Sample]:
    write_pictures(here / "images/coco/train2017", 0, 1)
    said = [(f"<image>\n{QUESTION}", ANSWER), (f"{QUESTION}\n<image>", ANSWER, "Are you sure?", "Yes, I am.")]
    entries = [
        {"id": f"{n}", "image": f"coco/train2017/{n}.png", "conversations": talk(*turns, form="llava")}
        for n, turns in enumerate(said)
    ]
    entries += [
        {"id": "text", "model": "", "conversations": talk("What is two and two?", "Four.", form="llava")},
        {"id": "blind", "conversations": talk(*said[0], form="llava")},
    ]
    (here / "llava_v1_5_mix665k.json").write_text(json.dumps(entries))
    return [*((turns, [PICTURES[n]]) for n, turns in enumerate(said)), (("What is two and two?", "Four."), [])]


@makes("ShareGPT's JSON")
def sharegpt(here: Path) -> list[Sample]:
    write_pictures(here / "images", 0, 1, 2)
    entries = [
        {"messages": talk(f"<image>{QUESTION}", ANSWER), "images": ["0.png"]},
        {"messages": talk(f"<image><image>{QUESTION}", ANSWER), "images": ["1.png", "2.png"]},
    ]
    (here / "sharegpt.json").write_text(json.dumps(entries))
    return [
        ((f"<image>{QUESTION}", ANSWER), [PICTURES[0]]),
        ((f"<image_00><image_01>{QUESTION}", ANSWER), PICTURES[1:3]),
    ]


@makes("MiniCPM-V's JSON")
def minicpm(here: Path) -> list[Sample]:
    write_pictures(here / "images", 0, 1, 2)
    said = [(f"<image>\n{QUESTION}", ANSWER), ("Compare <image_00> with <image_01>.", "Both show a square.")]
    entries = [
        {"id": "0", "image": "0.png", "conversations": talk(*said[0])},
        {"id": "1", "image": {"<image_00>": "1.png", "<image_01>": "2.png"}, "conversations": talk(*said[1])},
        {"id": "2", "conversations": talk("What is two and two?", "Four.")},
    ]
    (here / "train.json").write_text(json.dumps(entries))
    return [(said[0], [PICTURES[0]]), (said[1], PICTURES[1:3]), (("What is two and two?", "Four."), [])]


@makes("VQA v2")
def vqa(here: Path) -> list[Sample]:
    (here / "vqa").mkdir()
    write_pictures(here / "val2014", 0, 1)
    for number in range(2):
        (here / f"val2014/{number}.png").rename(here / f"val2014/COCO_val2014_{number:012d}.jpg")
    asked = [(0, "Is it red?", "yes"), (0, "How many squares are there?", "1"), (1, "What is below?", "words")]
    head = {"info": {}, "data_type": "mscoco", "data_subtype": "val2014", "license": {}}
    questions = [
        {"image_id": n, "question": text, "question_id": n * 1000 + at} for at, (n, text, _) in enumerate(asked)
    ]
    annotations = [
        {
            "question_type": "is it", "answer_type": "other", "multiple_choice_answer": answer, "image_id": n,
            "question_id": n * 1000 + at,
            "answers": [{"answer": answer, "answer_confidence": "yes", "answer_id": one} for one in range(1, 11)],
        }
        for at, (n, _, answer) in enumerate(asked)
    ]  # fmt: skip
    name = "task_type", "Open-Ended"
    (here / "vqa/v2_OpenEnded_mscoco_val2014_questions.json").write_text(
        json.dumps(head | dict([name]) | {"questions": questions})
    )
    (here / "vqa/v2_mscoco_val2014_annotations.json").write_text(json.dumps(head | {"annotations": annotations}))
    return [((text, answer), [PICTURES[n]]) for n, text, answer in asked]


# Pairs


@makes("RLAIF-V-Dataset")
def rlaif_v(here: Path) -> list[Sample]:
    (here / "RLAIF-V-Dataset").mkdir()
    said = [(f"What is in picture {n}?", f"A square, number {n}.", f"A cat, number {n}.") for n in range(3)]
    columns = {
        "ds_name": ["RLAIF-V"] * 3, "image": held(0, 1, 2), "question": [pair[0] for pair in said],
        "chosen": [pair[1] for pair in said], "rejected": [pair[2] for pair in said],
        "origin_dataset": ["LCS-558K"] * 3, "origin_split": ['{"model": "m"}'] * 3,
        "idx": [str(n) for n in range(3)], "image_path": [f"{n}.jpg" for n in range(3)],
    }  # fmt: skip
    data = dataset({name: IMAGE if name == "image" else TEXT for name in columns}, **columns)
    data.to_parquet(here / "RLAIF-V-Dataset/RLAIF-V-Dataset_000.parquet")
    return [(pair, [PICTURES[n]]) for n, pair in enumerate(said)]


@makes("TRL's preference pairs")
def trl(here: Path) -> list[Sample]:
    (here / "trl").mkdir()
    said = [(f"What is in picture {n}?", f"A square, number {n}.", f"A cat, number {n}.") for n in range(2)]
    turn = [{"role": TEXT, "content": TEXT}]
    columns = {
        "images": [held(0), held(1)],
        "prompt": [talk(pair[0]) for pair in said],
        "chosen": [[{"role": "assistant", "content": pair[1]}] for pair in said],
        "rejected": [[{"role": "assistant", "content": pair[2]}] for pair in said],
    }
    features = {"images": datasets.Sequence(IMAGE), "prompt": turn, "chosen": turn, "rejected": turn}
    dataset(features, **columns).to_parquet(here / "trl/train.parquet")
    return [(pair, [PICTURES[n]]) for n, pair in enumerate(said)]


# Together


@makes("An export of Shardmill")
def export(here: Path) -> list[Sample]:
    write_pictures(here / "photos", 0, 1, 2, beside="txt")
    (here / "first.toml").write_text(
        f'root = "first"\n[source]\nkind = "folder"\npath = "photos"\n[sets.train]\n{ONE_PROCESS}'
    )
    build(here / "first.toml")
    said = say("export-set", here / "first", "train", here / "exported", "--form", "huggingface")
    assert said.code == 0, said.err
    return captioned(0, 1, 2)


@makes("Several sources at once")
def several_sources(here: Path) -> list[Sample]:
    write_pictures(here / "photos", 0, 1, 2, beside="txt")
    write_shards(here / "shards", 3, 4, 5, 6)
    return captioned(*range(7))


# What comes out


def test_every_input_of_the_page_is_in_its_table_and_is_made_here():
    assert [*table()] == [*sections()] == [*MAKERS]
    assert len(MAKERS) >= 20


def published(root: str, name: str) -> list[Sample]:
    """The samples of a set as plain webdataset reads them, in order of what they say."""
    found = webdataset.WebDataset(say("urls", root, name).out.split(), shardshuffle=False)
    return sorted(map(sample_of, found))


def sample_of(sample: dict) -> Sample:
    images = [sample[part] for part in sorted(sample) if part.rpartition(".")[2] in ("png", "jpg")]
    value = json.loads(sample["json"])
    if "conversation" in value:
        said = tuple(turn["content"] for turn in value["conversation"]["turns"])
    elif "pair" in value:
        said = tuple(value["pair"][name] for name in ("question", "chosen", "rejected"))
    else:
        said = sample["txt"].decode()
    return said, images


def reasons(root: Root, view: str = "samples") -> dict[str | None, int]:
    """The number of entries by the reason for which they were left out."""
    where = "coalesce(part, 0) = 0" if view == "samples" else "true"  # further images of a conversation have rows, too
    found = query(root, f"select reason, count(*) as n from {view} where {where} group by all")
    return {row["reason"]: row["n"] for row in found.to_pylist()}


@pytest.mark.parametrize("heading", MAKERS)
def test_an_input_comes_out_as_the_page_says(heading, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    expected, line = MAKERS[heading](tmp_path), table()[heading]
    exec(code(heading, "python"), {})
    toml = code(heading, "toml")
    assert {*re.findall(r'^kind = "(\w+)"$', toml, re.M)} == {*line.kinds}
    toml = toml.replace("[fetch]\n", '[fetch]\nallow_hosts = ["127.0.0.1"]\n')
    (tmp_path / "my.toml").write_text(f'root = "corpus"\n{toml}{ONE_PROCESS}')
    with patch("pipelines.build.run.write_report"):  # it takes a fifth of the time
        root = build(tmp_path / "my.toml")
    ((name, settings),) = read_config(tmp_path / "my.toml").sets.items()
    assert published(root.url, name) == sorted(expected)
    found = reasons(root)
    left_out = reasons(root, "pairs") if settings.task == "preference" else found
    left_out = {reason: count for reason, count in left_out.items() if reason}
    assert line == Line(line.kinds, sum(found.values()), len(expected), left_out)
    assert verify_root(root).problems == []

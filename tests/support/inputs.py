"""The inputs of docs/inputs.md that have captions, as the packages write them that people use."""

import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.corpora import picture
from support.paths import TESTS

os.environ["HF_HUB_OFFLINE"] = "1"
datasets = pytest.importorskip("datasets")
pandas = pytest.importorskip("pandas")
webdataset = pytest.importorskip("webdataset")
datasets.disable_progress_bars()
PICTURES = [picture(number)[0] for number in range(8)]
CAPTIONS = [f"A square in colour {number}, above some print." for number in range(8)]
IMAGE, TEXT = datasets.Image(), datasets.Value("string")

Sample = tuple[str | tuple[str, ...], list[bytes]]  # the caption, or what is said; the images

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


served = ""  # the URL of a server of /0.png to /2.png, which a test sets


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

"""Exported tables as `datasets` loads them, and the dataset card as the Hub reads it."""

import io
import json
from pathlib import Path

import datasets
import pytest
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard
from PIL import Image
from support.published import caption, image, pair, publish, talk
from support.readers import READERS

from pipelines.engine.root import Root
from pipelines.exports.dataset_card import _size_category
from pipelines.exports.export import export
from pipelines.exports.licences import OF_THE_HUB, hub_licence
from schemas.pictures import open_image, upright

TEXTS = ['A "red" house,\n naïve 日本語 🙂', "| a table | <b>", "0", "plain"]
SAMPLES = {
    "caption": [caption(n, text, image(n), extra={"n": n, "license": "CC-BY-4.0"}) for n, text in enumerate(TEXTS)],
    "ocr": [caption(n, text, image(n), "ocr", alt="A caption.") for n, text in enumerate(TEXTS)],
    "conversation": [
        talk(0, [("user", "<image>\nWhat?"), ("assistant", "That.")], [("<image>", image(0))]),
        talk(1, [("user", "<image_0> or <image_1>?"), ("assistant", "Both.")],
             [("<image_0>", image(1)), ("<image_1>", image(2))]),
        talk(2, [("system", "Be brief."), ("user", "Hello."), ("assistant", "Hi.")], extra=None),
    ],
    "preference": [pair(n, f"What is {n}?", text, f"not {text}", image(n)) for n, text in enumerate(TEXTS)],
}  # fmt: skip
FORMS = [(form, task) for form in ("huggingface", "trl") for task in SAMPLES] + [("rlaif-v", "preference")]


def exported(task: str, form: str, folder: Path, samples: list | None = None, **card) -> Path:
    root = publish(folder / "root", task, samples or SAMPLES[task], each=2, **card)
    export(root, task, form, Root(str(folder / "out")))
    return folder / "out"


def load(folder: Path) -> datasets.Dataset:
    return datasets.load_dataset(str(folder), split="train", cache_dir=str(folder.parent / "cache"))


@pytest.mark.parametrize(("form", "task"), FORMS)
def test_datasets_loads_every_column_and_every_row(tmp_path, form, task):
    folder = exported(task, form, tmp_path)
    loaded = load(folder)
    assert len(loaded) == len(SAMPLES[task])
    assert sorted(path.name for path in (folder / "data").iterdir()) == [
        "train-00000-of-00002.parquet", "train-00001-of-00002.parquet",
    ]  # fmt: skip
    name = "images" if task == "conversation" or form == "trl" else "image"
    kind = loaded.features[name]
    assert (kind.feature if name == "images" else kind) == datasets.Image()
    wanted = [sample.images for sample in SAMPLES[task]]
    for row, pictures in zip(loaded, wanted, strict=True):
        decoded = row[name] if name == "images" else [row[name]]
        assert [picture.size for picture in decoded] == [Image.open(io.BytesIO(data)).size for _, data in pictures]
        json.dumps({column: value for column, value in row.items() if column != name})
    assert (
        loaded.features
        == datasets.Dataset.from_parquet(str(folder / "data/*.parquet"), cache_dir=str(tmp_path)).features
    )


def test_every_value_of_a_caption_is_a_column(tmp_path):
    rows = load(exported("caption", "huggingface", tmp_path)).to_list()
    assert [row["text"] for row in rows] == TEXTS
    assert [json.loads(row["extra"]) for row in rows] == [{"n": n, "license": "CC-BY-4.0"} for n in range(4)]
    assert [row["ocr"] for row in rows] == [[{"text": text, "confidence": 0.9, "box": [0.0] * 8}] for text in TEXTS]
    assert [
        row["image"]["bytes"] for row in load(tmp_path / "out").cast_column("image", datasets.Image(decode=False))
    ] == [image(n) for n in range(4)]
    assert {row["more"] for row in rows} == {None}


def test_what_the_shard_says_beside_is_kept_as_json(tmp_path):
    samples = [caption(0, "One.", stages={"safe": {"score": 0.5}}), caption(1, "Two.", picture={"is": [1, 2]})]
    rows = load(exported("caption", "huggingface", tmp_path, samples)).to_list()
    assert [json.loads(row["more"]) for row in rows] == [
        {"stages": {"safe": {"score": 0.5}}},
        {"picture": {"is": [1, 2]}},
    ]


@pytest.mark.parametrize("task", SAMPLES)
def test_a_set_with_stable_json_is_exported_as_any_other(tmp_path, task):
    for name, stable_json in (("a", False), ("b", True)):
        (tmp_path / name).mkdir()
        exported(task, "huggingface", tmp_path / name, stable_json=stable_json)
    one, other = (load(tmp_path / name / "out") for name in "ab")
    assert one.features == other.features
    pictures = [name for name in ("image", "images") if name in one.column_names]
    for rows in zip(one.remove_columns(pictures), other.remove_columns(pictures), strict=True):
        assert rows[0] == {
            name: value or rows[0][name] for name, value in rows[1].items()
        }  # "" and 0 are missing values


def test_ocr_has_its_text_and_the_caption(tmp_path):
    rows = load(exported("ocr", "huggingface", tmp_path)).to_list()
    assert [(row["text"], row["caption"]) for row in rows] == [(text, "A caption.") for text in TEXTS]


# The card


def card_of(folder: Path) -> DatasetCard:
    return DatasetCard((folder / "README.md").read_text("utf-8"))


@pytest.mark.parametrize(("form", "task"), FORMS)
def test_the_card_is_what_the_hub_reads(tmp_path, form, task):
    folder = exported(task, form, tmp_path)
    card, loaded = card_of(folder).data, load(folder)
    info = DatasetInfosDict.from_dataset_card_data(card)["default"]
    assert info.features == loaded.features
    assert info.splits["train"].num_examples == len(loaded)
    assert info.download_size == sum(path.stat().st_size for path in (folder / "data").iterdir())
    (config,) = MetadataConfigs.from_dataset_card_data(card).values()
    assert config["data_files"] == [{"split": "train", "path": "data/train-*"}]
    assert card.size_categories == ["n<1K"]
    assert set(card.license) <= OF_THE_HUB | {"other", "unknown"}


@pytest.mark.parametrize("form", ["llava", "minicpm-v", "trl", "huggingface"])
def test_the_card_says_where_the_samples_are_from(tmp_path, form):
    samples = [
        *(caption(n, f"Picture {n}.", extra={"License": "CC BY 4.0"}) for n in range(3)),
        caption(3, "Mine.", extra={"licence": "ask | me <b>"}), caption(4, "Nobody's."),
    ]  # fmt: skip
    settings = {"where": "width > 10\nAND text <> 'a|b'", "weight": 0.5}
    folder = exported("caption", form, tmp_path, samples, selected=settings)
    card = card_of(folder)
    release = json.loads((folder / ".export.json").read_text())["release"]
    assert card.data.license == ["cc-by-4.0", "other", "unknown"]
    for line in (
        "5 samples with 5 pictures", f"`caption@{release}`", "| CC BY 4.0 | 3 |", "| ask \\| me &lt;b> | 1 |",
        "| not stated | 1 |", "| `a/first.parquet` |", "| where | `width > 10 AND text <> 'a\\|b'` |", 
        "| weight | `0.5` |",
    ):  # fmt: skip
        assert line in card.text
    assert ("Describe the image." in card.text) == (form != "huggingface")
    assert str(tmp_path) not in card.content
    assert ("| `image` | `image` |" in card.text) == (form == "huggingface")


def test_pairs_name_the_condition_of_their_set(tmp_path):
    settings = {"set": "preference", "task": "preference", "where": "margin = 2", "weight": 1.0, "seed": 3}
    text = card_of(exported("preference", "rlaif-v", tmp_path, settings=settings)).text
    assert "| where | `margin = 2` |" in text
    assert "| seed | `3` |" in text


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        (None, "unknown"), ("CC BY-SA 4.0", "cc-by-sa-4.0"), ("MIT", "mit"), ("CC0", "cc0-1.0"),
        ("Apache 2.0", "apache-2.0"),
        ("https://creativecommons.org/licenses/by-nc/2.0/", "cc-by-nc-2.0"), ("cc_by_4.0", "cc-by-4.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0"), ("all rights reserved", "other"),
        ("https://creativecommons.org/licenses/by-sa/1.0/", "other"),
    ],
)  # fmt: skip
def test_licences_get_the_names_of_the_hub(stated, name):
    assert hub_licence(stated) == name


def test_sizes_get_the_categories_of_the_hub():
    sizes = {
        999: "n<1K",
        1000: "1K<n<10K",
        9999: "1K<n<10K",
        10**6: "1M<n<10M",
        10**12 - 1: "100B<n<1T",
        10**12: "n>1T",
    }
    assert {size: _size_category(size) for size in sizes} == sizes


# Pictures


def picture(orientation: int, format: str = "JPEG", xmp: bool = False) -> tuple[bytes, Image.Image]:
    """A picture with a tag that turns it, and how it is seen."""
    image, file = Image.new("RGB", (48, 32), "white"), io.BytesIO()
    image.paste("red", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[274] = orientation
    tag = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="%d"/>' % orientation
    image.save(
        file, format, **({"xmp": tag} if xmp else {"exif": exif}), **({"quality": 95} if format != "PNG" else {})
    )
    return file.getvalue(), upright(open_image(file.getvalue()))


@pytest.mark.parametrize("form", ["huggingface", "trl", "rlaif-v", "llava", "minicpm-v"])
def test_pictures_are_upright_for_readers_that_do_not_know_exif(tmp_path, form):
    tagged = [picture(6), picture(8, "PNG"), picture(3, "WEBP"), picture(2, "AVIF"), picture(7, xmp=True), picture(5)]
    plain = [picture(1), picture(6, "TIFF")]  # decoders turn a TIFF
    pictures = [*tagged, *plain]
    samples = [pair(n, f"{n}?", "a", "b", data) for n, (data, _) in enumerate(pictures)]
    folder = exported("preference", form, tmp_path, samples)
    for number, (read, (data, wanted)) in enumerate(zip(READERS[form](folder), pictures, strict=True)):
        (got,) = read.images
        seen = Image.open(io.BytesIO(got))
        seen.load()
        assert seen.getexif().get(274, 1) == 1
        assert seen.size == wanted.size
        difference = max(abs(a - b) for a, b in zip(seen.convert("RGB").tobytes(), wanted.tobytes(), strict=True))
        assert difference <= 40  # of a lossy format
        assert (got == data) == (number >= len(tagged))
    assert "| pictures turned upright as their EXIF says, and encoded again | 6 |" in (folder / "README.md").read_text()
    if form == "huggingface":
        assert load(folder)["turned"] == [6, 8, 3, 2, 7, 5, None, None]
    if form == "llava":
        entries = json.loads((folder / "conversations.json").read_text())
        assert [entry.get("turned") for entry in entries[5:7]] == [{entries[5]["image"]: 5}, None]


def test_a_picture_that_no_decoder_reads_any_more_stays_as_it_is(tmp_path):
    cut = picture(6)[0][:200]
    folder = exported("preference", "llava", tmp_path, [pair(0, "What?", "a", "b", cut)])
    (file,) = (path for path in folder.rglob("images/*/*"))
    assert file.read_bytes() == cut

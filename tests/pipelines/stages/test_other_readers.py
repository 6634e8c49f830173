"""Shards that everybody reads: webdataset, datasets, wids and Megatron-Energon, the real packages."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import webdataset
from PIL import Image
from support.corpora import build, picture, say

from pipelines.engine.root import Root
from schemas.shards import document_of

SETS = """
[source]
kind = "webdataset"
path = "source"
[duplicates]
near = -1
[sets.plain]
samples_per_shard = 20
[sets.train]
format = "jpg"
stable_json = true
samples_per_shard = 20
"""
COUNT = 60


def said(number: int) -> dict:
    """What the source says of a picture: columns that change their type, are missing, null, or empty."""
    if number % 6:
        return {"n": number, "tags": [], "who": None, "url": f"https://a.example/{number}"}
    return {"n": f"no. {number}", "tags": [{"name": "a"}, "b"], "who": {"first": "é"}, "more": 1.5}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Root:
    """Sixty pictures of three formats, with JSON whose columns differ from row to row."""
    folder = tmp_path_factory.mktemp("readers")
    (folder / "source").mkdir()
    with tarfile.open(folder / "source/0.tar", "w") as tar:
        for number in range(COUNT):
            image, buffer = Image.open(io.BytesIO(picture(number)[0])), io.BytesIO()
            format = ("JPEG", "PNG", "WEBP")[number % 7 % 3]
            image.save(buffer, format)
            texts = {"txt": f"picture {number}".encode(), "json": json.dumps(said(number)).encode()}
            for ext, data in {format.lower(): buffer.getvalue(), **texts}.items():
                info = tarfile.TarInfo(f"{number:06d}.{ext}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    (folder / "my.toml").write_text(f'root = "corpus"\n{SETS}')
    return build(folder / "my.toml")


@pytest.fixture
def urls(corpus) -> list[str]:
    return say("urls", corpus.url, "train").out.split()


def texts(samples) -> list[str]:
    return sorted(samples, key=lambda text: int(text.split()[1]))


EVERY = [f"picture {number}" for number in range(COUNT)]


@pytest.mark.slow
def test_plain_webdataset_takes_tuples_of_jpg_and_txt(urls):
    pairs = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("jpg", "txt"))
    assert texts(text for _, text in pairs) == EVERY
    assert {(image.mode, image.size) for image, _ in pairs} == {("RGB", (224, 224))}


@pytest.mark.slow
def test_datasets_loads_a_set_with_stable_json(urls, tmp_path):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("webdataset", data_files={"train": urls}, split="train", cache_dir=str(tmp_path))
    assert texts(loaded["txt"]) == EVERY
    assert isinstance(loaded.features["jpg"], datasets.Image) and loaded[0]["jpg"].size == (224, 224)
    for row in loaded:
        document = document_of(json.dumps(row["json"]))
        number = int(row["txt"].split()[1])
        assert document["extra"] == said(number)
        assert document["url"] == said(number).get("url", "")
        assert document["pictures"][0]["original"]["format"] in ("JPEG", "PNG", "WEBP")
    streamed = datasets.load_dataset("webdataset", data_files={"train": urls}, split="train", streaming=True)
    assert texts(row["txt"] for row in streamed) == EVERY


def test_datasets_cannot_load_every_set_without(corpus, tmp_path):
    """Why `stable_json` and `format` exist; if this passes, they are no longer needed for it."""
    datasets = pytest.importorskip("datasets")
    plain = say("urls", corpus.url, "plain").out.split()
    with pytest.raises(Exception, match=r"same types|generating the dataset|schema|cast|Couldn't"):
        datasets.load_dataset("webdataset", data_files={"train": plain}, split="train", cache_dir=str(tmp_path))


def test_wids_reads_samples_by_number(corpus, tmp_path, monkeypatch):
    wids = pytest.importorskip("wids", reason="wids is not installed: pip install wids")
    index = tmp_path / "train.json"
    index.write_text(say("urls", corpus.url, "train", "--wids").out)
    monkeypatch.chdir(tmp_path)
    dataset = wids.ShardListDataset(str(index), cache_dir=str(tmp_path / "cache"), keep=True)
    assert len(dataset) == COUNT
    assert texts(dataset[number][".txt"] for number in range(COUNT)) == EVERY
    assert dataset[7][".jpg"].size == (224, 224)


LOAD = """
import sys
from megatron.energon import WorkerConfig, get_loader, get_train_dataset

config = WorkerConfig(rank=0, world_size=1, num_workers=0)
dataset = get_train_dataset(
    sys.argv[1], batch_size=1, shuffle_buffer_size=None, max_samples_per_sequence=None, worker_config=config,
    repeat=False,
)
for sample in get_loader(dataset):
    print(sample.caption[0], *sample.image.shape)
"""


def test_energon_prepares_and_loads_a_folder_of_links_to_the_tars(urls, tmp_path):
    """SHARDMILL_ENERGON names a Python that has megatron-energon, which brings 30 packages of its own."""
    python = os.environ.get("SHARDMILL_ENERGON", sys.executable)
    if subprocess.run([python, "-c", "import megatron.energon"], capture_output=True).returncode:
        pytest.skip("megatron-energon is not installed here; SHARDMILL_ENERGON may name a Python that has it")
    for url in urls:
        (tmp_path / Path(url).name).symlink_to(url)
    program = shutil.which("energon", path=str(Path(python).parent))
    fields = json.dumps({"image": "jpg", "caption": "txt"})
    command = [program, "prepare", "--non-interactive", "--split-ratio", "1,0,0", "--sample-type", "CaptioningSample"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*command, "--field-map", fields, tmp_path], check=True, capture_output=True, env=env)
    loaded = subprocess.run([python, "-c", LOAD, tmp_path], check=True, capture_output=True, text=True, env=env)
    lines = loaded.stdout.splitlines()
    assert texts(line.rsplit(" ", 4)[0] for line in lines) == EVERY
    assert {line.split(" ", 2)[2] for line in lines} == {"1 3 224 224"}

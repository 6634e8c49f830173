"""Real pictures through the whole flow into shards, which plain webdataset reads. Skipped where they are not."""

import io
import json
import tarfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image
from support.corpora import ONE_PROCESS, build, say, shardmill

from pipelines.catalog.catalog import query
from pipelines.engine.commit import key_of
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from pipelines.stages.ocr import in_reading_order


def configure(folder: Path, kind: str, source: Path, rest: str) -> Path:
    path = folder / "my.toml"
    path.write_text(f'root = "corpus"\n[source]\nkind = "{kind}"\npath = "{source}"\n{rest}\n{ONE_PROCESS}')
    return path


def samples_of(root: Root, name: str) -> dict[str, dict]:
    """What plain webdataset reads, by the sample's key."""
    urls = say("urls", root.url, name).out.split()
    return {sample["__key__"]: sample for sample in webdataset.WebDataset(urls, shardshuffle=False)}


def source_of(tar: Path) -> dict[str, dict[str, bytes]]:
    """The members of a tar of img2dataset's, by stem and suffix."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(tar) as members:
        for member in members:
            stem, _, ext = member.name.partition(".")
            found.setdefault(stem, {})[ext] = members.extractfile(member).read()
    return found


def squeezed(text: str) -> str:
    """A text without whitespace and case."""
    return "".join(text.split()).casefold()


SETS = "[sets.train]\nsamples_per_shard = 10\n[sets.large]\nwhere = \"width >= 512 and text like '%the%'\""


def check_cc12m(root: Root, tar: Path) -> None:
    """The corpus of CC12M's first samples against the tar that they came in."""
    source = source_of(tar)
    assert len(source) == 32
    samples = samples_of(root, "train")
    assert samples.keys() == {f"{key_of(tar.name, stem)}-caption" for stem in source}
    for stem, members in source.items():
        sample = samples[f"{key_of(tar.name, stem)}-caption"]
        assert sample["jpg"] == members["jpg"] and sample["txt"] == members["txt"]
        document = json.loads(sample["json"])
        assert document["sha256"] == sha256(members["jpg"]).hexdigest()
        assert document["extra"] == json.loads(members["json"])
        with Image.open(io.BytesIO(members["jpg"])) as image:
            assert (document["width"], document["height"]) == image.size
    rows = query(root, "select key, width, height, format, reason from images").to_pylist()
    assert len(rows) == 32 and {(row["format"], row["reason"]) for row in rows} == {("JPEG", None)}
    assert {name for name in samples_of(root, "large")} == {
        f"{row['key']}-caption"
        for row in query(root, "select key from samples where width >= 512 and text like '%the%'").to_pylist()
    }
    assert (verify_root(root).problems, verify_root(root).garbage) == ([], [])


def test_cc12m_comes_out_as_it_went_in(shared, tmp_path):
    config = configure(tmp_path, "webdataset", shared / "cc12m", SETS)
    root = build(config)
    check_cc12m(root, shared / "cc12m/cc12m-train-0000.tar")
    urls = say("urls", root.url, "train").out.split()
    decoded = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8").to_tuple("jpg", "txt", "json"))
    assert len(decoded) == 32 and len(urls) == 4
    for pixels, text, document in decoded:
        assert pixels.dtype == np.uint8 and pixels.shape == (document["height"], document["width"], 3)
        assert text == document["text"] and text.strip()


@pytest.mark.slow
@pytest.mark.far
def test_cc12m_is_read_by_the_command_in_processes(shared, tmp_path):
    config = configure(tmp_path, "webdataset", shared / "cc12m/*.tar", "[ocr]\n" + SETS)
    config.write_text(config.read_text().split("[beam]")[0])  # as it is by default: a process a core
    done = shardmill("run", config)
    assert (done.returncode, done.stderr) == (0, "")
    root = Root(str(tmp_path / "corpus"))
    check_cc12m(root, shared / "cc12m/cc12m-train-0000.tar")
    assert query(root, "select count(*) as n from ocr where reason is null").to_pylist() == [{"n": 32}]


def test_every_string_that_must_be_read_is_read(shared, tmp_path):
    must_read = json.loads((shared / "ocr/must_read.json").read_text())
    config = configure(tmp_path, "folder", shared / "ocr", '[ocr]\n[sets.read]\ntask = "ocr"')
    root = build(config)
    read = {row["file"]: row["text"] for row in query(
        root, "select file, o.text from rows join ocr o using (key)"
    ).to_pylist()}  # fmt: skip
    assert read.keys() == must_read.keys()
    for name, strings in must_read.items():
        for string in strings:
            assert squeezed(string) in squeezed(read[name]), f"{name}: {string!r} was not read"
    samples = samples_of(root, "read")
    assert samples.keys() == {f"{key_of(name)}-ocr" for name in must_read}
    for name in must_read:
        sample = samples[f"{key_of(name)}-ocr"]
        assert sample["png" if name.endswith("png") else "jpg"] == (shared / "ocr" / name).read_bytes()
        assert sample["txt"].decode() == read[name]
        lines = json.loads(sample["json"])["ocr"]
        assert "\n".join(line["text"] for line in lines) == read[name]
        assert all(0.5 <= line["confidence"] <= 1 and len(line["box"]) == 8 for line in lines)
        assert in_reading_order(lines[::-1]) == lines
    assert verify_root(root).problems == []

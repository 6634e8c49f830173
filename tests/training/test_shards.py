"""A published release read by index, as the trainer does: what is on disk is all that it knows."""

import json
import os
import shutil
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from threading import Thread

import fsspec
import pytest
import webdataset
from support.corpora import write_tar

from pipelines.build.run import run
from pipelines.engine.root import Corrupt, Root
from schemas.errors import UserError
from schemas.shards import Damaged
from training.shards import Shards

TOML = """
root = "corpus"
[source]
kind = "webdataset"
path = "source"
[sets.train]
samples_per_shard = 4
[sets.some]
where = "extra.n < 3"
[beam]
options = ["--direct_running_mode=in_memory", "--direct_num_workers=1"]
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A corpus of two shard sets."""
    folder = tmp_path_factory.mktemp("published")
    write_tar(folder / "source/0.tar", range(11))
    (folder / "my.toml").write_text(TOML)
    run(folder / "my.toml")
    return folder / "corpus"


@pytest.fixture
def root(published, tmp_path) -> Path:
    """That corpus, to be damaged."""
    return shutil.copytree(published, tmp_path / "corpus")


def plain(root: Path, name: str) -> list[dict]:
    """The samples of a set as plain webdataset reads them."""
    tars = [str(root / "shards" / entry["tar"]) for entry in Shards(root, name).card["shards"]]
    read = webdataset.WebDataset(tars, shardshuffle=False)
    return [{n: v for n, v in sample.items() if n not in ("__url__", "__local_path__")} for sample in read]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("train", 11), ("some", 3)])
@pytest.mark.parametrize("check", [True, False])
def test_samples_are_those_that_plain_webdataset_reads(published, name, count, check):
    samples = Shards(published, name, check)
    assert list(samples) == plain(published, name)
    assert len(samples) == count == len({sample["__key__"] for sample in samples})
    assert samples[0].keys() == {"__key__", "png", "json", "txt"}


@pytest.mark.slow
def test_any_sample_can_be_asked_for(published):
    samples, expected = Shards(published, "train"), plain(published, "train")
    assert len(samples.shards) > 1
    assert [samples[number] for number in (7, 0, 10, 3, 7, -1)] == [expected[n] for n in (7, 0, 10, 3, 7, 10)]
    with pytest.raises(IndexError):
        samples[11]


def test_a_root_elsewhere_reads_the_same(published):
    elsewhere = fsspec.filesystem("memory")
    elsewhere.put(str(published / "shards"), "/published/shards", recursive=True)
    try:
        assert list(Shards("memory://published", "train")) == list(Shards(published, "train"))
    finally:
        elsewhere.rm("/published", recursive=True)


class Ranges(SimpleHTTPRequestHandler):
    """Files over HTTP as an object store gives them, a range of bytes too."""

    def send_head(self):
        file = super().send_head() if not self.headers.get("Range") else open(self.translate_path(self.path), "rb")
        if file and (asked := self.headers.get("Range")):
            first, last = map(int, asked.removeprefix("bytes=").split("-"))
            with file:
                data = file.read()[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            return BytesIO(data)
        return file

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path, handler: type[Ranges] = Ranges):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_forked_worker_reads_from_an_object_store(published):
    """As the loader's workers do: what its parent has opened is of no use to it."""
    with served(published) as url:
        shards = Shards(url, "train")
        here = shards[7]
        worker = get_context("fork").Process(target=lambda: os._exit(shards[7] != here), daemon=True)
        worker.start()
        worker.join(30)
        assert worker.exitcode == 0
        assert here == Shards(published, "train")[7]


class WithoutEnd(Ranges):
    """Cards that never end, whatever was asked for, and whatever their size is said to be."""

    def do_GET(self):
        self.send_response(206 if self.headers.get("Range") else 200)
        self.send_header("Content-Length", str(1 << 40))
        self.end_headers()
        with suppress(OSError):
            while True:
                self.wfile.write(bytes(1 << 16))


@pytest.mark.parametrize("name", ["train.json", "train@0123.json"])
def test_a_card_without_end_is_read_up_to_the_limit(name, published, monkeypatch):
    monkeypatch.setattr("training.shards.MOST", 1 << 20)
    with served(published, WithoutEnd) as url:
        with pytest.raises(UserError, match=r"\.json: is damaged: has more than 1,048,576 bytes"):
            Shards(url, name.removesuffix(".json"))
        with pytest.raises(Corrupt, match=rf"shards/{name}: has more than 1,000 bytes"):
            Root(url).read(f"shards/{name}", 1_000)


def test_a_release_is_read_by_its_name_when_the_set_has_moved_on(root):
    release, before = Shards(root, "train").card["release"], list(Shards(root, "train"))
    shutil.copy(root / "shards/some.json", root / "shards/train.json")
    assert list(Shards(root, f"train@{release}")) == before
    assert len(Shards(root, "train")) == 3


@pytest.mark.parametrize("ext", ["png", "json", "txt"])
def test_a_flipped_byte_is_named_with_its_shard_and_sample(root, ext):
    samples, expected = Shards(root, "train"), plain(root, "train")
    shard, index = samples.shards[1], samples.shards[1].index
    (member,) = (m for m in index[3][0].as_py() if m["ext"] == ext)
    flip(Path(shard.tar), member["byte_offset"] + member["size"] - 1)
    number, name = samples.ends[0], index[0][0].as_py()
    with pytest.raises(Damaged, match=rf"{Path(shard.tar).name}: {ext} of {name} "):
        samples[number]
    assert [s for n, s in enumerate(expected) if n != number] == [samples[n] for n in range(11) if n != number]
    assert Shards(root, "train", check=False)[number][ext] != expected[number][ext]


def test_a_shard_read_from_end_to_end_goes_on_behind_a_damaged_sample(root):
    samples, expected = Shards(root, "train"), plain(root, "train")
    shard = samples.shards[0]
    assert list(shard.each()) == expected[: len(shard)]
    flip(Path(shard.tar), shard.index[3][1][0]["byte_offset"].as_py())
    first, second, *rest = shard.each()
    assert [first, *rest] == [expected[0], *expected[2 : len(shard)]]
    assert isinstance(second, Damaged) and f"png of {expected[1]['__key__']} is not" in str(second)


def test_a_cut_tar_is_named_even_when_digests_are_not_checked(root):
    samples = Shards(root, "train", check=False)
    shard = samples.shards[-1]
    with open(shard.tar, "r+b") as file:
        file.truncate(shard.index[1][-1].as_py() + 1000)
    with pytest.raises(Damaged, match=rf"{Path(shard.tar).name}: .* of {shard.index[0][-1].as_py()} "):
        samples[-1]


def test_an_index_that_was_not_published_is_refused(root):
    first, second = (entry["index"] for entry in Shards(root, "train").card["shards"][:2])
    shutil.copy(root / "shards" / first, root / "shards" / second)
    with pytest.raises(Damaged, match=f"{second}: is not the index"):
        list(Shards(root, "train"))


def test_a_missing_card_says_which_sets_are_there(published, tmp_path):
    release = json.loads((published / "shards/train.json").read_text())["release"]
    with pytest.raises(FileNotFoundError, match=f"unknown shard set 'test'; published: .*train, train@{release}"):
        Shards(published, "test")
    with pytest.raises(FileNotFoundError, match="no shard set is published here"):
        Shards(tmp_path / "nowhere", "train")

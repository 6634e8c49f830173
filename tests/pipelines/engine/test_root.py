"""A root is the same on a disk, in memory and in an object store, and nobody ever sees half of a file."""

import json
import os
import sys
import threading
import time
import tracemalloc
import uuid
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch

import fsspec
import pytest
import s3fs
from support.corpora import ONE_PROCESS, build, data_files, say, shardmill, write_tar
from support.object_store import object_store

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.engine import lease
from pipelines.engine.commit import Commit
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.lock import LOCK, Busy, hold
from pipelines.engine.root import Corrupt, Root, open_url
from pipelines.maintain.clean import clean_root
from pipelines.maintain.urls import piped_urls
from pipelines.maintain.verify import verify_root
from schemas.errors import UserError


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """The environment in which every process finds a server that speaks S3."""
    with object_store() as store:
        yield store.env


@pytest.fixture(params=["local", "memory", "s3"])
def root(request, tmp_path) -> Root:
    """An empty root of each kind."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    name = uuid.uuid4().hex
    urls = {"local": f"{tmp_path}/{name}", "memory": f"memory://{name}", "s3": f"s3://bucket/{name}"}
    root = Root(urls[request.param])
    root.create()
    return root


# Files


def test_files_are_written_listed_read_and_removed(root):
    assert root.files("rows") == {} and root.folders("") == [] and not root.exists("rows/a")
    root.write("rows/b", b"12345")
    root.write("rows/a", b"")
    root.write("rows/deep/c", b"c")
    root.write("top", b"t")
    assert {name: entry.size for name, entry in root.files("rows").items()} == {"a": 0, "b": 5}
    assert list(root.files("")) == ["top"] and root.folders("") == ["rows"] and root.folders("rows") == ["deep"]
    assert (root.read("rows/b"), root.read("rows/a"), root.exists("rows/b")) == (b"12345", b"", True)
    assert -5 < root.age("top") < 60
    root.remove("rows/b")
    root.remove("rows/b")
    assert list(root.files("rows")) == ["a"]
    with pytest.raises(FileNotFoundError):
        root.read("rows/b")


def test_a_range_is_read_whole_or_not_at_all(root):
    root.write("a/b", b"0123456789")
    assert (root.read_range("a/b", 0, 10), root.read_range("a/b", 3, 2), root.read_range("a/b", 9, 1)) == (
        b"0123456789", b"34", b"9",
    )  # fmt: skip
    for offset, size in ((5, 6), (9, 2)):
        with pytest.raises(EOFError):
            root.read_range("a/b", offset, size)
    with pytest.raises(FileNotFoundError):
        root.read_range("a/c", 0, 1)


def test_a_file_is_read_up_to_a_bound(root):
    root.write("a", b"0123456789")
    assert root.read("a", 10) == root.read("a") == b"0123456789"
    for most in (9, 1, 0):
        with pytest.raises(Corrupt, match=f"a: has more than {most} bytes"):
            root.read("a", most)
    root.write("large", bytes(8 << 20))
    tracemalloc.start()
    with pytest.raises(Corrupt, match="large: has more than 10 bytes"):
        root.read("large", 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20 or root.url.startswith("s3://")  # whose server is a thread of this process


def test_a_stamp_changes_with_the_file_and_only_then(root):
    root.write("rows/a", b"old!")
    root.write("rows/b", b"same")
    before = root.files("rows")
    time.sleep(0.01)
    root.write("rows/a", b"new!")
    after = root.files("rows")
    assert after["a"].stamp != before["a"].stamp and after["b"] == before["b"]


def test_temporary_files_are_put_in_place_and_hidden_until_then(root):
    temporary = root.temporary("images")
    temporary.write_bytes(b"a tar")
    assert root.files("images") == {}
    root.put(temporary, "images/0.tar")
    assert root.read("images/0.tar") == b"a tar" and not temporary.exists()


def test_a_reader_never_sees_half_of_a_file(root):
    """Two contents of unlike lengths are written in turn; whatever is read is one of them, whole."""
    contents = [b"a" * 300_000, b"b" * 700_000]
    root.write("f", contents[0])
    ended, seen, errors = threading.Event(), set(), []

    def read():
        while not ended.is_set():
            data = Root(root.url).read("f")
            seen.add(data[:1])
            if data not in contents:
                errors.append((data[:1], data[-1:], len(data)))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        number, end = 0, time.monotonic() + 120  # a reader may long get no turn on a busy machine
        while number < 40 or (len(seen) < 2 and time.monotonic() < end):
            root.write("f", contents[number % 2])
            number += 1
    finally:
        ended.set()
        for reader in readers:
            reader.join()
    assert errors == [] and seen == {b"a", b"b"}


def test_what_another_process_writes_is_seen_at_once(s3):
    """A listing must not be remembered: workers write beside the process that looks."""
    root, other = Root(f"s3://bucket/{uuid.uuid4().hex}"), s3fs.S3FileSystem(skip_instance_cache=True)
    root.write("rows/a", b"short")
    assert list(root.files("rows")) == ["a"]
    other.pipe_file(root.path("rows/a"), b"rather longer")
    other.pipe_file(root.path("rows/b"), b"new")
    assert root.exists("rows/b")
    with root.fs.open(root.path("rows/a")) as file:
        assert file.read() == b"rather longer"


# The whole flow

TOML = f"""
[source]
kind = "webdataset"
path = "source"
[sets.train]
samples_per_shard = 4
{ONE_PROCESS}"""


def files_of(root: Root) -> dict[str, str]:
    """The SHA-256 of every data file, as `data_files` gives it for a local folder."""
    if root.is_local:
        return data_files(Path(root.url))
    names = (name[len(root.path("")) :] for name in root.fs.find(root.path("")))
    other = ("_commits.parquet", LOCK, "catalog.duckdb", "report.html")
    return {
        name: sha256(root.read(name)).hexdigest()
        for name in names
        if not name.startswith("runs/") and name.rsplit("/")[-1] not in other
    }


@pytest.mark.slow
@pytest.mark.parametrize("root", ["memory", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_every_kind_of_root_holds_the_same_bytes(root, tmp_path):
    for number in range(2):
        write_tar(tmp_path / f"source/{number}.tar", range(5 * number, 5 * number + 5))
    (tmp_path / "my.toml").write_text(f'root = "{root.url}"{TOML}')
    (tmp_path / "plain.toml").write_text(f'root = "plain"{TOML}')
    assert build(tmp_path / "my.toml") == root
    plain = build(tmp_path / "plain.toml")
    assert files_of(root) == data_files(Path(plain.url))
    found = verify_root(root)
    assert (found.problems, found.garbage, found.rows, found.samples) == ([], [], 10, 10)
    assert query(root, "from accounting").to_pylist() == query(plain, "from accounting").to_pylist()
    assert query(root, "select count(*) as n from shards").to_pylist() == [{"n": 10}]
    for stage in ("rows", "images", "selection"):
        assert read_commits(root, stage) == read_commits(plain, stage)
    assert plan(open_corpus(tmp_path / "my.toml")).work() == 0

    write_tar(tmp_path / "source/1.tar", [5, 6])  # three images fewer
    for config in ("my.toml", "plain.toml"):
        build(tmp_path / config)
    assert files_of(root) == data_files(Path(plain.url))
    assert verify_root(root).problems == []
    removed, _ = clean_root(root, 0, keep=1)
    assert removed and files_of(root).keys() < data_files(Path(plain.url)).keys()
    assert verify_root(root).problems == [] and verify_root(root).garbage == []


@pytest.mark.slow
def test_commands_take_a_url(s3, tmp_path):
    write_tar(tmp_path / "source/0.tar", range(3))
    url = f"s3://bucket/{uuid.uuid4().hex}"
    (tmp_path / "my.toml").write_text(f'root = "{url}"{TOML}')
    (tmp_path / "plain.toml").write_text(f'root = "plain"{TOML}')
    root = build(tmp_path / "my.toml")
    assert files_of(root) == data_files(Path(build(tmp_path / "plain.toml").url))
    assert say("sql", url, "select count(*) as n from samples", "--csv").out == '"n"\n3\n'
    assert say("stats", url).code == 0
    assert say("verify", url).out.endswith("3 samples: all is well\n")
    (tar,) = say("urls", url, "train", "--plain").out.split()
    assert tar.startswith(f"{url}/shards/train-000000-")
    (entry,) = json.loads(root.read("shards/train.json"))["shards"]
    with fsspec.open(tar) as file:
        assert sha256(file.read()).hexdigest() == entry["sha256"]
    root.remove(f"shards/{tar.rsplit('/')[-1]}")
    said = say("verify", url)
    assert said.code == 1 and "is gone" in said.out


CAT = "import sys, fsspec; sys.stdout.buffer.write(fsspec.open(sys.argv[1]).open().read())"


@pytest.mark.slow
def test_webdataset_opens_what_urls_prints_of_an_object_store(s3, tmp_path, monkeypatch):
    import webdataset

    write_tar(tmp_path / "source/0.tar", range(3))
    url = f"s3://bucket/it's {{a}} $HOME {uuid.uuid4().hex}"
    (tmp_path / "my.toml").write_text(f'root = "{url}"{TOML}')
    build(tmp_path / "my.toml")
    program = tmp_path / "aws"  # as the real one: `aws s3 cp s3://… -`
    program.write_text(f"#!{sys.executable}\nimport sys; sys.argv[1:] = sys.argv[3:4]\n{CAT}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    own = f"{sys.executable} -c '{CAT}' {{url}}"
    for options in ([], ["--pipe", own], ["--presigned", "60"]):
        (tar,) = say("urls", url, "train", *options).out.splitlines()
        assert tar.startswith("http://127.0.0.1" if "--presigned" in options else "pipe:")
        samples = webdataset.WebDataset([tar], shardshuffle=False)
        assert sorted(sample["txt"] for sample in samples) == [b"picture 0", b"picture 1", b"picture 2"]
    (index,) = json.loads(say("urls", url, "train", "--wids").out)["shardlist"]
    assert index["url"].startswith(f"{url}/shards/train-000000-") and index["nsamples"] == 3


def test_urls_of_a_local_root_are_paths_unless_a_command_is_named(tmp_path):
    write_tar(tmp_path / "source/0.tar", range(3))
    (tmp_path / "my.toml").write_text(f'root = "it\'s"{TOML}')
    root = build(tmp_path / "my.toml")
    (tar,) = say("urls", root.url, "train").out.splitlines()
    assert tar == say("urls", root.url, "train", "--plain").out.strip() and Path(tar).exists()
    (piped,) = say("urls", root.url, "train", "--pipe", "cat {url}").out.splitlines()
    assert piped.startswith("pipe:cat '") and "it'\"'\"'s" in piped
    for options, message in (
        (["--pipe", "cat"], "--pipe: write the command with {url}"),
        (["--presigned", "60"], "--presigned: needs a root at s3:// or gs://"),
        (["--plain", "--presigned", "60"], "choose one of --pipe, --presigned and --plain"),
    ):
        said = say("urls", root.url, "train", *options)
        assert said.code == 2 and message in said.err and said.err.count("\n") == 1


def test_google_storage_is_piped_by_its_own_command(tmp_path):
    root, card = Root("gs://bucket/a b"), {"shards": [{"tar": "train-000000-0.tar"}]}
    with patch.object(Root, "url_of", lambda self, name: f"{self.url}/{name}"):
        assert piped_urls(root, card) == ["pipe:gcloud storage cat 'gs://bucket/a b/shards/train-000000-0.tar'"]


def test_a_bucket_that_is_not_there_is_one_line(s3, tmp_path):
    write_tar(tmp_path / "source/0.tar", range(1))
    (tmp_path / "my.toml").write_text(f'root = "s3://none/corpus"{TOML}')
    with pytest.raises(UserError, match=r"^s3://none/corpus: cannot be written: The specified bucket does not exist$"):
        build(tmp_path / "my.toml")
    assert "no corpus found here" in say("stats", "s3://none/corpus").err


def test_an_object_store_without_its_package_names_the_extra():
    no_gcsfs = patch.dict("sys.modules", {"gcsfs": None})
    said = r"^root: gs://bucket/corpus: gcsfs is not installed; run: .*\[gs\]"
    with no_gcsfs, patch.dict("fsspec.registry._registry", clear=True), pytest.raises(UserError, match=said):
        open_url("gs://bucket/corpus", "root")
    with pytest.raises(UserError, match=r"^root: gopher://a/b: Protocol not known: gopher$"):
        open_url("gopher://a/b", "root")


@pytest.mark.slow
def test_a_source_may_be_in_an_object_store(s3, tmp_path):
    write_tar(tmp_path / "source/0.tar", range(3))
    (tmp_path / "local.toml").write_text(f'root = "local"{TOML}')
    local = build(tmp_path / "local.toml")
    folder = uuid.uuid4().hex
    s3fs.S3FileSystem().put_file(str(tmp_path / "source/0.tar"), f"bucket/{folder}/0.tar")
    remote = TOML.replace('"source"', f'"s3://bucket/{folder}/*.tar"')
    (tmp_path / "remote.toml").write_text(f'root = "remote"{remote}')
    root = build(tmp_path / "remote.toml")
    same, there = data_files(Path(local.url)), data_files(Path(root.url))
    settled = {"root.json"}  # holds the file's time, or its etag
    assert {name: digest for name, digest in there.items() if name not in settled} == {
        name: digest for name, digest in same.items() if name not in settled
    }


@pytest.mark.slow
def test_beams_workers_and_prefect_take_a_url(s3, tmp_path):
    for number in range(2):
        write_tar(tmp_path / f"source/{number}.tar", range(5 * number, 5 * number + 5))
    url = f"s3://bucket/{uuid.uuid4().hex}"
    processes = TOML.replace("in_memory", "multi_processing").replace("workers=1", "workers=2")
    (tmp_path / "my.toml").write_text(f'root = "{url}"{processes}')
    (tmp_path / "plain.toml").write_text(f'root = "plain"{TOML}')
    done = shardmill("run", "my.toml", cwd=tmp_path, **s3)
    assert (done.returncode, done.stderr) == (0, "")
    assert files_of(Root(url)) == data_files(Path(build(tmp_path / "plain.toml").url))
    assert shardmill("run", "my.toml", cwd=tmp_path, **s3).stdout.startswith("everything is current")
    assert shardmill("verify", url, **s3).stdout.endswith("10 samples: all is well\n")


# One run at a time


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "RENEW", 0.1)


def test_a_root_is_held_by_one(root):
    with hold(root), pytest.raises(Busy, match=f"is being built by process {os.getpid()} on "), hold(Root(root.url)):
        raise AssertionError("held twice")
    with hold(root):
        pass


def test_who_waits_gets_it(root):
    released = threading.Event()

    def holder():
        with hold(root):
            released.wait(10)

    thread = threading.Thread(target=holder)
    thread.start()
    while not root.exists(LOCK) or not root.read(LOCK):
        time.sleep(0.01)
    threading.Timer(0.3, released.set).start()
    with hold(Root(root.url), wait=20):
        assert released.is_set()
    thread.join()


def test_a_broken_lock_file_holds_nobody_up(root):
    root.write(LOCK, b"not json")
    with hold(root):
        pass


def test_no_clean_while_a_run_holds_the_root(root):
    root.write("root.json", b'{"makes": [], "files": []}')
    root.write("rows/garbage", b"x")
    with hold(root), pytest.raises(Busy):
        clean_root(root, 0, 1)
    assert root.exists("rows/garbage")
    assert clean_root(root, 0, 1) == (1, 1)


# The cache over commits


@pytest.mark.parametrize("root", ["local", "memory"], indirect=True)
def test_the_cache_over_commits_can_be_wrong_missing_or_damaged(root, tmp_path):
    write_tar(tmp_path / "source/0.tar", range(2))
    (tmp_path / "my.toml").write_text(f'root = "{root.url}"{TOML}')
    build(tmp_path / "my.toml")
    commits = read_commits(root, "rows")
    assert isinstance(commits[0], Commit) and commits[0].rows == 2
    for damage in (b"", b"not Parquet" * 100, root.read("rows/00000.parquet")):
        root.write("rows/_commits.parquet", damage)
        assert read_commits(root, "rows") == commits
        assert read_commits(root, "rows", write=True) == commits
        assert root.read("rows/_commits.parquet") != damage
    root.remove("rows/_commits.parquet")
    assert read_commits(root, "rows", write=True) == commits

"""`shardmill cluster check` says in one line each how workers differ from this machine."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.corpora import ONE_PROCESS, in_this_process, say, write_tar
from support.loopback import free_port
from support.ways import ON_DASK, dask, dask_worker

from pipelines.build.cluster_check import CheckWorkers, Facts, check_cluster, differences
from pipelines.build.corpus import open_corpus
from pipelines.engine.root import Root
from pipelines.engine.worker import StageFailed

TOML = """
root = "corpus"
[source]
kind = "webdataset"
path = "source/*.tar"
[endpoints.labeler]
url = "http://127.0.0.1:9/v1"
model = "m"
api_key_env = "A_LABELER_KEY"
[captions]
endpoint = "labeler"
[sets.train]
"""
SECRET = "a value that nobody may see"


def write_corpus(folder: Path, beam: str = ONE_PROCESS) -> Path:
    write_tar(folder / "source/0.tar", range(2))
    (folder / "my.toml").write_text(TOML + beam)
    return folder / "my.toml"


def facts(worker: str = "a/1", **changed) -> Facts:
    versions = {"python": "3.11.7", "pillow": "12.0", "s3fs": None} | changed.pop("versions", {})
    return Facts(**{"worker": worker, "versions": versions, "code": "c", "unset": [], "faults": []} | changed)


@pytest.mark.parametrize(
    ("workers", "lines"),
    [
        ([facts()], []),
        ([facts(versions={"pillow": "11.0"})], ["a: pillow is 11.0, 12.0 here"]),
        ([facts(versions={"pillow": None, "s3fs": "1"})], ["a: pillow is not installed, 12.0 here",
                                                           "a: s3fs is 1, not installed here"]),
        ([facts(unset=["KEY"]), facts("b/2"), facts("c/3", unset=["KEY"])], ["a, c: KEY is not set"]),
        ([facts(unset=["KEY"]), facts("a/2", unset=["KEY"])], ["a: KEY is not set"]),
        ([facts(faults=["source: 0.tar cannot be read"])], ["a: source: 0.tar cannot be read"]),
    ],
)  # fmt: skip
def test_each_difference_is_a_line_with_the_hosts_that_have_it(workers, lines):
    assert differences(facts("here/0"), workers) == lines


def test_other_modules_of_the_same_version_are_a_difference():
    same = {"shardmill": "0.2.0"}
    (line,) = differences(facts(versions=same), [facts(versions=same, code="other")])
    assert line == "a: Shardmill's modules are not those of this machine: install the same build"


def test_equal_workers_end_with_0_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("A_LABELER_KEY", SECRET)
    config = write_corpus(tmp_path)
    with in_this_process():
        said = say("cluster", "check", config)
    assert said.code == 0 and "1 worker answered: all have the versions" in said.out, said
    assert not (tmp_path / "corpus").exists() and SECRET not in said.out + said.err


def test_what_differs_ends_with_1(tmp_path, monkeypatch):
    monkeypatch.delenv("A_LABELER_KEY", raising=False)
    config = write_corpus(tmp_path)
    original = CheckWorkers.make

    def elsewhere(self, item):
        (tmp_path / "source/0.tar").unlink(missing_ok=True)  # as on a machine without the source
        original(self, item)

    monkeypatch.setattr(CheckWorkers, "make", elsewhere)
    with in_this_process():
        said = say("cluster", "check", config)
    assert said.code == 1 and said.err == "shardmill: 1 worker answered; 2 things differ from this machine\n", said
    assert ": A_LABELER_KEY is not set" in said.out
    assert ": source: 0.tar cannot be read: FileNotFoundError" in " ".join(said.out.split())
    assert not (tmp_path / "corpus").exists()


def test_a_root_that_is_not_shared_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("A_LABELER_KEY", SECRET)
    config, original = write_corpus(tmp_path), CheckWorkers.make
    root = Root(str(tmp_path / "another"))
    root.create()

    def elsewhere(self, item):
        original(CheckWorkers(root, self.sources, self.variables, self.modules, self.mark), item)

    monkeypatch.setattr(CheckWorkers, "make", elsewhere)
    with in_this_process(), pytest.raises(RuntimeError, match=r"does not see what this machine wrote to .*: share it"):
        check_cluster(open_corpus(config))
    assert not (tmp_path / "corpus").exists() and not root.files("", hidden=True)


def test_values_of_variables_are_not_written(tmp_path, monkeypatch):
    monkeypatch.setenv("A_LABELER_KEY", SECRET)
    root = Root(str(tmp_path))
    root.write("mark", b"")
    CheckWorkers(root, {}, ["A_LABELER_KEY", "NOT_SET"], ["json", "no.such.module"], "mark").make(0)
    (name,) = (name for name in root.files("") if name.startswith("mark-"))
    found = json.loads(root.read(name))
    assert SECRET not in root.read(name).decode() and found["unset"] == ["NOT_SET"]
    assert found["faults"] == ["the module no.such.module cannot be imported"]


# Dask


@pytest.fixture
def scheduler() -> Iterator[tuple[str, Callable[..., None]]]:
    """The address of a scheduler without workers; and the function that starts one."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: the extra [dask]")
    address = f"tcp://127.0.0.1:{free_port()}"
    processes = [dask("dask_scheduler", "--host", address, "--no-dashboard")]

    def add_worker(count: int, **env: str) -> None:
        processes.append(dask_worker(address, **env))
        with distributed.Client(address, timeout=120) as client:
            client.wait_for_workers(count, timeout=120)

    with distributed.Client(address, timeout=120):
        pass
    yield address, add_worker
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_workers_of_dask_are_asked_and_none_is_an_error(scheduler, tmp_path, monkeypatch):
    address, add_worker = scheduler
    monkeypatch.setenv("A_LABELER_KEY", SECRET)
    config = write_corpus(tmp_path, ON_DASK.format(address))
    with pytest.raises(StageFailed, match=r"no worker of .*DaskRunner answered within 15 seconds"):
        check_cluster(open_corpus(config), wait=15)
    add_worker(1, A_LABELER_KEY="x")
    assert check_cluster(open_corpus(config), wait=300) == (1, [])
    add_worker(2, A_LABELER_KEY="")
    count, lines = check_cluster(open_corpus(config), wait=300)
    assert count == 2 and len(lines) == 1 and lines[0].endswith(": A_LABELER_KEY is not set")
    assert not (tmp_path / "corpus").exists()

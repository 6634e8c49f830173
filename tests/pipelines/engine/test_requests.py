"""A corpus in an object store is asked a bounded number of requests a partition."""

import json
import uuid
from pathlib import Path

import pytest
from support.corpora import ONE_PROCESS, build, data_files, say
from support.object_store import ObjectStore, object_store

from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root

TOML = """
[source]
kind = "scenes"
count = {rows}
rows_per_partition = 3
[duplicates]
[sets.train]
task = "caption"
"""
MORE = '[sets.wide]\ntask = "caption"\nwhere = "width > 100"\n'
ONCE_NOTED = ("rows", "duplicates", "selection")  # stages whose partitions are committed many at once


@pytest.fixture(scope="module")
def store():
    with object_store() as store:
        yield store


def write_corpus(folder: Path, rows: int) -> tuple[Path, Root]:
    """A configuration with a root in the object store, and the same one with a local root beside it."""
    url = f"s3://bucket/{uuid.uuid4().hex}"
    for name, place in (("my", url), ("plain", "plain")):
        (folder / f"{name}.toml").write_text(f'root = "{place}"\n{TOML.format(rows=rows)}{ONE_PROCESS}')
    return folder / "my.toml", Root(url)


def requests(store: ObjectStore, config: Path, until: str | None = None) -> int:
    """All but those of the lease, which is renewed every ten seconds."""
    store.asked.clear()
    build(config, until)
    return sum(not asked.path.endswith("/lock.json") for asked in store.asked)


@pytest.mark.slow
def test_a_partition_costs_a_bounded_number_of_requests(store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config, root = write_corpus(tmp_path, 192)
    whole = requests(store, config)
    gets = [(asked.path, asked.range) for asked in store.of("GET", "/images/") if asked.path.endswith(".tar")]
    partitions = len([name for name in root.files("rows") if name[0].isdigit()])
    assert partitions == 64
    assert whole <= 20 * partitions
    footers = [asked for asked in store.of("GET") if asked.range and asked.path.split("/")[-2] in ONCE_NOTED]
    assert not footers  # notes say what they hold
    assert len(gets) <= partitions and all(span is None or span == "bytes=0-" for _, span in gets)
    heads = [asked.path.rsplit("/", 2)[-2:] for asked in store.of("HEAD")]
    assert not [
        path for path in heads if path[0] in ("rows", "images", "duplicates", "selection") and path[1][0] != "_"
    ]
    config.write_text(config.read_text().replace("[sets.train]", f"{MORE}[sets.train]"))
    more = requests(store, config)
    assert more <= 6 * partitions  # `selection` is made again, too
    nothing = requests(store, config)
    assert nothing <= 110  # whatever the rows are
    assert verify_root(root).problems == []


@pytest.mark.slow
def test_a_question_reads_each_file_once_and_nothing_when_asked_again(store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    from pipelines.catalog import whole_files

    whole_files._folder.cache_clear()
    config, root = write_corpus(tmp_path, 30)
    build(config)
    whole_files._folder.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "fresh"))
    question = "select count(*) as n from images where reason is null"
    asked = []
    for _ in range(2):
        store.asked.clear()
        assert say("sql", root.url, question, "--csv").out.startswith('"n"\n')
        asked.append([one for one in store.of("GET") if "/images/" in one.path and "_commits" not in one.path])
    whole_files._folder.cache_clear()
    assert len(asked[0]) == 10 and len({one.path for one in asked[0]}) == 10 and asked[1] == []
    assert not [one for one in store.of("HEAD") if "/images/" in one.path]


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0.05])
def test_a_store_that_fails_now_and_then_gives_the_same_bytes(store, tmp_path, failing, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config, root = write_corpus(tmp_path, 24)
    store.failing = failing
    try:
        build(config)
    finally:
        store.failing = 0.0
    plain = data_files(Path(build(tmp_path / "plain.toml").url))
    folders = ["", "rows", "images", "duplicates", "selection", "shards"]
    for name, digest in plain.items():
        assert name.rpartition("/")[0] in folders and root.exists(name), (name, digest)
    assert json.loads(root.read("shards/train.json")) == json.loads((tmp_path / "plain/shards/train.json").read_text())
    assert verify_root(root).problems == []

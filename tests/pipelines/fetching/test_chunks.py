"""What was downloaded is stored in chunks until its partition is made: a kill loses little, and changes no byte."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import pytest
from support.corpora import build, data_files, kill_group
from support.fetched_corpora import REASONS_OF, configure
from support.hostile_server import Hostile
from support.paths import PROJECT

from pipelines.build.corpus import open_corpus
from pipelines.catalog.catalog import query
from pipelines.engine import checkpoints
from pipelines.engine.make_partition import MakePartitions
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from pipelines.stages import images
from pipelines.stages.takedown_list import TakedownList, hashed, write_takedowns
from schemas.takedown import REASON

PATHS = ("/good/{}", "/good/{}", "/packed/{}", "/status/404/{}", "/html/{}", "/tag/noai?{}", "/hops/1/{}", "/good/7?{}")
PARTITION = 40  # rows, in two partitions


class Died(BaseException):
    """Ends a run as a power cut would."""


def urls_of(server: Hostile) -> list[str]:
    return [server.url(PATHS[n % len(PATHS)].format(n), f"c{n}") for n in range(2 * PARTITION)]


@pytest.fixture
def few(monkeypatch) -> int:
    """Chunks of four rows."""
    monkeypatch.setattr(images, "UNSAVED", 4 * images.AT_ONCE)
    return 4


def images_of(folder: Path) -> dict[str, str]:
    return {name: sha256 for name, sha256 in data_files(folder / "corpus").items() if name.startswith("images/0")}


def sized(config: Path) -> Path:
    config.write_text(config.read_text().replace("rows_per_partition = 20", f"rows_per_partition = {PARTITION}"))
    return config


def asks(server: Hostile) -> Counter:
    return Counter({path: len(times) for path, times in server.asked().items()})


def killed_at(chunk: int, config: Path) -> None:
    """Runs until so many chunks are written."""
    written = Counter()

    def die(point: str) -> None:
        written[point] += 1
        if written["images:chunk"] == chunk:
            raise Died

    with patch.object(checkpoints, "point", die), pytest.raises(Died):
        build(config, "images")


@pytest.mark.slow
@pytest.mark.parametrize("kills", [[1], [3], [9], [2, 1, 4]])
def test_a_killed_run_asks_again_only_for_what_no_chunk_holds(kills, few, server, tmp_path):
    plain = build(sized(configure(tmp_path / "plain", urls_of(server))), "images")
    config = sized(configure(tmp_path / "killed", urls_of(server)))
    before = asks(server)
    for chunk in kills:
        killed_at(chunk, config)
    assert [*(tmp_path / "killed").glob("corpus/images/chunks/*/*.parquet")]
    root = build(config, "images")
    again = sum((asks(server) - before).values()) - sum(1 + ("/hops/" in url) for url in urls_of(server))
    assert again <= 2 * (2 * few) * len(kills), "a chunk that is not full, what is on the way, and a redirect of each"
    assert images_of(tmp_path / "killed") == images_of(tmp_path / "plain")
    assert query(root, REASONS_OF).num_rows == query(plain, REASONS_OF).num_rows == 2 * PARTITION
    assert (verify_root(root).problems, verify_root(root).garbage) == ([], [])
    fetched = query(root, "select count(distinct key) as n from fetches")["n"].to_pylist()
    assert fetched == query(plain, "select count(distinct key) as n from fetches")["n"].to_pylist()


@pytest.mark.slow
def test_images_in_chunks_that_were_taken_down_meanwhile_are_not_kept(few, server, tmp_path):
    config = sized(configure(tmp_path, urls_of(server)))
    killed_at(5, config)
    root = open_corpus(config).root
    corpus = tmp_path / "corpus"
    chunks = [str(path.relative_to(corpus)) for path in sorted((corpus / "images/chunks").rglob("*.parquet"))]
    taken = next(row["sha256"] for chunk in chunks for row in checkpoints.old_rows(root, chunk) if row["bytes"])
    write_takedowns(root, TakedownList(image=frozenset({hashed(taken)})))
    build(config, "images")
    assert taken not in query(root, "select sha256 from images")["sha256"].to_pylist()
    assert REASON in query(root, "select reason from rows")["reason"].to_pylist()
    assert not [path for path in (tmp_path / "corpus/images/chunks").rglob("*") if path.is_file()]


def test_failures_without_an_answer_are_in_no_chunk(few, tmp_path):
    urls = [f"http://localhost:9/{n}" for n in range(PARTITION)]
    config = sized(configure(tmp_path, urls, fetch="tries = 1"))
    with patch("pipelines.engine.make_partition.write_chunk") as write:
        build(config, "images")
    assert not write.called


def test_a_small_partition_and_one_without_urls_write_no_chunk(server, tmp_path):
    with patch("pipelines.engine.make_partition.write_chunk") as write:
        build(configure(tmp_path, urls_of(server)[:20]), "images")
    assert not write.called
    assert open_corpus(tmp_path / "my.toml").made["images"].chunk_rows == 500 // 16


@pytest.mark.parametrize(("rows", "at_once", "chunk"), [(1000, 16, 31), (3000, 5, 100), (10_000, 2, 250), (5, 16, 31)])
def test_large_partitions_are_fetched_a_few_at_once(rows, at_once, chunk, tmp_path):
    config = configure(tmp_path, ["http://localhost/a"])
    config.write_text(config.read_text().replace("rows_per_partition = 20", f"rows_per_partition = {rows}"))
    corpus = open_corpus(config)
    work = MakePartitions(corpus.made["images"].ready(Root(str(tmp_path / "corpus")), None), corpus.root, None)
    assert (work.at_once, work.stage.chunk_rows) == (at_once, chunk)
    assert 2 * at_once * chunk <= 1000


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_no_more_than_a_thousand_downloads(tmp_path):
    with Hostile() as server:
        urls = [server.url(f"/good/{n}", f"h{n % 300}") for n in range(3000)]
        configs = [configure(tmp_path / name, urls, fetch="in_flight = 200\nper_host = 20") for name in ("one", "two")]
        for config in configs:
            config.write_text(config.read_text().replace("rows_per_partition = 20", "rows_per_partition = 3000"))
        command = [sys.executable, "-m", "pipelines.build", str(configs[0]), "--until", "images"]
        for chunks in (2, 4):
            run = subprocess.Popen(command, cwd=PROJECT, start_new_session=True, stdout=subprocess.DEVNULL)
            until = time.monotonic() + 120
            while len([*tmp_path.glob("one/corpus/images/chunks/*/*.parquet")]) < chunks and time.monotonic() < until:
                time.sleep(0.02)
            kill_group(run)
            assert run.returncode == -signal.SIGKILL
        subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
        assert sum(asks(server).values()) <= 3000 + 2 * 1000
        build(configs[1], "images")
        assert images_of(tmp_path / "one") == images_of(tmp_path / "two")

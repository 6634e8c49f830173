"""Parts of a stage, made by processes of their own: together they are what one run makes."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support.corpora import ONE_PROCESS, build, data_files, in_this_process, say, write_tar
from support.paths import PROJECT

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.build.work import configuration_of, part_of, work
from pipelines.catalog.catalog import query
from pipelines.engine.lock import hold
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root

TOML = """
[source]
kind = "webdataset"
path = "source/*.tar"
[stages.sides]
callable = "sides.py:sides"
reads = ["images.width"]
columns = { side = "int" }
[sets.train]
task = "caption"
"""
ASKS = """
[endpoints.labeler]
model = "m"
url = "http://127.0.0.1:9/v1"
max_calls = 3
[captions]
endpoint = "labeler"
"""


def write_corpus(folder: Path, root: str = "corpus", more: str = "", tars: int = 7) -> Path:
    for number in range(tars if not (folder / "source").exists() else 0):
        write_tar(folder / f"source/{number}.tar", range(3 * number, 3 * number + 3))
    (folder / "sides.py").write_text('def sides(row):\n    return {"side": row["width"]}\n')
    config = folder / f"{root}.toml"
    config.write_text(f'root = "{root}"\n{TOML}{more}{ONE_PROCESS}')
    return config


def one_line(said, code: int, *words: str) -> None:
    assert (said.code, said.out, said.err.count("\n")) == (code, "", 1), said
    assert all(word in said.err for word in words), said.err


def begin(config: Path, stage: str, part: str, **env: str) -> subprocess.Popen:
    """`shardmill work` in a process of its own."""
    words = ["-c", "from flows.cli import main; main()", "work", str(config), stage, "--part", part]
    return subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **env},
    )  # fmt: skip


def test_parts_by_three_processes_with_kills_are_what_one_run_makes(tmp_path):
    plain = data_files(Path(build(write_corpus(tmp_path, "plain")).url))
    config = write_corpus(tmp_path)
    root = build(config, "rows")
    for stage, point in (("images", "images:payload"), ("sides", "sides:recorded")):
        killed = [begin(config, stage, f"{part}/3", SHARDMILL_KILL_AT=point) for part in (1, 2)]
        killed += [begin(config, stage, "3/3", SHARDMILL_KILL_AT=f"{stage}:committed")]
        for process in killed:
            said = process.communicate(timeout=120)
            assert process.returncode == 1 and "a worker died" in said[1], said
        for process in [begin(config, stage, f"{part}/3") for part in (1, 2, 3)]:
            said = process.communicate(timeout=120)
            assert process.returncode == 0, said
        assert plan(open_corpus(config), stage).work() == 0
        assert f"{stage} 2/3: 0 of 2 partitions made" in say("work", config, stage, "--part", "2/3").out
    build(config)
    assert data_files(Path(root.url)) == plain
    seen = verify_root(root)
    assert (seen.problems, seen.samples) == ([], 21)
    statuses = Counter(query(root, "FROM runs")["status"].to_pylist())
    assert statuses["failed"] == 6 and "running" not in statuses


def test_a_part_is_of_all_partitions_not_of_what_is_left(tmp_path):
    config = write_corpus(tmp_path)
    root = build(config, "rows")
    with in_this_process():
        made = [work(open_corpus(config), "images", part_of(f"{part}/3")).made for part in (2, 1, 1, 3)]
    assert made == [2, 3, 0, 2]
    assert len([name for name in root.files("images") if name[0] != "_" and name.endswith(".parquet")]) == 7


def test_a_part_that_reads_what_is_not_made_says_what_to_make(tmp_path):
    config = write_corpus(tmp_path)
    build(config, "rows")
    with in_this_process():
        work(open_corpus(config), "images", part_of("1/2"))
        assert work(open_corpus(config), "sides", part_of("1/2")).made == 4
        said = say("work", config, "sides", "--part", "2/2")
    one_line(said, 2, "work: sides reads images, of which 3 partitions of this part are not made; make images first")


def test_parts_share_a_root_with_no_run_and_no_other_configuration(tmp_path):
    config = write_corpus(tmp_path)
    root = build(config, "rows")
    other = tmp_path / "other.toml"
    other.write_text(config.read_text() + "[images]\nmin_side = 5\n")
    with hold(root, share=configuration_of(open_corpus(config))), in_this_process():
        assert work(open_corpus(config), "images", part_of("1/2")).made == 4
        one_line(say("work", other, "images", "--part", "1/2"), 1, "is being built by ", " with another configuration;")
        for words in (("run", config), ("clean", root.url), ("takedown", config)):
            one_line(say(*words), 1, f"{root.url} is being built by ")
    with hold(root):
        one_line(say("work", config, "images", "--part", "1/2"), 1, f"{root.url} is being built by ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rows", "--part", "1/2"), "work: rows is made as a whole: run"),
        (("selection", "--part", "1/2"), "stages with parts are images, sides, captions"),
        (("shards", "--part", "1/2"), "work: shards is made as a whole"),
        (("nothing", "--part", "1/2"), "work: unknown stage 'nothing'; choose from images, sides, captions"),
        (("captions", "--part", "1/2"), "endpoints.labeler.max_calls: is counted in one process, which other parts"),
        (("images", "--part", "0/2"), "--part: '0/2': write I/N"),
        (("images", "--part", "3/2"), "--part: '3/2': write I/N"),
        (("images", "--part", "half"), "--part: 'half': write I/N"),
    ],
)
def test_what_has_no_parts_is_refused(tmp_path, words, said):
    config = write_corpus(tmp_path, more=ASKS, tars=1)
    one_line(say("work", config, *words), 2, said)
    assert not Root(str(tmp_path / "corpus")).files("runs")


@pytest.mark.parametrize(("parts", "most"), [(1, 4), (2, 2), (8, 1)])
def test_parts_share_the_requests_to_a_host(tmp_path, parts, most):
    config = write_corpus(tmp_path, more='[fetch]\ncontact = "a@example.org"\n')
    build(config, "rows")
    stage = open_corpus(config).made["images"]
    assert stage.among(parts).fetch.per_host == most and stage.among(parts).settings() == stage.settings()
    with in_this_process():
        assert f"at most {most} requests to one host" in say("work", config, "images", "--part", f"1/{parts}").out

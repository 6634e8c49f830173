"""`shardmill takedown`: of an image and all that was said of it nothing is left, and nothing else is touched."""

import json
import os
import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpora import ONE_PROCESS, build, data_files, in_this_process, picture, say
from support.hostile_server import Hostile, image
from support.paths import PROJECT, TESTS
from support.releases import small_tokenizer
from support.takedown_corpus import NOISE, key, told_anywhere, write
from support.takedowns import take

from pipelines.build.corpus import open_corpus
from pipelines.build.run import Run, run_stage
from pipelines.catalog.catalog import query
from pipelines.engine.commit import replace_rows
from pipelines.engine.ledger import Ledger
from pipelines.engine.make_partition import make_partition
from pipelines.engine.parquet import read_rows
from pipelines.engine.workers import Workers
from pipelines.maintain.verify import verify_root
from training.pack_plan import plan_set
from training.samples import SampleEncoder, Slicing
from training.shards import Shards


@pytest.mark.slow
@pytest.mark.usefixtures("reported")
def test_nothing_is_left(here):
    root = open_corpus(here / "my.toml").root
    data = NOISE
    gone = [key(root, name) for name in ("a00", "b13")]
    secrets = (sha256(data).hexdigest(), "what a00 shows", "told of b13", "secret of a00", "secret of b13")
    assert len(told_anywhere(Path(root.url), *secrets, data=data[60:200])) > 5
    recipe = SampleEncoder(small_tokenizer(here / "tokenizer"), queries=4, length=512, slicing=Slicing(side=112))
    (packs,) = plan_set(Shards(root.url, "captions"), recipe).files
    assert str(packs.path.relative_to(root.url)) in told_anywhere(Path(root.url), sha256(data).hexdigest())
    Path(root.url, "images/.tmp-killed").write_bytes(data)
    Path(root.url, "images/00000-0123456789abcdef.tar").write_bytes(b"\0" * 512 + data)
    done = take(here, "https://a.example/a00.png")
    assert (done.rows, done.others) == (1, 1)
    assert told_anywhere(Path(root.url), *secrets, data=data[60:200]) == []
    found = verify_root(root)
    assert found.problems == [] and found.garbage == []
    rows = query(root, f"select key, reason, left_out_by, text, ocr_text, url from samples where key in {tuple(gone)}")
    assert {tuple(row.values())[1:] for row in rows.to_pylist()} == {("taken_down", "rows", None, "", None)}
    assert query(root, "select count(*) n from accounting where reason = 'taken_down'")["n"][0].as_py() == 1
    assert query(root, f"select count(*) n from shards where key in {tuple(gone)}")["n"][0].as_py() == 0


@pytest.mark.slow
def test_only_what_held_it_is_made_anew(here):
    root = open_corpus(here / "my.toml").root
    before = data_files(Path(root.url))
    done = take(here, "https://a.example/a00.png")
    after = data_files(Path(root.url))
    assert {stage.stage: stage.made for stage in done.stages} == {
        "rows": 0, "images": 2, "duplicates": 3, "ocr": 3, "selection": 3, "shards": done.stages[-1].made,
    }  # fmt: skip
    changed = {name.split("/")[1].split(".")[0] for name in before if name.startswith(("images/", "ocr/"))
               and after.get(name) != before[name]}  # fmt: skip
    assert {name[:5] for name in changed} <= {"00000", "00002", "00008"}, "a00, b13, and e50 which is kept now"
    tars = {name for name in before if name.startswith("shards/") and name.endswith(".tar")}
    assert 0 < done.stages[-1].made < len(tars)
    assert len(tars - after.keys()) <= done.stages[-1].made


@pytest.mark.slow
def test_near_duplicates_are_named_and_stay(here):
    root = open_corpus(here / "my.toml").root
    done = take(here, "https://a.example/a00.png")
    assert [(one.key, one.url) for one in done.near] == [(key(root, "e50"), "https://e.example/e50.png")]
    assert done.near[0].distance <= 3
    kept = query(root, "select d.reason from duplicates d join rows r using (key) where url like '%e50.png'")
    assert kept.to_pylist() == [{"reason": None}], "it was the duplicate of one that is gone"


@pytest.mark.slow
@pytest.mark.usefixtures("reported")
def test_it_does_not_come_back(here):
    """Neither under its own name when its source is split again, nor under another in a new tar."""
    root = open_corpus(here / "my.toml").root
    take(here, "https://a.example/a00.png")
    first = {f"a{n:02d}": (picture(n)[0] if n else NOISE, f"what a{n:02d} shows") for n in range(6)}
    write(here / "tars/0.tar", first | {"x98": (picture(98)[0], "a new one")})
    write(here / "tars/new.tar", {"x99": (NOISE, "told of x99")})
    build(here / "my.toml")
    secrets = (sha256(NOISE).hexdigest(), "what a00 shows", "told of x99", "secret of x99")
    assert told_anywhere(Path(root.url), *secrets, data=NOISE[60:200]) == []
    assert verify_root(root).problems == []
    assert "a new one" in query(root, "select text from samples where reason is null")["text"].to_pylist()


@pytest.mark.slow
def test_bytes_that_are_only_known_once_they_are_here(here):
    """As from a server: the source does not say what they are."""
    corpus = open_corpus(here / "my.toml")
    take(here, sha256(NOISE).hexdigest())
    ledger = Ledger.start(corpus.root, "test", "0")
    partition = int(query(corpus.root, "select partition from rows where url like '%a01.png'")["partition"][0].as_py())
    rows = read_rows(corpus.root, f"rows/{partition:05d}.parquet")
    for row in rows:  # as if it had not been known
        if row["reason"] == "taken_down":
            row |= {"reason": None, "text": "told again", "file": "tars/0.tar", "made_from": "f" * 32}
            row |= {"member": "a00.png", "byte_offset": 512, "size": len(NOISE)}
    source = corpus.rows[None].source
    with tarfile.open(here / "tars/0.tar") as tar:
        member = tar.getmember("a00.png")
    for row in rows:
        if row["text"] == "told again":
            row |= {"file": source.files()[0].path, "byte_offset": member.offset_data, "size": member.size}
    replace_rows(corpus.root, ledger, corpus.rows[None], partition, rows)
    make_partition(corpus.made["images"], corpus.root, ledger, partition)
    assert "taken_down" in query(corpus.root, "select reason from images")["reason"].to_pylist()
    with in_this_process():
        run_stage(Run(corpus, ledger, Workers(corpus.config.beam, corpus.root)), "images")
    assert "told again" not in query(corpus.root, "select text from rows")["text"].to_pylist()
    assert "taken_down" not in query(corpus.root, "select reason from images")["reason"].to_pylist()


@pytest.mark.slow
@pytest.mark.usefixtures("reported")
def test_bytes_that_come_back_from_a_server_are_in_the_ledger_without_what_was_said_of_them(tmp_path):
    (tmp_path / "laion").mkdir()
    fetch = '[fetch]\ncontact = "us@example.org"\nallow_hosts = ["localhost"]\n'
    config = tmp_path / "my.toml"
    config.write_text(f'root = "corpus"\n[source]\nkind = "laion"\npath = "laion"\n{fetch}[sets.train]\n{ONE_PROCESS}')
    with Hostile() as server:
        for name, number, numbers in (("one", 0, [1]), ("two", 1, [1, 2, 3])):  # another host has the same bytes
            table = {"url": [server.url(f"/good/{n}", name) for n in numbers], "text": [f"{name} {n}" for n in numbers]}
            pq.write_table(pa.table(table), tmp_path / f"laion/{number}.parquet")
            root = build(config)
            if name == "one":
                take(tmp_path, sha256(image("/good/1")).hexdigest())
    assert verify_root(root).problems == []
    assert told_anywhere(Path(root.url), "two 1") == []
    last = "run = (select max(run) from runs)"
    changes = query(root, f"select stage, change, count(*) n from changes where {last} group by all order by all")
    assert [tuple(one.values()) for one in changes.to_pylist()] == [
        ("images", "added", 3), ("images", "changed", 1), ("rows", "added", 3), ("rows", "changed", 1),
        ("selection", "added", 3), ("shards", "added", 2),
    ]  # fmt: skip


@pytest.mark.slow
def test_models_that_had_it_are_named(here):
    corpus = open_corpus(here / "my.toml")
    card = json.loads(Path(corpus.root.url, "shards/captions.json").read_text())
    for name, release in (("one", card["release"]), ("two", "0123456789ab")):
        (here / f"models/{name}").mkdir(parents=True)
        (here / f"models/{name}/state.json").write_text(json.dumps({"releases": [f"captions@{release}"]}))
    (here / "list.txt").write_text("https://a.example/a00.png")
    said = say("takedown", here / "my.toml", here / "list.txt", "--models", here / "models")
    assert said.code == 0, said.err
    assert "one/state.json" in said.out.replace("\n", "") and "two/state.json" not in said.out
    again = say("takedown", here / "my.toml", "--models", here / "models")
    assert "0 rows taken down" in again.out and "one/state.json" in again.out.replace("\n", "")


KILLED = """
import os, sys
os.setpgid(0, 0)
sys.path[:0] = [{tests!r}, {main!r}]
from pathlib import Path
from support.takedowns import take
take(Path({here!r}), "https://a.example/a00.png")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    [
        "takedown:remembered",
        "takedown:blanked",
        "images:payload",
        "ocr:committed",
        "shards:release",
        "takedown:removed",
    ],
)
@pytest.mark.usefixtures("reported")
def test_killed_and_run_again(here, point):
    root = open_corpus(here / "my.toml").root
    script = KILLED.format(tests=str(TESTS), main=str(PROJECT), here=str(here))
    killed = subprocess.run([sys.executable, "-c", script], env={**os.environ, "SHARDMILL_KILL_AT": point}, timeout=300)
    assert killed.returncode == -9, "it came to that point"
    take(here)
    secrets = (sha256(NOISE).hexdigest(), "what a00 shows", "told of b13", "secret of a00")
    assert told_anywhere(Path(root.url), *secrets, data=NOISE[60:200]) == []
    assert verify_root(root).problems == []

"""Nothing that is needed is ever cleaned away, and nothing that is not stays."""

import json
import os
import time
from pathlib import Path

import pytest
import webdataset
from support.corpora import build, data_files, say
from support.releases import small_tokenizer
from support.verification import TOML, find, releases

from pipelines.engine.commit import read_commit
from pipelines.engine.parquet import Corrupt
from pipelines.maintain.clean import clean_root, garbage
from pipelines.maintain.verify import verify_root
from training.pack_plan import plan_set
from training.samples import SampleEncoder, Slicing
from training.shards import Shards

CHUNK = "images/chunks/00000/0123456789abcdef.parquet"


@pytest.mark.parametrize("made", [True, False])
def test_chunks_that_the_next_run_takes_over_stay(made, root):
    """Those of a partition that is not made, and those of one that was about to be made again."""
    root.write(CHUNK, b"downloads")
    if not made:
        root.remove("images/00000.parquet")
    gone = "images/chunks/00099/0123456789abcdef.parquet"
    root.write(gone, b"of a partition that no source file has")
    root.write("instructions/chunks/00000/0123456789abcdef.parquet", b"of a stage that this corpus does not have")
    assert CHUNK not in garbage(root) and len([name for name in garbage(root) if "/chunks/" in name]) == 2
    clean_root(root, 0, keep=3)
    assert root.exists(CHUNK) and not root.exists(gone)


@pytest.mark.slow
def test_files_that_no_commit_names_are_garbage(root):
    strangers = {
        "images/00000-0123456789abcdef.tar", "images/notes.txt", "shards/train-000009-0123456789abcdef.tar",
        "shards/train-000009-0123456789abcdef.parquet", "rows/.tmp-leaving", ".tmp-leaving", "ocr/00000.parquet",
        CHUNK,
    }  # fmt: skip
    for name in strangers:
        root.write(name, b"no commit names me")
    os.utime(root.path(CHUNK), (0, 0))  # what an older chunk holds is in the partition's file
    assert set(garbage(root)) == strangers and set(verify_root(root).garbage) == strangers
    root.write("my-notes.md", b"what lies beside the stages is not ours to judge")
    assert set(garbage(root)) == strangers
    assert "8 files belong to no commit" in say("verify", root.url).out
    assert clean_root(root, 0, keep=3) == (8, 8 * len(b"no commit names me"))
    assert verify_root(root).garbage == [] and root.exists("my-notes.md")


@pytest.mark.slow
def test_clean_keeps_the_last_releases_readable(root, tmp_path):
    config, names = tmp_path / "my.toml", []
    for words in ("picture 1", "picture 2", "picture 3", "picture 4"):
        config.write_text(TOML.replace("[sets.train]", f"[sets.train]\nwhere = \"text != '{words}'\""))
        build(config)
        names.append(json.loads(root.read("shards/train.json"))["release"])
        time.sleep(0.02)
    first = releases(root) - {*names}
    assert len(first) == 1 and releases(root) == {*first, *names}
    clean_root(root, 0, keep=3)
    assert releases(root) == set(names[1:])
    assert verify_root(root).problems == [] and verify_root(root).garbage == []
    for name in names[1:]:
        urls = say("urls", root.url, f"train@{name}").out.split()
        assert len(list(webdataset.WebDataset(urls, shardshuffle=False))) == 7
    clean_root(root, 0, keep=1)
    assert releases(root) == {names[-1]}
    assert say("urls", root.url, f"train@{names[1]}").code == 2
    assert verify_root(root).problems == [] and verify_root(root).samples == 7


@pytest.mark.slow
def test_clean_removes_packs_that_were_planned_for_releases_that_are_gone(root, tmp_path):
    """By the trainer, for two lengths. Where a killed one left half a file, that goes too."""
    config, recipes = tmp_path / "my.toml", []
    for length in (256, 512):
        recipes.append(
            SampleEncoder(small_tokenizer(tmp_path / "tokenizer"), queries=4, length=length, slicing=Slicing())
        )
    planned = {}
    for words in ("picture 1", "picture 2"):
        config.write_text(TOML.replace("[sets.train]", f"[sets.train]\nwhere = \"text != '{words}'\""))
        build(config)
        release = Shards(root.url, "train").release
        planned[release] = {one.path for recipe in recipes for one in plan_set(Shards(root.url, release), recipe).files}
    (_, gone), (new, kept) = planned.items()
    assert len(gone) == len(kept) == 2 and not gone & kept
    half = kept.copy().pop().parent / ".tmp-half-written"
    half.write_bytes(b"half")
    assert set(garbage(root)) == {str(half.relative_to(root.url))}
    clean_root(root, 3600, keep=2)
    assert all(path.exists() for path in {*gone, *kept, half}), "they are young, or of a kept release"
    clean_root(root, 0, keep=1)
    assert {path for path in Path(root.url, "shards/packs").rglob("*") if path.is_file()} == kept
    assert verify_root(root).garbage == [] and len(plan_set(Shards(root.url, new), recipes[0])) > 0


def test_clean_leaves_what_is_younger_than_the_grace_time(root):
    for name, age in (("images/.tmp-old", 7200), ("images/.tmp-young", 60)):
        root.write(name, b"x")
        os.utime(root.path(name), (time.time() - age,) * 2)
    assert clean_root(root, 3600, keep=3) == (1, 1)
    assert list(garbage(root)) == ["images/.tmp-young"]


@pytest.mark.parametrize("kind", ["images/00000.parquet", "shards/train.json", "shards/train@*.json"])
def test_clean_touches_nothing_while_a_commit_cannot_be_read(kind, root):
    """What a damaged commit names would all look like garbage."""
    name = find(root, kind)
    Path(root.path(name)).write_bytes(b"damaged")
    before = data_files(Path(root.url))
    said = say("clean", root.url, "--grace", "0", "--keep", "1")
    assert (said.code, said.err) == (1, f"shardmill: {name}: cannot be read; `shardmill verify` says more\n")
    with pytest.raises(Corrupt):
        clean_root(root, 0, keep=1)
    assert data_files(Path(root.url)) == before


def test_clean_removes_no_file_of_a_sound_root(root):
    before = data_files(Path(root.url))
    assert clean_root(root, 0, keep=1) == (0, 0)
    assert data_files(Path(root.url)) == before
    assert read_commit(root, "rows/00000.parquet").rows == 4

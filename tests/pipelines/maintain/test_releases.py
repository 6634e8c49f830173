"""Releases: which there are, what differs between them, which are kept, and how one is put back."""

import json
import os
import shutil
from pathlib import Path

import pytest
from support.corpora import ONE_PROCESS, build, in_this_process, picture, say, write_captions

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.engine.releases import card_named, card_names, marked, name_of, read_card, set_mark
from pipelines.engine.root import Root
from pipelines.maintain.clean import clean_root, garbage
from pipelines.maintain.release_diff import Line, distributions, measure
from pipelines.maintain.releases import list_releases, put_back
from pipelines.maintain.takedown import read_list, take_down
from pipelines.maintain.verify import verify_root
from schemas.errors import UserError

TOML = 'root = "{root}"\n[source]\nkind = "folder"\npath = "source"\n[sets.train]\nsamples_per_shard = 3\n'
CAPTIONS = ("a red house by a lake", "ein Haus", "дом у озера", "一座红色的房子", "a dog")


class Releases:
    """A corpus with three releases of 4, 5 and 5 samples, of which the last has other captions."""

    def __init__(self, folder: Path, root: str = "corpus"):
        self.folder = folder
        (folder / "source").mkdir()
        for number in range(8):
            (folder / f"source/{number}.png").write_bytes(picture(number)[0])
        self.config = folder / "my.toml"
        self.config.write_text(TOML.format(root=root) + ONE_PROCESS)
        self.names = [self.publish(CAPTIONS[:4]), self.publish(CAPTIONS), self.publish(("a cat", *CAPTIONS[1:]))]

    @property
    def root(self) -> Root:
        return open_corpus(self.config).root

    def publish(self, captions: tuple[str, ...]) -> str:
        write_captions(self.folder / "source/list.csv", [(f"{n}.png", text) for n, text in enumerate(captions)])
        build(self.config)
        return name_of(read_card(self.root, "train"))

    def hints(self) -> list[str]:
        return [hint for hint in plan(open_corpus(self.config)).hints if hint.startswith("sets.")]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Releases:
    return Releases(tmp_path_factory.mktemp("made"))


@pytest.fixture
def releases(made, tmp_path) -> Releases:
    """A copy of what is made once."""
    shutil.copytree(made.folder, tmp_path, dirs_exist_ok=True)
    copy = Releases.__new__(Releases)
    copy.folder, copy.config, copy.names = tmp_path, tmp_path / "my.toml", made.names
    return copy


def unnamed(root: Root) -> set[str]:
    """The files of shards that no card names."""
    return {name for name in garbage(root) if name.startswith("shards/")}


@pytest.mark.slow
def test_a_list_of_releases(releases):
    rows = list_releases(releases.root)
    assert [name_of(row) for row in rows] == releases.names
    assert [(row["samples"], row["added"], row["removed"], row["changed"]) for row in rows] == [
        (4, 4, 0, 0), (5, 1, 0, 0), (5, 1, 1, 0),
    ]  # fmt: skip
    assert [row["state"] for row in rows] == [[], [], ["published"]]
    assert list_releases(releases.root, "train") == rows
    said = say("releases", releases.folder / "corpus")
    assert said.code == 0 and all(name.split("@")[1] in said.out for name in releases.names)
    unknown = say("releases", releases.folder / "corpus", "test")
    assert (unknown.code, unknown.err) == (2, "shardmill: releases: unknown shard set 'test'; choose from train\n")


@pytest.mark.slow
def test_of_releases_of_version_0_1_the_time_is_that_of_the_card(releases):
    for path in (releases.folder / "corpus/runs").glob("*/releases.parquet"):
        path.unlink()
    card = releases.folder / f"corpus/shards/{releases.names[0]}.json"
    os.utime(card, (1e9, 1e9))
    first, *_ = list_releases(releases.root)
    assert (name_of(first), first["published"][:10], first["added"]) == (releases.names[0], "2001-09-09", None)
    assert "2001-09-09 01:46" in say("releases", releases.folder / "corpus").out


def test_a_diff_counts_samples_and_shows_distributions_side_by_side(releases):
    first, second, third = releases.names
    said = say("diff", releases.folder / "corpus", first, third)
    assert said.code == 0 and f"{first} -> {third}: 2 added, 1 removed, 0 changed; the same: 3" in said.out
    cards = [card_named(releases.root, name, "diff") for name in (first, third)]
    lines = distributions(releases.root, *cards)
    assert Line("width", "median", "224", "224") in lines
    assert Line("script", "Latin", "50.0%", "60.0%") in lines and Line("script", "Cyrillic", "25.0%", "20.0%") in lines
    assert Line("script", "East asian", "25.0%", "20.0%") in lines
    assert Line("words", "95 % below", "5.55", "2.8") in lines
    listed = say("diff", releases.folder / "corpus", second, third, "--names").out.splitlines()
    assert sorted(line.split()[0] for line in listed) == ["added", "removed"]
    assert all(line.endswith("-caption") for line in listed)
    alike = say("diff", releases.folder / "corpus", "train", third).out
    assert "0 added, 0 removed, 0 changed; the same: 5" in alike


def test_the_beginning_of_a_release_is_enough_if_it_is_one(releases):
    name = releases.names[0]
    assert name_of(card_named(releases.root, name[:-4], "diff")) == name
    for wrong, complaint in (
        ("train@", "diff: unknown release 'train@'; choose from train@"),
        ("train@zz", "diff: unknown release 'train@zz'; choose from train@"),
        ("test@aa", "diff: unknown shard set 'test'; choose from train"),
        ("test", "diff: unknown shard set 'test'; choose from train"),
    ):
        with pytest.raises(UserError, match="^" + complaint):
            card_named(releases.root, wrong, "diff")
    other = f"train@{name.split('@')[1][:-1]}~"
    (releases.folder / f"corpus/shards/{other}.json").write_bytes(b"{}")
    with pytest.raises(UserError, match=f"2 releases begin with '{name[:-1]}'"):
        card_named(releases.root, name[:-1], "diff")


@pytest.mark.slow
def test_a_pinned_release_is_kept_by_clean_until_it_is_unpinned(releases):
    corpus, (first, second, third) = releases.folder / "corpus", releases.names
    assert say("pin", corpus, first).out.startswith(f"pinned {first}")
    assert marked(releases.root, "pinned") == {first}
    assert list_releases(releases.root)[0]["state"] == ["pinned"] and "pinned" in say("releases", corpus).out
    assert unnamed(releases.root) == set() and verify_root(releases.root).problems == []
    clean_root(releases.root, 0, keep=1)
    assert {*card_names(releases.root, releases=True)} == {"train", first, third}, "the second was not pinned"
    assert verify_root(releases.root).problems == []
    assert len(say("urls", corpus, first).out.split()) == len(read_card(releases.root, first)["shards"])
    assert say("unpin", corpus, first).code == 0
    assert say("unpin", corpus, first).err == f"shardmill: unpin: {first} is not pinned\n"
    clean_root(releases.root, 0, keep=1)
    assert {*card_names(releases.root, releases=True)} == {"train", third}
    assert say("pin", corpus, second).code == 2


def test_a_mark_of_a_release_that_is_gone_is_garbage(releases):
    set_mark(releases.root, "train@000000000000", "pinned")
    set_mark(releases.root, releases.names[0], "put-back")  # left by a command that was killed
    gone = {f"shards/{name}" for name in ("train@000000000000.pinned", f"{releases.names[0]}.put-back")}
    assert unnamed(releases.root) == gone
    clean_root(releases.root, 0, keep=3)
    assert marked(releases.root, "pinned") == set()


@pytest.mark.slow
def test_a_release_is_put_back_and_the_next_run_says_that_it_would_replace_it(releases):
    corpus, (first, _, third) = releases.folder / "corpus", releases.names
    said = say("publish", corpus, first)
    assert said.code == 0
    assert said.out.startswith(f"published {first} in place of {third}: 1 added, 2 removed, 0 changed")
    assert read_card(releases.root, "train") == read_card(releases.root, first)
    assert verify_root(releases.root).problems == [], "an old release is not held against what is selected now"
    last = list_releases(releases.root)[-1]
    assert (name_of(last), last["state"], last["samples"]) == (first, ["published", "put back"], 4)
    assert (last["added"], last["removed"], last["changed"]) == (1, 2, 0)
    runs = query(releases.root, "select config, status from runs order by run").to_pylist()
    assert runs[-1] == {"config": f"publish {first}", "status": "completed"}
    grown = query(releases.root, "select samples from growth order by run")["samples"].to_pylist()
    assert grown == [4, 5, 5, 4]

    expected = f"sets.train: {first} was put back; a run would replace it by what the configuration gives now"
    assert releases.hints() == [expected]
    assert expected in say("plan", releases.config).out
    assert clean_root(releases.root, 0, keep=1)[0] >= 0 and read_card(releases.root, "train")["samples"] == 4
    build(releases.config)
    assert name_of(read_card(releases.root, "train")) == third
    assert releases.hints() == [] and marked(releases.root, "put-back") == set()
    assert not any("put-back" in name for name in releases.root.files("shards"))
    assert verify_root(releases.root).problems == []


def test_what_cannot_be_put_back(releases):
    corpus, (first, _, third) = releases.folder / "corpus", releases.names
    assert say("publish", corpus, third).err == f"shardmill: publish: {third} is published already\n"
    old, new = ({entry["tar"] for entry in read_card(releases.root, name)["shards"]} for name in (first, third))
    tar = min(old - new)
    (corpus / "shards" / tar).unlink()
    said = say("publish", corpus, first)
    assert said.code == 2
    assert said.err == f"shardmill: publish: {first} lacks shards/{tar}; choose another release\n"
    assert read_card(releases.root, "train") == read_card(releases.root, third)
    assert say("publish", corpus, "train").code == 2


@pytest.mark.slow
def test_the_commands_work_on_a_root_in_memory(tmp_path):
    """Whatever fsspec names: here its own memory."""
    releases = Releases(tmp_path, "memory://releases/corpus")
    first, _, third = releases.names
    url = releases.root.url
    assert say("pin", url, first).code == 0 and marked(releases.root, "pinned") == {first}
    assert "2 added, 1 removed" in say("diff", url, first, third).out
    assert say("publish", url, first).code == 0
    assert [row["state"] for row in list_releases(releases.root)][-1] == ["published", "pinned", "put back"]
    assert say("unpin", url, first).code == 0
    build(releases.config)
    assert name_of(read_card(releases.root, "train")) == third


@pytest.mark.slow
def test_a_run_that_has_nothing_to_do_leaves_a_row_in_runs_and_nothing_else(releases):
    before = {*releases.root.folders("runs")}
    build(releases.config)
    said = say("run", releases.config)
    assert said.code == 0 and "everything is current: nothing to make" in said.out
    new = sorted({*releases.root.folders("runs")} - before)
    assert [[*releases.root.files(f"runs/{run}")] for run in new] == [["run.parquet"]] * 2
    assert not any(releases.root.folders(f"runs/{run}") for run in new)
    status = query(releases.root, "select status from runs order by run")["status"].to_pylist()
    assert status == ["completed"] * (len(before) + 2)


def test_what_is_measured_of_a_sample():
    pair = {"task": "preference", "url": "https://a.example/b", "pair": {"chosen": "a b c", "rejected": "d"}}
    assert [measure(pair, None)[name] for name in ("words", "host", "script")] == [3, "a.example", "Latin"]
    turns = [{"role": "user", "content": "what is it"}, {"role": "assistant", "content": "two words"}]
    assert measure({"conversation": {"turns": turns}}, None)["words"] == 2
    assert measure({"url": "http://[broken"}, "x")["host"] is None
    assert measure({"source": "web"}, "")["script"] is None and measure({"source": "web"}, "")["source"] == "web"
    assert json.dumps(measure({}, None))


@pytest.mark.slow
def test_a_put_back_release_is_in_no_way_of_takedowns(releases):
    put_back(releases.root, releases.names[0])
    key = query(releases.root, "select key from rows where text = 'ein Haus'")["key"][0].as_py()
    (releases.folder / "list.txt").write_text(key)
    set_mark(releases.root, releases.names[1], "pinned")
    with in_this_process():
        take_down(open_corpus(releases.config), read_list(releases.folder / "list.txt"))
    assert len(card_names(releases.root, releases=True)) == 2, "a pin does not keep what was taken down"
    assert marked(releases.root, "pinned") == marked(releases.root, "put-back") == set()
    assert verify_root(releases.root).problems == [] and unnamed(releases.root) == set()

"""Losing much is no success: a set that is empty, or lost over half of its samples, is not published."""

import json
import re
from pathlib import Path

import pytest
from support.corpora import ONE_PROCESS, build, in_this_process, picture, say, write_captions

from pipelines.build.corpus import open_corpus
from pipelines.catalog.catalog import query
from pipelines.catalog.gates import GateFailed, Loss, NewRelease, facts
from pipelines.engine.root import Root
from pipelines.maintain.takedown import read_list, take_down
from schemas.config.file import read_config
from schemas.config.model import GATES

SOURCE = '[source]\nkind = "folder"\npath = "source"\n'
TRAIN = "[sets.train]\n"
EMPTY = "[sets.none]\nwhere = \"text = 'nothing'\"\n"


@pytest.fixture
def here(tmp_path) -> Path:
    (tmp_path / "source").mkdir()
    for number in range(10):
        (tmp_path / f"source/{number}.png").write_bytes(picture(number)[0])
    said(tmp_path, 10)
    return tmp_path


def said(here: Path, count: int, text: str = "picture {}") -> None:
    """Has the source name this many pictures."""
    write_captions(here / "source/list.csv", [(f"{n}.png", text.format(n)) for n in range(count)])


def configured(here: Path, *tables: str) -> Path:
    (here / "my.toml").write_text(f'root = "corpus"\n{SOURCE}{"".join(tables)}{ONE_PROCESS}')
    return here / "my.toml"


def published(root: Root | Path) -> dict[str, int]:
    """set -> its samples."""
    folder = Path(root.url if isinstance(root, Root) else root) / "shards"
    cards = [json.loads(path.read_text()) for path in folder.glob("*.json") if "@" not in path.name]
    return {card["set"]: card["samples"] for card in cards}


def failure(config: Path) -> str:
    with pytest.raises(GateFailed) as failed:
        build(config)
    (line,) = str(failed.value).splitlines()
    return line


@pytest.mark.slow
def test_a_set_without_samples_is_not_published_and_the_message_says_what_to_do(here):
    line = failure(configured(here, TRAIN, EMPTY))
    assert line.startswith("gate empty_sets: empty_sets = 0 does not hold (empty_sets = 1; set none: ")
    assert "; set none: 0 samples); no shards are published, and what was made is kept: change the settings" in line
    assert line.endswith("run again; if a set may be empty, write `empty_sets = false` under [gates]")
    assert published(here / "corpus") == {}

    root = build(configured(here, TRAIN, EMPTY, "[gates]\nempty_sets = false\n"))
    assert published(root) == {"train": 10, "none": 0}


def test_a_source_that_is_all_bad_is_no_success(here):
    for number in range(10):
        (here / f"source/{number}.png").write_bytes(b"<html>not found</html>")
    assert "set train: 0 samples)" in failure(configured(here, TRAIN))


@pytest.mark.slow
def test_a_set_that_lost_over_half_is_not_published(here):
    config = configured(here, TRAIN)
    root = build(config)
    said(here, 4)
    line = failure(config)
    assert line.startswith("gate lost_share: lost_share <= 0.5 does not hold (lost_share = 0.6; set")
    assert "lost_share = 0.6; set train: 4 samples, 10 before); the shards published before stay" in line
    assert line.endswith("; if the loss is meant, write `lost_share = false` under [gates]")
    assert published(root) == {"train": 10}
    said(here, 5)
    build(config)
    assert published(root) == {"train": 5}, "half may go"
    said(here, 2)
    failure(config)
    build(configured(here, TRAIN, '[gates]\nlost_share = "lost_share < 0.7"\n'))
    assert published(root) == {"train": 2}
    build(config)  # from now on this is what the next run is compared with
    said(here, 1)
    build(config)
    assert published(root) == {"train": 1}


@pytest.mark.slow
def test_a_loss_is_of_one_set_and_not_hidden_by_the_others(here):
    both = "[sets.large]\n[sets.small]\nwhere = \"text like 'rare%'\"\n"
    texts = [(f"{n}.png", f"{'rare' if n < 3 else 'usual'} {n}") for n in range(10)]
    write_captions(here / "source/list.csv", texts)
    config = configured(here, both)
    build(config)
    write_captions(here / "source/list.csv", [(name, text.replace("rare", "usual")) for name, text in texts[1:]])
    line = failure(config)
    assert line.startswith("gates empty_sets: empty_sets = 0; lost_share: lost_share <= 0.5 do not hold (empty_sets = ")
    assert "set small: 0 samples, 3 before" in line and "set large: 9 samples, 10 before" in line


@pytest.mark.slow
@pytest.mark.parametrize("change", ["where = \"text like '%1'\"", "weight = 0.2", 'task = "ocr"'], ids=lambda c: c[:6])
def test_other_settings_may_lose_what_they_want(here, change):
    root = build(configured(here, TRAIN, "[gates]\nempty_sets = false\n"))
    more = "[ocr]\n" if "ocr" in change else ""
    if more:
        config = configured(here, TRAIN, "where = \"key < '4'\"\n", "[gates]\nempty_sets = false\n")
    else:
        config = configured(here, TRAIN, change + "\n", "[gates]\nempty_sets = false\n")
    build(config)
    assert published(root)["train"] < 5


@pytest.mark.slow
def test_another_limit_of_images_may_lose_what_it_wants(here):
    from PIL import Image

    for number in range(2):
        Image.new("RGB", (300, 300), (number, 90, 200)).save(here / f"source/{number}.png")
    root = build(configured(here, TRAIN))
    build(configured(here, "[images]\nmin_side = 250\n", TRAIN))
    assert published(root) == {"train": 2}


@pytest.mark.slow
def test_the_last_release_of_the_same_settings_counts_not_the_last_one(here):
    config = configured(here, TRAIN)
    root = build(config)
    build(configured(here, TRAIN, "where = \"text < 'picture 3'\"\n"))
    assert published(root) == {"train": 3}
    said(here, 4)
    assert "set train: 4 samples, 10 before" in failure(configured(here, TRAIN))


@pytest.mark.slow
def test_of_a_release_of_version_0_1_the_settings_are_taken_to_be_the_same(here):
    config = configured(here, TRAIN)
    root = build(config)
    for path in (here / "corpus/runs").glob("*/releases.parquet"):
        path.unlink()  # that version wrote none
    said(here, 3)
    assert "set train: 3 samples, 10 before" in failure(config)
    assert query(root, 'select "set", samples, release from releases').to_pylist() == [
        {"set": "train", "samples": 10, "release": None}
    ]


@pytest.mark.slow
def test_a_takedown_is_held_up_by_no_gate(here):
    config = configured(here, TRAIN)
    root = build(config)
    keys = query(root, "select key from rows order by key limit 8")["key"].to_pylist()
    (here / "list.txt").write_text("\n".join(keys))
    with in_this_process():
        take_down(open_corpus(config), read_list(here / "list.txt"))
    assert published(root) == {"train": 2}
    (here / "list.txt").write_text("\n".join(query(root, "select key from rows")["key"].to_pylist()))
    with in_this_process():
        take_down(open_corpus(config), read_list(here / "list.txt"))
    assert published(root) == {"train": 0}
    (here / "source/more.jsonl").write_text('{"image": "gone.png", "text": "no such picture"}\n')
    build(config)  # what is published stays as it is: nothing holds the run up
    assert published(root) == {"train": 0}


def test_the_user_switches_each_off_or_replaces_it_by_name(here):
    own = '[gates]\nempty_sets = false\nenough = "kept > 3"\n'
    assert read_config(configured(here, TRAIN)).gates == GATES
    gates = read_config(configured(here, TRAIN, own)).gates
    assert gates == GATES | {"empty_sets": "true", "enough": "kept > 3"}
    assert read_config(configured(here, "[gates]\nlost_share = 'lost_share < 0.1'\n")).gates["empty_sets"]
    for wrong in ("true", "1", '["a"]'):
        process = say("plan", configured(here, f"[gates]\nempty_sets = {wrong}\n"))
        assert process.code == 2 and "gates.empty_sets: write a text, in quotes" in process.err, wrong
    shown = say("keys", "gates").out
    assert all(re.search(rf"^{name} = .*# false switches it off$", shown, re.M) for name in GATES)


@pytest.mark.slow
def test_growth_is_no_change(here):
    config = configured(here, TRAIN, '[gates]\nchange = "changed_share < 0.2"\n')
    said(here, 5)
    root = build(config)
    said(here, 10)
    build(config)
    assert published(root) == {"train": 10}, "5 were added, none was changed or removed"
    said(here, 7)
    assert "(changed_share = 0.3, changed = 0, removed = 3, samples_before = 10); " in failure(config)
    said(here, 10, "another {}")
    line = failure(config)  # another caption is another row here: all were removed, and as many added
    assert "(changed_share = 1, changed = 0, removed = 10, samples_before = 10)" in line


def test_the_figures_of_a_run():
    card = {"set": "a", "samples": 8, "release": "x", "settings": {}}
    changes = [{"change": kind} for kind in ("added", "removed", "removed", "changed")]
    run = facts(20, 8, [NewRelease(card | {"samples": 9}, card, changes, "s")], [Loss("a", 9, 8)])
    assert facts(0, 0, [], [Loss("a", 0, 0)])["empty_sets"] == 1
    assert (run["changed_share"], run["added_share"]) == (3 / 9, 1 / 9)
    assert (run["lost_share"], run["empty_sets"], run["samples_before"]) == (1 / 9, 0, 9)
    nothing = facts(0, 0, [], [])
    assert all(value == 0 for value in nothing.values())
    assert Loss("a", 0, 0).share == 0


def test_a_corpus_without_sets_has_none_that_is_empty(here):
    root = build(configured(here))
    assert published(root) == {}


@pytest.mark.slow
def test_views_of_releases_and_growth(here):
    config = configured(here, TRAIN)
    said(here, 5)
    root = build(config)
    build(config)  # has nothing to do
    said(here, 8)
    build(config)
    releases = query(root, 'select "set", samples, added, removed, changed, shards, task from releases').to_pylist()
    assert releases == [
        {"set": "train", "samples": 5, "added": 5, "removed": 0, "changed": 0, "shards": 1, "task": "caption"},
        {"set": "train", "samples": 8, "added": 3, "removed": 0, "changed": 0, "shards": 1, "task": "caption"},
    ]
    growth = query(root, 'select "set", samples, more from growth order by run').to_pylist()
    assert [tuple(row.values()) for row in growth] == [("train", 5, 5), ("train", 5, 0), ("train", 8, 3)]

"""Where samples stand in the shards of a set: a change of a group that is full moves no other sample."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest
from corpora import ONE_PROCESS, build, write_tar

from pipelines.parquet import read_rows
from pipelines.root import Root
from pipelines.verify import verify_root

TOML = f"""
root = "corpus"
[source]
kind = "webdataset"
path = "source"
[sets.train]
samples_per_shard = 3
{ONE_PROCESS}"""


@pytest.fixture(autouse=True)
def groups_of_two():
    with patch("pipelines.shards.GROUP", 2):
        yield


def made(folder: Path, **tars: range) -> Root:
    """The corpus after some tars have come, or are others."""
    for name, numbers in tars.items():
        write_tar(folder / f"source/{name}.tar", numbers)
    (folder / "my.toml").write_text(TOML)
    root = build(folder / "my.toml")
    assert verify_root(root).problems == []
    return root


def card_of(root: Root) -> dict:
    return json.loads(root.read("shards/train.json"))


def groups(root: Root) -> list[tuple[int, bool]]:
    """How many shards each group has, and whether that stays."""
    return [(group["shards"], group["settled"]) for group in card_of(root)["groups"]]


def placed(root: Root) -> dict[str, int]:
    """sample -> the number of its shard."""
    entries = card_of(root)["shards"]
    return {row["sample"]: e["number"] for e in entries for row in read_rows(root, f"shards/{e['index']}")}


def test_an_open_group_is_laid_out_anew_and_a_full_one_never(tmp_path):
    root = made(tmp_path, a=range(3), b=range(3, 6))
    assert groups(root) == [(2, False)]
    root = made(tmp_path, b=range(3, 9))
    assert groups(root) == [(3, False)]
    before = placed(made(tmp_path, c=range(9, 12)))
    assert groups(root) == [(3, True), (1, False)]
    after = placed(made(tmp_path, a=range(20, 29), b=range(5, 9)))
    assert groups(root) == [(3, True), (1, False)]
    assert {name: number for name, number in before.items() if name in after} == {
        name: number for name, number in after.items() if name in before
    }
    assert len(after) == 9 + 4 + 3


def test_a_full_group_stays_as_it_is_when_all_after_it_vanish(tmp_path):
    made(tmp_path, a=range(3), b=range(3, 6))
    root = made(tmp_path, c=range(6, 9))
    (tmp_path / "source/c.tar").unlink()
    made(tmp_path)
    assert groups(root) == [(2, True)]
    assert len(placed(made(tmp_path, a=range(20)))) == 23
    assert groups(root) == [(2, True)]


def test_a_card_on_which_a_full_group_is_not_settled_loses_nothing(tmp_path):
    """Older versions left it so where a group did not change as the next one began."""
    root = made(tmp_path, a=range(3), b=range(3, 6), c=range(6, 12))
    card = card_of(root)
    card["groups"][0]["settled"] = False
    for name in ("train", f"train@{card['release']}"):
        root.write(f"shards/{name}.json", json.dumps(card, indent=1).encode())
    before = placed(root)
    after = placed(made(tmp_path, a=range(20, 40)))
    assert groups(root) == [(2, True), (2, False)]
    assert len(after) == 20 + 3 + 6
    assert all(after[name] == number for name, number in before.items() if name in after)

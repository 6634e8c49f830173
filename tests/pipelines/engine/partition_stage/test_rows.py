"""A partition is made from what it declares to read, takes over rows that did not change, and stops where none did."""

import os
from dataclasses import dataclass, replace

import pytest
from support.word_stages import WORDS, Long, Loud, Words, made, said, say

from pipelines.build.plan import todo, why
from pipelines.engine.commit import (
    Commit,
    completed,
    key_of,
    read_commit,
    replace_rows,
)
from pipelines.engine.ledger import Ledger
from pipelines.engine.make_partition import OldRows, make_partition
from pipelines.engine.parquet import Corrupt, parquet_bytes, read_rows
from pipelines.engine.partition_stage import PartitionStage, Unit
from schemas.arrow import schema_of
from schemas.stage import StageInfo


def test_every_key_that_goes_in_comes_out(root):
    say(root, "a", "", None, "b")
    assert made(Loud(), root) == ["", "a", "b"]
    rows = {row["key"]: row for row in read_rows(root, "loud/00000.parquet")}
    assert list(rows) == sorted(key_of(str(word)) for word in ("a", "", None, "b"))
    told = {key: (row["word"], row["reason"], row["detail"]) for key, row in rows.items()}
    assert told == {
        key_of("a"): ("A", None, None), key_of("b"): ("B", None, None),
        key_of(""): (None, "silent", "an empty word"), key_of("None"): (None, "upstream", "words: unreadable"),
    }  # fmt: skip
    made(Long(), root)
    details = {row["detail"] for row in read_rows(root, "long/00000.parquet") if row["reason"] == "upstream"}
    assert details == {"loud: silent", "loud"}  # what loud had from upstream stands in loud
    commit = read_commit(root, "loud/00000.parquet")
    assert (commit.rows, commit.kept, commit.reasons) == (4, 2, {"silent": 1, "upstream": 1})


def test_only_rows_that_changed_are_made(root):
    say(root, "a", "b", "c")
    assert made(Loud(), root) == ["a", "b", "c"]
    assert made(Loud(), root) == []
    say(root, "a", "b", "d")
    assert made(Loud(), root) == ["d"]
    assert said(root, "loud") == ["A", "B", "D"]
    say(root, "a")
    assert made(Loud(), root) == []
    assert said(root, "loud") == ["A"]
    say(root, "a", "b", "d")
    assert made(Loud(), root) == ["b", "d"]


def test_a_setting_and_a_version_make_all_again(root, monkeypatch):
    say(root, "a", "b")
    made(Loud(), root)
    assert made(Loud(times=2), root) == ["a", "b"]
    assert said(root, "loud") == ["AA", "BB"]
    monkeypatch.setattr(Loud, "version", 2)
    assert made(Loud(times=2), root) == ["a", "b"]
    assert made(Loud(times=2), root) == []


def test_columns_that_are_only_found_decide_nothing(root):
    say(root, "a", "b")
    made(Loud(), root)
    before = root.read("loud/00000.parquet")
    say(root, "a", "b", places="moved to ")
    assert made(Loud(), root) == [] and root.read("loud/00000.parquet") == before
    say(root, "a", "b", "c", places="moved to ")
    assert made(Loud(), root) == ["c"]


def test_equal_columns_stop_a_rebuild(root, monkeypatch):
    say(root, "one", "two", "three")
    made(Loud(), root)
    assert made(Long(), root) == ["ONE", "THREE", "TWO"]
    before = read_commit(root, "loud/00000.parquet")
    long = root.files("long")
    monkeypatch.setattr(Loud, "version", 2)
    assert made(Loud(), root) == ["one", "three", "two"]
    assert read_commit(root, "loud/00000.parquet").fingerprint != before.fingerprint
    assert made(Long(), root) == [] and root.files("long") == long
    commits = {"loud": {0: before}, "long": {0: read_commit(root, "long/00000.parquet")}}
    assert todo(Long(), commits) == {}
    changed = replace(before, digests=before.digests | {"word": "other"})
    assert todo(Long(), commits | {"loud": {0: changed}}) == {0: "loud changed: word"}
    other = replace(before, digests=before.digests | {"place": "other", "made_from": "other"})
    assert todo(Long(), commits | {"loud": {0: other}}) == {}


def test_plan_says_why(root, monkeypatch):
    say(root, "a")
    made(Loud(), root)
    commit = read_commit(root, "loud/00000.parquet")
    words = {0: read_commit(root, "words/00000.parquet")}
    assert todo(Loud(), {"words": words, "loud": {}}) == {0: "new"}
    assert todo(Loud(), {"words": words, "loud": {0: commit}}, {0: "file changed"}) == {0: "follows words"}
    assert todo(Loud(times=3), {"words": words, "loud": {0: commit}}) == {0: "times 1 -> 3"}
    assert why(commit, Loud(), {"words": {"key": "x", "word": commit.inputs["words"]["word"]}}) == "words changed: key"
    changes = (
        ({"a": {"b": [], "c": [1]}}, {"a": {"b": (), "c": (1, 2)}}, "a.c [1] -> [1, 2]"),
        ({"a": None}, {"a": {"b": 1}}, "a is new"),
        ({"a": {"b": 1}}, {"a": None}, "a is gone"),
    )
    for before, after, reason in changes:
        monkeypatch.setattr(Loud, "settings", lambda _, after=after: after)
        assert why(replace(commit, settings=before), Loud(), {}) == reason
    monkeypatch.undo()
    monkeypatch.setattr(Loud, "version", 7)
    assert todo(Loud(), {"words": words, "loud": {0: commit}}) == {0: "stage version 1 -> 7"}


def test_reasons_must_be_declared(root):
    say(root, "boo")
    with pytest.raises(TypeError, match="loud: 'undeclared' is not a declared reason"):
        made(Loud(), root)
    assert not root.exists("loud/00000.parquet")


def test_what_is_read_must_be_there(root):
    with pytest.raises(Corrupt, match=r"words/00000.parquet is missing or unreadable"):
        made(Loud(), root)


def test_rows_that_do_not_fit_the_schema_are_a_bug_that_stops(root):
    row = {"key": "a", "word": "a", "place": None, "reason": None, "detail": None, "made_from": "x"}
    for wrong, message in (
        ({k: v for k, v in row.items() if k != "place"}, "row 'a' has the wrong fields: .'place'."),
        (row | {"more": 1}, "row 'a' has the wrong fields: .'more'."),
        (row | {"made_from": None}, "row 'a' has no made_from"),
    ):
        with pytest.raises((TypeError, KeyError), match=message):
            parquet_bytes([wrong], schema_of(WORDS))


def test_keys_are_unique_and_in_order():
    commit = Commit("words", 0, 1, {}, {}, "x")
    rows = [{"key": key, "word": None, "place": None, "reason": None, "detail": None, "made_from": ""} for key in "ab"]
    assert completed(commit, rows, schema_of(WORDS)).rows == 2
    for wrong in ([rows[1], rows[0]], [rows[0], rows[0]]):
        with pytest.raises(ValueError, match="words 0: keys are not unique and in order"):
            completed(commit, wrong, schema_of(WORDS))


# Two makers


def test_the_first_commit_wins(root):
    """A slow maker of the same partition finds that it is there, and leaves it."""
    say(root, "a", "b")

    class Slow(Loud):
        def make(self, rows, root):
            if not self.asked:
                made(Loud(), root)
                first.append((os.stat(root.path("loud/00000.parquet")).st_ino, root.read("loud/00000.parquet")))
            yield from super().make(rows, root)

    first: list[tuple[int, bytes]] = []
    assert made(Slow(), root) == ["a", "b"]
    assert first == [(os.stat(root.path("loud/00000.parquet")).st_ino, root.read("loud/00000.parquet"))]


def test_a_maker_with_other_settings_does_not_lose_to_the_first(root):
    say(root, "a")
    made(Loud(), root)
    made(Loud(times=2), root)
    assert said(root, "loud") == ["AA"]


# Keys that are no input


@dataclass(frozen=True)
class Deaf(PartitionStage):
    """Reads words, and not their keys."""

    info = StageInfo("deaf", WORDS, {}, reads={"words": ("word",)})

    def make(self, rows, root):
        for row in rows:
            yield row["words"]["key"], {"word": row["words"]["word"]}


def test_rows_that_say_the_same_under_other_keys_are_followed(root):
    """All that a partition reads is equal, and yet it answers other rows."""
    for key in ("a" * 16, "b" * 16):
        row = {"key": key, "word": "same", "place": None, "reason": None, "detail": None, "made_from": "x"}
        replace_rows(root, Ledger(root, "run"), Words(), 0, [row])
        words = {0: read_commit(root, "words/00000.parquet")}
        own = read_commit(root, "deaf/00000.parquet")
        assert todo(Deaf(), {"words": words, "deaf": {0: own} if own else {}}) != {}
        make_partition(Deaf(), root, Ledger(root, "run"), 0)
        assert said(root, "deaf", "key") == [key]
        assert todo(Deaf(), {"words": words, "deaf": {0: read_commit(root, "deaf/00000.parquet")}}) == {}


def test_rows_that_are_made_anew_find_nothing_of_before(root):
    """Neither another row that was made from the same, nor what a killed run put down of them."""
    stage = replace(Loud(), earlier=())
    say(root, "", "a")
    make_partition(stage, root, Ledger(root, "run"), 0)
    (failed,) = (row for row in read_rows(root, "loud/00000.parquet") if row["reason"] == "silent")
    twin = {**failed, "key": "f" * 16}
    old = OldRows([failed, twin], {}, read_commit(root, "loud/00000.parquet"), {failed["made_from"]})
    unit = Unit(twin["key"], {"words": {"key": twin["key"], "word": "", "reason": None}}, failed["made_from"])
    assert old.handed_on(unit, stage).row["before"] is None

"""A partition is made from what it declares to read, takes over the rows that did not change, and stops where nothing
did."""

import hashlib
import json
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.build.plan import todo, why
from pipelines.engine.checkpoints import read_chunks, write_chunk
from pipelines.engine.commit import (
    Commit,
    Stage,
    bucket_of,
    canonical,
    completed,
    digest,
    key_of,
    read_commit,
    replace_rows,
)
from pipelines.engine.ledger import Ledger
from pipelines.engine.make_partition import OldRows, make_partition
from pipelines.engine.parquet import Corrupt, parquet_bytes, read_rows
from pipelines.engine.partition_stage import PartitionStage, Rejected, Unit
from pipelines.engine.payload import read_payload
from pipelines.engine.root import Root
from schemas import images, ocr, rows
from schemas.arrow import Row, arrow_schema, schema_of
from schemas.ocr import OcrRow
from schemas.stage import StageInfo

WORDS = {
    "key": str, "word": str | None, "place": str | None, "reason": str | None, "detail": str | None, "made_from": str,
}  # fmt: skip
ROWS, OCR = rows.STAGE.schema, ocr.STAGE.schema


class Words(Stage):
    """A source of words. Where a word lies is no part of what it is."""

    info = StageInfo("words", WORDS, {"unreadable": "a hole in the page"})
    places = frozenset({"place"})


@dataclass(frozen=True)
class Loud(PartitionStage):
    """Says words louder, once for each `times`; notes what it was asked for."""

    times: int = 1
    asked: list[str] = field(default_factory=list, compare=False)

    info = StageInfo("loud", WORDS, {"silent": "nothing to say"}, reads={"words": ("key", "word")})
    finds = {"words": ("place",)}

    def settings(self) -> dict[str, Any]:
        return {"times": self.times}

    def make(self, rows: Iterable[dict[str, Row]], root: Root) -> Iterator[tuple[str, Row | Rejected]]:
        for row in rows:
            key, word = row["words"]["key"], row["words"]["word"]
            self.asked.append(word)
            if word == "":
                yield key, Rejected("silent", "an empty word")
            elif word == "boo":
                yield key, Rejected("undeclared", "")
            else:
                yield key, {"word": word.upper() * self.times, "place": row["words"]["place"]}


@dataclass(frozen=True)
class Long(PartitionStage):
    """Says how long loud words are: equal for words of equal length."""

    asked: list[str] = field(default_factory=list, compare=False)

    info = StageInfo("long", WORDS, {}, reads={"loud": ("key", "word")})

    def make(self, rows, root):
        for row in rows:
            self.asked.append(row["loud"]["word"])
            yield row["loud"]["key"], {"word": str(len(row["loud"]["word"]))}


@dataclass(frozen=True)
class Kept(PartitionStage):
    """Keeps bytes for each word."""

    size: int = 1000
    asked: list[str] = field(default_factory=list, compare=False)

    info = StageInfo("images", images.STAGE.fields, {"too_small": "less than a byte"}, reads={"words": ("key", "word")})
    places = frozenset({"byte_offset"})
    payload = True

    def settings(self) -> dict[str, Any]:
        return {"size": self.size}

    def make(self, rows, root):
        for row in rows:
            word = row["words"]["word"]
            self.asked.append(word)
            data = (word.encode() * self.size)[: self.size]
            if not data:
                yield row["words"]["key"], Rejected("too_small")
            else:
                yield row["words"]["key"], {
                    "format": "PNG", "sha256": hashlib.sha256(data).hexdigest(), "bytes": data,
                }  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def no_fsync() -> Iterator[None]:
    """Nobody pulls the plug here, and many small files are written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.engine.root.FSYNC", False)
        yield


@pytest.fixture
def root(tmp_path) -> Root:
    return Root(str(tmp_path))


def say(root: Root, *words: str | None, places: str = "", partition: int = 0) -> None:
    """Puts words into the source's partition; None is one that could not be read."""
    rows = []
    for word in words:
        row = {"key": key_of(str(word)), "word": word, "place": places + str(word), "reason": None, "detail": None}
        row |= {"reason": "unreadable"} if word is None else {}
        rows.append(row | {"made_from": digest(word)})
    replace_rows(root, Ledger(root, "run"), Words(), partition, rows)


def made(stage: PartitionStage, root: Root, partition: int = 0) -> list[str]:
    """Makes a partition; what was computed anew."""
    if hasattr(stage, "asked"):
        stage.asked.clear()
    make_partition(stage, root, Ledger(root, "run"), partition)
    return sorted(stage.asked)


def said(root: Root, stage: str, column: str = "word") -> list:
    return sorted((row[column] for row in read_rows(root, f"{stage}/00000.parquet")), key=str)


# Rows


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
    for before, after, said in changes:
        monkeypatch.setattr(Loud, "settings", lambda _, after=after: after)
        assert why(replace(commit, settings=before), Loud(), {}) == said
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


# Chunks


class Costly(Loud):
    chunk_rows = 2


class Dies(Costly):
    """Is killed after some words."""

    def make(self, rows, root):
        for number, one in enumerate(super().make(rows, root)):
            if number == 5:
                raise KeyboardInterrupt
            yield one


def test_chunks_of_a_killed_run_are_taken_over(root):
    words = [chr(ord("a") + n) for n in range(8)]
    say(root, *words)
    with pytest.raises(KeyboardInterrupt):
        made(Dies(), root)
    assert len(root.files("loud/chunks/00000")) == 2 and not root.exists("loud/00000.parquet")
    kept = {row["word"].lower() for row in read_chunks(root, Costly(), 0)}
    stage = Costly()
    assert made(stage, root) == sorted({*words} - kept) and len(kept) == 4
    assert root.files("loud/chunks/00000") == {} and root.folders("loud/chunks") == []
    data = root.read("loud/00000.parquet")
    root.remove("loud/00000.parquet")
    made(Costly(), root)
    assert root.read("loud/00000.parquet") == data


class Paid(Costly):
    """Is killed as no program can help it: nothing of what it has in hand comes to be written."""

    measures = "calls"

    def make(self, rows, root):
        call = {name: 1 for name in ("tries", "tokens_in", "tokens_out", "milliseconds", "waited")}
        for number, (key, row) in enumerate(super().make(rows, root)):
            if number == 5:
                os._exit(9)
            yield key, {**row, "measured": {**call, "endpoint": "m", "reason": None}}


def test_what_a_killed_run_paid_for_is_counted_as_far_as_it_was_put_down(root):
    say(root, *"abcdefgh")
    if (child := os.fork()) == 0:
        make_partition(Paid(), root, Ledger(root, "killed"), 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    paid = {row["key"] for row in read_chunks(root, Costly(), 0)}
    assert len(paid) == 4 and Ledger(root, "killed").spent("m") == (4, 8)
    (name,) = root.files("runs/killed")
    assert {row["key"] for row in read_rows(root, f"runs/killed/{name}")} == paid


def test_chunks_of_other_settings_are_not(root):
    say(root, *"abcdefgh")
    with pytest.raises(KeyboardInterrupt):
        made(Dies(), root)
    assert made(Costly(times=2), root) == [*"abcdefgh"]
    assert said(root, "loud") == ["AA", "BB", "CC", "DD", "EE", "FF", "GG", "HH"]


def test_damaged_chunks_and_old_rows_are_made_again(root):
    say(root, *"abcdefgh")
    with pytest.raises(KeyboardInterrupt):
        made(Dies(), root)
    first, second = root.files("loud/chunks/00000")
    root.write(f"loud/chunks/00000/{first}", b"half a fi")
    kept = {row["word"].lower() for row in read_rows(root, f"loud/chunks/00000/{second}")}
    assert made(Costly(), root) == sorted({*"abcdefgh"} - kept)
    data = bytearray(root.read("loud/00000.parquet"))
    data[100] ^= 1
    root.write("loud/00000.parquet", bytes(data))
    with pytest.raises(Corrupt, match=r"loud/00000.parquet: cannot be read"):
        read_rows(root, "loud/00000.parquet")
    say(root, *"abcdefghi")
    assert made(Costly(), root) == [*"abcdefghi"]


def test_a_chunk_that_was_left_behind_goes_when_the_partition_is_current(root):
    say(root, "a")
    made(Costly(), root)
    write_chunk(root, Costly(), 0, read_rows(root, "loud/00000.parquet"))
    made(Costly(), root)
    assert root.files("loud/chunks/00000") == {}


# Payloads


def payload_of(root: Root) -> str:
    return read_commit(root, "images/00000.parquet").payload


def test_bytes_are_copied_from_the_old_tar_for_rows_that_are_taken_over(root):
    say(root, "a", "", "b")
    assert made(Kept(), root) == ["", "a", "b"]
    first = payload_of(root)
    say(root, "a", "", "b", "c")
    assert made(Kept(), root) == ["c"]
    assert payload_of(root) != first
    for row in read_rows(root, "images/00000.parquet"):
        if row["size"]:
            data = read_payload(root, "images", row | {"payload": payload_of(root)})
            assert data in (b"a" * 1000, b"b" * 1000, b"c" * 1000)
    commit = read_commit(root, "images/00000.parquet")
    assert commit.payload_sha256 == hashlib.sha256(root.read(f"images/{commit.payload}")).hexdigest()
    assert commit.payload == f"00000-{commit.payload_sha256[:16]}.tar"


def test_a_partition_that_keeps_nothing_has_no_tar(root):
    say(root, "", None)
    made(Kept(), root)
    assert payload_of(root) is None and list(root.files("images", hidden=True)) == ["00000.parquet"]


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_bytes_that_are_not_what_was_committed_name_their_key(harm, root):
    say(root, "a")
    made(Kept(), root)
    name = f"images/{payload_of(root)}"
    (row,) = read_rows(root, "images/00000.parquet")
    row |= {"payload": payload_of(root)}
    data = bytearray(root.read(name))
    data[row["byte_offset"] + 500] ^= 1
    if harm == "gone":
        root.remove(name)
    else:
        root.write(name, bytes(data) if harm == "flipped" else bytes(data[:1000]))
    with pytest.raises(Corrupt, match=key_of("a")):
        read_payload(root, "images", row)
    say(root, "a", "b")  # its row would be taken over
    with pytest.raises(Corrupt, match=key_of("a")):
        made(Kept(), root)


# The same bytes


texts = st.text(st.characters(codec="utf-8"), max_size=5)


@given(st.lists(texts, unique=True, max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_order_of_rows_does_not_matter(tmp_path_factory, words, draws):
    def files(order: list[str]) -> list[bytes]:
        root = Root(str(tmp_path_factory.mktemp("order")))
        say(root, *order)
        made(Loud(), root)
        made(Kept(), root)
        return [root.read(f"{stage}/00000.parquet") for stage in ("words", "loud", "images")]

    words = [word for word in words if word != "boo"]
    mixed = draws.sample(words, len(words))
    assert files(words) == files(mixed)


def test_only_what_repeats_has_a_dictionary(tmp_path):
    """Of keys and digests it would be another copy: files were a fifth larger, and slower to read."""
    root = Root(str(tmp_path))
    lines = [{"text": "OPEN", "confidence": 0.9, "box": [0.0] * 8}]
    row = {"lines": lines, "dropped": [], "verdict": "good", "reason": None, "detail": None}
    rows = [row | {"key": key_of(str(n)), "made_from": key_of(f"of {n}")} for n in range(500)]
    rows = [{name: row[name] for name in OCR.names} for row in rows]
    root.write("a.parquet", parquet_bytes(rows, OCR))
    assert read_rows(root, "a.parquet") == rows
    group = pq.ParquetFile(root.path("a.parquet")).metadata.row_group(0)
    columns = [group.column(n) for n in range(group.num_columns)]
    plain = {column.path_in_schema for column in columns if "RLE_DICTIONARY" not in column.encodings}
    assert plain == {"key", "made_from"}
    assert {"verdict", "lines.list.element.text"} < {column.path_in_schema for column in columns}


@given(st.lists(st.lists(texts, unique=True, max_size=8), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_history_does_not_matter(tmp_path_factory, history):
    """Whatever a partition went through, its files are those of one that was made at once."""
    history = [[word for word in words if word != "boo"] for words in history]
    grown, fresh = (Root(str(tmp_path_factory.mktemp(name))) for name in ("grown", "fresh"))
    for words in history:
        say(grown, *words)
        for stage in (Loud(), Kept(), Long()):
            made(stage, grown)
    say(fresh, *history[-1])
    for stage in (Loud(), Kept(), Long()):
        made(stage, fresh)
    for stage in ("words", "loud", "images", "long"):
        assert grown.read(f"{stage}/00000.parquet") == fresh.read(f"{stage}/00000.parquet")
    if payload_of(fresh):
        assert grown.read(f"images/{payload_of(fresh)}") == fresh.read(f"images/{payload_of(fresh)}")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(texts, values, max_size=4))
@settings(max_examples=100, deadline=None)
def test_one_value_has_one_text(value):
    shuffled = dict(random.Random(1).sample(list(value.items()), len(value)))
    assert canonical(shuffled) == canonical(value)
    assert json.loads(canonical(value)) == value and canonical(json.loads(canonical(value))) == canonical(value)


def test_values_that_are_no_json_are_refused():
    for wrong in (float("nan"), float("inf"), {1, 2}, b"bytes", object()):
        with pytest.raises((TypeError, ValueError)):
            canonical(wrong)


def test_digests_are_what_they_were():
    """If one of these changes, every root in the world is made again."""
    assert canonical({"b": [1, 2.5, None, True], "a": "ü\n"}) == b'{"a":"\\u00fc\\n","b":[1,2.5,null,true]}'
    assert digest({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()[:32] == "015abd7f5cc57a2dd94b7590f04ad808"
    assert key_of("0.tar", "000001") == hashlib.sha256(b"0.tar\x00000001").hexdigest()[:16] == "6966a333876431b4"
    assert key_of("http://x.example/ü", "a caption") == "8a84710a6fedba72"
    assert key_of("half a pair \ud800") == "e2b9c9cd3db8119e"
    assert [bucket_of("ffffffff00000000", n) for n in (1, 7, 64)] == [0, 3, 63]
    assert Loud(times=2).identity() == digest(["loud", 1, {"times": 2}])


def test_a_partitions_bytes_are_what_they_were(root):
    """Of this pyarrow; another may write the same rows in other bytes."""
    say(root, "a", "", None, "b")
    made(Loud(), root)
    commit = read_commit(root, "loud/00000.parquet")
    assert commit.fingerprint == "b5d79de43bd85a029e4c40b5e2770159"
    assert commit.digests["word"] == digest([row["word"] for row in read_rows(root, "loud/00000.parquet")])
    if pa.__version__ == "25.0.1":
        assert hashlib.sha256(root.read("loud/00000.parquet")).hexdigest()[:16] == "9932843c2188b83e"


def test_schemas_come_from_row_types():
    assert arrow_schema(OcrRow).field("lines").type.value_type.field("box").type.value_type == pa.float64()
    assert {field.name for field in ROWS if not field.nullable} == {"key", "extra", "made_from"}
    assert ROWS.field("size").type == pa.int64() and ROWS.field("text").nullable


def test_partitions_lie_where_their_number_says(tmp_path):
    root = Root(str(tmp_path))
    say(root, "a", partition=12)
    made(Loud(), root, 12)
    assert Path(root.path("loud/00012.parquet")).exists()
    assert read_commit(root, "loud/00012.parquet").partition == 12


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

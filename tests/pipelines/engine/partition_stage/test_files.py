"""The bytes of a partition follow from its rows alone, whatever their order and history."""

import hashlib
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.word_stages import Kept, Long, Loud, made, payload_of, say

from pipelines.engine.commit import (
    bucket_of,
    canonical,
    digest,
    key_of,
    read_commit,
)
from pipelines.engine.parquet import Corrupt, parquet_bytes, read_rows
from pipelines.engine.payload import read_payload
from pipelines.engine.root import Root
from schemas import ocr, rows
from schemas.arrow import arrow_schema
from schemas.ocr import OcrRow

ROWS, OCR = rows.STAGE.schema, ocr.STAGE.schema


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


@pytest.mark.slow
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

"""Pages of one layout with other texts stay; copies of one page go. The 64-bit hash alone cannot tell them apart."""

import io
import random

import numpy as np
import pytest
from benchmarks.fine_hash import certificate, form, jpeg, scaled, solid
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.corpora import build

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.dedup import two_hashes
from pipelines.dedup.fine_hash import NEAR
from pipelines.dedup.two_hashes import near_in_both
from pipelines.stages.duplicates import MarkDuplicates


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [certificate, form, solid])
def test_pages_with_other_texts_stay_and_copies_of_one_go(pictures, kind):
    pages = [kind(random.Random(number)) for number in range(8)]
    pictures.put({f"{number}.png": png(page) for number, page in enumerate(pages)})
    pictures.put({"z-again.png": png(jpeg(pages[1], 60)), "z-half.png": png(scaled(pages[2], 0.5))})
    left = {name: row[0] for name, row in pictures.build("[duplicates]").items() if row[0]}
    assert [*left.values()] == ["near_duplicate"] * 2
    of = {"z-again.png": "1.png", "z-half.png": "2.png"}
    assert {frozenset((name, of[name])) for name in of} == {
        frozenset((name, pictures.said()[name][1])) for name in left
    }


@pytest.mark.slow
def test_an_upgrade_brings_pages_back_and_says_why(pictures, monkeypatch):
    """Version 1 took pages of one layout for duplicates. What it kept stays kept."""
    pages = [certificate(random.Random(number)) for number in range(8)]
    pictures.put({f"{number}.png": png(page) for number, page in enumerate(pages)})
    monkeypatch.setattr(two_hashes, "NEAR", 256)
    monkeypatch.setattr(MarkDuplicates, "version", 1)
    before = {name: row[0] for name, row in pictures.build("[duplicates]").items()}
    assert 0 < len([reason for reason in before.values() if reason == "near_duplicate"]) < 8
    monkeypatch.undo()
    config = pictures.folder / "my.toml"
    stages = {made.stage: made for made in plan(open_corpus(config)).stages}
    assert not stages["images"].todo
    assert {why.split(";")[0] for why in stages["duplicates"].todo.values()} == {"stage version 1 -> 2"}
    build(config)
    assert {row[0] for row in pictures.said().values()} == {None}
    assert query(pictures.root, "SELECT count(*) AS n FROM shards").to_pylist() == [{"n": 8}]


WORDS = np.random.default_rng(0).integers(0, 2**64, (3, 4), dtype=np.uint64)
LOOK = st.tuples(
    st.integers(0, 7).map(lambda n: n * 0b1001),
    st.integers(0, 3),  # which words; the last: unknown
    st.sampled_from([0, 1, NEAR, NEAR + 1]),  # of their bits that are turned
)


@given(st.lists(LOOK, min_size=1, max_size=40), st.integers(0, 4), st.sampled_from([0, 2, 256]))
@settings(max_examples=200, deadline=None)
def test_pairs_that_are_near_in_both_are_those_that_comparing_all_with_all_finds(looks, distance, long):
    def words(which: int, turned: int) -> list[int]:
        number = sum(int(word) << (64 * n) for n, word in enumerate(WORDS[which])) ^ ((1 << turned) - 1)
        return [number >> (64 * n) & (2**64 - 1) for n in range(4)]

    rows = {(first, *(words(which, turned) if which < 3 else [0] * 4)) for first, which, turned in looks}
    rows = sorted(rows)
    table = np.array(rows, np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_hashes, "LONG", long)
        found = [
            (min(pair), max(pair))
            for one, other in near_in_both(table[:, 0], table[:, 1:], distance)
            for pair in zip(one.tolist(), other.tolist(), strict=True)
        ]

    def near(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        bits = [(x ^ y).bit_count() for x, y in zip(a, b, strict=True)]
        return bits[0] <= distance and (sum(bits[1:]) <= NEAR or not any(a[1:]) or not any(b[1:]))

    numbers = range(len(rows))
    assert sorted(found) == [(a, b) for a in numbers for b in numbers if a < b and near(rows[a], rows[b])]

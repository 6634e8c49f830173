"""Pages of one layout with other texts stay; copies of one page go. The 64-bit hash alone cannot tell them apart."""

import io
import random

import numpy as np
import pytest
from benchmarks.fine_hash import certificate, cropped, form, jpeg, marked, scaled, solid
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.corpora import build
from support.duplicates import planned, png

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.catalog.stats import corpus_stats
from pipelines.dedup import compared, two_hashes
from pipelines.dedup.compared import compare
from pipelines.dedup.fine_hash import NEAR
from pipelines.dedup.two_hashes import near_in_both
from pipelines.maintain.clean import garbage
from pipelines.stages.duplicates import MarkDuplicates
from schemas.config.file import read_config
from schemas.errors import UserError

RANDOM = random.Random(0)


def jpeg_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
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


PIXELS = '[duplicates]\ncompare = "pixels"'


@pytest.mark.slow
def test_a_corpus_can_be_compared_by_pixels_and_no_two_pictures_twice(pictures, monkeypatch):
    done = []

    def noted(root, item):
        done.extend(item.named())
        return compare(root, item)

    monkeypatch.setattr(compared, "compare", noted)
    pages = [certificate(random.Random(number)) for number in range(6)]
    pictures.put({f"{number}.png": png(page) for number, page in enumerate(pages)})
    pictures.put({"again.jpg": jpeg_bytes(pages[0])})
    assert [row[0] for row in pictures.build(PIXELS).values() if row[0]] == ["near_duplicate"]
    file = pictures.folder / "corpus/duplicates/compared.parquet"
    assert file.exists()
    assert [*garbage(pictures.root)] == [] and len(done) == len({*done}) > 0
    [counted] = query(
        pictures.root, "SELECT sum(pairs)::INT AS pairs, sum(copies)::INT AS copies FROM comparisons"
    ).to_pylist()
    assert counted == {"pairs": len(done), "copies": 1}
    [lines] = [lines for title, _, lines in corpus_stats(pictures.root) if title == "pictures compared"]
    assert [line[1:4] for line in lines] == [(len(done), 1, f"{1 / len(done):.1%}")]
    before, kept = len(done), {name for name, row in pictures.said().items() if not row[0]}
    assert planned(pictures, PIXELS)["duplicates"][0] == 0

    pictures.put({"mark.png": png(marked(pages[1])), "cut.png": png(cropped(pages[2])), "more.png": png(form(RANDOM))})
    said = pictures.build(PIXELS)
    assert {name for name, row in said.items() if not row[0]} == kept | {"more.png"}
    assert (said["mark.png"][:2], said["cut.png"][:2]) == (("near_duplicate", "1.png"), ("near_duplicate", "2.png"))
    new = done[before:]
    assert new and not {*new} & {*done[:before]}

    bytes_of = file.read_bytes()
    (pictures.folder / "corpus/duplicates/step.json").unlink()
    assert pictures.build(PIXELS) == said
    assert done[before:] == new and file.read_bytes() == bytes_of  # decided again, of answers alone
    pictures.build("[duplicates]")
    assert not file.exists()


@pytest.mark.slow
def test_workers_that_compare_find_what_one_process_does(pictures, monkeypatch):
    monkeypatch.setattr(compared, "FEW", 0)
    pages = [form(random.Random(number)) for number in range(4)]
    pictures.put({f"{number}.png": png(page) for number, page in enumerate(pages)})
    pictures.put({"z.jpg": jpeg_bytes(pages[0]), "z-cut.png": png(cropped(pages[3]))})
    said = pictures.build(PIXELS)
    assert sorted(row[0] for row in said.values() if row[0]) == ["near_duplicate"] * 2
    assert not (pictures.folder / "corpus/duplicates/comparing").exists()
    (pictures.folder / "corpus/duplicates/compared.parquet").unlink()
    (pictures.folder / "corpus/duplicates/step.json").unlink()
    monkeypatch.undo()
    assert pictures.build(PIXELS) == said


def test_pixels_need_hashes_that_propose(pictures):
    with pytest.raises(UserError, match='duplicates: compare = "pixels" needs near = 0 or more'):
        read_config(pictures.write(PIXELS + "\nnear = -1"))


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

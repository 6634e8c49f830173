"""Pictures laid over each other: copies are told from pictures of one layout, and answers are kept."""

import io
import itertools
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.copies import NOTHING, Comparing, measure, photographs
from benchmarks.fine_hash import COPIES, card, certificate, form, hashes, images_of, logo, soft_noise, solid
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter
from support.paths import SHARED

from pipelines.dedup import compared, judgement, proposals
from pipelines.dedup.compared import (
    PICTURES,
    ComparedPictures,
    judged_by_pixels,
    read_answers,
    work_of,
    write_answers,
)
from pipelines.dedup.fine_hash import NEAR
from pipelines.dedup.judgement import ImageHashes, judge
from pipelines.dedup.pixels import Picture, _solved, differences, is_copy
from pipelines.dedup.proposals import proposed
from pipelines.engine.ledger import Ledger
from pipelines.engine.root import Root

KINDS = (certificate, form, card, logo, solid, soft_noise)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_told_from_pictures_of_one_kind(kind):
    images = [kind(random.Random(number)) for number in range(3)]
    pictures = [Picture.of(image) for image in images]
    for one, other in itertools.combinations(pictures, 2):
        assert not is_copy(one, other)
    for name, copy in COPIES.items():
        changed = Picture.of(copy(images[0]))
        assert is_copy(pictures[0], changed) and is_copy(changed, pictures[0]), name
        assert not is_copy(pictures[1], changed)


@pytest.mark.parametrize("kind", [certificate, soft_noise, logo])
@pytest.mark.parametrize("box", [(0, 0, 0.98, 0.98), (0.02, 0.01, 1, 1), (0.015, 0, 0.985, 1)])
def test_a_picture_is_laid_over_what_was_cut_out_of_it(kind, box):
    image = kind(random.Random(0)).resize((320, 240))
    edges = [round(share * side) for share, side in zip(box, (320, 240, 320, 240), strict=True)]
    whole, cut = Picture.of(image), Picture.of(image.crop(edges))
    assert is_copy(whole, cut) and is_copy(cut, whole)


@pytest.mark.parametrize("kind", [certificate, form, card])
@pytest.mark.parametrize("share", [0.014, 0.03, 0.045])
def test_which_picture_is_given_first_does_not_matter(kind, share):
    image = kind(random.Random(3)).resize((320, 240))
    cut = image.crop((round(320 * share), round(200 * share), 320, 240)).resize(image.size)
    for changed in (cut, cut.filter(ImageFilter.GaussianBlur(0.8))):
        one, other = Picture.of(image), Picture.of(changed)
        assert [*differences(one, other)] == [*differences(other, one)]


@given(
    st.lists(st.lists(st.integers(-9, 9), min_size=4, max_size=4), min_size=4, max_size=4),
    st.lists(st.integers(-99, 99), min_size=4, max_size=4),
)
@settings(max_examples=30, deadline=None)
def test_linear_equations_are_solved_exactly(numbers, values):
    half = np.array(numbers)
    matrix = half @ half.T + np.eye(4, dtype=int)
    solution = _solved(matrix, np.array(values))
    assert [sum(a * x for a, x in zip(row, solution, strict=True)) for row in matrix.tolist()] == values


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the photographs are not here")
def test_copies_of_photographs_are_found_among_them():
    photos = [*itertools.islice(photographs(SHARED / "cc12m"), 4, 9)]
    measured = measure(photos, len(photos))
    assert measured["wrongly_left_out"] == 0 and measured["recall"] >= 0.98


@pytest.mark.parametrize("turned", [Image.Transpose.ROTATE_90, Image.Transpose.FLIP_LEFT_RIGHT])
def test_a_turned_picture_is_no_copy(turned):
    image = form(random.Random(0))
    assert not is_copy(Picture.of(image), Picture.of(image.transpose(turned)))


def numbered(text: str, at: tuple[int, int], colour: str = "black") -> Picture:
    image = certificate(random.Random(0))
    ImageDraw.Draw(image).text(at, text, colour, font_size=40, anchor="rb")
    return Picture.of(image)


def test_a_mark_at_the_edge_does_not_matter_but_another_number_there_does():
    plain, edge = Picture.of(certificate(random.Random(0))), (760, 565)
    assert is_copy(plain, numbered("No. 17", edge))
    assert not is_copy(numbered("No. 17", edge), numbered("No. 48", edge))
    assert not is_copy(plain, numbered("No. 17", (500, 520)))


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (8, 8), (40, 30), (1, 900)])
def test_pictures_of_any_size_can_be_compared(size):
    numbers = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    one, other = (Picture.of(Image.fromarray(pixels)) for pixels in (numbers, 255 - numbers))
    assert is_copy(one, one)
    assert not is_copy(one, other) or min(size) < 8  # narrower ones have little to compare
    assert not is_copy(one, Picture.of(soft_noise(random.Random(0))))


# What is compared

LOOK = st.tuples(
    st.sampled_from([0, 0b1111, 0b111111, 0b1111111, 0x5555, 0x5555 << 40, 1 << 63, 0x00FF0000, (1 << 63) + 7]),
    st.sampled_from([1, 2, 2**256 - 1, 2**96 - 1, 2**72 - 1, 0, sum(0b11111 << (64 * n) for n in range(4)), 31]),
)


@pytest.mark.slow
@given(st.sets(LOOK, min_size=1, max_size=30), st.integers(0, 8))
@settings(max_examples=100, deadline=None)
def test_what_may_be_copies_is_what_comparing_all_with_all_finds(looks, distance):
    rows = sorted((first, *(second >> (64 * n) & (2**64 - 1) for n in range(4))) for first, second in looks)
    table = np.array(rows, np.uint64)

    def near(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        quarters = [(a ^ b).bit_count() for a, b in zip(one[1:], other[1:], strict=True)]
        bits, both_known = sum(quarters), any(one[1:]) and any(other[1:])
        apart, solid = one[0] ^ other[0], [n for n in (one, other) if n[0] == int(proposals.SOLID)]
        by_first = apart.bit_count() <= max(distance, proposals.BITS) and not any(any(n[1:]) for n in solid)
        even = any(
            (apart & int(mask)).bit_count() <= proposals.EVEN_BITS for mask in (proposals.COLUMNS, proposals.ROWS)
        )
        by_second = both_known and min(quarters) <= proposals.QUARTER_BITS and not solid
        is_solid = both_known and bits <= proposals.SOLID_WIDE and solid
        near_too = bits <= proposals.WIDE or not both_known
        return bool(by_first or (even and near_too and not solid) or (by_second and near_too) or is_solid)

    numbers = range(len(rows))
    expected = [(a, b) for a in numbers for b in numbers if a < b and near(rows[a], rows[b])]
    assert [*zip(*(some.tolist() for some in proposed(table[:, 0], table[:, 1:], distance)), strict=True)] == expected


@pytest.mark.slow
def test_a_cluster_of_copies_is_compared_with_the_kept_one_alone():
    image = soft_noise(random.Random(0))
    copies = [image, *(COPIES[name](image) for name in ("quality 30", "quality 60", "half", "a third", "watermarked"))]
    answers = Comparing()
    answers.pictures += map(Picture.of, copies)
    marks = judge(images_of([*map(hashes, copies)], True), NOTHING, 3, answers)
    assert marks.of.tolist() == [-1, 0, 0, 0, 0, 0]
    assert answers.known == dict.fromkeys([(0, number) for number in range(1, 6)], True)


def of_groups(groups: list[int], seed: int) -> ImageHashes:
    """Rows whose hashes are equal or near, of some groups of copies."""
    draws = np.random.default_rng(seed)
    turned = [2 ** int(draws.integers(0, 3)) - 1 for _ in groups]
    words = [f"{(1 << 200) + sum(1 << int(bit) for bit in draws.integers(0, 180, 5)):064x}" for _ in groups]
    return images_of([(f"{bits:016x}", word) for bits, word in zip(turned, words, strict=True)], True)


class Told:
    """Answers by groups, and counts how often each pair is asked."""

    def __init__(self, groups: list[int]):
        self.groups, self.asked = groups, list[tuple[int, int]]()

    def compare(self, root: Root, item: compared.ComparePictures) -> dict:
        self.asked += item.named()
        copies = [int(self.groups[one] == self.groups[other]) for one, other in item.named()]
        return {"copies": copies, "milliseconds": 7}


@pytest.mark.slow
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 100), st.sampled_from([3, 1000]))
@settings(max_examples=25, deadline=None)
def test_rounds_of_workers_end_in_the_answers_of_one_after_another(tmp_path_factory, groups, seed, most):
    root, images, told = Root(str(tmp_path_factory.mktemp("root"))), of_groups(groups, seed), Told(groups)
    proposals_found, ledger = list[int](), Ledger.start(root, "my.toml", "0")

    class OneByOne:
        def first_copy(self, content, others, apart):
            return next((other for other in others if groups[other] == groups[content]), None)

        def settled(self):
            return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compared, "compare", told.compare)
        patch.setattr(judgement, "MOST", most)
        patch.setattr(judgement, "proposed", lambda *given: proposals_found.append(1) or proposed(*given))
        by_rounds = judged_by_pixels(images, NOTHING, 3, root, "duplicates", ledger, None)
        assert proposals_found == [1]
        expected = judge(images, NOTHING, 3, OneByOne())
        for mine, its in zip(by_rounds, expected, strict=True):
            assert mine.tolist() == its.tolist()
        assert len(told.asked) == len({*told.asked})
        kept = [groups[n] for n, reason in enumerate(by_rounds.reason) if not reason]
        assert most == 3 or len(kept) == len({*kept})
        noted = ledger._read("comparisons")
        assert sum(row["pairs"] for row in noted) == len(told.asked)
        assert sum(row["copies"] for row in noted) == sum(groups[one] == groups[other] for one, other in told.asked)
        again = len(told.asked)
        judged_by_pixels(images, NOTHING, 3, root, "duplicates", ledger, None)
        assert len(told.asked) == again  # every answer lies beside the stage


def of_texts() -> bytes:
    """Answers of the right version whose columns are texts."""
    table = pa.table({"one": ["a"], "other": ["b"], "copy": ["c"]}).replace_schema_metadata(compared._version())
    pq.write_table(table, buffer := io.BytesIO())
    return buffer.getvalue()


@pytest.mark.parametrize("damage", [b"", b"PAR1 no more", of_texts(), None])
def test_answers_that_are_damaged_or_of_another_version_are_found_again(damage, tmp_path, monkeypatch):
    root = Root(str(tmp_path))
    known = {(1, 2): True, (1, 3): False}
    write_answers(root, "duplicates", known)
    assert read_answers(root, "duplicates") == known
    if damage is None:
        monkeypatch.setattr(compared, "VERSION", compared.VERSION + 1)
    else:
        root.write("duplicates/compared.parquet", damage)
    assert read_answers(root, "duplicates") == {}


def test_an_item_of_work_has_few_pictures():
    images = of_groups([0] * 900, 0)
    pairs = [(one, one + step) for one in range(0, 800) for step in (1, 7, 90)]
    items = [*work_of(pairs, images, {n: n for n in range(900)})]
    assert sorted(pair for item in items for pair in item.named()) == sorted(pairs)
    assert max(len(item.pictures) for item in items) <= PICTURES and len({item.name for item in items}) == len(items)


def test_an_unknown_pair_counts_as_copies_by_the_second_hash_until_it_is_compared(tmp_path):
    answers = ComparedPictures(
        Root(str(tmp_path)), "duplicates", Ledger(Root(str(tmp_path)), "run"), None, of_groups([0], 0), {}
    )
    assert answers.first_copy(1, [2, 3], [NEAR + 1, NEAR]) == 3
    answers.guesses = 0
    assert answers.first_copy(1, [2, 3], [NEAR + 1, NEAR]) is None
    assert [*answers.unknown] == [(1, 2), (1, 3)]

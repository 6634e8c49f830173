"""Slicing plans against the published table, against what llama.cpp answered, and against exact fractions."""

import math
import struct
from fractions import Fraction
from random import Random

import pytest

from schemas.slices import Size, image_tokens, plan_llama_cpp, plan_openbmb, visual_tokens

# OpenBMB's: width, height, columns, rows, overview, refined image, tokens at 64 and at 96 queries
OPENBMB = [
    (448, 448, 0, 0, (448, 448), (0, 0), 64, 96),
    (100, 50, 0, 0, (630, 322), (0, 0), 64, 96),
    (449, 449, 1, 2, (448, 448), (630, 644), 192, 288),
    (640, 480, 2, 1, (518, 392), (728, 546), 192, 288),
    (1024, 768, 2, 2, (518, 392), (1036, 784), 320, 480),
    (1080, 1920, 2, 4, (336, 602), (952, 1680), 576, 864),
    (1344, 1344, 3, 3, (448, 448), (1344, 1344), 640, 960),
    (4000, 3000, 3, 3, (518, 392), (1554, 1176), 640, 960),
    (4480, 448, 9, 1, (1414, 140), (4284, 420), 640, 960),
]

# What the llama.cpp of llama-cpp-python 0.3.36 answers: width, height, columns, rows, overview, refined image
LLAMA_CPP = [
    (1, 1, 0, 0, (448, 448), (0, 0)),
    (100, 50, 0, 0, (448, 448), (0, 0)),
    (448, 448, 0, 0, (448, 448), (0, 0)),
    (449, 449, 1, 2, (448, 448), (630, 644)),
    (449, 100, 2, 1, (448, 98), (1344, 294)),
    (450, 3, 2, 1, (448, 14), (7644, 56)),
    (1, 10000, 1, 2, (14, 9996), (14, 63364)),
    (10000, 1, 2, 1, (9996, 14), (60004, 14)),
    (640, 480, 2, 1, (518, 392), (728, 546)),
    (1024, 768, 2, 2, (518, 392), (1036, 784)),
    (1080, 1920, 2, 4, (336, 602), (952, 1680)),
    (413, 708, 1, 2, (336, 588), (476, 840)),  # a cell would be 490 wide if real numbers were exact
    (839, 240, 3, 1, (840, 238), (1428, 420)),  # 1470
    (4000, 3000, 3, 3, (518, 392), (1554, 1176)),
    (4480, 448, 9, 1, (1414, 140), (4284, 420)),
    (2656, 664, 4, 2, (896, 224), (2520, 644)),  # 4 to 1 is as far from 8 x 1
    (664, 2656, 1, 8, (224, 896), (630, 2576)),
    (60000, 40, 9, 1, (16506, 14), (51030, 28)),
]


@pytest.mark.parametrize(("width", "height", "columns", "rows", "overview", "refined", "at_64", "at_96"), OPENBMB)
def test_openbmb_plans_are_those_of_the_published_table(width, height, columns, rows, overview, refined, at_64, at_96):
    plan = plan_openbmb(width, height)
    assert (plan.columns, plan.rows, plan.overview, plan.refined) == (columns, rows, overview, refined)
    assert (visual_tokens(plan, 64), visual_tokens(plan, 96)) == (at_64, at_96)


@pytest.mark.parametrize(("width", "height", "columns", "rows", "overview", "refined"), LLAMA_CPP)
def test_llama_cpp_plans_are_those_of_llama_cpp(width, height, columns, rows, overview, refined):
    plan = plan_llama_cpp(width, height)
    assert (plan.columns, plan.rows, plan.overview, plan.refined) == (columns, rows, overview, refined)
    assert visual_tokens(plan, 64) == 64 * (1 + columns * rows)


@pytest.mark.parametrize(("size", "views"), [((113, 20), [(112, 14), (182, 70)]), ((200, 150), [(126, 98)] * 2)])
def test_a_small_encoder_slices_small_images(size, views):
    plan = plan_llama_cpp(*size, side=112)
    assert plan.views[:2] == views
    assert plan_llama_cpp(112, 112, side=112).views == [(112, 112)]


def test_fewer_cells_can_be_asked_of_openbmb():
    assert [len(plan_openbmb(4000, 3000, cells=most).views) for most in (9, 6, 4, 2, 1)] == [10, 7, 5, 3, 1]


def some_sizes(count: int) -> list[tuple[int, int]]:
    """Sizes of all kinds: photographs, slivers, thumbnails."""
    draws = Random(7)

    def side(low: int, high: int) -> int:
        return round(math.exp(draws.uniform(math.log(low), math.log(high))))

    kinds = [
        lambda: (draws.randint(1, 4096), draws.randint(1, 4096)),
        lambda: (side(100, 2000), side(100, 2000)),
        lambda: (side(1, 9000), side(1, 9000)),
    ]
    return [kinds[number % 3]() for number in range(count)]


# The same plans in exact fractions: a real number is rounded to what its type can hold, and nothing else is.


def single(number) -> Fraction:
    return Fraction(struct.unpack("f", struct.pack("f", number))[0])


def double(number) -> Fraction:
    return Fraction(float(number))


def half_up(number: Fraction) -> int:
    return math.floor(number + Fraction(1, 2))


class Exact:
    def __init__(self, width: int, height: int, real, nearest):
        self.width, self.height, self.real, self.nearest = width, height, real, nearest
        self.many = width * height > 448 * 448

    def with_area(self, width: int, height: int) -> tuple[int, int]:
        shape = self.real(Fraction(width, height))
        down = math.floor(self.real(448 / self.real(math.sqrt(shape))))
        return math.floor(self.real(down * shape)), down

    def multiple(self, length: int, unit: int) -> int:
        return max(self.nearest(Fraction(length, unit)), 1) * unit

    def in_patches(self, size: tuple[int, int]) -> tuple[int, int]:
        return self.multiple(size[0], 14), self.multiple(size[1], 14)

    def overview(self) -> tuple[int, int]:
        return self.in_patches(self.with_area(self.width, self.height) if self.many else (self.width, self.height))

    def grids(self) -> list[tuple[int, int]]:
        """Those nearest in shape of all that have about the right number of cells; mostly one."""
        cells = min(math.ceil(Fraction(self.width * self.height, 448 * 448)), 9)
        off = {}
        for columns in range(1, 10):
            for rows in range(1, 9 // columns + 1):
                if columns * rows > 1 and abs(columns * rows - cells) <= 1:
                    ratio = Fraction(self.width * rows, self.height * columns)
                    off[columns, rows] = max(ratio, 1 / ratio)
        return [grid for grid in off if off[grid] == min(off.values())]

    def refined(self, columns: int, rows: int) -> tuple[int, int]:
        width, height = self.multiple(self.width, columns) // columns, self.multiple(self.height, rows) // rows
        width, height = self.in_patches(self.with_area(width, height))
        return columns * width, rows * height


@pytest.mark.slow
@pytest.mark.parametrize(("plan_of", "real", "nearest"), [
    (plan_llama_cpp, single, half_up), (plan_openbmb, double, round),
])  # fmt: skip
def test_20_000_plans_are_those_of_exact_fractions(plan_of, real, nearest):
    ties = 0
    for width, height in some_sizes(20_000):
        plan, exact = plan_of(width, height), Exact(width, height, real, nearest)
        if plan_of is plan_llama_cpp and max(width, height) <= 448:
            assert plan.views == [(448, 448)]
        elif plan_of is plan_openbmb and not exact.many:
            assert plan.views == [exact.in_patches(exact.with_area(width, height))]
        else:
            grids = exact.grids()
            ties += len(grids) > 1
            assert (plan.columns, plan.rows) in grids
            assert (plan.overview, plan.refined) == (exact.overview(), exact.refined(plan.columns, plan.rows))
    assert 0 < ties < 20  # squares, and 4 to 1: the last bit of a logarithm decides; the tables above have some


def test_the_two_plans_agree_for_44_percent_of_sizes():
    """For few where only one of them slices, for most where both do."""
    sizes, both, same = [size for size in some_sizes(30_000)[1::3]], 0, []
    for size in sizes:
        ours, theirs = plan_llama_cpp(*size), plan_openbmb(*size)
        same.append((ours.overview, ours.columns, ours.rows, ours.refined) ==
                    (theirs.overview, theirs.columns, theirs.rows, theirs.refined))  # fmt: skip
        both += bool(ours.rows and theirs.rows)
    assert sum(same) / len(same) == pytest.approx(0.44, abs=0.01)
    assert sum(same) / both > 0.85


@pytest.mark.parametrize("plan_of", [plan_llama_cpp, plan_openbmb])
def test_views_are_whole_patches_and_the_picture_keeps_inside_its_grid(plan_of):
    for size in some_sizes(3000):
        plan = plan_of(*size)
        assert plan.image == size
        assert all(width % 14 == height % 14 == 0 < width * height for width, height in plan.views)
        assert len(plan.views) == 1 + plan.columns * plan.rows <= 10
        if plan.rows:
            assert plan.refined == (plan.columns * plan.cell.width, plan.rows * plan.cell.height)
            touches = [a == b for a, b in zip(plan.picture, plan.refined, strict=True)]
            assert all(touches) if plan_of is plan_openbmb else any(touches)
            assert all(0 < a <= b for a, b in zip(plan.picture, plan.refined, strict=True))
        else:
            assert plan.refined == plan.picture == (0, 0)


def test_the_picture_of_a_refined_image_keeps_its_shape_in_llama_cpp():
    assert plan_llama_cpp(449, 449).picture == (630, 630)
    assert plan_llama_cpp(839, 240).picture == (1428, 409)
    assert plan_llama_cpp(1080, 1920).picture == (945, 1680)
    assert plan_openbmb(1080, 1920).picture == (952, 1680)


def test_an_image_so_long_that_llama_cpp_refuses_it_is_refused():
    assert plan_llama_cpp(1, 10_698).picture == (7, 65_520)
    for size in [(1, 10_699), (11_000, 1), (8, 50_177)]:
        with pytest.raises(ValueError, match="does not accept"):
            plan_llama_cpp(*size)
    assert plan_openbmb(1, 10_699).views == [(14, 46_340)]


@pytest.mark.parametrize("plan_of", [plan_llama_cpp, plan_openbmb])
def test_an_image_without_pixels_has_no_plan(plan_of):
    for size in [(0, 5), (5, 0), (-1, 5)]:
        with pytest.raises(ValueError, match="has no pixels"):
            plan_of(*size)


def test_marks_and_line_breaks_are_counted_too():
    assert image_tokens(plan_llama_cpp(448, 448), 64) == 64 + 2
    assert image_tokens(plan_llama_cpp(1080, 1920), 64) == 9 * (64 + 2) + 3
    assert plan_llama_cpp(1080, 1920).views[0] == Size(336, 602)

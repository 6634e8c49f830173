"""Corrupted lines of text: which pixels change at each level, and that they do on every machine alike."""

from hashlib import sha256

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw, ImageFont
from support.corpora import say

from pipelines.stages.corrupted_lines import corrupted_sql, target_sql
from pipelines.stages.corruption import LEVELS, Region, corrupted
from schemas import selection
from schemas.selection import SetConfig

BOX = (20.0, 20.0, 220.0, 20.0, 220.0, 60.0, 20.0, 60.0)


def page(mode: str = "RGB", ground: str = "white", ink: str = "black") -> Image.Image:
    image = Image.new(mode, (320, 160), ground)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(36)
    for n, text in enumerate(("FIRE EXIT", "KEEP SHUT")):
        pen.text((24, 16 + 72 * n), text, ink, font)
    return image


def changed(image: Image.Image, *regions: Region, full: tuple[int, int] | None = None) -> np.ndarray:
    """Which pixels are others, of shape (height, width)."""
    made = corrupted(image, regions, full or image.size)
    assert (made.mode, made.size) == (image.mode, image.size)
    other = np.asarray(made) != np.asarray(image)
    return other.any(-1) if other.ndim == 3 else other


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_only_the_line_and_its_margin_change(level, mode):
    image = page(mode)
    other = changed(image, Region(BOX, level, "s"))
    rows, columns = np.nonzero(other)
    assert rows.min() >= 14 and rows.max() <= 66 and columns.min() >= 14 and columns.max() <= 226
    assert other[20:61, 20:221].mean() > (0.1 if level == "high" else 0.4)


@pytest.mark.parametrize(
    ("ground", "ink", "mask"), [("white", "black", 0), ("#102030", "white", 255), ("#a0a0a0", "red", 0)]
)
def test_of_a_masked_line_nothing_is_left(ground, ink, mask):
    made = np.asarray(corrupted(page(ground=ground, ink=ink), [Region(BOX, "high", "s")], (320, 160)))
    assert (made[18:62, 18:222] == mask).all()


def test_the_levels_leave_less_and_less_of_the_text():
    image = page("L")
    made = [image, *(corrupted(image, [Region(BOX, level, "s")], image.size) for level in ("low", "moderate"))]
    ink = [np.asarray(picture)[20:60, 20:220].astype(float).ravel() for picture in made]
    left = np.corrcoef(ink)[0, 1:]
    assert left[0] > 0.9 > left[1] > 0.3


def test_the_same_region_has_the_same_noise_and_another_salt_another():
    first, again, other = (
        np.asarray(corrupted(page(), [Region(BOX, "low", salt)], (320, 160))) for salt in ("0/k/1", "0/k/1", "1/k/1")
    )
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize(
    ("level", "digest"),
    [("low", "77dfdd8725720f8d"), ("moderate", "b98555b0f9f79d9b"), ("high", "670eaae9bf8e8f01")],
)
def test_the_pixels_are_those_of_every_machine(level, digest):
    """Of a gradient, which has no font in it."""
    gradient = (np.add.outer(np.arange(90) * 5, np.arange(200) * 3)[..., None] * (1, 2, 3) % 256).astype(np.uint8)
    box = (30.4, 20.0, 150.9, 31.7, 147.2, 60.1, 26.9, 48.5)
    made = corrupted(Image.fromarray(gradient), [Region(box, level, "0/k/3")], (200, 90))
    assert sha256(made.tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    "box",
    [
        (40, 20, 200, 60, 190, 100, 30, 60),  # turned
        (220, 20, 20, 20, 20, 60, 220, 60),  # counterclockwise
        (20, 20, 220, 60, 220, 20, 20, 60),  # crossed
        (-50, -20, 400, -20, 400, 60, -50, 60),  # over the edges
        (20, 20, 220, 20, 220, 21, 20, 21),  # flat
    ],
)
@pytest.mark.parametrize("level", LEVELS)
def test_boxes_of_any_shape_are_corrupted(box, level):
    assert changed(page(), Region(tuple(map(float, box)), level, "s")).sum() > 100


def test_a_box_outside_the_picture_changes_nothing():
    assert not changed(page(), Region((400, 20, 500, 20, 500, 60, 400, 60), "high", "s")).any()
    assert not changed(page(), Region((-90, -80, -20, -80, -20, -40, -90, -40), "high", "s")).any()


def test_boxes_are_in_pixels_of_the_original():
    small = page().resize((160, 80))
    rows, columns = np.nonzero(changed(small, Region(BOX, "high", "s"), full=(320, 160)))
    assert rows.min() >= 6 and rows.max() <= 34 and columns.min() >= 6 and columns.max() <= 114


# Which lines are drawn


def drawn(config: SetConfig, texts: list[str], rows: int = 500, box=BOX, good: bool = True) -> list[list[dict]]:
    lines = [{"text": text, "box": list(box)} for text in texts]
    table = pa.table({
        "key": [str(n) for n in range(rows)], "ocr_lines": [lines] * rows, "ocr_target": ["x" if good else None] * rows,
    })  # fmt: skip
    with duckdb.connect() as connection:
        connection.register("candidates", table)
        found = connection.sql(f"SELECT {corrupted_sql(config)}, {target_sql(config)} FROM candidates").fetchall()
    for chosen, target in found:
        assert target == (None if chosen is None else "\n".join(texts[line["line"]] for line in chosen))
    return [chosen for chosen, _ in found]


RECONSTRUCT = {"task": "reconstruct"}


@pytest.mark.parametrize(("share", "lines", "count"), [(0.3, 1, 1), (0.3, 10, 3), (0.01, 10, 1), (1.0, 10, 10)])
def test_a_share_of_the_lines_is_corrupted_and_at_least_one(share, lines, count):
    found = drawn(SetConfig(**RECONSTRUCT, corrupted=share), [f"line {n}" for n in range(lines)])
    assert {len(chosen) for chosen in found} == {count}
    assert all([line["line"] for line in chosen] == sorted({line["line"] for line in chosen}) for chosen in found)
    places = [line["line"] for chosen in found for line in chosen]
    assert all(abs(places.count(n) / len(found) - count / lines) < 0.08 for n in range(lines))


def test_lines_without_letters_or_without_an_extent_are_never_corrupted():
    texts = ["ab", "a", "!!", "1 2", "★", "出口", "É", "ΑΒ", ""]
    found = drawn(SetConfig(**RECONSTRUCT, corrupted=1), texts, 1)
    assert [line["line"] for line in found[0]] == [0, 3, 5, 7]
    assert drawn(SetConfig(**RECONSTRUCT), texts, 1, good=False) == [None]
    assert drawn(SetConfig(**RECONSTRUCT), ["a", "-"], 1) == [[]]
    assert drawn(SetConfig(**RECONSTRUCT), ["ab"], 1, box=(20, 20, 90, 20, 90, 22, 20, 22)) == [[]]


@pytest.mark.parametrize(
    "levels", [None, {"low": 2, "moderate": 1, "high": 1}, {"high": 3}, {"low": 0, "moderate": 0.5, "high": 0.5}]
)
def test_levels_have_their_shares(levels):
    found = drawn(SetConfig(**RECONSTRUCT, corrupted=1, levels=levels), ["one", "two", "three", "four"])
    given = [line["level"] for chosen in found for line in chosen]
    weights = levels or dict.fromkeys(selection.LEVELS, 1)
    for level in selection.LEVELS:
        wanted = weights.get(level, 0) / sum(weights.values())
        assert given.count(level) / len(given) == pytest.approx(wanted, abs=0.03 if 0 < wanted < 1 else 0)


def test_a_seed_draws_other_lines_and_other_levels():
    texts = ["one", "two", "three", "four"]
    first, again, other = (drawn(SetConfig(**RECONSTRUCT, seed=seed), texts) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('task = "reconstruct"', "sets.train: the task 'reconstruct' needs the table [ocr]; add it"),
        ("corrupted = 0.5", 'sets.train: corrupted and levels are of task = "reconstruct"; remove them'),
        (
            'task = "ocr"\nlevels = { low = 1 }',
            'sets.train: corrupted and levels are of task = "reconstruct"; remove them',
        ),
        ('task = "reconstruct"\nlevels = { lower = 1 }', "lower is not a level; write low, moderate or high"),
        ('task = "reconstruct"\nlevels = {}', "weights of levels must not be negative, and one must be above 0"),
        ('task = "reconstruct"\nlevels = { low = -1, high = 2 }', "weights of levels must not be negative"),
        ('task = "reconstruct"\ncorrupted = 0', "sets.train.corrupted: input should be greater than 0, not '0'"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(settings, said, configure):
    ocr = "" if "needs the table" in said else "[ocr]\n"
    config = configure(f'[source]\nkind = "folder"\npath = "."\n{ocr}[sets.train]\n{settings}\n')
    answer = say("plan", config)
    assert answer.code == 2 and said in answer.err and len(answer.err.splitlines()) == 1

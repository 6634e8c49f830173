"""Lines come in the order in which a person reads them."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ocr.reading_order import in_reading_order


def line(text: str, x: float, y: float, width: float, height: float = 20) -> dict:
    """A line whose box stands upright, by its top left corner, width and height."""
    box = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {"text": text, "confidence": 1.0, "box": [float(corner) for corner in box]}


def turned(lines: list[dict], degrees: float) -> list[dict]:
    """Lines on a page that is turned clockwise."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [list(zip(one["box"][::2], one["box"][1::2], strict=True)) for one in lines]
    boxes = [[c for x, y in four for c in (round(x * cos - y * sin, 1), round(x * sin + y * cos, 1))]
             for four in corners]  # fmt: skip
    return [{**one, "box": box} for one, box in zip(lines, boxes, strict=True)]


def read(lines: list[dict]) -> str:
    """The texts in reading order, whatever order the lines come in."""
    orders = (lines, lines[::-1], sorted(lines, key=lambda one: one["text"]))
    (text,) = {" ".join(one["text"] for one in in_reading_order(order)) for order in orders}
    return text


def column(texts: str, x: float, y: float, width: float = 200, pitch: float = 28) -> list[dict]:
    """Words, each standing for a line of running text."""
    return [line(text, x, y + pitch * n, width - 7 * (n % 3)) for n, text in enumerate(texts.split())]


TWO_COLUMNS = [*column("a1 a2 a3 a4 a5", 10, 60), *column("b1 b2 b3 b4", 240, 60)]


def test_lines_below_each_other_are_read_from_the_top():
    assert read(column("one two three", 10, 10)) == "one two three"


def test_words_of_a_row_are_read_from_the_left_though_they_are_not_quite_level():
    assert read([line("c", 200, 8, 60), line("a", 0, 12, 60), line("b", 100, 0, 60), line("d", 0, 40, 60)]) == "a b c d"


def test_columns_are_read_one_after_the_other_though_their_lines_are_level():
    assert read(TWO_COLUMNS) == "a1 a2 a3 a4 a5 b1 b2 b3 b4"


def test_columns_whose_lines_are_not_level_are_read_one_after_the_other():
    lines = [*column("a1 a2 a3 a4 a5", 10, 60), *column("b1 b2 b3", 240, 71, pitch=31)]
    assert read(lines) == "a1 a2 a3 a4 a5 b1 b2 b3"


def test_a_header_across_two_columns_comes_first_and_a_caption_below_them_last():
    lines = [line("header", 60, 10, 320, 40), *TWO_COLUMNS, line("caption", 20, 230, 400)]
    assert read(lines) == "header a1 a2 a3 a4 a5 b1 b2 b3 b4 caption"


def test_a_header_that_is_as_close_as_the_lines_are_still_comes_first():
    lines = [line("header", 10, 32, 430), *TWO_COLUMNS, line("caption", 10, 200, 430)]
    assert read(lines) == "header a1 a2 a3 a4 a5 b1 b2 b3 b4 caption"


def test_three_columns_between_lines_across_are_read_from_the_left():
    lines = [
        line("top", 0, 0, 640),
        *column("a1 a2 a3", 0, 30),
        *column("b1 b2 b3", 220, 30),
        *column("c1 c2", 440, 30),
        line("between", 0, 120, 640),
        *column("d1 d2", 0, 150, 310),
        *column("e1 e2", 330, 150, 310),
    ]
    assert read(lines) == "top a1 a2 a3 b1 b2 b3 c1 c2 between d1 d2 e1 e2"


def test_cells_of_a_table_are_read_row_by_row():
    cells = [line(f"{row}{name}", 20 + 120 * n, 10 + 30 * row, 60) for row in range(4) for n, name in enumerate("abc")]
    assert read(cells) == "0a 0b 0c 1a 1b 1c 2a 2b 2c 3a 3b 3c"


def test_a_price_belongs_to_what_it_stands_beside():
    lines = [line("bread", 0, 0, 180), line("2.10", 300, 3, 40), line("cheese", 0, 30, 190), line("7.90", 300, 31, 40)]
    assert read(lines) == "bread 2.10 cheese 7.90"


def test_lines_beside_a_tall_sign_stay_together():
    lines = [line("50", 0, 0, 80, 100), line("speed", 120, 5, 90), line("limit", 120, 60, 90)]
    assert read(lines) == "50 speed limit"


def test_rows_of_words_beside_a_tall_sign_stay_rows():
    lines = [line("50", 0, 0, 80, 100), line("no", 120, 5, 40), line("entry", 175, 5, 60)]
    lines += [line("for", 120, 60, 40), line("bikes", 175, 60, 60)]
    assert read(lines) == "50 no entry for bikes"


def test_rows_whose_boxes_overlap_a_little_stay_rows():
    lines = [line("a", 0, 0, 60, 24), line("b", 100, 3, 60, 24), line("c", 0, 20, 60, 24), line("d", 100, 22, 60, 24)]
    assert read(lines) == "a b c d"


def test_long_cells_that_stand_far_apart_are_no_running_text():
    rows = [[line(f"{row}a", 0, 60 * row, 180), line(f"{row}b", 250, 60 * row, 170)] for row in range(3)]
    assert read([cell for row in rows for cell in row]) == "0a 0b 1a 1b 2a 2b"


def test_vertical_writing_is_read_from_the_right():
    texts = ["春はあけぼの", "やうやう白く", "なりゆく山ぎは"]
    assert read([line(text, 200 - 50 * n, 10, 24, 240) for n, text in enumerate(texts)]).split() == texts


def test_vertical_writing_in_two_tiers_is_read_tier_by_tier_and_under_its_title():
    upper = [line(f"上{n}段の文", 300 - 50 * n, 60, 24, 200) for n in range(4)]
    lower = [line(f"下{n}段の文", 300 - 50 * n, 300, 24, 200) for n in range(4)]
    title = line("Title", 100, 0, 220, 30)
    assert read([title, *upper, *lower]).split() == ["Title", *(one["text"] for one in upper + lower)]


def test_a_vertical_line_beside_horizontal_ones_is_read_in_its_place():
    lines = [line("左の縦書き", 0, 0, 24, 150), *column("one two three", 60, 0)]
    assert read(lines) == "左の縦書き one two three"


def test_tall_lines_of_letters_that_are_never_written_downwards_are_read_from_the_left():
    assert read([line("SPINE", 0, 0, 20, 200), line("TITLE", 60, 0, 20, 200)]) == "SPINE TITLE"


def test_words_here_and_there_are_read_from_the_top():
    lines = [line("one", 300, 0, 60), line("two", 20, 90, 60), line("three", 400, 180, 60), line("four", 200, 280, 60)]
    assert read(lines) == "one two three four"


@pytest.mark.parametrize("degrees", [-35, -20, -7, -2, 2, 7, 20, 35])
def test_a_page_held_askew_is_read_as_if_it_were_straight(degrees):
    header = [line("header", 60, 10, 320, 40), *TWO_COLUMNS, line("caption", 20, 230, 400)]
    table = [line(f"{row}{name}", 20 + 120 * n, 10 + 30 * row, 60) for row in range(4) for n, name in enumerate("abc")]
    vertical = [line(text, x, 10, 24, 240) for text, x in (("春はあけぼの", 200), ("やうやう白く", 150))]
    for lines in (header, table, vertical):
        assert read(turned(lines, degrees)) == read(lines)


def test_lines_that_lie_across_each_other_are_all_there():
    places = {"a": (0, 0), "b": (50, 30), "c": (20, 60)}
    lines = [line(text, *places[text], 100, 100) for text in "abcb"]
    assert sorted(read(lines).split()) == ["a", "b", "b", "c"]


def test_nothing_is_nothing():
    assert in_reading_order([]) == []


sides = st.integers(0, 300)
lines_anywhere = st.lists(
    st.builds(line, st.sampled_from(["a", "春", "one two", ""]), sides, sides, sides, sides).map(
        lambda one: turned([one], one["box"][0] % 90)[0]
    ),
    max_size=40,
)


@settings(deadline=None, derandomize=True, database=None)
@given(lines_anywhere, st.randoms(use_true_random=False))
def test_every_line_comes_out_once_in_an_order_that_does_not_hang_on_how_they_came(lines, draws):
    ordered = in_reading_order(lines)
    assert sorted(map(str, ordered)) == sorted(map(str, lines))
    shuffled = draws.sample(lines, len(lines))
    assert in_reading_order(shuffled) == ordered
    assert in_reading_order(ordered) == ordered

"""Scenes: what is said of one is true of it, and the picture shows what the truth says."""

import io
import json
import math
import pickle
import random
from collections import Counter
from itertools import combinations, pairwise

import imagehash
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageFont

from pipelines.engine.commit import key_of
from pipelines.engine.partition_stage import Rejected
from pipelines.sources.scenes import (
    FACES,
    OUTLINES,
    PIXELS,
    PLAIN,
    PLANTED,
    RGB,
    Scenes,
    draw,
    has_glyphs,
    open_font,
    paint,
    words,
)
from pipelines.stages.images import inspect
from schemas.config.sources import ScenesConfig
from schemas.errors import UserError
from schemas.images import ImagesConfig
from schemas.scenes.claims import answer, check
from schemas.scenes.reader import parse
from schemas.scenes.scene import (
    COLOURS,
    GROUNDS,
    NOISES,
    PLACES,
    SHAPES,
    SIZES,
    WORDS,
    Scene,
    alt_text,
    caption,
    cell,
    imagine,
    questions,
)

seeds = given(st.integers(0, 10**9))
often = settings(max_examples=300, deadline=None, derandomize=True, database=None)
EVERY_WORD = [(word, script) for script, those in WORDS.items() for word in those]


def scene_of(seed: int) -> Scene:
    return imagine(random.Random(seed), EVERY_WORD)


# What is said


@often
@seeds
def test_a_caption_is_read_in_full_and_is_true_of_its_scene(seed):
    scene = scene_of(seed)
    said = caption(scene, random.Random(seed))
    checked = check(said, scene)
    assert checked.true and not checked.false and not checked.unparsed, said


@pytest.mark.slow
@often
@seeds
def test_an_answer_is_the_one_that_its_scene_gives(seed):
    scene = scene_of(seed)
    for question, said, statement in questions(scene):
        checked = check(statement, scene)
        assert checked.true and not checked.false and not checked.unparsed, statement
        if said in ("yes", "no"):
            assert answer(question, scene) is (said == "yes"), question
        else:
            assert said.lower() in statement.lower()


def test_yes_and_no_are_about_as_frequent_whatever_is_asked():
    asked = [q for seed in range(300) for q in questions(scene_of(seed)) if q.answer in ("yes", "no")]
    for about in (
        "Is there ",
        " at the ",
        "Are there ",
        " only one ",
        "Is the background",
        " say ",
        " of the ",
        "large",
        "red",
    ):
        answers = Counter(q.answer for q in asked if about in q.question)
        assert 0.35 < answers["yes"] / answers.total() < 0.65, (about, answers)


@often
@seeds
def test_a_wrong_colour_is_false_and_shouting_is_not(seed):
    scene, draws = scene_of(seed), random.Random(seed)
    wrong = check(NOISES["wrong_colour"](scene, draws), scene)
    assert wrong.false and not wrong.true and not wrong.unparsed
    shouted = NOISES["shouting"](scene, draws)
    assert shouted == shouted.upper() and check(shouted, scene).true and not check(shouted, scene).false
    repeated = check(NOISES["repeated"](scene, draws), scene)
    assert len(repeated.true) >= 3 and not repeated.false
    assert not parse(NOISES["file_name"](scene, draws)).claims
    assert check(NOISES["spam"](scene, draws), scene).unparsed


def test_alt_texts_say_what_is_wrong_with_them_at_the_given_rate():
    kinds = Counter(alt_text(scene_of(seed), random.Random(seed), 0.4)[1] for seed in range(2000))
    assert kinds.keys() == {"none", *NOISES}
    assert 0.55 < kinds["none"] / 2000 < 0.65
    assert min(kinds.values()) > 100
    assert alt_text(scene_of(1), random.Random(1), 0)[1] == "none"


def test_a_caption_is_false_of_other_scenes():
    scenes = [scene_of(seed) for seed in range(200)]
    false = sum(bool(check(caption(one, random.Random(1)), other).false) for one, other in pairwise(scenes))
    assert false > 190


def test_a_scene_is_laid_out_so_that_all_of_it_can_be_seen():
    scenes = [scene_of(seed) for seed in range(500)]
    for scene in scenes:
        objects, printed, (inks, text_inks) = scene["objects"], scene["printed"], GROUNDS[scene["ground"]["colour"]]
        assert 1 <= len(objects) <= 4
        assert all(thing["colour"] in inks and thing["size"] in SIZES for thing in objects)
        assert len({thing["place"] for thing in objects}) == len(objects)
        if printed:
            assert printed["colour"] in text_inks
            assert cell(printed["place"])[0] not in {cell(thing["place"])[0] for thing in objects}
    things = [thing for scene in scenes for thing in scene["objects"]]
    assert {thing["shape"] for thing in things} == {*SHAPES}
    assert {thing["colour"] for thing in things} == {*COLOURS}
    assert {thing["place"] for thing in things} == {*PLACES}
    assert {scene["printed"]["script"] for scene in scenes if scene["printed"]} == {*WORDS}
    assert scenes[0] == json.loads(json.dumps(scenes[0]))


# What is drawn


def source(**settings) -> Scenes:
    return Scenes(ScenesConfig(**{"count": 1200, "seed": 5, "side": 112, **settings}))


def rows_of(scenes: Scenes) -> list[dict]:
    return [row for file in scenes.files() for row in scenes.rows(file.path)]


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def nearest(pixel: tuple[int, ...], names: tuple[str, ...]) -> str:
    """The colour that a pixel is closest to."""
    return min(names, key=lambda name: sum((a - b) ** 2 for a, b in zip(pixel, RGB[name], strict=True)))


@pytest.mark.slow
def test_each_place_has_the_colour_of_the_thing_that_stands_there_or_of_the_ground():
    scenes = source(side=224, planted=0)
    for number in range(150):
        truth = scenes.scene(number)
        ground, printed = truth["ground"], truth["printed"]
        image = opened(scenes.load({"member": str(number)})).resize((56, 56), Image.Resampling.BOX)
        there = {thing["place"]: thing["colour"] for thing in truth["objects"]}
        for place in PLACES:
            row, column = cell(place)
            if place in there or (ground["texture"] == "plain" and not (printed and cell(printed["place"])[0] == row)):
                pixel = image.getpixel((round((column + 0.5) / 3 * 56), round((row + 0.5) / 3 * 56)))
                colours = (*GROUNDS[ground["colour"]][0], ground["colour"])
                assert nearest(pixel, colours) == there.get(place, ground["colour"]), (number, place)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size,radius", [("small", 0.0775), ("large", 0.1475)])
def test_a_thing_covers_the_area_of_its_shape_and_size(shape, size, radius):
    thing = {"shape": shape, "colour": "red", "size": size, "place": "left"}
    scene = {"objects": [thing], "printed": None, "ground": {"colour": "white", "texture": "plain"}}
    covered = []
    for seed in range(5):
        pixels = draw(scene, random.Random(seed), 200).get_flattened_data()
        covered.append(sum(nearest(pixel, ("red", "white")) == "red" for pixel in pixels))
    corners = OUTLINES.get(shape) or [(math.cos(n / 50 * math.tau), math.sin(n / 50 * math.tau)) for n in range(50)]
    area = abs(sum(x * v - u * y for (x, y), (u, v) in pairwise([*corners, corners[0]]))) / 2
    assert sum(covered) / 5 == pytest.approx(area * (radius * 200) ** 2, rel=0.12)


def test_a_picture_is_drawn_alone_as_among_all_others():
    rows = rows_of(source())[:60]
    all_at_once = [source().load(row) for row in rows]
    assert [source().load(row) for row in reversed(rows)] == all_at_once[::-1]
    sent_to_a_worker = pickle.loads(pickle.dumps(source()))
    assert sent_to_a_worker.load({"member": rows[7]["member"]}) == all_at_once[7]
    assert source(seed=6).load(rows[7]) != all_at_once[7]


def test_a_source_that_grows_keeps_its_rows():
    few, many = source(count=700), source(count=2300)
    assert rows_of(many)[:700] == rows_of(few)
    assert [file.path for file in many.files()] == ["000000000", "000001000", "000002000"]
    assert source(count=2000).files() == many.files()[:2]
    assert few.files()[0].stamp != many.files()[0].stamp
    assert [many.count(file.path) for file in many.files()] == [1000, 1000, 300]


def test_whatever_changes_a_picture_changes_its_key():
    keys = {key_of(*row["names"]): row for row in rows_of(source())}
    assert len(keys) == 1200
    for other in (source(seed=6), source(side=113)):
        assert not keys.keys() & {key_of(*row["names"]) for row in rows_of(other)}
    quiet = {key_of(*row["names"]): row for row in rows_of(source(noise=0))}
    assert quiet.keys() == keys.keys(), "an alt text is no part of the picture"
    assert source(noise=0).files() != source().files()
    clean = {key_of(*row["names"]): row["extra"]["planted"] for row in rows_of(source(planted=0))}
    assert all((keys[key]["extra"]["planted"] == "none") == (key in clean) for key in keys)


@pytest.mark.slow
def test_every_planted_fault_is_what_its_row_says():
    scenes, found, distances = source(planted=0.5), Counter(), []
    rows = rows_of(scenes)
    for row in rows:
        planted, of, data = row["extra"]["planted"], row["extra"]["of"], scenes.load(row)
        try:
            image = inspect(data, ImagesConfig())
            reason = None
        except Rejected as rejected:
            image, reason = None, rejected.reason
        found[planted] += 1
        expected = {
            "truncated": {"truncated"}, "random_bytes": {"not_an_image"},
            "html": {"not_an_image"}, "tiny": {"too_small"},
        }.get(planted, {None})  # fmt: skip
        assert reason in expected, (planted, reason)
        assert (of is not None) == planted.endswith("duplicate")
        if of is not None:
            original = scenes.load(rows[of])
            assert of < int(row["member"]) and rows[of]["extra"]["planted"] == "none"
            assert row["extra"]["scene"] == rows[of]["extra"]["scene"]
            assert (data == original) == (planted == "duplicate")
            first = inspect(original, ImagesConfig())["phash"]
            distances.append(imagehash.hex_to_hash(image["phash"]) - imagehash.hex_to_hash(first))
        elif planted == "none":
            assert (image["width"], image["height"]) == (112, 112)
    assert found.keys() == {"none", *PLANTED}
    for kind, share in PLANTED.items():
        assert found[kind] / len(rows) == pytest.approx(0.5 * share, rel=0.35)
    assert sum(distance <= 3 for distance in distances) / len(distances) > 0.97


@pytest.mark.slow
def test_pictures_of_different_scenes_are_no_near_duplicates():
    scenes = source(planted=0, count=300)
    hashes = [int(inspect(scenes.load(row), ImagesConfig())["phash"], 16) for row in rows_of(scenes)]
    assert sum((one ^ other).bit_count() <= 3 for one, other in combinations(hashes, 2)) <= 2


def test_formats_are_mixed_and_nothing_is_planted_where_none_is_wanted():
    scenes = source(planted=0, noise=0, count=300)
    assert all(row["extra"]["planted"] == "none" == row["extra"]["noise"] for row in rows_of(scenes))
    formats = Counter(Image.open(io.BytesIO(scenes.load(row))).format for row in rows_of(scenes))
    assert formats.keys() == {"JPEG", "PNG", "WEBP"} and min(formats.values()) > 25


# What is printed


def test_pillows_own_faces_print_latin_with_its_accents_and_no_other_script():
    assert words(()) == tuple((word, "latin") for word in WORDS["latin"])
    assert has_glyphs(PLAIN, "OPEN 24") and not has_glyphs(PLAIN, "CAFÉ")
    assert has_glyphs(PIXELS, "CAFÉ")
    for face in FACES:
        assert not any(has_glyphs(face, word) for script in ("greek", "cyrillic") for word in WORDS[script])


def test_printed_glyphs_are_letters_and_not_boxes():
    """Boxes for what a font lacks are all alike; letters are not."""
    for face in FACES:
        letters = sorted(
            {letter for word, _ in words(()) if has_glyphs(face, word) for letter in word if letter != " "}
        )
        drawn = {bytes(open_font(face, 40).getmask(letter)) for letter in letters}
        assert len(letters) > 20 and len(drawn) == len(letters)


def test_a_font_file_brings_other_scripts():
    try:
        ImageFont.truetype("DejaVuSans.ttf")
    except OSError:
        pytest.skip("no font with Greek and Cyrillic is here")
    scenes = source(fonts=("DejaVuSans.ttf",), planted=0)
    assert {script for _, script in words(("DejaVuSans.ttf",))} == {"latin", "greek", "cyrillic"}
    assert not {str(row["names"]) for row in rows_of(scenes)} & {
        str(row["names"]) for row in rows_of(source(planted=0))
    }
    greek = next(n for n in range(1000) if (scenes.scene(n)["printed"] or {}).get("script") == "greek")
    assert inspect(scenes.load({"member": str(greek)}), ImagesConfig())["width"] == 112


@pytest.mark.slow
def test_scenes_can_be_drawn_from_other_kinds_than_the_usual():
    """More things, one colour of ground, two texts, larger type; the usual ones stay as they were, keys and all."""
    usual, crowded = source(planted=0), source(planted=0, objects=(9, 9), grounds=("white",), printed=1, lines=2)
    scenes = [crowded.scene(n) for n in range(40)]
    assert {len(scene["objects"]) for scene in scenes} == {3} and {s["ground"]["colour"] for s in scenes} == {"white"}
    for scene in scenes:
        rows = [scene["printed"]["place"], *(one["place"] for one in scene["also"])]
        assert len(set(rows)) == 2 and not set(rows) & {PLACES[3 * cell(t["place"])[0] + 1] for t in scene["objects"]}
    full = source(planted=0, objects=(5, 9), printed=0)
    assert {len(full.scene(n)["objects"]) for n in range(60)} == set(range(5, 10))
    for n in range(60):
        checked = check(caption(full.scene(n), random.Random(n)), full.scene(n))
        assert checked.true and not checked.false and not checked.unparsed
    codes = [
        source(planted=0, printed=1, codes=share).scene(n)["printed"]["text"] for share in (0, 1) for n in range(30)
    ]
    assert [text in sum(WORDS.values(), ()) for text in codes] == 30 * [True] + 30 * [False]
    assert crowded.files() != usual.files()
    keys = [
        {key_of(*row["names"]) for row in rows_of(one)} for one in (usual, crowded, source(print_height=(0.2, 0.2)))
    ]
    assert not keys[0] & keys[1] and not keys[0] & keys[2]
    assert {key_of(*row["names"]) for row in rows_of(source(planted=0, letters=True))} == keys[0]  # of equal pictures


def test_the_fewest_are_not_more_than_the_most():
    with pytest.raises(ValueError, match="write the smaller number first"):
        source(objects=(4, 1))


@pytest.mark.slow
def test_characters_stand_where_their_truth_says():
    """Each has ink between its ends, and none of the text's ink is left or right of them all."""
    scenes = source(planted=0, printed=1, lines=2, letters=True)
    for row in list(rows_of(scenes))[:40]:
        scene, side = row["extra"]["scene"], 448
        if scene["ground"]["texture"] == "gradient":
            continue
        image, letters = paint(scene, scenes._draws(int(row["member"]), "look"), side, (), (0.12, 0.2))
        assert [len(ends) for ends in row["extra"]["letters"]] == [len(ends) for ends in letters]
        for one, ends in zip([scene["printed"], *scene["also"]], letters, strict=False):
            top = side * cell(one["place"])[0] // 3
            strip = image.crop((0, top, side, top + side // 3))
            ground = Image.new("RGB", strip.size, strip.getpixel((0, 0)))
            ink = ImageChops.difference(strip, ground).convert("L").resize((side, 1), Image.Resampling.BOX)
            columns = [n / side for n, value in enumerate(ink.tobytes()) if value]
            assert ends[0][0] - 0.02 < columns[0] and columns[-1] < ends[-1][1] + 0.02
            for char, (left, right) in zip(one["text"], ends, strict=False):
                assert any(left <= at <= right for at in columns) or char == " "


def test_a_font_that_cannot_be_opened_is_named():
    with pytest.raises(UserError, match=r"source\.fonts: nowhere\.ttf cannot be opened"):
        source(fonts=("nowhere.ttf",)).files()


@pytest.mark.slow
def test_an_ocr_engine_reads_what_is_printed():
    from pipelines.ocr.engines import load_engine
    from pipelines.stages.ocr import pixels

    engine, scenes = load_engine("rapidocr"), source(side=448, planted=0)
    printed = [(n, text["text"]) for n in range(60) if (text := scenes.scene(n)["printed"]) and text["text"].isascii()]
    read = 0
    for number, text in printed:
        lines = " ".join(line["text"] for line in engine.read(pixels(scenes.load({"member": str(number)}))))
        read += text.lower().replace(" ", "") in lines.lower().replace(" ", "")
    assert read / len(printed) > 0.8

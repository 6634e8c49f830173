"""The OCR stage: what stands in its rows, and what of it becomes training data."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image, ImageDraw, ImageFont, ImageOps
from support.corpora import build, say

from pipelines.catalog.catalog import query
from pipelines.ocr.engines import load_engine, open_engine
from pipelines.stages.ocr import ReadText, pixels
from schemas.ocr import OCR_VERDICTS, OcrConfig

FOLDER = '[source]\nkind = "folder"\npath = "pictures"\n'
READ = '[sets.read]\ntask = "ocr"\n'


def picture(*lines: str, star: bool = False) -> Image.Image:
    """Lines of black text on white, or a star."""
    image, font = Image.new("RGB", (320, 192), "white"), ImageFont.load_default(36)
    pen = ImageDraw.Draw(image)
    for n, line in enumerate(lines):
        pen.text((20, 20 + 60 * n), line, "black", font)
    if star:
        corners = [(96 + r * np.sin(turn), 96 - r * np.cos(turn)) for turn, r in
                   zip(np.arange(10) * np.pi / 5, [70, 30] * 5, strict=True)]  # fmt: skip
        pen.polygon(corners, "black")
    return image


PICTURES = {
    "sign": picture("FIRE EXIT", "keep it shut"),
    "nothing": picture(),
    "star": picture(star=True),
    "initial": picture("Q"),
}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, image in PICTURES.items():
        image.save(folder / f"{name}.png")
    return folder


def rows_of(root) -> dict[str, dict]:
    """What the catalog says of each picture."""
    rows = query(root, "select r.file, o.* from rows r join ocr o using (key)").to_pylist()
    return {Path(row["file"]).stem: row for row in rows}


@pytest.mark.slow
def test_each_image_has_its_lines_and_a_verdict(pictures, configure: Callable[..., Path]):
    rows = rows_of(build(configure(FOLDER + "[ocr]"), "ocr"))
    assert {row["reason"] for row in rows.values()} == {None}
    assert rows["sign"]["text"] == "FIRE EXIT\nkeep it shut" and rows["sign"]["verdict"] == "good"
    assert rows["sign"]["confidence"] > 0.9
    for line, top in zip(rows["sign"]["lines"], (20, 80), strict=True):
        assert abs(min(line["box"][1::2]) - top) < 12 and abs(min(line["box"][::2]) - 20) < 12
    assert (rows["nothing"]["lines"], rows["nothing"]["verdict"]) == ([], "no_text")
    assert rows["star"]["verdict"] != "good" and rows["initial"]["verdict"] != "good"
    assert {row["verdict"] for row in rows.values()} <= OCR_VERDICTS.keys()


@pytest.mark.slow
def test_only_a_good_text_is_taught_and_its_document_says_what_was_read(pictures, configure):
    root = build(configure(FOLDER + "[ocr]\n" + READ))
    found = query(root, "select file, r.key, s.reason, samples from rows r join selection s using (key)").to_pylist()
    taught = {Path(row["file"]).stem for row in found if "read" in [sample["set"] for sample in row["samples"]]}
    assert taught == {"sign"}
    (tar,) = say("urls", root.url, "read").out.split()
    (sample,) = webdataset.WebDataset(tar, shardshuffle=False)
    assert sample["txt"].decode() == "FIRE EXIT\nkeep it shut"
    document = json.loads(sample["json"])
    assert document["ocr_verdict"] == "good"
    assert [line["text"] for line in document["ocr"]] == ["FIRE EXIT", "keep it shut"]


@pytest.mark.slow
def test_a_text_that_is_no_good_stays_in_the_catalog_and_is_left_out_with_a_reason(pictures, configure):
    root = build(configure(FOLDER + "[ocr]\n" + READ))
    rows = query(root, "select parse_filename(file, true) as name, ocr_text, ocr_target, ocr_verdict, s.reason"
                       " from rows join samples s using (key)").to_pylist()  # fmt: skip
    by = {row.pop("name"): row for row in rows}
    assert by["sign"]["ocr_target"] == by["sign"]["ocr_text"] and by["sign"]["reason"] is None
    for name in ("nothing", "star", "initial"):
        assert by[name]["ocr_target"] is None and by[name]["reason"] == "no_ocr"
    assert by["initial"]["ocr_text"] == "Q" and by["initial"]["ocr_verdict"] == "too_short"


@pytest.mark.slow
def test_an_image_on_which_the_engine_fails_has_a_reason_and_stops_no_other(pictures, configure, monkeypatch):
    class Moody:
        side = 2000

        def read(self, pixels):
            if pixels.min() == 255:
                raise RuntimeError("nothing to see")
            return load_engine("rapidocr").read(pixels)

    monkeypatch.setattr("pipelines.stages.ocr.open_engine", lambda config: Moody())
    rows = rows_of(build(configure(FOLDER + "[ocr]"), "ocr"))
    assert (rows["nothing"]["reason"], rows["nothing"]["detail"]) == ("engine_failed", "RuntimeError: nothing to see")
    assert (rows["nothing"]["lines"], rows["nothing"]["verdict"]) == ([], None)
    assert rows["sign"]["verdict"] == "good"


def test_the_floor_under_confidences_is_that_of_the_configuration_alone():
    (line,) = load_engine("rapidocr").read(np.asarray(ImageOps.flip(picture("please stay"))))
    assert 0 < line["confidence"] < 0.5  # below which RapidOCR by itself says nothing
    assert ReadText(OcrConfig(min_confidence=0.1)).judged([line])["lines"] == [line]
    assert ReadText(OcrConfig()).judged([line]) == {"lines": [], "dropped": [line], "verdict": "low_confidence"}


@pytest.mark.slow
def test_rapidocr_sees_the_colours_that_it_sees_in_a_file(tmp_path):
    image = Image.new("RGB", (320, 96), (200, 30, 30))
    ImageDraw.Draw(image).text((20, 20), "FIRE EXIT", (40, 40, 160), ImageFont.load_default(36))
    image.save(tmp_path / "sign.png")
    engine = load_engine("rapidocr")
    found = engine.engine(str(tmp_path / "sign.png"))
    (line,) = engine.read(pixels((tmp_path / "sign.png").read_bytes()))
    assert (line["text"], line["confidence"]) == (found.txts[0], round(float(found.scores[0]), 5))


def test_rapidocr_is_loaded_once_a_process_and_takes_one_thread():
    assert open_engine(OcrConfig()) is open_engine(OcrConfig(min_confidence=0.9))
    config = load_engine("rapidocr").engine.cfg.EngineConfig.onnxruntime
    assert (config.intra_op_num_threads, config.inter_op_num_threads) == (1, 1)


def test_another_engine_is_refused_in_one_line(pictures, configure):
    config = configure(FOLDER + "[ocr]")
    for command in ("plan", "run"):
        said = say(command, config, "--engine", "tesseract")
        assert (said.code, said.err) == (
            2,
            "shardmill: --engine: unknown engine 'tesseract'; choose from rapidocr, easyocr\n",
        )
        said = say(command, configure(FOLDER, "silent.toml"), "--engine", "rapidocr")
        assert said.code == 2 and said.err.startswith("shardmill: --engine: needs the table [ocr]")
    assert {path.name for path in config.parent.iterdir()} == {"my.toml", "silent.toml", "pictures"}


@pytest.mark.slow
def test_a_picture_of_too_many_tiles_has_a_reason_until_more_are_allowed(pictures, configure, monkeypatch):
    """Pictures that were read before are not read again when `max_tiles` changes, either way."""
    image = Image.new("RGB", (2300, 160), "white")
    for left, word in ((20, "HARBOUR"), (2000, "MARKET")):
        ImageDraw.Draw(image).text((left, 40), word, "black", ImageFont.load_default(48))
    image.save(pictures / "wide.png")
    rows = rows_of(build(configure(FOLDER + "[ocr]\nmax_tiles = 1"), "ocr"))
    assert (rows["wide"]["reason"], rows["wide"]["verdict"], rows["wide"]["lines"]) == ("too_many_tiles", None, [])
    assert rows["wide"]["detail"] == "2300 x 160 pixels are 2 tiles of 2000 pixels" and rows["sign"]["reason"] is None

    engine, seen = load_engine("rapidocr"), []
    original = engine.read
    monkeypatch.setattr(engine, "read", lambda pixels: seen.append(pixels.shape) or original(pixels))
    rows = rows_of(build(configure(FOLDER + "[ocr]"), "ocr"))
    assert rows["wide"]["text"] == "HARBOUR\nMARKET" and rows["wide"]["verdict"] == "good"
    assert seen == [(160, 2000, 3), (160, 2000, 3)]
    rows = rows_of(build(configure(FOLDER + "[ocr]\nmax_tiles = 1"), "ocr"))
    assert rows["wide"]["reason"] == "too_many_tiles" and len(seen) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("more", "read"), [("", []), ("\nmax_tiles = 33", [2000, 2000])])
def test_what_an_earlier_version_scaled_down_stays_unless_it_is_asked_for(more, read, pictures, configure, monkeypatch):
    """It is asked for by another `max_tiles` in the first run of this version."""
    image = Image.new("RGB", (2300, 160), "white")
    ImageDraw.Draw(image).text((20, 40), "HARBOUR", "black", ImageFont.load_default(48))
    image.save(pictures / "wide.png")
    engine, seen = load_engine("rapidocr"), []
    original = engine.read
    monkeypatch.setattr(engine, "read", lambda pixels: seen.append(pixels.shape[1]) or original(pixels))
    with pytest.MonkeyPatch.context() as before:
        before.setattr(ReadText, "version", 2)
        before.setattr("pipelines.stages.ocr.read_in_tiles", lambda engine, pixels: engine.read(pixels))
        build(configure(FOLDER + "[ocr]"), "ocr")
    del seen[:]
    build(configure(FOLDER + "[ocr]" + more), "ocr")
    assert seen == read

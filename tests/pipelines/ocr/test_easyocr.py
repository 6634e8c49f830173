"""EasyOCR through its real `Reader`, over weights that read bars; and what is said when it cannot work."""

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from easyocr.config import detection_models, recognition_models
from support.corpora import build, say, shardmill
from support.easyocr_weights import bars, write_weights

from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.build.run import begin, run_stage
from pipelines.catalog.catalog import query
from pipelines.engine.root import Root
from pipelines.engine.worker import StageFailed
from pipelines.ocr.engines import identity, open_engine
from schemas.errors import UserError
from schemas.ocr import EasyOcrConfig, OcrConfig

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of EasyOCR's torch
FILES = ("craft_mlt_25k.pth", "english_g2.pth")
TOML = '[source]\nkind = "folder"\npath = "pictures"\n[ocr]\nengine = "easyocr"\n[ocr.easyocr]\n'
PICTURES = {"one": ("IIiI",), "two": ("IIiiI", "iIIIi"), "none": ()}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Iterator[str]:
    """A folder of weights that read bars."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as monkeypatch:
        write_weights(folder, monkeypatch)
        yield str(folder)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, lines in PICTURES.items():
        bars(*lines, side=160).save(folder / f"{name}.png")
    return folder


def engine_of(models: str, **config) -> OcrConfig:
    return OcrConfig(engine="easyocr", easyocr=EasyOcrConfig(models=models, **config))


def texts_of(root: Root) -> dict[str, list[str]]:
    """The lines of each picture."""
    rows = query(root, "select parse_filename(file, true) as name, lines from rows join ocr using (key)").to_pylist()
    return {row["name"]: [line["text"] for line in row["lines"]] for row in rows}


def one_line(said) -> str:
    assert (said.code, said.out) == (2, "")
    (line,) = said.err.splitlines()
    return line.removeprefix("shardmill: ")


# What it reads


@pytest.mark.slow
def test_easyocr_reads_each_line_where_it_stands(models):
    engine = open_engine(engine_of(models))
    lines = sorted(engine.read(np.asarray(bars("IIiI", "iIIIIi", side=192))), key=lambda line: line["box"][1])
    assert [line["text"] for line in lines] == ["IIiI", "iIIIIi"]
    for line, (top, width) in zip(lines, ((40, 49), (100, 77)), strict=False):
        assert 0.9 < line["confidence"] <= 1 and len(line["box"]) == 8
        assert all(type(value) is float for value in (line["confidence"], *line["box"]))
        assert np.allclose(line["box"], [40, top, 40 + width, top, 40 + width, top + 32, 40, top + 32], atol=14)
    assert engine.read(np.asarray(bars())) == []
    assert open_engine(engine_of(models)) is engine and torch.get_num_threads() == 1


@pytest.mark.slow
def test_a_corpus_is_read_and_is_current_until_the_weights_change(models, pictures, configure, tmp_path):
    config = configure(f'{TOML}models = "{models}"\n[sets.read]\ntask = "ocr"')
    root = build(config)
    assert texts_of(root) == {"one": ["IIiI"], "two": ["IIiiI", "iIIIi"], "none": []}
    assert query(root, "select ocr_target from samples order by 1").to_pylist() == [
        {"ocr_target": text} for text in ("IIiI", "IIiiI\niIIIi", None)
    ]
    assert not plan(open_corpus(config)).work()

    (moved := tmp_path / "moved").mkdir()
    for name in FILES:
        os.link(Path(models) / name, moved / name)
    configure(f'{TOML}models = "moved"\n[sets.read]\ntask = "ocr"')
    assert not plan(open_corpus(config)).work()
    before = open_engine(engine_of(str(moved)))

    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in FILES:
            (moved / name).unlink()
        write_weights(moved, monkeypatch, tall="H", half="o")
        (made,) = (stage for stage in plan(open_corpus(config)).stages if stage.stage == "ocr")
        assert list(made.todo) == [0] and made.todo[0].startswith("model.english_g2.pth ")
        assert open_engine(engine_of(str(moved))) is not before
        assert texts_of(build(config)) == {"one": ["HHoH"], "two": ["HHooH", "oHHHo"], "none": []}


@pytest.mark.slow
def test_the_configured_engine_can_be_set_aside(models, pictures, configure):
    config = configure(f'{TOML}models = "{models}"'.replace('engine = "easyocr"\n', ""))
    settings, others = (open_corpus(config, engine).made["ocr"].settings() for engine in (None, "easyocr"))
    assert settings["engine"] == "rapidocr" and "onnxruntime" in settings["model"]
    assert others == open_corpus(configure(f'{TOML}models = "{models}"')).made["ocr"].settings()


@pytest.mark.slow
def test_a_run_with_another_engine_needs_nothing_of_the_configured_one(pictures, configure):
    config = configure(TOML)
    said = shardmill("run", config, "--until", "ocr", "--engine", "rapidocr")
    assert (said.returncode, said.stderr) == (0, "")
    root = open_corpus(config, "rapidocr").root
    assert query(root, "select count(*) as n from ocr where reason is null").to_pylist() == [{"n": 3}]
    assert "to make" in (planned := say("plan", config, "--engine", "rapidocr")).out and planned.code == 0
    assert not plan(open_corpus(config, "rapidocr"), "ocr").work()
    assert "ocr.easyocr.models: " in one_line(say("plan", config))


def test_what_decides_what_is_read_is_in_the_fingerprint_and_places_are_not(models):
    here = identity(engine_of(models))
    assert here == identity(engine_of("elsewhere", download=True))
    assert here["craft_mlt_25k.pth"] == hashlib.md5((Path(models) / "craft_mlt_25k.pth").read_bytes()).hexdigest()
    assert {"easyocr", "torch", "english_g2.pth"} <= here.keys()
    assert identity(engine_of(models, languages=("fr", "en"))) == identity(engine_of(models, languages=("en", "fr")))
    others = [engine_of(models, languages=("fr",)), engine_of(models, gpu=True), OcrConfig()]
    assert all(identity(other) != here for other in others)


@pytest.mark.parametrize(
    ("languages", "file"),
    [
        (("en",), "english_g2.pth"),
        (("en", "de"), "latin_g2.pth"),
        (("ja", "en"), "japanese_g2.pth"),
        (("ch_sim", "en"), "zh_sim_g2.pth"),
        (("ru", "en"), "cyrillic_g2.pth"),
        (("th",), "thai.pth"),
    ],
)
def test_languages_choose_the_recogniser(languages, file):
    assert {"craft_mlt_25k.pth", file} < identity(engine_of("anywhere", languages=languages)).keys()


# What is said when it cannot work


def mistaken(easyocr: str, expected: str, configure: Callable[..., Path]) -> None:
    """Every command answers in one line, with nothing written."""
    config = configure(TOML + easyocr)
    before = {path: path.stat().st_mtime_ns for path in config.parent.rglob("*")}
    for command in ("plan", "run"):
        assert expected.format(here=config.parent) in one_line(say(command, config))
    assert {path: path.stat().st_mtime_ns for path in config.parent.rglob("*")} == before


def test_missing_weights_are_named_with_their_folder_and_where_they_come_from(pictures, configure):
    mistaken("", "my.toml: ocr.easyocr.models: {here}/easyocr-models has no craft_mlt_25k.pth, english_g2.pth; "
             "unpack https://", configure)  # fmt: skip
    mistaken(
        'models = "weights"\nlanguages = ["ru"]', "{here}/weights has no craft_mlt_25k.pth, cyrillic_g2.pth;", configure
    )


@pytest.mark.slow
def test_missing_weights_leave_no_trace_in_easyocrs_own_home(pictures, configure, tmp_path):
    config = configure(TOML)
    before = {*tmp_path.rglob("*")}
    said = shardmill("run", config, HOME=str(tmp_path))
    assert said.returncode == 2 and said.stderr.count("\n") == 1 and "set download = true" in said.stderr
    assert {*tmp_path.rglob("*")} == before


def test_other_weights_by_that_name_are_refused_and_stay(pictures, configure, tmp_path):
    (folder := tmp_path / "weights").mkdir()
    for name in FILES:
        (folder / name).write_bytes(b"weights of something else")
    for more in ("", "\ndownload = true"):
        mistaken(
            'models = "weights"' + more, "{here}/weights/craft_mlt_25k.pth is not what EasyOCR 1.7.2 has", configure
        )


def test_an_unknown_language_is_answered_with_those_that_are_known(pictures, configure):
    mistaken(
        'languages = ["en", "klingon"]',
        "ocr.easyocr.languages: EasyOCR does not know 'klingon'; it knows abq, ",
        configure,
    )
    mistaken('languages = ["ja", "ko"]', "ocr.easyocr.languages: Japanese is only compatible with English", configure)
    mistaken("languages = []", "ocr.easyocr.languages: tuple should have at least 1 item", configure)
    mistaken('language = "en"', "ocr.easyocr.language: unknown; did you mean `languages`?", configure)


def test_weights_at_a_url_are_refused(pictures, configure):
    mistaken(
        'models = "s3://bucket/models"', "ocr.easyocr.models: s3://bucket/models is a URL; EasyOCR reads", configure
    )


def test_without_the_package_its_extra_is_named(pictures, configure, monkeypatch):
    monkeypatch.setattr("pipelines.ocr.engines.find_spec", lambda name: None)
    mistaken("", "ocr.engine: easyocr is not installed; run: ", configure)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_not_replaced_in_silence(models):
    with pytest.raises(UserError, match=r"ocr\.easyocr\.gpu: torch finds no GPU here; set gpu = false"):
        open_engine(engine_of(models, gpu=True))


@pytest.mark.slow
def test_a_worker_that_lacks_the_weights_says_the_same(models, pictures, configure):
    """A worker is a process of its own, to which EasyOCR's own sums hold: these weights are wrong there."""
    corpus = open_corpus(configure(f'{TOML}models = "{models}"'))
    said = rf"ocr: .*ocr\.easyocr\.models: {models}/craft_mlt_25k\.pth is not what EasyOCR"
    with pytest.raises(StageFailed, match=said), begin(corpus) as run:
        for stage in ("rows", "images", "ocr"):
            run_stage(run, stage)
    assert not (Path(corpus.root.url) / "ocr/00000.parquet").exists()


@pytest.mark.slow
def test_nothing_that_weights_hold_is_carried_out(models, tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    (folder := tmp_path / "weights").mkdir()
    os.link(Path(models) / FILES[1], folder / FILES[1])
    torch.save({"module.a": Trap()}, folder / FILES[0])
    monkeypatch.setitem(detection_models["craft"], "md5sum", hashlib.md5((folder / FILES[0]).read_bytes()).hexdigest())
    with pytest.raises(Exception, match="Weights only load failed"):
        open_engine(engine_of(str(folder)))
    assert not (tmp_path / "trapped").exists()


# Weights that are downloaded


@pytest.fixture
def served(models, tmp_path, monkeypatch) -> Path:
    """Archives of the weights, where EasyOCR says that they are."""
    for model in (detection_models["craft"], recognition_models["gen2"]["english_g2"]):
        with zipfile.ZipFile(tmp_path / f"{model['filename']}.zip", "w") as archive:
            archive.write(Path(models) / model["filename"], model["filename"])
        monkeypatch.setitem(model, "url", (tmp_path / f"{model['filename']}.zip").as_uri())
    return tmp_path


@pytest.mark.slow
def test_weights_are_downloaded_when_a_run_begins_and_not_to_plan_one(served, pictures, configure):
    config = configure(TOML + "download = true")
    corpus = open_corpus(config)
    plan(corpus)
    assert not (served / "easyocr-models").exists()
    assert texts_of(build(config, "ocr"))["two"] == ["IIiiI", "iIIIi"]
    assert {path.name for path in (served / "easyocr-models").iterdir()} == {*FILES}
    assert not plan(open_corpus(config), "ocr").work()


@pytest.mark.slow
def test_a_download_that_fails_is_answered_in_one_line_before_anything_is_made(served, pictures, configure):
    config = configure(TOML + "download = true")
    archive = served / f"{FILES[1]}.zip"
    archive.write_bytes(b"<html>not found</html>")
    for wrong in ("File is not a zip file", "No such file or directory"):
        with pytest.raises(UserError, match=rf"^ocr\.easyocr\.download: {archive.as_uri()}: .*{wrong}.*; unpack it in"):
            build(config)
        archive.unlink(missing_ok=True)
    assert not (served / "corpus").exists()
    assert [path.name for path in (served / "easyocr-models").iterdir()] == [FILES[0]]

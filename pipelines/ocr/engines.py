"""OCR engines behind one interface: pixels in, lines out. A new engine is a class here and a word in `OcrConfig`.

RapidOCR's models come in its package. EasyOCR's weights are files in a folder of the user. They are checked against the
MD5 sums that EasyOCR has for them, and loaded as tensors only: EasyOCR itself would unpickle them, which can run code.
"""

import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from hashlib import file_digest
from http.client import HTTPException
from importlib.metadata import version
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any, Protocol
from urllib.request import urlopen
from zipfile import BadZipFile, ZipFile

import numpy as np

from pipelines.engine.root import Root
from schemas.errors import UserError
from schemas.extras import not_installed
from schemas.ocr import EasyOcrConfig, OcrConfig, OcrLine

SIDES = {"rapidocr": 2000, "easyocr": 2560}  # pixels; by themselves, both scale larger pictures down
THIN = (1 / 8, 0.015)  # the least width by the height, and height by the width, of what RapidOCR is given


class Engine(Protocol):
    side: int  # pixels; a picture with a longer side would be scaled down

    def read(self, pixels: np.ndarray) -> list[OcrLine]:
        """The lines of an RGB image, uint8 of shape (height, width, 3), in any order."""
        ...


class RapidOcr:
    """PP-OCR by onnxruntime, with one thread: two in a process are slower than one."""

    side = SIDES["rapidocr"]

    def __init__(self):
        from rapidocr import RapidOCR

        threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
        # Its own threshold of confidence, 0.5, would drop lines before `min_confidence` is applied.
        params = {**threads, "Global.log_level": "error", "Global.text_score": 0.0, "Global.max_side_len": self.side}
        self.engine: Callable[[np.ndarray], Any] = RapidOCR(params=params)  # what it returns differs with its settings

    def read(self, pixels: np.ndarray) -> list[OcrLine]:
        broad = padded(pixels)
        output = self.engine(np.ascontiguousarray(broad[:, :, ::-1]))  # RapidOCR takes BGR
        if output.boxes is None:
            return []
        lines = _lines(zip(output.boxes, output.txts, output.scores, strict=True))
        if broad is pixels:
            return lines
        ends = (float(pixels.shape[1]), float(pixels.shape[0])) * 4
        return [{**line, "box": [*map(min, line["box"], ends)]} for line in lines]


def padded(pixels: np.ndarray) -> np.ndarray:
    """A picture, RGB, uint8 of shape (height, width, 3), with its last column or row repeated if it is thin.

    RapidOCR scales pictures up until the shorter side has 736 pixels: one of 1 x 300 would fill the memory. Wide ones
    that are not lower than 30 pixels after that are padded by RapidOCR itself.
    """
    height, width = pixels.shape[:2]
    right, below = max(0, ceil(height * THIN[0]) - width), max(0, ceil(width * THIN[1]) - height)
    return np.pad(pixels, ((0, below), (0, right), (0, 0)), "edge") if right or below else pixels


class EasyOcr:
    """CRAFT and a CRNN by torch, with one thread per process."""

    side = SIDES["easyocr"]

    def __init__(self, config: EasyOcrConfig):
        fetch_weights(config)
        import easyocr.easyocr as package

        if config.gpu and not package.torch.cuda.is_available():
            raise UserError("ocr.easyocr.gpu: torch finds no GPU here; set gpu = false")
        package.torch.set_num_threads(1)
        self.reader: Any = _reader(config, config.models)

    def read(self, pixels: np.ndarray) -> list[OcrLine]:
        return _lines(self.reader.readtext(pixels, canvas_size=self.side))


def _lines(readings: Iterable[tuple[Any, str, float]]) -> list[OcrLine]:
    """OCR lines from (four corners, text, confidence)."""
    return [
        {"text": text, "confidence": round(float(score), 5),
         "box": [round(float(x), 1) for corner in box for x in corner]}
        for box, text, score in readings
    ]  # fmt: skip


def open_engine(config: OcrConfig) -> Engine:
    """The engine of a configuration, loaded once per process. Raises `UserError` if it cannot be loaded."""
    if config.engine == "rapidocr":
        return load_engine("rapidocr")
    return load_engine("easyocr", config.easyocr, tuple(weights(config.easyocr).values()))


engines: dict[tuple[Any, ...], Engine] = {}  # of this process, by what they are made of


def load_engine(name: str, *made_of: Any) -> Engine:
    if (name, *made_of) not in engines:
        engines[name, *made_of] = RapidOcr() if name == "rapidocr" else EasyOcr(made_of[0])
    return engines[name, *made_of]


def identity(config: OcrConfig) -> dict[str, Any]:
    """The packages, models and settings of an engine; part of the fingerprint of its results."""
    packages = {"rapidocr": ("rapidocr", "onnxruntime"), "easyocr": ("easyocr", "torch")}[config.engine]
    parts: dict[str, Any] = {package: version(package) for package in packages}
    if config.engine == "easyocr":
        parts |= weights(config.easyocr)
        parts |= {"languages": sorted(config.easyocr.languages), "gpu": config.easyocr.gpu}  # on a CPU it is quantized
    return parts


def check_engine(config: OcrConfig) -> None:
    """Raises `UserError` with the field's name if an engine cannot work here. Downloads nothing."""
    if config.engine == "easyocr":
        if find_spec("easyocr") is None:
            raise UserError(f"ocr.engine: {not_installed('easyocr')}")
        check_weights(config.easyocr)


def prepare_engine(config: OcrConfig) -> None:
    """Downloads what an engine needs. Raises `UserError` if that fails."""
    if config.engine == "easyocr":
        fetch_weights(config.easyocr)


# EasyOCR's weights


def _reader(config: EasyOcrConfig, folder: str, **options: Any):
    """EasyOCR's `Reader`, set to load only tensors, to download nothing, and to write nothing to the home folder."""
    from easyocr import Reader

    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # overrides `weights_only=False`, which EasyOCR passes
    with tempfile.TemporaryDirectory() as empty:
        try:
            return Reader(
                list(config.languages), gpu=config.gpu, model_storage_directory=folder, user_network_directory=empty,
                download_enabled=False, verbose=False, **options,
            )  # fmt: skip
        finally:
            sys.path[:] = [path for path in sys.path if path != empty]


@cache
def _models(languages: tuple[str, ...]) -> list[dict[str, str]]:
    """EasyOCR's entries {filename, url, md5sum} of the detector and the recogniser that it uses for languages."""
    from easyocr.config import all_lang_list, detection_models, recognition_models

    if unknown := sorted(set(languages) - set(all_lang_list)):
        known = ", ".join(sorted(all_lang_list))
        raise UserError(f"ocr.easyocr.languages: EasyOCR does not know {unknown[0]!r}; it knows {known}")
    with tempfile.TemporaryDirectory() as empty:
        try:
            reader = _reader(EasyOcrConfig(languages=languages), empty, detector=False, recognizer=False)
        except ValueError as error:  # some languages can only be combined with English
            raise UserError(f"ocr.easyocr.languages: {error}") from None
        except FileNotFoundError:
            raise UserError(f"ocr.easyocr.languages: EasyOCR has no model for {', '.join(languages)}") from None
    recognisers = [model for generation in recognition_models.values() for model in generation.values()]
    (recogniser,) = (model for model in recognisers if model["characters"] == reader.character)
    return [detection_models["craft"], recogniser]


def weights(config: EasyOcrConfig) -> dict[str, str]:
    """The weight files that EasyOCR uses for a configuration, with their MD5 sums; no other files can be used."""
    return {model["filename"]: model["md5sum"] for model in _models(config.languages)}


def check_weights(config: EasyOcrConfig) -> None:
    """Raises `UserError` if weights are missing and may not be downloaded, or if their MD5 sum is wrong."""
    folder, models = Path(config.models), _models(config.languages)
    if "://" in config.models:
        raise UserError(f"ocr.easyocr.models: {config.models} is a URL; EasyOCR reads its weights from a local folder")
    missing = [model for model in models if not (folder / model["filename"]).is_file()]
    if missing and not config.download:
        names, urls = (", ".join(model[field] for model in missing) for field in ("filename", "url"))
        raise UserError(f"ocr.easyocr.models: {folder} has no {names}; unpack {urls} there, or set download = true")
    for model in models:
        path = folder / model["filename"]
        if model not in missing and _md5(path, path.stat().st_size, path.stat().st_mtime_ns) != model["md5sum"]:
            raise UserError(f"ocr.easyocr.models: {path} is not what EasyOCR {version('easyocr')} has by that name; "
                            "remove it")  # fmt: skip


@lru_cache(maxsize=64)
def _md5(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return file_digest(file, "md5").hexdigest()


def fetch_weights(config: EasyOcrConfig) -> None:
    """Downloads missing weights, if the configuration allows it. Raises `UserError` if any are missing afterwards."""
    folder = Path(config.models)
    check_weights(config)
    for model in _models(config.languages):
        if (folder / model["filename"]).is_file():
            continue
        try:
            with urlopen(model["url"], timeout=60) as response, ZipFile(io.BytesIO(response.read())) as archive:
                models = Root(config.models)
                models.create()
                models.write(model["filename"], archive.read(model["filename"]))
        except (OSError, HTTPException, BadZipFile, KeyError) as error:
            raise UserError(f"ocr.easyocr.download: {model['url']}: {error}; unpack it in {folder} by hand") from None
    check_weights(config)

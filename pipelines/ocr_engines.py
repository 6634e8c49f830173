"""OCR engines behind one small face: pixels in, lines out. A new one is a class here and a word in `OcrConfig`."""

from functools import cache
from importlib.metadata import version
from typing import ClassVar, Protocol

import numpy as np

from schemas.ocr import OcrLine


class Engine(Protocol):
    packages: ClassVar[tuple[str, ...]]  # whose versions, with their models, decide what is read

    def read(self, pixels: np.ndarray) -> list[OcrLine]:
        """The lines of an RGB image, uint8 of shape (height, width, 3), in any order."""


class RapidOcr:
    """PP-OCR by onnxruntime; the models are in RapidOCR's wheel. One thread: two in a process are slower than one."""

    packages = ("rapidocr", "onnxruntime")

    def __init__(self):
        from rapidocr import RapidOCR

        threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
        self.engine = RapidOCR(params={**threads, "Global.log_level": "error"})

    def read(self, pixels: np.ndarray) -> list[OcrLine]:
        found = self.engine(np.ascontiguousarray(pixels[:, :, ::-1]))  # RapidOCR takes BGR
        if found.boxes is None:
            return []
        return [
            {"text": text, "confidence": round(float(score), 5), "box": [round(float(x), 1) for x in box.ravel()]}
            for text, score, box in zip(found.txts, found.scores, found.boxes)
        ]


ENGINES: dict[str, type[Engine]] = {"rapidocr": RapidOcr}


@cache
def load_engine(name: str) -> Engine:
    """The engine, loaded once a process."""
    return ENGINES[name]()


@cache
def identity(name: str) -> dict[str, str]:
    """Versions of what an engine is made of; they are part of the fingerprint of what it reads."""
    return {package: version(package) for package in ENGINES[name].packages}

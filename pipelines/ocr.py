"""Reads the text printed in each image: `python -m pipelines.ocr my.toml`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.ocr_engines import identity, load_engine
from pipelines.partition import PartitionStage, Rejected, read_payload
from pipelines.root import Root
from schemas.arrow import Row
from schemas.config import OcrConfig
from schemas.ocr import OCR, REASONS, RETRYABLE, OcrLine
from schemas.pictures import open_image, upright


def pixels(data: bytes) -> np.ndarray:
    """An image's bytes as upright RGB, uint8 of shape (height, width, 3)."""
    with open_image(data) as image:
        return np.asarray(upright(image))


def in_reading_order(lines: Iterable[OcrLine]) -> list[OcrLine]:
    """Top to bottom, and left to right among lines that share more than half of their height."""
    left = sorted(lines, key=lambda line: _middle(line["box"]))
    ordered: list[OcrLine] = []
    while left:
        top, bottom = _extent(left[0]["box"])
        row = [line for line in left if min(bottom, _extent(line["box"])[1]) - max(top, _extent(line["box"])[0])
               > 0.5 * min(bottom - top, _height(line["box"]))]  # fmt: skip
        row = row or left[:1]
        ordered += sorted(row, key=lambda line: min(line["box"][::2]))
        left = [line for line in left if not any(line is other for other in row)]
    return ordered


def _extent(box: list[float]) -> tuple[float, float]:
    return min(box[1::2]), max(box[1::2])


def _height(box: list[float]) -> float:
    return _extent(box)[1] - _extent(box)[0]


def _middle(box: list[float]) -> float:
    return sum(_extent(box)) / 2


@dataclass(frozen=True)
class ReadText(PartitionStage):
    config: OcrConfig
    chunk_rows: int = 100  # about a minute of work on one core

    name = "ocr"
    schema = OCR
    reasons = REASONS
    retryable = frozenset(RETRYABLE)
    reads = {"images": ("key", "sha256", "reason")}
    finds = {"images": ("byte_offset", "size")}

    def settings(self) -> dict[str, Any]:
        return self.config.model_dump() | {"model": identity(self.config.engine)}

    def make(self, rows: Iterable[dict[str, Row]], root: Root) -> Iterator[tuple[str, Row | Rejected]]:
        engine = load_engine(self.config.engine)
        for row in rows:
            image = row["images"]
            if image["size"] is None:  # a conversation without an image
                yield image["key"], {"lines": []}
                continue
            data = read_payload(root, "images", image)
            try:
                lines = engine.read(pixels(data))
            except Exception as error:  # an engine's failure on one image must not stop the others
                yield image["key"], Rejected("engine_failed", f"{type(error).__name__}: {error}")
                continue
            kept = [line for line in lines if line["text"].strip() and line["confidence"] >= self.config.min_confidence]
            yield image["key"], {"lines": in_reading_order(kept)}


if __name__ == "__main__":
    from pipelines.corpus import main

    main("ocr")

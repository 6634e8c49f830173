"""Reads the text printed in each image."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.engine.partition_stage import PartitionStage, Rejected, read_payload
from pipelines.engine.root import Root
from pipelines.ocr.engines import identity, open_engine
from pipelines.ocr.quality import verdict
from pipelines.ocr.reading_order import in_reading_order
from schemas.arrow import Row
from schemas.config.model import OcrConfig
from schemas.ocr import OCR, REASONS, RETRYABLE, OcrLine
from schemas.pictures import open_image, upright


def pixels(data: bytes) -> np.ndarray:
    """An image's bytes as upright RGB, uint8 of shape (height, width, 3)."""
    with open_image(data) as image:
        return np.asarray(upright(image))


@dataclass(frozen=True)
class ReadText(PartitionStage):
    config: OcrConfig
    duplicates: bool = False  # whether that stage is there: what it leaves out is not read
    chunk_rows: int = 100  # about a minute of work on one core

    name = "ocr"
    version = 2
    schema = OCR
    reasons = REASONS
    retryable = frozenset(RETRYABLE)
    holds_model = True  # two workers keep 470 MB, of 600 in all after the stage
    finds = {"images": ("byte_offset", "size")}

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        return {"images": ("key", "sha256", "reason")} | ({"duplicates": ("reason",)} if self.duplicates else {})

    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(exclude={"easyocr"}) | {"model": identity(self.config)}

    def make(self, rows: Iterable[dict[str, Row]], root: Root) -> Iterator[tuple[str, Row | Rejected]]:
        engine = open_engine(self.config)
        for row in rows:
            image = row["images"]
            if image["size"] is None:  # a conversation without an image
                yield image["key"], self.judged([])
                continue
            data = read_payload(root, "images", image)
            try:
                lines = engine.read(pixels(data))
            except Exception as error:  # an engine's failure on one image must not stop the others
                yield image["key"], Rejected("engine_failed", f"{type(error).__name__}: {error}")
                continue
            yield image["key"], self.judged(lines)

    def judged(self, read: Sequence[OcrLine]) -> Row:
        """What stands in the row of an image in which an engine read these lines."""
        kept = [line for line in read if line["text"].strip() and line["confidence"] >= self.config.min_confidence]
        return {"lines": in_reading_order(kept), "verdict": verdict(read, self.config)}

"""Reads the text printed in each image."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.engine.partition_stage import Before, PartitionStage, Rejected
from pipelines.engine.payload import read_payload
from pipelines.engine.root import Root
from pipelines.ocr.engines import SIDES, Engine, check_engine, identity, open_engine, prepare_engine
from pipelines.ocr.quality import repeated, verdict
from pipelines.ocr.reading_order import in_reading_order
from pipelines.ocr.rereading import read_again
from pipelines.ocr.tiles import read_in_tiles, tiles
from schemas.arrow import Row
from schemas.config.model import Config
from schemas.errors import UserError
from schemas.ocr import RETRYABLE, STAGE, OcrConfig, OcrLine
from schemas.pictures import open_image, upright


def pixels(data: bytes) -> np.ndarray:
    """An image's bytes as upright RGB, uint8 of shape (height, width, 3)."""
    with open_image(data) as image:
        return np.asarray(upright(image))


# Settings that decide what is made of the lines that an engine read, and not what it reads
JUDGING = {
    "min_confidence", "good_confidence", "good_line_confidence", "good_length", "good_share", "max_tiles",
}  # fmt: skip
TILED = 3  # the version from which on large pictures are read in tiles


@dataclass(frozen=True)
class ReadText(PartitionStage):
    config: OcrConfig  # of the first engine
    then: tuple[OcrConfig, ...] = ()  # of those that read again what it doubts
    chunk_rows: int = 100  # about a minute of work on one core

    info = STAGE
    version = 3  # large pictures are read in tiles; each line of a good text has a high confidence
    retryable = frozenset(RETRYABLE)
    holds_model = True  # two workers keep 470 MB, of 600 in all after the stage
    finds = {"images": ("byte_offset", "size", "width", "height")}
    decodes = True

    def settings(self) -> dict[str, Any]:
        settings = self.config.recorded(exclude={"easyocr"}) | {"model": identity(self.config)}
        then = [{"engine": other.engine, "model": identity(other)} for other in self.then]
        return settings | ({"then": then} if then else {})

    def make(self, rows: Iterable[Row], root: Root) -> Iterator[tuple[str, Row | Rejected]]:
        for row in rows:
            image = row["images"]
            if image["size"] is None:  # a conversation without an image
                yield image["key"], self.judged([])
                continue
            if (count := self.tiles(image)) > self.config.max_tiles:
                size = f"{image['width']} x {image['height']} pixels"
                yield image["key"], Rejected("too_many_tiles", f"{size} are {count} tiles of {self.side} pixels")
                continue
            if (at_hand := self.read_before(row["before"], count)) is not None:
                yield image["key"], at_hand
                continue
            data, known = read_payload(root, "images", image), self.lines_before(row["before"], count)
            engines = self.engines()  # not tried: one that cannot be loaded here stops the stage
            try:
                lines = self.read(pixels(data), engines, known)
            except Exception as error:  # an engine's failure on one image must not stop the others
                yield image["key"], Rejected("engine_failed", f"{type(error).__name__}: {error}")
                continue
            yield image["key"], self.judged(lines)

    def engines(self) -> list[Engine]:
        return [open_engine(config) for config in (self.config, *self.then)]

    def read(self, picture: np.ndarray, engines: Sequence[Engine], lines: list[OcrLine] | None = None) -> list[OcrLine]:
        """The lines of a picture, RGB, uint8 of shape (height, width, 3), with confidences on the first engine's scale.
        `lines`: what the first engine reads in it, if that is known."""
        lines = read_in_tiles(engines[0], picture) if lines is None else lines
        for config, engine in zip(self.then, engines[1:], strict=True):
            lines = read_again(lines, picture, self.config.engine, config.engine, engine)
        return lines

    @property
    def side(self) -> int:
        """Pixels of a tile's side."""
        return SIDES[self.config.engine]

    def tiles(self, image: Row) -> int:
        """The tiles in which an image is read."""
        return tiles(image["width"], image["height"], self.side)

    def read_before(self, before: Before | None, count: int) -> Row | None:
        """The row of an image that this engine has read before, judged again; None if it has to be read.

        Files of version 0.1 hold no lines below `min_confidence`: their rows stay as they are, or are read again.
        Before version 3, an image of more than one tile was scaled down: its row stays if `max_tiles` is as it was.
        """
        if before is None or not before.same_input:
            return None
        if before.only_older(self) and (before.row["reason"] or before.row["dropped"] is None):
            return before.fields(self)
        scaled_down = count > 1 and before.version < TILED
        if scaled_down and before.settings.get("max_tiles") != self.settings().get("max_tiles"):
            return None
        lines = self.all_lines(before, JUDGING)
        return None if lines is None else self.judged(lines)

    def lines_before(self, before: Before | None, count: int) -> list[OcrLine] | None:
        """What the first engine alone has read in an image before; None if it has to read it."""
        if before is None or "then" in before.settings or (count > 1 and before.version < TILED):
            return None
        return self.all_lines(before, JUDGING | {"then"})

    def all_lines(self, before: Before, apart: set[str]) -> list[OcrLine] | None:
        """All lines that were read in an image with today's settings, apart from some; None if that is not known."""
        row = before.row
        if row["reason"] or row["dropped"] is None or not before.differs_only_in(self, apart):
            return None
        return [*row["lines"], *row["dropped"]]

    def judged(self, read: Iterable[OcrLine]) -> Row:
        """The columns of an image in which an engine read these lines, given in any order."""
        read = sorted(read, key=lambda line: (line["box"], line["text"], line["confidence"]))
        kept: list[OcrLine] = []
        dropped: list[OcrLine] = []
        for line in read:
            sure = line["text"].strip() and line["confidence"] >= self.config.min_confidence
            (kept if sure else dropped).append(line)
        twice = repeated(kept)
        once = [line for n, line in enumerate(kept) if n not in twice]
        said = verdict([*once, *dropped], self.config)
        dropped += [line for n, line in enumerate(kept) if n in twice]
        return {"lines": in_reading_order(once), "dropped": dropped, "verdict": said}

    def prepare(self) -> None:
        for config in (self.config, *self.then):
            prepare_engine(config)


def open_stage(config: Config) -> ReadText | None:
    """Raises `UserError` if the engine cannot work here."""
    if config.ocr is None:
        return None
    first, *then = config.ocr.each
    for number, engine in enumerate((first, *then)):
        try:
            check_engine(engine)
        except UserError as error:
            if not config.ocr.engines:
                raise
            place = f"ocr.engines.{number}"
            raise UserError(str(error).replace("ocr.easyocr", place).replace("ocr.engine:", f"{place}:")) from None
    return ReadText(first, tuple(then))

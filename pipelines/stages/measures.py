"""Measures the texts of each sample, and the views that its image becomes. No image is opened."""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipelines.engine.partition_stage import PartitionStage, Rejected
from pipelines.engine.root import Root
from pipelines.text_rules.caption_rules import caption_of, length_of
from pipelines.text_rules.languages import identity, language_of
from pipelines.text_rules.scripts import main_script
from schemas.arrow import Row
from schemas.config.model import Config
from schemas.errors import UserError
from schemas.extras import not_installed
from schemas.marks import blanked
from schemas.measures import STAGE, MeasuresConfig
from schemas.slices import PLANS, visual_tokens
from schemas.stage import Columns
from schemas.texts import is_empty

# Stages that it reads where the corpus has them
MORE = {"ocr": ("lines",), "captions": ("text",), "translations": ("text", "conversation")}


@dataclass(frozen=True)
class Measure(PartitionStage):
    config: MeasuresConfig
    tokenizer: bytes | None = None  # tokenizer.json, compressed: it travels with the stage

    info = STAGE

    @property
    def reads(self) -> Mapping[str, Columns]:
        present = {info.name for info in self.earlier}
        return {**self.info.reads, **{name: columns for name, columns in MORE.items() if name in present}}

    def settings(self) -> dict[str, Any]:
        settings = self.config.recorded(exclude={"tokenizer"}) | {"languages": identity()}
        return settings | ({"tokenizer": sha256(self.tokenizer).hexdigest()[:16]} if self.tokenizer else {})

    def make(self, rows: Iterable[Row], root: Root) -> Iterator[tuple[str, Row | Rejected]]:
        for row in rows:
            yield row["rows"]["key"], self.measured(row)

    def measured(self, row: Row) -> Row:
        """The columns of a row: of its conversation or else its caption, of what OCR read, and of its image."""
        answers, text = texts_of(row)
        read = "\n".join(line["text"] for line in row.get("ocr", {}).get("lines") or ())
        language, words, tokens = self._of_language(answers), self._words(text), self._tokens(text)
        ocr = {f"ocr_{name}": value for name, value in self._of_language(read).items()}
        return {
            **language, "words": words, "text_tokens": tokens,
            **ocr, "ocr_words": self._words(read), "ocr_tokens": self._tokens(read), **self._of_image(row["images"]),
        }  # fmt: skip

    def of_text(self, text: str) -> Row:
        """The columns of one text."""
        return self._of_language(text) | {"words": self._words(text), "text_tokens": self._tokens(text)}

    def _of_language(self, text: str) -> Row:
        if is_empty(text):
            return {"language": None, "language_confidence": None, "script": None}
        code, confidence = language_of(text, self.config.min_confidence)
        return {"language": code, "language_confidence": confidence, "script": main_script(text)}

    def _words(self, text: str) -> int | None:
        return None if is_empty(text) else int(length_of(text) + 0.5)

    def _tokens(self, text: str) -> int | None:
        if self.tokenizer is None or is_empty(text):
            return None
        return len(opened(self.tokenizer).encode(text, add_special_tokens=False))

    def _of_image(self, image: Row) -> Row:
        columns: Row = {}
        for name, plan in PLANS.items():
            views = None
            if image["width"]:
                try:
                    views = plan(image["width"], image["height"], self.config.side)
                except ValueError:  # llama.cpp does not accept so long an image
                    views = None
            suffix = name.replace(".", "_")
            columns[f"slices_{suffix}"] = views and views.columns * views.rows
            columns[f"visual_tokens_{suffix}"] = views and visual_tokens(views, self.config.queries)
        return columns


def texts_of(row: Row) -> tuple[str, str]:
    """Of a row: the text whose language counts, and all of its text. A conversation's language is that of its answers;
    marks of images are not text."""
    translated = row.get("translations", {})
    conversation = translated.get("conversation") or row["rows"]["conversation"]
    if conversation is None:
        text = without_images(translated.get("text") or caption_of(row))
        return text, text
    turns = json.loads(conversation)["turns"]
    answers = (turn["content"] for turn in turns if turn["role"] == "assistant")
    return without_images("\n".join(answers)), without_images("\n".join(turn["content"] for turn in turns))


def without_images(text: str | None) -> str:
    """A text without marks of images, and without halves of surrogate pairs, which JSON may escape."""
    return blanked(text or "").encode("utf-8", "replace").decode()


@cache
def opened(tokenizer: bytes):
    """A tokenizer that counts: special tokens in a text are words."""
    import tokenizers

    opened = tokenizers.Tokenizer.from_str(zlib.decompress(tokenizer).decode())
    opened.no_truncation()
    opened.no_padding()
    opened.encode_special_tokens = True
    return opened


def open_stage(config: Config) -> Measure | None:
    """Raises `UserError` for a tokenizer that cannot be read."""
    if config.measures is None:
        return None
    tokenizer = config.measures.tokenizer
    return Measure(config.measures, None if tokenizer is None else _read(tokenizer))


def _read(place: str) -> bytes:
    path = Path(place) / "tokenizer.json" if Path(place).is_dir() else Path(place)
    if find_spec("tokenizers") is None:
        raise UserError(f"measures.tokenizer: {not_installed('tokenizers')}")
    try:
        compressed = zlib.compress(path.read_bytes(), 9)
    except OSError as error:
        raise UserError(f"measures.tokenizer: {path}: cannot be read: {error.strerror or error}") from None
    try:
        opened(compressed)
    except Exception as error:  # it raises no other kind
        raise UserError(f"measures.tokenizer: {path}: is not a valid tokenizer.json: {error}") from None
    return compressed

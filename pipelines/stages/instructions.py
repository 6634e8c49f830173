"""Decides what the policy is asked about each image.

A corpus step. A source of instructions brings its own questions. About every other image for which the condition holds,
some of the configured questions are asked, drawn by hash(seed, image). Every image has at least one row, and every
question has one. The mark of the image is taken out of a question: the image itself is sent with it, once.

With [align] an image belongs to a round, by hash(seed, image), and is asked about once that has begun.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.catalog.catalog import check_condition, condition_error, connect, stage_files
from pipelines.engine.commit import digest, key_of
from pipelines.engine.corpus_stage import CorpusStage, Upstream
from pipelines.engine.partition_stage import UPSTREAM
from pipelines.engine.root import Root
from pipelines.stages.rounds import policies
from pipelines.stages.rows import json_of
from schemas.align import AlignConfig
from schemas.arrow import Row
from schemas.config.model import Config
from schemas.instructions import SOURCE, STAGE, TEMPLATE, InstructionsConfig
from schemas.marks import is_image, named_pictures, without_marks
from schemas.texts import is_empty
from schemas.views import drawn, lot


@dataclass(frozen=True)
class DrawInstructions(CorpusStage):
    config: InstructionsConfig
    align: AlignConfig | None = None
    begun: int = 0  # rounds of `align`

    info = STAGE

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([f for f in STAGE.schema if self.align or f.name not in STAGE.optional])

    def settings(self) -> dict[str, Any]:
        settings = self.config.recorded()
        if self.align:
            settings["rounds"] = {"share": self.align.share, "seed": self.align.seed, "begun": self.begun}
        return settings

    def make(self, root: Root, upstream: Upstream) -> Iterator[tuple[int, list[Row]]]:
        seen: set[str] = set()
        question = _question(self.config, self.align)
        with connect(root, stage_files(root, self.earlier), self.earlier, [question]) as connection:
            try:
                answer = connection.sql(question).to_arrow_reader(10_000)
                images = (row for batch in answer for row in batch.to_pylist())
                for partition, group in groupby(images, key=lambda row: row["partition"]):
                    yield partition, [_finished(self, row) for image in group for row in self._asked(image, seen)]
            except duckdb.Error as error:
                raise condition_error("instructions.where", error) from None

    def check(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Raises `UserError` if its condition is not a condition on `samples`."""
        check_condition(connection, "instructions.where", self.config.where, "candidates AS samples")

    def _asked(self, image: Row, seen: set[str]) -> Iterator[Row]:
        """The rows of one image; `seen` are the keys of earlier rows."""
        key = image["key"]
        if image["left_out_by"]:
            yield {"key": key, "image": key, "reason": UPSTREAM, "detail": f"{image['left_out_by']}: {image['reason']}"}
            return
        if image["size"] is None:
            yield {"key": key, "image": key, "reason": "no_image"}
            return
        questions = self._questions(image)
        if not questions:
            yield {"key": key, "image": key, "reason": "not_asked"}
        for number, brought in enumerate(questions):
            asked = str(brought["question"] or "")
            question, marks = without_marks(asked).strip(), named_pictures(asked)
            row = brought | {"key": key_of(key, question), "image": key}
            row |= {"question": None if is_empty(question) else question}
            row |= {"extra": json_of(row["extra"]) if row.get("extra") else None, "name": _text(row.get("name"))}
            row |= {"round": image["round"]} if self.align else {}
            place = f"{image['partition']}/{number}"  # an earlier partition may have the same image
            if len(marks) > 1 or any(not is_image(mark) for mark in marks):
                row |= {"key": key_of(key, question, place), "reason": "other_images", "detail": " ".join(marks)[:200]}
            elif is_empty(question):
                row |= {"key": key_of(key, question, place), "reason": "no_question"}
            elif row["key"] in seen:
                row |= {"key": key_of(key, question, place), "reason": "equal_keys", "detail": row["key"]}
            elif self.align and image["round"] > self.begun:
                row |= {"reason": "later_round"}
            seen.add(row["key"])
            yield row

    def _questions(self, image: Row) -> list[Row]:
        """What the source asks about an image; if that is nothing, the questions drawn for it."""
        brought = json.loads(image["brought"] or "null")
        if brought and isinstance(brought, list):
            given = [entry if isinstance(entry, dict) else {} for entry in brought]
            return [
                {"origin": SOURCE} | {name: entry.get(name) for name in ("question", "name", "extra")}
                for entry in given
            ]
        if image["holds"] and image["drawn"]:
            return [{"origin": TEMPLATE, "question": question} for question in draw(self.config, image["key"])]
        return []


def _text(name: Any) -> str | None:
    """What a source calls a question, which may be any value of JSON."""
    return name if name is None or isinstance(name, str) else json_of(name)


def draw(config: InstructionsConfig, image: str) -> list[str]:
    """The questions that are asked about an image: those with the smallest hash(seed, image, question)."""
    lots = {question: sha256(f"{config.seed}/{image}/{question}".encode()).digest() for question in config.questions}
    return sorted(lots, key=lots.__getitem__)[: config.per_image]


def _question(config: InstructionsConfig, align: AlignConfig | None) -> str:
    """For each image, in order: what left it out, what its source asks, and whether configured questions are asked."""
    share, seed = (align.share, align.seed) if align else (1.0, 0)
    return f"""
        SELECT partition, key, reason, left_out_by, size, (extra -> 'instructions')::VARCHAR AS brought,
               coalesce(({config.where}\n), false) AS holds,
               {drawn(f"{STAGE.name}/{config.seed}", config.weight)} AS drawn,
               1 + floor({lot(f"round/{seed}")} / {share} + 1e-9)::INTEGER AS round
        FROM candidates AS samples ORDER BY partition, key"""


def _finished(step: DrawInstructions, row: Row) -> Row:
    """A row with all of its fields, and the hash of what it says."""
    row = dict.fromkeys(step.schema.names) | row
    return row | {"made_from": digest([step.name, step.version, *row.values()])}


def open_stage(config: Config) -> DrawInstructions | None:
    if config.responses is None:
        return None
    return DrawInstructions(config.instructions, config.align, len(policies(config) or []))

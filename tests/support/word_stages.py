"""Stages that make words of words, as small as a stage can be."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pipelines.engine.commit import (
    Stage,
    digest,
    key_of,
    read_commit,
    replace_rows,
)
from pipelines.engine.ledger import Ledger
from pipelines.engine.make_partition import make_partition
from pipelines.engine.parquet import read_rows
from pipelines.engine.partition_stage import PartitionStage, Rejected
from pipelines.engine.root import Root
from schemas import images
from schemas.arrow import Row
from schemas.stage import StageInfo

WORDS = {
    "key": str, "word": str | None, "place": str | None, "reason": str | None, "detail": str | None, "made_from": str,
}  # fmt: skip


class Words(Stage):
    """A source of words. Where a word lies is no part of what it is."""

    info = StageInfo("words", WORDS, {"unreadable": "a hole in the page"})
    places = frozenset({"place"})


@dataclass(frozen=True)
class Loud(PartitionStage):
    """Says words louder, once for each `times`; notes what it was asked for."""

    times: int = 1
    asked: list[str] = field(default_factory=list, compare=False)

    info = StageInfo("loud", WORDS, {"silent": "nothing to say"}, reads={"words": ("key", "word")})
    finds = {"words": ("place",)}

    def settings(self) -> dict[str, Any]:
        return {"times": self.times}

    def make(self, rows: Iterable[dict[str, Row]], root: Root) -> Iterator[tuple[str, Row | Rejected]]:
        for row in rows:
            key, word = row["words"]["key"], row["words"]["word"]
            self.asked.append(word)
            if word == "":
                yield key, Rejected("silent", "an empty word")
            elif word == "boo":
                yield key, Rejected("undeclared", "")
            else:
                yield key, {"word": word.upper() * self.times, "place": row["words"]["place"]}


@dataclass(frozen=True)
class Long(PartitionStage):
    """Says how long loud words are: equal for words of equal length."""

    asked: list[str] = field(default_factory=list, compare=False)

    info = StageInfo("long", WORDS, {}, reads={"loud": ("key", "word")})

    def make(self, rows, root):
        for row in rows:
            self.asked.append(row["loud"]["word"])
            yield row["loud"]["key"], {"word": str(len(row["loud"]["word"]))}


@dataclass(frozen=True)
class Kept(PartitionStage):
    """Keeps bytes for each word."""

    size: int = 1000
    asked: list[str] = field(default_factory=list, compare=False)

    info = StageInfo("images", images.STAGE.fields, {"too_small": "less than a byte"}, reads={"words": ("key", "word")})
    places = frozenset({"byte_offset"})
    payload = True

    def settings(self) -> dict[str, Any]:
        return {"size": self.size}

    def make(self, rows, root):
        for row in rows:
            word = row["words"]["word"]
            self.asked.append(word)
            data = (word.encode() * self.size)[: self.size]
            if not data:
                yield row["words"]["key"], Rejected("too_small")
            else:
                yield row["words"]["key"], {
                    "format": "PNG", "sha256": hashlib.sha256(data).hexdigest(), "bytes": data,
                }  # fmt: skip


def say(root: Root, *words: str | None, places: str = "", partition: int = 0) -> None:
    """Puts words into the source's partition; None is one that could not be read."""
    rows = []
    for word in words:
        row = {"key": key_of(str(word)), "word": word, "place": places + str(word), "reason": None, "detail": None}
        row |= {"reason": "unreadable"} if word is None else {}
        rows.append(row | {"made_from": digest(word)})
    replace_rows(root, Ledger(root, "run"), Words(), partition, rows)


def made(stage: PartitionStage, root: Root, partition: int = 0) -> list[str]:
    """Makes a partition; what was computed anew."""
    if hasattr(stage, "asked"):
        stage.asked.clear()
    make_partition(stage, root, Ledger(root, "run"), partition)
    return sorted(stage.asked)


def said(root: Root, stage: str, column: str = "word") -> list:
    return sorted((row[column] for row in read_rows(root, f"{stage}/00000.parquet")), key=str)


# Payloads


def payload_of(root: Root) -> str:
    return read_commit(root, "images/00000.parquet").payload

"""Responses and pairs that the source brings, such as those of RLAIF-V-Dataset: no policy is asked.

Of each instruction with a chosen and a rejected answer in its `extra`, these are responses, the chosen one as draw 0.
With labelers they are judged as any others. Without, the source's own choice is the pair.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from pipelines.engine.commit import MadeWith, digest, file_of
from pipelines.engine.corpus_stage import CorpusStage, Upstream
from pipelines.engine.parquet import read_rows
from pipelines.engine.partition_stage import UPSTREAM, PartitionStage, Rejected, Unit, read_of
from pipelines.engine.root import Root
from schemas.arrow import Row
from schemas.pairs import STAGE as PAIRS
from schemas.pairs import pair_key
from schemas.responses import STAGE as RESPONSES
from schemas.responses import response_key
from schemas.texts import is_empty

ANSWERS = ("chosen", "rejected")  # fields of an instruction's `extra`, in the order of the draws


@dataclass(frozen=True)
class BringResponses(PartitionStage):
    info = replace(RESPONSES, reads={"instructions": ("key", "extra")}, paid=False)

    def settings(self) -> dict[str, Any]:
        return {"from_source": True}

    def units(self, key: str, row: dict[str, Row], made_with: MadeWith) -> list[Unit]:
        asked = digest([made_with.identity, read_of(self, row)])
        return [
            Unit(response_key(key, draw), {**row, "unit": response_key(key, draw), "draw": draw}, digest([asked, draw]))
            for draw in range(len(ANSWERS))
        ]

    def named(self, unit: Unit, row: Row) -> Row:
        return {**row, "key": unit.key, "instruction": unit.row["instructions"]["key"], "draw": unit.row.get("draw")}

    def make(self, rows: Iterable[dict[str, Any]], root: Root) -> Iterator[tuple[str, Row | Rejected]]:
        for row in rows:
            extra = json.loads(row["instructions"]["extra"] or "{}")
            text = extra.get(ANSWERS[row["draw"]])
            brought = isinstance(text, str) and not is_empty(text)
            yield row["unit"], {"text": text.strip(), "cut": False} if brought else Rejected("not_brought")


@dataclass(frozen=True)
class BringPairs(CorpusStage):
    info = replace(PAIRS, reads={"responses": ("key", "instruction", "draw", "text")})

    def settings(self) -> dict[str, Any]:
        return {"from_source": True}

    def make(self, root: Root, upstream: Upstream) -> Iterator[tuple[int, list[Row]]]:
        for partition in upstream["responses"]:
            rows = read_rows(root, file_of("responses", partition))
            by_instruction = groupby(sorted(rows, key=lambda row: row["key"]), key=lambda row: row["instruction"])
            made = [row for instruction, some in by_instruction for row in _paired(instruction, list(some))]
            if made:
                yield partition, sorted((self._finished(row) for row in made), key=lambda row: row["key"])

    def _finished(self, row: Row) -> Row:
        row = dict.fromkeys(PAIRS.fields) | row
        return row | {"made_from": digest([self.name, self.version, *row.values()])}


def _paired(instruction: str, responses: list[Row]) -> Iterator[Row]:
    """The pair of an instruction's two responses, or a row for each of them that is in none."""
    texts = [row["text"] for row in responses if not row["reason"]]
    if len(texts) == len(ANSWERS) and texts[0] != texts[1]:
        chosen, rejected = (row["key"] for row in responses)
        yield {"key": pair_key(chosen, rejected), "instruction": instruction, "chosen": chosen, "rejected": rejected}
        return
    for row in responses:
        why = f"responses: {row['reason']}" if row["reason"] else None
        reason = UPSTREAM if row["reason"] else "no_candidate"
        yield {"key": row["key"], "instruction": instruction, "reason": reason, "detail": why}

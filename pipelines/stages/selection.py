"""Decides which shard sets each sample goes to, and as which task.

A corpus step with one SQL condition for each set. Only partition files whose rows changed are replaced.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.catalog.catalog import check_condition, condition_error, looks_at_one_row
from pipelines.catalog.groups import add_answer, ask_each, groups, on_disk
from pipelines.engine.commit import digest
from pipelines.engine.corpus_stage import CorpusStage, Upstream
from pipelines.engine.ledger import Ledger
from pipelines.engine.partition_stage import UPSTREAM
from pipelines.engine.root import Root
from pipelines.engine.workers import Workers
from pipelines.stages.corrupted_lines import target_sql
from pipelines.stages.quotas import VERSION, step_above, weights_by_quota
from pipelines.stages.sample_sql import has_format
from schemas.arrow import Row
from schemas.config.model import Config
from schemas.errors import UserError
from schemas.measures import UNKNOWN
from schemas.selection import BOUNDS, CORRUPTING, OF_OCR, OTHERS, STAGE, SetConfig
from schemas.texts import not_empty_sql
from schemas.views import OF_VIEWS, drawn, literal, lot

# Rows of keys that an earlier partition has, too
REPEATED = """
CREATE TABLE repeated AS SELECT partition, key FROM answers WHERE left_out_by IS NULL
QUALIFY row_number() OVER (PARTITION BY key ORDER BY partition) > 1"""
OF_SOME = """
SELECT answers.*, repeated.key IS NOT NULL AS repeated FROM answers
LEFT JOIN repeated ON repeated.partition = answers.partition AND repeated.key = answers.key
WHERE answers.partition BETWEEN ? AND ? ORDER BY answers.partition, answers.key"""


@dataclass(frozen=True)
class Select(CorpusStage):
    sets: Mapping[str, SetConfig]

    info = STAGE
    version = 2

    def settings(self) -> dict[str, Any]:
        return {
            name: config.recorded(exclude=self._only_packing(config))
            | ({"quotas": VERSION} if config.languages is not None else {})
            for name, config in self.sets.items()
        }

    def _only_packing(self, config: SetConfig) -> set[str]:
        """The settings of a set that decide how its samples are packed, not which they are."""
        packing = {"samples_per_shard", "stable_json", *BOUNDS, *CORRUPTING}
        return packing if config.other_formats == "encode" else packing - {"format"}

    def decide(
        self, root: Root, ledger: Ledger, upstream: Upstream, workers: Workers | None = None
    ) -> Iterator[pa.Table]:  # fmt: skip
        """What each set says of each row: asked of some partitions at a time, and gathered in a database on disk, as
        only that can tell keys that several partitions have."""
        question = _question(self.sets, self._weights(root, upstream))
        with on_disk() as decided:
            asked = list[list[int]]()
            for some, answer in self._ask(root, upstream, question):
                add_answer(decided, "answers", answer)
                if len(answer):
                    asked.append(some)
            if asked:
                decided.execute(REPEATED)
            for some in asked:
                yield decided.sql(OF_SOME, params=[some[0], some[-1]]).to_arrow_table()

    def _ask(self, root: Root, upstream: Upstream, question: str) -> Iterator[tuple[list[int], pa.Table]]:
        """The answer to a question about some partitions at a time, in order. Raises `UserError` for a condition that
        fails on a row."""
        partitions = sorted(upstream["rows"])
        named = ["candidates", *(config.where for config in self.sets.values())]
        of_rows = all(looks_at_one_row(config.where) for config in self.sets.values())
        asked = groups(upstream["rows"], partitions) if of_rows else [partitions]
        for some, connection in ask_each(root, self.earlier, upstream, asked, named):
            try:
                answer = connection.sql(question).to_arrow_table()
            except duckdb.Error as error:
                raise self._named(connection, error) from None
            yield some, answer

    def _weights(self, root: Root, upstream: Upstream) -> dict[str, dict[str, float]]:
        """Of each set with quotas the weight of each language, by what the corpus has of it."""
        weights = {}
        for name, config in self.sets.items():
            if config.languages is not None:
                counts = Counter[tuple[str, float]]()
                for _, answer in self._ask(root, upstream, _languages(config)):
                    counts.update({(row["language"], row["step"]): row["rows"] for row in answer.to_pylist()})
                weights[name] = weights_by_quota(counts, config.languages)
        return weights

    def finished(self, decided: list[Row]) -> list[Row]:
        return _placed(self, decided)

    def _named(self, connection: duckdb.DuckDBPyConnection, error: duckdb.Error) -> UserError:
        """An error of the question about all sets, with the name of the set that causes it."""
        for name, config in self.sets.items():
            try:
                connection.sql(f"SELECT count(*) FILTER ({config.where}\n) FROM candidates AS samples").fetchall()
            except duckdb.Error as of_set:
                return condition_error(f"sets.{name}.where", of_set)
        return condition_error("sets", error)

    def check(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Raises `UserError` if a set's condition is not valid on `samples`."""
        for name, config in self.sets.items():
            check_condition(connection, f"sets.{name}.where", config.where, "candidates AS samples")
            try:
                connection.sql(_question({name: config}, {name: dict.fromkeys(config.languages or (), 1.0)}))
                if config.languages is not None:
                    connection.sql(_languages(config))
            except duckdb.Error as error:
                raise condition_error(f"sets.{name}.where", error) from None


def _languages(config: SetConfig) -> str:
    """How many samples of each language there are for a set, by the least weight with which each is kept."""
    share_of_drawn = f"{lot(str(config.seed))} / {config.weight}"
    return f"""
        SELECT {_language(config)} AS language, {step_above(share_of_drawn)} AS step, count(*) AS rows
        FROM candidates AS samples
        WHERE left_out_by IS NULL AND part_of IS NULL AND ({config.where}\n) AND {has_format(config)}
          AND {not_empty_sql(target_sql(config))} AND {drawn(str(config.seed), config.weight)}
        GROUP BY ALL"""


def _language(config: SetConfig) -> str:
    """The language of what a sample of the set teaches to say, as SQL."""
    return f"coalesce({'ocr_language' if config.task in OF_OCR else 'language'}, {literal(UNKNOWN)})"


def _drawn_by_quota(config: SetConfig, weights: Mapping[str, float]) -> str:
    """The condition by which a sample is drawn by the quota of its language."""
    cases = "".join(
        f" WHEN {literal(code)} THEN {weight}" for code, weight in weights.items() if code != OTHERS
    )  # fmt: skip
    weight = (
        f"CASE {_language(config)}{cases} ELSE {weights.get(OTHERS, 0.0)} END" if cases else weights.get(OTHERS, 0.0)
    )
    return f"{lot(str(config.seed))} < {config.weight}::DOUBLE * {weight}"


def _question(sets: Mapping[str, SetConfig], weights: Mapping[str, Mapping[str, float]]) -> str:
    """For each key, in order of partitions: what left it out, and how each set judges it."""
    columns = []
    for name, config in sets.items():
        columns += [
            f'coalesce(({config.where}\n), false) AS "{name}:holds"',
            f'{drawn(str(config.seed), config.weight)} AS "{name}:drawn"',
            f'{_drawn_by_quota(config, weights[name]) if config.languages is not None else "true"} AS "{name}:quota"',
            f'{not_empty_sql(target_sql(config))} AS "{name}:target"',
            f'{has_format(config)} AS "{name}:format"',
        ]
    return f"""
        SELECT {", ".join(["partition", "key", "part_of", "reason", "left_out_by", *columns])}
        FROM candidates AS samples ORDER BY partition, key"""


def _placed(stage: Select, rows: Sequence[Row]) -> list[Row]:
    """The placements of a partition's rows. A conversation and its images are either all selected or all left out."""
    left_out = {row["part_of"]: row for row in rows if row["part_of"] and row["left_out_by"]}
    others = {(row["part_of"] or row["key"], name) for row in rows for name in stage.sets if not row[f"{name}:format"]}
    placed = {row["key"]: _place(stage, row, left_out.get(row["key"]), others) for row in rows if not row["part_of"]}
    for row in rows:
        if row["part_of"]:
            _, reason, detail = placed[row["part_of"]]
            if row["left_out_by"]:
                reason, detail = UPSTREAM, f"{row['left_out_by']}: {row['reason']}"
            elif reason == UPSTREAM:
                reason, detail = "incomplete", f"{row['part_of']}: {detail}"
            placed[row["key"]] = [], reason, detail
    return [
        {
            "key": key, "samples": samples, "reason": reason, "detail": detail,
            "made_from": digest([stage.name, stage.version, key, samples, reason, detail]),
        }
        for key, (samples, reason, detail) in placed.items()
    ]  # fmt: skip


def _place(
    stage: Select, row: Row, missing: Row | None, others: set[tuple[str, str]]
) -> tuple[list[Row], str | None, str | None]:
    """Samples, reason and detail of a row; `missing` is a row of its conversation that was left out. `others`: (key,
    set) where an image has another format than the set takes."""
    holds = [name for name in stage.sets if row[f"{name}:holds"]]
    drawn = [name for name in holds if row[f"{name}:drawn"]]
    in_quota = [name for name in drawn if row[f"{name}:quota"]]
    of_format = [name for name in in_quota if (row["key"], name) not in others]
    with_target = [name for name in of_format if row[f"{name}:target"]]
    if row["left_out_by"]:
        return [], UPSTREAM, f"{row['left_out_by']}: {row['reason']}"
    if row["repeated"]:
        return [], "equal_keys", None
    if missing:
        return [], "incomplete", f"{missing['key']}: {missing['left_out_by']}: {missing['reason']}"
    if not holds:
        return [], "not_selected", None
    if not drawn:
        return [], "sampled_out", None
    if not in_quota:
        return [], "over_quota", None
    if not of_format:
        return [], "other_format", None
    if not with_target:
        return [], f"no_{stage.sets[of_format[0]].task}", None
    return [{"set": name, "task": stage.sets[name].task} for name in with_target], None, None


def open_stage(config: Config) -> Select:
    """Raises `UserError` for quotas of languages that are not measured."""
    for name, settings in config.sets.items():
        if settings.languages is not None and config.measures is None:
            raise UserError(f"sets.{name}.languages: needs the table [measures]; add it")
    return Select({name: settings for name, settings in config.sets.items() if settings.task not in OF_VIEWS})

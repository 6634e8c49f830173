"""The catalog's SQL: a view for each stage, `samples`, which joins them, and views of common questions.

All views are derived from the table of stages in `schemas.stages`, together with the root's own stages.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from schemas.drift import DRIFT
from schemas.ledger import CALLS, CHANGES, COMPARISONS, DISTRIBUTIONS, FETCHES, RELEASES, RUNS, WORK
from schemas.preference_views import (
    BEST_RESPONSES,
    JUDGED,
    JUDGED_PREFERENCES,
    MEASURED,
    MEASURED_PREFERENCES,
    PREFERENCES,
    SCORES,
)
from schemas.shards import SAMPLES
from schemas.stage import StageInfo
from schemas.stages import STAGES, Stages, of_corpus
from schemas.trained import FOLDER, evaluations_sql
from schemas.training import TRAINING
from schemas.verdicts import MIN_MASS

LEDGER = {
    "runs": RUNS, "work": WORK, "changes": CHANGES, "fetches": FETCHES, "calls": CALLS, "releases": RELEASES,
    "distributions": DISTRIBUTIONS, "comparisons": COMPARISONS,
}

# task -> what it teaches to say, a column of `candidates`; of RECONSTRUCT, some of its lines
TARGETS = {"caption": "text", "ocr": "ocr_target", "conversation": "conversation"}

PREFERENCE = "preference"   # the task of pairs, which are rows of `preferences`
BEST = "best"               # of conversations with the best response to an instruction, which are rows of `best`
OF_VIEWS = {PREFERENCE: "preferences", BEST: "best"}    # task -> the view whose rows its samples are

SHARD = {
    "set": "regexp_extract(filename, '([^/]+)-[0-9]{6}-[0-9a-f]+.parquet$', 1)",
    "tar": "parse_filename(filename, true) || '.tar'",
}


class Files(NamedTuple):
    """The Parquet files of a view."""

    paths: str | Sequence[str]  # a glob, or their names
    lacking: frozenset[str] = frozenset()  # optional columns that none of them has
    mixed: bool = False  # whether some of them may lack optional columns that others have


def candidates_sql(stages: Stages) -> str:
    """The view `candidates`: each row of the source, with the columns of every stage before `selection`."""
    joined = [name for name in of_corpus(stages) if name != "selection"]
    columns = {column: sql for name in joined for column, sql in stages[name].samples.items()}
    for name in joined:  # a user's stage may have columns of built-in stages that its corpus does not have
        if stages[name].own:
            columns |= stages[name].samples
    selected = ", ".join(f"{sql} AS {quoted(column)}" for column, sql in columns.items())
    reasons = [f"{quoted(name)}.reason" for name in joined]
    first = ", ".join(reasons[:1] + [f"nullif({reason}, 'upstream')" for reason in reasons[1:]])
    named = zip(joined, reasons, strict=True)
    stage = " ".join(f"WHEN {reason} IS NOT NULL THEN {literal(name)}" for name, reason in named)
    joins = "\n".join(
        f"LEFT JOIN {quoted(name)} ON {quoted(name)}.partition = rows.partition AND {quoted(name)}.key = rows.key"
        for name in joined[1:]
    )
    return f"""
SELECT rows.partition, rows.key, {selected}, coalesce({first}) AS reason, CASE {stage} END AS left_out_by
FROM rows
{joins}
"""


SAMPLES_VIEW = """
SELECT c.* REPLACE (coalesce(c.reason, nullif(s.reason, 'upstream')) AS reason,
                    coalesce(c.left_out_by, CASE WHEN s.reason IS NOT NULL THEN 'selection' END) AS left_out_by),
       s.samples
FROM candidates c
LEFT JOIN selection s ON s.partition = c.partition AND s.key = c.key
"""


def preferences_for(condition: str) -> str:
    """The view `preferences`, or a query that is equal to it for this condition and reads no verdicts."""
    if any(column in condition for column in JUDGED):
        return "preferences"
    return f"({MEASURED_PREFERENCES if names_measures(condition) else PREFERENCES})"


def names_measures(condition: str) -> bool:
    """Whether a condition on `preferences` or `best` may name a column of the measures of responses."""
    return any(column in condition for column in MEASURED)


def sources_sql(sources: Sequence[tuple[int, int, str | None]]) -> str:
    """The view `sources`: the source of each partition, of a corpus whose sources have names; else it is empty.

    `sources`: (first partition, end, source), each for partitions in a row.
    """
    ranges = ", ".join(f"({first}, {end}, {literal(name) if name else 'NULL'})" for first, end, name in sources)
    return f"""
SELECT unnest(range(first, "end"))::INTEGER AS partition, source::VARCHAR AS source
FROM (VALUES {ranges or "(0, 0, NULL)"}) AS ranges(first, "end", source)"""


def releases_sql(files: Files | None) -> str:
    """The view `releases`: all published releases of each set. Less is known about those of version 0.1."""
    return f"""
WITH known AS ({table_sql(RELEASES, files, {}, False)})
FROM known
UNION ALL BY NAME
SELECT run, item AS "set", rows AS samples, started AS published
FROM work WHERE stage = 'shards' AND partition IS NULL AND (run, item) NOT IN (SELECT (run, "set") FROM known)
ORDER BY run, "set"
"""


# How many samples each set had after each run, and how many more that were than after the run before.
GROWTH = """
SELECT run, started, "set", samples, samples - coalesce(lag(samples) OVER (PARTITION BY "set" ORDER BY run), 0) AS more
FROM (
    SELECT r.run, r.started, r."set", p.samples
    FROM (SELECT * FROM runs CROSS JOIN (SELECT DISTINCT "set" FROM releases)) AS r
    ASOF JOIN releases AS p ON r."set" = p."set" AND r.run >= p.run)
ORDER BY run, "set"
"""


KEPT = "reason IS NULL AS kept"


def accounting_sql(stages: Stages, named: bool) -> str:
    """The view `accounting`: the rows of each stage by reason and source. `named`: whether sources have names."""
    by = "partition, reason" if named else "reason"
    counts = "\nUNION ALL ".join(
        f"SELECT {number} AS step, {literal(name)} AS stage, {by}, count(*) AS rows FROM {quoted(name)} GROUP BY {by}"
        for number, name in enumerate(stages)
    )
    order = "ORDER BY step, rows DESC, reason, source"
    if not named:
        return f"SELECT stage, reason, rows, NULL::VARCHAR AS source, {KEPT} FROM ({counts}) {order}"
    return f"""
SELECT stage, reason, sum(rows)::BIGINT AS rows, source, {KEPT} FROM ({counts}) LEFT JOIN sources USING (partition)
GROUP BY step, stage, reason, source {order}"""


def lost_sql(stages: Stages) -> str:
    """The rows that stages left out: the hash of (partition, key) and the reason.

    Joining on one number is much cheaper than joining all of `samples`. The hash is 64 bits long: two of ten
    million are equal once in 400,000 corpora.
    """
    return "\nUNION ALL ".join(
        f"SELECT hash(partition, key) AS id, reason FROM {quoted(name)} "
        "WHERE reason IS NOT NULL AND reason != 'upstream'"
        for name in of_corpus(stages) if name != "rows"
    )


YIELD = """sum(n)::BIGINT AS rows, coalesce(sum(n) FILTER (reason IS NULL), 0)::BIGINT AS kept,
       round(kept / sum(n), 4) AS kept_share, arg_max(reason, n) FILTER (reason IS NOT NULL) AS main_reason,
       map_from_entries(list((reason, n) ORDER BY n DESC, reason) FILTER (reason IS NOT NULL)) AS reasons"""


def yield_by_source_sql(stages: Stages) -> str:
    """The view `yield_by_source`: how many rows of each source were kept, and why others were not."""
    return f"""
SELECT source, {YIELD}
FROM (
    SELECT source, coalesce(r.reason, lost.reason) AS reason, count(*) AS n
    FROM (SELECT hash(partition, key) AS id, source, reason FROM rows) AS r
    LEFT JOIN ({lost_sql(stages)}) AS lost USING (id) GROUP BY ALL)
GROUP BY source ORDER BY source
"""


def yield_by_host_sql(stages: Stages) -> str:
    """The view `yield_by_host`: how many rows of each host were kept, and why others were not."""
    return f"""
SELECT host, {YIELD},
       any_value(asked.median_milliseconds) AS median_milliseconds
FROM (
    SELECT host, coalesce(r.reason, lost.reason) AS reason, count(*) AS n
    FROM (SELECT hash(partition, key) AS id, host, reason FROM rows WHERE host IS NOT NULL) AS r
    LEFT JOIN ({lost_sql(stages)}) AS lost USING (id) GROUP BY ALL)
LEFT JOIN (SELECT host, median(milliseconds) AS median_milliseconds FROM fetches WHERE tries > 0 GROUP BY host)
          AS asked USING (host)
GROUP BY host
"""


def cost_sql(stages: Stages) -> str:
    """The view `cost`: what models were asked in all runs; for stages that make pairs, also per kept pair."""
    for_pairs = ", ".join(literal(name) for name, stage in stages.items() if stage.paid and not stage.per_image)
    return f"""
SELECT *, round(calls / pairs, 1) AS calls_a_pair, round((tokens_in + tokens_out) / pairs, 1) AS tokens_a_pair,
       round(seconds / pairs, 2) AS seconds_a_pair
FROM (SELECT stage, endpoint, count(*) AS answers, count(*) FILTER (reason IS NOT NULL) AS failed,
             sum(tries)::BIGINT AS calls, sum(tokens_in)::BIGINT AS tokens_in, sum(tokens_out)::BIGINT AS tokens_out,
             round(sum(milliseconds) / 1000, 1) AS seconds,
             CASE WHEN stage IN ({for_pairs})
                  THEN (SELECT nullif(count(*), 0) FROM pairs WHERE reason IS NULL) END AS pairs
      FROM calls GROUP BY stage, endpoint)
ORDER BY stage, endpoint
"""


def changes_sql(files: Mapping[str, Files | None]) -> str:
    """The view `changes`: what is recorded, and in place of each `made` the keys that its partition had then. Those are
    the keys that its next recorded change does not add, and of the rest those of today's file."""
    keys = [
        f"SELECT {literal(name)} AS stage, parse_filename(filename, true)::INTEGER AS partition, key "
        f"FROM read_parquet({paths_sql(of)}, filename = true)"
        for name, of in files.items() if of
    ] or ["SELECT NULL::VARCHAR AS stage, NULL::INTEGER AS partition, NULL::VARCHAR AS key WHERE false"]  # fmt: skip
    return f"""
WITH made AS (
    SELECT run, stage, partition, lead(run) OVER (PARTITION BY stage, partition ORDER BY run) AS until
    FROM (SELECT DISTINCT run, stage, partition FROM recorded_changes WHERE change = 'made')),
later AS (
    SELECT made.run, made.stage, made.partition, c.key, arg_min(c.change, c.run) AS change
    FROM made JOIN recorded_changes c
         ON c.stage = made.stage AND c.partition = made.partition AND c.change != 'made'
        AND c.run >= made.run AND (until IS NULL OR c.run < until)
    GROUP BY ALL),
added AS (
    SELECT run, stage, partition, key FROM later WHERE change != 'added'
    UNION ALL
    SELECT run, stage, partition, key FROM made JOIN ({" UNION ALL ".join(keys)}) USING (stage, partition)
    ANTI JOIN later USING (run, stage, partition, key) WHERE until IS NULL)
SELECT * FROM recorded_changes WHERE change != 'made'
UNION ALL
SELECT run, stage, partition, key, 'added', NULL, NULL FROM added
"""


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def lot(salt: str, of: str = "key") -> str:
    """hash(salt, key) as a number from 0 to 1, of 52 bits; or the hash of another text in SQL."""
    return f"('0x' || left(sha256({literal(f'{salt}/')} || {of}), 13))::UBIGINT / {2.0**52}"


def drawn(salt: str, weight: float) -> str:
    """The condition by which a share of all rows is drawn: hash(salt, key) < weight."""
    return f"{lot(salt)} < {weight}"


def sql_type(kind: pa.DataType) -> str:
    """An Arrow type as DuckDB writes it."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return f"STRUCT({', '.join(f'{quoted(field.name)} {sql_type(field.type)}' for field in kind)})"
    return {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.float64(): "DOUBLE", pa.bool_(): "BOOLEAN"}[kind]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def table_sql(
    schema: pa.Schema, files: Files | None, computed: Mapping[str, tuple[str, str]], partition: bool,
    cast: Collection[str] = (),
) -> str:
    """A SELECT over Parquet files, or over no files, with the schema's columns and types.

    `computed`: further columns, each with its SQL and its type.
    """
    types = {field.name: sql_type(field.type) for field in schema}
    types |= {name: kind for name, (_, kind) in computed.items()}
    nulls = {name: f"NULL::{kind} AS {quoted(name)}" for name, kind in types.items()}
    if files is None:
        first = ["NULL::INTEGER AS partition"] if partition else []
        return f"SELECT {', '.join([*first, *nulls.values()])} WHERE false"
    source = f"read_parquet({paths_sql(files)}, filename = true{', union_by_name = true' if files.mixed else ''})"
    if files.mixed:  # a column that none of them has is null, too
        own = ", ".join(nulls[name] for name in schema.names)
        source = f"(SELECT {own}, NULL::VARCHAR AS filename WHERE false UNION ALL BY NAME SELECT * FROM {source})"
    columns = [nulls[name] if name in files.lacking else quoted(name) for name in schema.names]
    if cast:  # files of before may have the columns of users' stages with other types
        columns = [f"TRY_CAST({sql} AS {types[name]}) AS {quoted(name)}" if name in cast and name not in files.lacking
                   else sql for name, sql in zip(schema.names, columns, strict=True)]  # fmt: skip
    columns += [f"{sql} AS {quoted(name)}" for name, (sql, _) in computed.items()]
    first = ["parse_filename(filename, true)::INTEGER AS partition"] if partition else []
    return f"SELECT {', '.join([*first, *columns])} FROM {source}"


def paths_sql(files: Files) -> str:
    return literal(files.paths) if isinstance(files.paths, str) else f"[{', '.join(map(literal, files.paths))}]"


def paths_of(files: Files | None) -> Sequence[str]:
    return () if files is None else [files.paths] if isinstance(files.paths, str) else files.paths


def stage_sql(stage: StageInfo, files: Files | None) -> str:
    """The view of one stage."""
    return table_sql(stage.schema, files, stage.computed, True, stage.optional if stage.own else ())


def views(
    files: Mapping[str, Files | None], stages: Stages = STAGES, sources: Sequence[tuple[int, int, str | None]] = (),
    min_mass: float = MIN_MASS,
) -> dict[str, str]:
    """name -> SQL of every view, in the order in which they can be created.

    `files`: the files of each stage and of the ledger. A view without files is empty, with its types. `sources`: see
    `sources_sql`; `min_mass`: see `SCORES`.
    """
    sql = {"sources": sources_sql(sources)}
    sql |= {name: stage_sql(stage, files.get(name)) for name, stage in stages.items()}
    if sources:
        sql["rows"] = f"SELECT r.*, s.source FROM ({sql['rows']}) AS r LEFT JOIN sources AS s USING (partition)"
    else:
        sql["rows"] = f"SELECT *, NULL::VARCHAR AS source FROM ({sql['rows']})"
    sql["recorded_changes"] = table_sql(CHANGES, files.get("changes"), {}, False)
    sql |= {name: table_sql(schema, files.get(name), {}, False) for name, schema in LEDGER.items()}
    sql["changes"] = changes_sql({name: files.get(name) for name in stages})
    sql["releases"] = releases_sql(files.get("releases"))
    computed = {name: (expression, "VARCHAR") for name, expression in SHARD.items()}
    logs = table_sql(TRAINING, files.get("training"), {"folder": (FOLDER, "VARCHAR")}, False)
    sql["training"] = f"SELECT folder, * EXCLUDE (folder) FROM ({logs})"
    texts = ([literal(path) for path in paths_of(files.get(name))] for name in ("evaluations", "alignment"))
    sql["evaluations"] = evaluations_sql(*texts)
    sql["shards"] = f"SELECT * FROM ({table_sql(SAMPLES, files.get('shards'), computed, False)})"
    return sql | {
        "candidates": candidates_sql(stages),
        "samples": SAMPLES_VIEW,
        "accounting": accounting_sql(stages, bool(sources)),
        "yield_by_source": yield_by_source_sql(stages),
        "yield_by_host": yield_by_host_sql(stages),
        "cost": cost_sql(stages),
        "growth": GROWTH,
        "drift": DRIFT,
        "scores": SCORES.format(min_mass=min_mass),
        "preferences": JUDGED_PREFERENCES,
        "best": BEST_RESPONSES,
    }

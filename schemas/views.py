"""The catalog's SQL: one view a stage, `samples` that joins them, and what people look for first."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from schemas.duplicates import DUPLICATES
from schemas.images import IMAGES
from schemas.ledger import CHANGES, FETCHES, RUNS, WORK
from schemas.ocr import GOOD, OCR
from schemas.rows import ROWS
from schemas.selection import SELECTION
from schemas.shards import SAMPLES

STAGES = {"rows": ROWS, "images": IMAGES, "duplicates": DUPLICATES, "ocr": OCR, "selection": SELECTION}
LEDGER = {"runs": RUNS, "work": WORK, "changes": CHANGES, "fetches": FETCHES}

# task -> what it teaches to say, a column of `candidates`
TARGETS = {"caption": "text", "ocr": "ocr_target", "conversation": "conversation"}

# Columns of a stage's view beyond those of its files.
ADDED = {
    "ocr": {
        "text": "array_to_string([line.text for line in lines], chr(10))",
        "confidence": "list_avg([line.confidence for line in lines])",
    },
}

SHARD = {
    "set": "regexp_extract(filename, '([^/]+)-[0-9]{6}-[0-9a-f]+.parquet$', 1)",
    "tar": "parse_filename(filename, true) || '.tar'",
}

CANDIDATES = f"""
SELECT r.partition, r.key, r.url, r.host, r.text, r.conversation, r.part_of, r.part, r.extra::JSON AS extra,
       i.format, i.width, i.height, i.size, i.sha256, i.phash, d.of AS duplicate_of,
       o.lines AS ocr_lines, o.text AS ocr_text, o.confidence AS ocr_confidence, o.verdict AS ocr_verdict,
       CASE WHEN o.verdict = '{GOOD}' THEN o.text END AS ocr_target,
       coalesce(r.reason, nullif(i.reason, 'upstream'), nullif(d.reason, 'upstream'),
                nullif(o.reason, 'upstream')) AS reason,
       CASE WHEN r.reason IS NOT NULL THEN 'rows' WHEN i.reason IS NOT NULL THEN 'images'
            WHEN d.reason IS NOT NULL THEN 'duplicates' WHEN o.reason IS NOT NULL THEN 'ocr' END AS left_out_by
FROM rows r
LEFT JOIN images i ON i.partition = r.partition AND i.key = r.key
LEFT JOIN duplicates d ON d.partition = r.partition AND d.key = r.key
LEFT JOIN ocr o ON o.partition = r.partition AND o.key = r.key
"""

SAMPLES_VIEW = """
SELECT c.* REPLACE (coalesce(c.reason, nullif(s.reason, 'upstream')) AS reason,
                    coalesce(c.left_out_by, CASE WHEN s.reason IS NOT NULL THEN 'selection' END) AS left_out_by),
       s.samples
FROM candidates c
LEFT JOIN selection s ON s.partition = c.partition AND s.key = c.key
"""

ACCOUNTING = "\nUNION ALL ".join(
    f"SELECT {number} AS step, '{stage}' AS stage, reason, count(*) AS rows FROM {stage} GROUP BY reason"
    for number, stage in enumerate(STAGES)
)

# Joins only what was left out, by the stage that did: `samples` would join everything.
LOST = "\nUNION ALL ".join(
    f"SELECT partition, key, reason FROM {stage} WHERE reason IS NOT NULL AND reason != 'upstream'" for stage in STAGES
)
YIELD_BY_HOST = f"""
SELECT host, count(*) AS rows, count(*) FILTER (lost.reason IS NULL) AS kept,
       round(kept / count(*), 4) AS kept_share, mode(lost.reason) AS main_reason,
       any_value(asked.median_milliseconds) AS median_milliseconds
FROM rows LEFT JOIN ({LOST}) AS lost USING (partition, key)
LEFT JOIN (SELECT host, median(milliseconds) AS median_milliseconds FROM fetches WHERE tries > 0 GROUP BY host)
          AS asked USING (host)
WHERE host IS NOT NULL GROUP BY host
"""

VIEWS = {
    "candidates": CANDIDATES,
    "samples": SAMPLES_VIEW,
    "accounting": f"SELECT stage, reason, rows FROM ({ACCOUNTING}) ORDER BY step, rows DESC, reason",
    "yield_by_host": YIELD_BY_HOST,
}


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def sql_type(kind: pa.DataType) -> str:
    """An Arrow type as DuckDB writes it."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return f"STRUCT({', '.join(f'{quoted(field.name)} {sql_type(field.type)}' for field in kind)})"
    return {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.float64(): "DOUBLE", pa.bool_(): "BOOLEAN"}[kind]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def table_sql(schema: pa.Schema, files: str | Sequence[str] | None, added: Mapping[str, str], partition: bool) -> str:
    """A SELECT over Parquet files (a glob, or their names), or over none, with the schema's columns and types."""
    names = [*schema.names, *added]
    if files:
        paths = literal(files) if isinstance(files, str) else f"[{', '.join(map(literal, files))}]"
        columns = [*schema.names, *(f"{sql} AS {name}" for name, sql in added.items())]
        first = ["parse_filename(filename, true)::INTEGER AS partition"] if partition else []
        source = f"read_parquet({paths}, filename = true)"
        return f"SELECT {', '.join([*first, *columns])} FROM {source}"
    types = {field.name: sql_type(field.type) for field in schema} | {"confidence": "DOUBLE"}
    empty = [f"NULL::{types.get(name, 'VARCHAR')} AS {name}" for name in names]
    first = ["NULL::INTEGER AS partition"] if partition else []
    return f"SELECT {', '.join([*first, *empty])} WHERE false"


def views(files: Mapping[str, str | Sequence[str] | None]) -> dict[str, str]:
    """name -> SQL of every view, in the order in which they can be created.

    `files` gives each stage's and the ledger's files; one that has none becomes an empty view with its types.
    """
    sql = {name: table_sql(schema, files.get(name), ADDED.get(name, {}), True) for name, schema in STAGES.items()}
    sql |= {name: table_sql(schema, files.get(name), {}, False) for name, schema in LEDGER.items()}
    sql["shards"] = f"SELECT * FROM ({table_sql(SAMPLES, files.get('shards'), SHARD, False)})"
    return sql | VIEWS

"""The catalog's SQL: one view a stage, `samples` that joins them, and what people look for first."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from schemas import captions, claims, duplicates, images, instructions, ocr, pairs, responses, rows, selection, verdicts
from schemas.captions import CAPTIONS
from schemas.claims import CLAIMS
from schemas.duplicates import DUPLICATES
from schemas.images import IMAGES
from schemas.instructions import INSTRUCTIONS
from schemas.ledger import CALLS, CHANGES, FETCHES, RUNS, WORK
from schemas.ocr import GOOD, OCR
from schemas.pairs import PAIRS
from schemas.responses import RESPONSES
from schemas.rows import ROWS
from schemas.selection import SELECTION
from schemas.shards import SAMPLES
from schemas.verdicts import VERDICTS

# Of the corpus, a row an image; and of preferences
CORPUS = {"rows": ROWS, "images": IMAGES, "duplicates": DUPLICATES, "ocr": OCR, "captions": CAPTIONS,
          "selection": SELECTION}
STAGES = CORPUS | {
    "instructions": INSTRUCTIONS, "responses": RESPONSES, "claims": CLAIMS, "verdicts": VERDICTS, "pairs": PAIRS,
}
REASONS = {
    "rows": rows.REASONS, "images": images.REASONS, "duplicates": duplicates.REASONS, "ocr": ocr.REASONS,
    "captions": captions.REASONS, "selection": selection.REASONS, "instructions": instructions.REASONS,
    "responses": responses.REASONS, "claims": claims.REASONS, "verdicts": verdicts.REASONS, "pairs": pairs.REASONS,
}  # fmt: skip
# Of a stage of which a row can become several: the stage before, and the columns that name its rows.
MADE_OF = {
    "instructions": ("rows", ("image",)), "responses": ("instructions", ("instruction",)),
    "claims": ("responses", ("key",)), "verdicts": ("claims", ("response",)),
    "pairs": ("responses", ("chosen", "rejected")),
}  # fmt: skip
PAID = {"captions", "responses", "claims", "verdicts"}  # whose chunks stay until their partition is made

LEDGER = {"runs": RUNS, "work": WORK, "changes": CHANGES, "fetches": FETCHES, "calls": CALLS}

# task -> what it teaches to say, a column of `candidates`
TARGETS = {"caption": "text", "ocr": "ocr_target", "conversation": "conversation"}

PREFERENCE = "preference"   # the task of pairs, which are rows of `preferences`

# Columns of a stage's view beyond those of its files.
ADDED = {
    "ocr": {
        "text": "array_to_string([line.text for line in lines], chr(10))",
        "confidence": "list_avg([line.confidence for line in lines])",
    },
    "verdicts": {"accepted": "p_yes > p_no"},
}

SHARD = {
    "set": "regexp_extract(filename, '([^/]+)-[0-9]{6}-[0-9a-f]+.parquet$', 1)",
    "tar": "parse_filename(filename, true) || '.tar'",
}

CANDIDATES = f"""
SELECT r.partition, r.key, r.url, r.host, coalesce(t.text, r.text) AS text, r.conversation, r.part_of, r.part,
       r.extra::JSON AS extra, i.format, i.width, i.height, i.size, i.sha256, i.phash, d.of AS duplicate_of,
       o.lines AS ocr_lines, o.text AS ocr_text, o.confidence AS ocr_confidence, o.verdict AS ocr_verdict,
       CASE WHEN o.verdict = '{GOOD}' THEN o.text END AS ocr_target,
       r.text AS alt_text, t.verdict AS caption_verdict, t.answer AS caption_answer,
       coalesce(r.reason, nullif(i.reason, 'upstream'), nullif(d.reason, 'upstream'),
                nullif(o.reason, 'upstream'), nullif(t.reason, 'upstream')) AS reason,
       CASE WHEN r.reason IS NOT NULL THEN 'rows' WHEN i.reason IS NOT NULL THEN 'images'
            WHEN d.reason IS NOT NULL THEN 'duplicates' WHEN o.reason IS NOT NULL THEN 'ocr'
            WHEN t.reason IS NOT NULL THEN 'captions' END AS left_out_by
FROM rows r
LEFT JOIN images i ON i.partition = r.partition AND i.key = r.key
LEFT JOIN duplicates d ON d.partition = r.partition AND d.key = r.key
LEFT JOIN ocr o ON o.partition = r.partition AND o.key = r.key
LEFT JOIN captions t ON t.partition = r.partition AND t.key = r.key
"""

SAMPLES_VIEW = """
SELECT c.* REPLACE (coalesce(c.reason, nullif(s.reason, 'upstream')) AS reason,
                    coalesce(c.left_out_by, CASE WHEN s.reason IS NOT NULL THEN 'selection' END) AS left_out_by),
       s.samples
FROM candidates c
LEFT JOIN selection s ON s.partition = c.partition AND s.key = c.key
"""

# A claim is accepted if most labelers find yes likelier than no: a tie is a rejection, of tokens as of labelers. A
# response is scored if each of its claims has a verdict by each labeler.
SCORES = """
WITH claim AS (
    SELECT partition, key AS response, unnest(range(len(claims))) AS number FROM claims WHERE reason IS NULL),
judged AS (
    SELECT c.partition, c.response, 2 * count(*) FILTER (v.p_yes > v.p_no) > count(*) AS accepted,
           min(coalesce('verdicts: ' || v.reason,
                        CASE WHEN v.p_yes IS NULL OR v.p_no IS NULL THEN 'verdicts: missing' END)) AS failed
    FROM claim c
    LEFT JOIN verdicts v ON v.partition = c.partition AND v.response = c.response AND v.number = c.number
    GROUP BY c.partition, c.response, c.number),
total AS (
    SELECT partition, response, count(*) FILTER (NOT accepted) AS rejected, min(failed) AS failed
    FROM judged GROUP BY ALL),
alone AS (
    SELECT partition, response, labeler, count(*) FILTER (NOT p_yes > p_no) AS rejected
    FROM verdicts WHERE number IS NOT NULL GROUP BY ALL),
each_labeler AS (
    SELECT partition, response, list({'labeler': labeler, 'score': -rejected} ORDER BY labeler) AS by_labeler
    FROM alone GROUP BY ALL)
SELECT r.partition, r.key, r.instruction, r.draw, r.text, len(c.claims) AS claims,
       coalesce('responses: ' || r.reason, 'claims: ' || c.reason, t.failed,
                CASE WHEN t.response IS NULL THEN 'claims: missing' END) AS why_not,
       CASE WHEN why_not IS NULL THEN -t.rejected END AS score,
       CASE WHEN why_not IS NULL THEN e.by_labeler END AS by_labeler
FROM responses r
LEFT JOIN claims c ON c.partition = r.partition AND c.key = r.key
LEFT JOIN total t ON t.partition = r.partition AND t.response = r.key
LEFT JOIN each_labeler e ON e.partition = r.partition AND e.response = r.key
"""

# What was chosen and rejected, whole: a row a pair that is kept.
PREFERENCES = """
SELECT p.partition, p.key, p.instruction, i.image, i.question, i.origin, i.name,
       c.text AS chosen, r.text AS rejected, c.draw AS chosen_draw, r.draw AS rejected_draw,
       p.chosen_score, p.rejected_score, p.margin, p.agreement,
       s.url, s.host, coalesce(i.extra::JSON, s.extra) AS extra, s.width, s.height, s.sha256, s.phash
FROM pairs p
JOIN instructions i ON i.partition = p.partition AND i.key = p.instruction
JOIN responses c ON c.partition = p.partition AND c.key = p.chosen
JOIN responses r ON r.partition = p.partition AND r.key = p.rejected
JOIN candidates s ON s.partition = p.partition AND s.key = i.image
WHERE p.reason IS NULL
"""

ACCOUNTING = "\nUNION ALL ".join(
    f"SELECT {number} AS step, '{stage}' AS stage, reason, count(*) AS rows FROM {stage} GROUP BY reason"
    for number, stage in enumerate(STAGES)
)

# Joins only what was left out, by the stage that did (`samples` would join everything), on one number: the hash of
# (partition, key) is 64 bits long, two of ten million are equal once in 400,000 corpora.
LOST = "\nUNION ALL ".join(
    f"SELECT hash(partition, key) AS id, reason FROM {stage} WHERE reason IS NOT NULL AND reason != 'upstream'"
    for stage in CORPUS if stage != "rows"
)
YIELD_BY_HOST = f"""
SELECT host, sum(n)::BIGINT AS rows, coalesce(sum(n) FILTER (reason IS NULL), 0)::BIGINT AS kept,
       round(kept / sum(n), 4) AS kept_share, arg_max(reason, n) FILTER (reason IS NOT NULL) AS main_reason,
       map_from_entries(list((reason, n) ORDER BY n DESC, reason) FILTER (reason IS NOT NULL)) AS reasons,
       any_value(asked.median_milliseconds) AS median_milliseconds
FROM (
    SELECT host, coalesce(r.reason, lost.reason) AS reason, count(*) AS n
    FROM (SELECT hash(partition, key) AS id, host, reason FROM rows WHERE host IS NOT NULL) AS r
    LEFT JOIN ({LOST}) AS lost USING (id) GROUP BY ALL)
LEFT JOIN (SELECT host, median(milliseconds) AS median_milliseconds FROM fetches WHERE tries > 0 GROUP BY host)
          AS asked USING (host)
GROUP BY host
"""

# What models were asked, in all runs. A pair's share is that of all who are asked for preferences.
COST = """
SELECT *, round(calls / pairs, 1) AS calls_a_pair, round((tokens_in + tokens_out) / pairs, 1) AS tokens_a_pair,
       round(seconds / pairs, 2) AS seconds_a_pair
FROM (SELECT stage, endpoint, count(*) AS answers, count(*) FILTER (reason IS NOT NULL) AS failed,
             sum(tries)::BIGINT AS calls, sum(tokens_in)::BIGINT AS tokens_in, sum(tokens_out)::BIGINT AS tokens_out,
             round(sum(milliseconds) / 1000, 1) AS seconds,
             CASE WHEN stage != 'captions'
                  THEN (SELECT nullif(count(*), 0) FROM pairs WHERE reason IS NULL) END AS pairs
      FROM calls GROUP BY stage, endpoint)
ORDER BY stage, endpoint
"""

VIEWS = {
    "candidates": CANDIDATES,
    "samples": SAMPLES_VIEW,
    "accounting": f"SELECT stage, reason, rows FROM ({ACCOUNTING}) ORDER BY step, rows DESC, reason",
    "yield_by_host": YIELD_BY_HOST,
    "cost": COST,
    "scores": SCORES,
    "preferences": PREFERENCES,
}


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def drawn(salt: str, weight: float) -> str:
    """The condition by which a share of all rows is drawn: hash(salt, key) < weight, of 52 bits."""
    return f"('0x' || left(sha256({literal(f'{salt}/')} || key), 13))::UBIGINT / {2.0**52} < {weight}"


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
    types = {field.name: sql_type(field.type) for field in schema} | {"confidence": "DOUBLE", "accepted": "BOOLEAN"}
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

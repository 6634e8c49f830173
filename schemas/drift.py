"""How the samples of a shard set are distributed, release by release, and what moved from one to the next.

A run records the distributions of each release that it publishes in the ledger, since the rows that an old release was
made of may be gone. A value that fewer than FEWEST samples have is one of OTHERS, so that the ledger names no sample.
"""

LICENCE = "coalesce(extra->>'license', extra->>'licence', extra->>'License', extra->>'LICENSE')"
OTHERS, NONE = "others", "-"    # values beyond those that are counted; a sample that has none
MOST, FEWEST = 50, 5            # values of a measure that are counted, and samples that each has

VALUES = {                      # measure -> SQL over `samples` and the column `task`
    "language": "CASE WHEN task IN ('ocr', 'reconstruct') THEN ocr_language ELSE language END",
    "script": "CASE WHEN task IN ('ocr', 'reconstruct') THEN ocr_script ELSE script END",
    "source": "source", "host": "host", "licence": LICENCE, "format": "format",
    "ocr verdict": "ocr_verdict", "caption verdict": "caption_verdict",
}
NUMBERS = {
    "width": "width", "height": "height", "bytes": "size",
    "words": "CASE WHEN task IN ('ocr', 'reconstruct') THEN ocr_words ELSE words END",
    "text tokens": "CASE WHEN task IN ('ocr', 'reconstruct') THEN ocr_tokens ELSE text_tokens END",
    "slices": "slices_llama_cpp", "visual tokens": "visual_tokens_llama_cpp",
}


def bin_of(number: str) -> str:
    """The bin of a number as SQL: its least value. There are two bins to a power of two."""
    return f"CASE WHEN {number} < 1 THEN '0' ELSE (2 ** (floor(2 * log2({number}) + 1e-9) / 2))::BIGINT::VARCHAR END"


def counts_sql(sets: str) -> str:
    """{set, measure, value, n} of some shard sets of samples, over the files that are asked about. `sets`: a list of
    names, as SQL."""
    measures = VALUES | {name: bin_of(f"({number})") for name, number in NUMBERS.items()}
    columns = ", ".join(f"coalesce(({sql})::VARCHAR, '{NONE}') AS \"{name}\"" for name, sql in measures.items())
    names = ", ".join(f'"{name}"' for name in measures)
    return f"""
WITH placed AS (SELECT partition, key, unnest(samples, recursive := true) FROM selection),
measured AS (
    SELECT p."set", {columns}
    FROM placed AS p JOIN candidates AS c ON c.partition = p.partition AND c.key = p.key WHERE p."set" IN ({sets}))
SELECT "set", measure, value, count(*) AS n
FROM (UNPIVOT measured ON {names} INTO NAME measure VALUE value) GROUP BY ALL"""


# {set, measure, value, samples} of the table `counts`, to which the answers to `counts_sql` were added.
DISTRIBUTED = f"""
WITH counted AS (SELECT "set", measure, value, sum(n) AS n FROM counts GROUP BY ALL),
ranked AS (
    SELECT *, row_number() OVER (PARTITION BY "set", measure ORDER BY n DESC, value) AS place,
           count(*) FILTER (value != '{NONE}') OVER (PARTITION BY "set", measure) AS known
    FROM counted)
SELECT "set", measure, CASE WHEN place <= {MOST} AND n >= {FEWEST} THEN value ELSE '{OTHERS}' END AS value,
       sum(n)::BIGINT AS samples
FROM ranked WHERE known > 0 GROUP BY ALL ORDER BY ALL"""


# A row for each release, but the first of its set, and measure. `distance` is the share of samples that would have to
# change their value to come from one distribution to the other (total variation); `noise` what it would be on average
# if both were drawn from the same. A value that one release counts and the other does not may be among its OTHERS.
DRIFT = f"""
WITH recorded AS (
    SELECT "set", release, measure, value, arg_max(samples, run) AS n FROM distributions GROUP BY ALL),
total AS (
    SELECT "set", release, measure, sum(n) AS samples,
           coalesce(sum(n) FILTER (value = '{OTHERS}'), 0) / sum(n) AS others
    FROM recorded GROUP BY ALL),
following AS (
    SELECT run, "set", release, published, lag(release) OVER (PARTITION BY "set" ORDER BY published, run) AS before
    FROM releases),
compared AS (
    SELECT f.run, f."set", f.release, f.before, f.published, a.measure, a.samples, b.samples AS samples_before,
           a.others, b.others AS others_before
    FROM following AS f
    JOIN total AS a ON a."set" = f."set" AND a.release = f.release
    JOIN total AS b ON b."set" = f."set" AND b.release = f.before AND b.measure = a.measure),
named AS (
    SELECT DISTINCT c.*, r.value
    FROM compared AS c JOIN recorded AS r
         ON r."set" = c."set" AND r.measure = c.measure AND r.release IN (c.release, c.before)
    WHERE r.value != '{OTHERS}'),
shares AS (
    SELECT n.*, coalesce(a.n / n.samples, least(n.others, b.n / n.samples_before)) AS share,
           coalesce(b.n / n.samples_before, least(n.others_before, a.n / n.samples)) AS share_before
    FROM named AS n
    LEFT JOIN recorded AS a
         ON a."set" = n."set" AND a.release = n.release AND a.measure = n.measure AND a.value = n.value
    LEFT JOIN recorded AS b
         ON b."set" = n."set" AND b.release = n.before AND b.measure = n.measure AND b.value = n.value),
moved AS (
    SELECT run, "set", release, before, published, measure, samples, samples_before,
           greatest(sum(greatest(share - share_before, 0)), sum(greatest(share_before - share, 0))) AS distance,
           0.4 * sum(sqrt(share_before * (1 - share_before) * (1 / samples + 1 / samples_before))) AS noise,
           arg_max(value, abs(share - share_before)) AS value,
           arg_max(share_before, abs(share - share_before)) AS share_before,
           arg_max(share, abs(share - share_before)) AS share
    FROM shares GROUP BY ALL)
SELECT "set", release, before, run, published, measure, round(distance, 4) AS distance, round(noise, 4) AS noise,
       distance > greatest(0.02, 2 * noise) AS drifted, value, round(share_before, 4) AS share_before,
       round(share, 4) AS share, samples_before::BIGINT AS samples_before, samples::BIGINT AS samples
FROM moved ORDER BY published, "set", distance DESC, measure
"""

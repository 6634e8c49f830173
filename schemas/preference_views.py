"""The catalog's SQL of preferences: scores of responses, pairs with their texts, and the best responses."""

# A claim is accepted if most labelers find it true: a tie is a rejection, of tokens as of labelers. A response is
# scored if it was not cut off and each of its claims has a verdict by each labeler. A verdict whose P(yes) + P(no) is
# below `min_mass` is none.
SCORES = """
WITH claim AS (
    SELECT partition, key AS response, unnest(range(len(claims))) AS number FROM claims WHERE reason IS NULL),
judged AS (
    SELECT c.*, v.labeler, v.accepted, v.mass,
           CASE WHEN v.mass IS NULL THEN coalesce('verdicts: ' || v.reason, 'verdicts: missing')
                WHEN v.mass < {min_mass} THEN 'verdicts: no_yes_no' END AS failed
    FROM claim c
    LEFT JOIN verdicts v ON v.partition = c.partition AND v.response = c.response AND v.number = c.number),
by_claim AS (
    SELECT partition, response, number, 2 * count(*) FILTER (accepted) > count(*) AS accepted, min(failed) AS failed,
           min(mass) AS mass
    FROM judged GROUP BY ALL),
total AS (
    SELECT partition, response, count(*) FILTER (NOT accepted) AS rejected, min(failed) AS failed, min(mass) AS mass
    FROM by_claim GROUP BY ALL),
alone AS (
    SELECT partition, response, labeler, count(*) FILTER (NOT accepted) AS rejected
    FROM judged WHERE labeler IS NOT NULL GROUP BY ALL),
each_labeler AS (
    SELECT partition, response, list({{'labeler': labeler, 'score': -rejected}} ORDER BY labeler) AS by_labeler
    FROM alone GROUP BY ALL)
SELECT r.partition, r.key, r.instruction, r.draw, r.text, r.cut, len(c.claims) AS claims, t.mass,
       coalesce('responses: ' || r.reason, CASE WHEN r.cut THEN 'responses: cut' END, 'claims: ' || c.reason, t.failed,
                CASE WHEN t.response IS NULL THEN 'claims: missing' END) AS why_not,
       CASE WHEN why_not IS NULL THEN -t.rejected END AS score,
       CASE WHEN why_not IS NULL THEN e.by_labeler END AS by_labeler
FROM responses r
LEFT JOIN claims c ON c.partition = r.partition AND c.key = r.key
LEFT JOIN total t ON t.partition = r.partition AND t.response = r.key
LEFT JOIN each_labeler e ON e.partition = r.partition AND e.response = r.key
"""

# The complete chosen and rejected texts: one row per kept pair.
PREFERENCES = """
SELECT p.partition, p.key, p.instruction, i.image, i.question, i.origin, i.name, i.round,
       c.text AS chosen, r.text AS rejected, c.draw AS chosen_draw, r.draw AS rejected_draw,
       p.chosen_score, p.rejected_score, p.margin, p.agreement,
       s.url, s.host, s.source, coalesce(i.extra::JSON, s.extra) AS extra, s.width, s.height, s.sha256, s.phash,
       c.cut OR r.cut AS cut, {chosen_words} AS chosen_words, {rejected_words} AS rejected_words
FROM pairs p
JOIN instructions i ON i.partition = p.partition AND i.key = p.instruction
JOIN responses c ON c.partition = p.partition AND c.key = p.chosen
JOIN responses r ON r.partition = p.partition AND r.key = p.rejected
JOIN candidates s ON s.partition = p.partition AND s.key = i.image
WHERE p.reason IS NULL
""".format(**{f"{side}_words": f"len(regexp_extract_all({of}.text, '\\S+'))" for side, of in
              (("chosen", "c"), ("rejected", "r"))})

# The same with the measures of both answers, if there are any: `language` is that of the chosen one. These and what the
# verdicts say are read only where they are asked for: see `preferences_for`.
MEASURED = ("language", "script", "text_tokens")  # each of these columns has one of these words in its name
MEASURED_PREFERENCES = f"""
SELECT p.*, c.language, c.language AS chosen_language, r.language AS rejected_language, c.script AS chosen_script,
       r.script AS rejected_script, c.text_tokens AS chosen_text_tokens, r.text_tokens AS rejected_text_tokens
FROM ({PREFERENCES}) AS p
JOIN pairs q ON q.partition = p.partition AND q.key = p.key
LEFT JOIN response_measures c ON c.partition = q.partition AND c.key = q.chosen
LEFT JOIN response_measures r ON r.partition = q.partition AND r.key = q.rejected
"""

JUDGED = ("chosen_claims", "rejected_claims", "chosen_false", "rejected_false", "mass")
JUDGED_PREFERENCES = f"""
SELECT p.*, c.claims AS chosen_claims, r.claims AS rejected_claims,
       -c.score AS chosen_false, -r.score AS rejected_false, least(c.mass, r.mass) AS mass
FROM ({MEASURED_PREFERENCES}) AS p
JOIN scores c ON c.partition = p.partition AND c.instruction = p.instruction AND c.draw = p.chosen_draw
JOIN scores r ON r.partition = p.partition AND r.instruction = p.instruction AND r.draw = p.rejected_draw
"""


# The best scored response to each instruction; of equal ones the one that claims most, then the first draw.
BEST_RESPONSES = """
SELECT r.partition, r.instruction AS key, i.image, i.question, i.origin, i.name, i.round, r.text, r.draw, r.score,
       r.claims, r.mass, r.judged, len(regexp_extract_all(r.text, '\\S+')) AS words,
       s.url, s.host, s.source, coalesce(i.extra::JSON, s.extra) AS extra, s.width, s.height, s.sha256, s.phash,
       m.language, m.script, m.text_tokens
FROM (
    SELECT *, count(*) OVER (PARTITION BY partition, instruction) AS judged
    FROM scores WHERE score IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY partition, instruction ORDER BY score DESC, claims DESC, draw) = 1) AS r
JOIN instructions i ON i.partition = r.partition AND i.key = r.instruction
JOIN candidates s ON s.partition = r.partition AND s.key = i.image
LEFT JOIN response_measures m ON m.partition = r.partition AND m.key = r.key
"""

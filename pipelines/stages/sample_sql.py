"""The samples of a shard set, as SQL over the catalog's views: each row is a sample.

`members` gives key, task, partition, target (of `.txt`), document (of `.json`), place, pictures, and made_from.
"""

from collections.abc import Sequence

from pipelines.stages.corrupted_lines import corrupted_sql, target_sql
from schemas.selection import FORMATS, RECONSTRUCT, SetConfig
from schemas.stage import StageInfo
from schemas.views import BEST, PREFERENCE, drawn, literal, names_measures, preferences_for, quoted

PLACE = "('0x' || substr(key, 9, 8))::UBIGINT"  # of a key in its group
PICTURE = (
    "{'byte_offset': i.byte_offset, 'size': i.size, 'sha256': i.sha256, 'ext': lower(i.format), "
    "'width': i.width, 'height': i.height}"
)
# A sample of a source with a name says which. Where no source has a name, documents are as before.
SOURCE = "[:-2] || coalesce(',\"source\":' || to_json(src.source)::VARCHAR, '') || '}'"
OF_INSTRUCTIONS = ("rows", "images", "instructions", "responses")  # stages
OF_SCORES = ("claims", "verdicts")
TEXT = "'text': c.text"
SAID = {
    "caption": TEXT, "ocr": TEXT, RECONSTRUCT: f"{TEXT}, 'corrupted': corrupted",
    "conversation": "'conversation': c.conversation::JSON",
}  # fmt: skip


def members(set_name: str, config: SetConfig, own: Sequence[StageInfo] = (), only: str = "true") -> str:
    """The samples of a set whose key and place fulfil the condition `only`.

    The condition must be deep inside the query: DuckDB does not move a condition past unnest, and would write the
    documents of the whole group for each of its shards.
    """
    if config.task == BEST:
        return _best(config, only)
    return _preferred(config, only) if config.task == PREFERENCE else _selected(set_name, config, own, only)


def reads_of(config: SetConfig) -> tuple[str, ...]:
    """The stages that the samples of a set are made from; the last one decides what goes into the set."""
    measures = ("response_measures",) if names_measures(config.where) else ()
    if config.task == BEST:
        return *OF_INSTRUCTIONS, *measures, *OF_SCORES
    if config.task == PREFERENCE:
        scores = OF_SCORES if preferences_for(config.where) == "preferences" else ()
        return *OF_INSTRUCTIONS, *measures, *scores, "pairs"
    return "rows", "images", "ocr", "captions", "translations", "selection"


def chosen(config: SetConfig) -> str:
    """The condition on `preferences` or `best` for a pair or a response to be in a set: its own, the draw by
    hash(seed, key) < weight, and the format of its image.

    The hash differs from the one by which pairs were drawn, since drawn pairs all have a small one.
    """
    format = f"image IN (SELECT key FROM images WHERE {has_format(config)})" if config.other_formats != "encode" else ""
    conditions = [f"coalesce(({config.where}\n), false)", drawn(f"{config.task}/{config.seed}", config.weight), format]
    if config.task == BEST:
        conditions.append(f"score >= {config.min_score} AND judged >= {config.min_judged}")
    return " AND ".join(filter(None, conditions))


def has_format(config: SetConfig) -> str:
    """The condition for an image to be in a set that leaves other formats out; a row without an image always is."""
    if config.format is None or config.other_formats == "encode":
        return "true"
    return f"coalesce(format = {literal(FORMATS[config.format])}, true)"


def _of_own(own: Sequence[StageInfo]) -> str:
    """What users' stages add to the document of a sample: nothing if there are no such stages."""
    stages = []
    for stage in own:
        columns = ", ".join(f"{literal(column)}: c.{quoted(column)}" for column in stage.samples)
        stages.append(f"{literal(stage.name)}: {{{columns}}}")
    return f", 'stages': {{{', '.join(stages)}}}" if stages else ""


def _selected(set_name: str, config: SetConfig, own: Sequence[StageInfo], only: str) -> str:
    own, task = [stage for stage in own if stage.samples], config.task
    corrupted = f"{corrupted_sql(config, 'c.')} AS corrupted," if task == RECONSTRUCT else ""
    more = "|| coalesce(m.pictures, [])" if task == "conversation" else ""  # the texts of others are of one image
    return f"""
SELECT c.key, p.task, c.partition, {corrupted} {target_sql(config, "c.")} AS target, p.place,
       (to_json({{'key': c.key, 'task': p.task, 'url': c.url, {SAID[task]}, 'extra': c.extra, 'width': c.width,
                'height': c.height, 'sha256': c.sha256, 'phash': c.phash,
                'ocr': c.ocr_lines, 'ocr_verdict': c.ocr_verdict{_of_own(own)}}})::VARCHAR){SOURCE} AS document,
       (CASE WHEN i.size IS NULL THEN [] ELSE [{PICTURE}] END) {more} AS pictures,
       array_to_string([picture.sha256 || picture.ext FOR picture IN pictures], ' ') AS bytes,
       sha256(concat_ws(chr(31), c.key, p.task, bytes, target, document)) AS made_from
FROM (SELECT partition, key, {PLACE} AS place, unnest(samples, recursive := true) FROM selection WHERE {only}) AS p
JOIN candidates c ON c.partition = p.partition AND c.key = p.key
JOIN images i ON i.partition = p.partition AND i.key = p.key
LEFT JOIN sources src ON src.partition = p.partition
LEFT JOIN (
    SELECT r.partition, r.part_of, list({PICTURE} ORDER BY r.part) AS pictures
    FROM rows r JOIN images i ON i.partition = r.partition AND i.key = r.key
    WHERE r.part_of IS NOT NULL GROUP BY r.partition, r.part_of) AS m ON m.partition = p.partition AND m.part_of = p.key
WHERE p.set = {literal(set_name)}"""


def _preferred(config: SetConfig, only: str) -> str:
    """The samples of a set of pairs, which have their own places. An instruction's image is in each of its pairs."""
    return f"""
SELECT p.key, '{PREFERENCE}' AS task, p.partition, NULL::VARCHAR AS target, p.place,
       (to_json({{'key': p.key, 'task': '{PREFERENCE}', 'url': p.url,
                'pair': {{'question': p.question, 'chosen': p.chosen, 'rejected': p.rejected,
                         'chosen_score': p.chosen_score, 'rejected_score': p.rejected_score, 'margin': p.margin,
                         'agreement': p.agreement}},
                'image': p.image, 'instruction': p.name, 'extra': p.extra, 'width': p.width, 'height': p.height,
                'sha256': p.sha256, 'phash': p.phash}})::VARCHAR){SOURCE} AS document,
       [{PICTURE}] AS pictures, i.sha256 || lower(i.format) AS bytes,
       sha256(concat_ws(chr(31), p.key, bytes, document)) AS made_from
FROM (SELECT *, {PLACE} AS place FROM {preferences_for(config.where)} AS preferences
      WHERE {only} AND {chosen(config)}) AS p
JOIN images i ON i.partition = p.partition AND i.key = p.image
LEFT JOIN sources src ON src.partition = p.partition"""


def _best(config: SetConfig, only: str) -> str:
    """The samples of a set of best responses: conversations of one question and its answer about one image."""
    return f"""
SELECT p.key, 'conversation' AS task, p.partition, NULL::VARCHAR AS target, p.place,
       (to_json({{'key': p.key, 'task': 'conversation', 'url': p.url,
                'conversation': {{'turns': [{{'role': 'user', 'content': '<image>' || p.question}},
                                          {{'role': 'assistant', 'content': p.text}}], 'images': ['<image>']}},
                'best': {{'score': p.score, 'claims': p.claims, 'draw': p.draw, 'judged': p.judged}},
                'image': p.image, 'instruction': p.name, 'extra': p.extra, 'width': p.width, 'height': p.height,
                'sha256': p.sha256, 'phash': p.phash}})::VARCHAR){SOURCE} AS document,
       [{PICTURE}] AS pictures, i.sha256 || lower(i.format) AS bytes,
       sha256(concat_ws(chr(31), p.key, bytes, document)) AS made_from
FROM (SELECT *, {PLACE} AS place FROM best WHERE {only} AND {chosen(config)}) AS p
JOIN images i ON i.partition = p.partition AND i.key = p.image
LEFT JOIN sources src ON src.partition = p.partition"""

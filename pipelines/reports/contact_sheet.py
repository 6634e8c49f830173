"""Samples with thumbnails and OCR boxes: some of each shard set, and some rows that were left out for each reason.

hash(seed, key) decides which samples are shown: the same ones as long as they exist.
"""

import io
import math
from base64 import b64encode
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import duckdb

from pipelines.engine.commit import Commit
from pipelines.engine.parquet import Corrupt
from pipelines.engine.partition_stage import UPSTREAM
from pipelines.engine.payload import read_payload
from pipelines.engine.root import Root
from schemas.arrow import Row
from schemas.pictures import open_image, size_of, upright
from schemas.views import literal

SIDE = 256  # pixels of a thumbnail's longer side
BYTES = 16_000  # of a thumbnail, approximately
PIXELS = 25_000_000  # a larger image gets no thumbnail, unless it can be decoded at a smaller size
SETS, SAMPLES = 24, 60  # sets that are shown, and samples in all sets together
EXAMPLES = 8  # rows of each reason
LINES, TURNS, PICTURES = 100, 6, 6  # boxes of an image; turns and images of a conversation
TEXT = 3000  # characters of a text

Place = tuple[int, str]  # partition, key

decoding = Lock()  # images are read at the same time, but are in memory one after another

FIRST = "min_by({{'partition': partition, 'key': key, 'detail': {detail}}}, md5({seed} || key), {most}) AS places"

TURN = f"{{'role': left(t.role, 20), 'content': left(t.content, {TEXT}), 'characters': length(t.content)}}"
SAID = """from_json(r.conversation, '{"turns": [{"role": "VARCHAR", "content": "VARCHAR"}], "images": ["VARCHAR"]}')"""
SHOWN = f"""
SELECT r.partition, r.key, left(r.url, {TEXT}) AS url, left(r.file, {TEXT}) AS file, left(r.member, {TEXT}) AS member,
       r.part_of, r.part, left(r.text, {TEXT}) AS text, length(r.text) AS characters,
       [{TURN} FOR t IN {SAID}.turns[:{TURNS}]] AS turns, len({SAID}.turns) AS turn_count, {SAID}.images AS marks,
       i.format, i.width, i.height, i.size, i.byte_offset, i.sha256, d.of, d.distance, d.reason AS duplicate,
       o.lines[:{LINES}] AS lines, len(o.lines) AS line_count, left(o.text, {TEXT}) AS read,
       length(o.text) AS read_characters, o.verdict
FROM rows r
LEFT JOIN images i ON i.partition = r.partition AND i.key = r.key
LEFT JOIN duplicates d ON d.partition = r.partition AND d.key = r.key
LEFT JOIN ocr o ON o.partition = r.partition AND o.key = r.key
"""


# Selection of rows


def pick_samples(connection: duckdb.DuckDBPyConnection, seed: int, last: str) -> list[Row]:
    """{set, task, rows, places} of each shard set; without a selection, of the rows that the stage `last` kept."""
    first = FIRST.format(detail="NULL", seed=literal(f"{seed}/"), most=max(EXAMPLES, SAMPLES // 2))
    if last != "selection":
        names, placed = "NULL AS set, NULL AS task", f"{last} WHERE reason IS NULL"
    else:
        names, placed = "set, task", "(SELECT partition, key, unnest(samples, recursive := true) FROM selection)"
    sets = rows_of(connection, f"SELECT {names}, count(*) AS rows, {first} FROM {placed} GROUP BY ALL ORDER BY ALL")
    most = max(EXAMPLES, SAMPLES // max(2, len(sets)))
    return [entry | {"places": (entry["places"] or [])[:most]} for entry in sets[:SETS]]


def pick_left_out(connection: duckdb.DuckDBPyConnection, seed: int, stage: str) -> list[Row]:
    """{reason, rows, places} of each reason of a stage; places hold their row's detail."""
    first = FIRST.format(detail=f"left(detail, {TEXT})", seed=literal(f"{seed}/"), most=EXAMPLES)
    left_out = f"reason IS NOT NULL AND reason != {literal(UPSTREAM)}"
    sql = f"SELECT reason, count(*) AS rows, {first} FROM {stage} WHERE {left_out} GROUP BY reason"
    return rows_of(connection, f"{sql} ORDER BY rows DESC, reason")


def rows_of(connection: duckdb.DuckDBPyConnection, sql: str) -> list[Row]:
    return connection.sql(sql).to_arrow_table().to_pylist()


# Content of rows


def cards(
    connection: duckdb.DuckDBPyConnection, root: Root, images: Mapping[int, Commit], places: set[Place]
) -> dict[Place, Row]:
    """The rows at these places, each with `pictures`: its own, those of its conversation, and its original if it is a
    duplicate."""
    rows = {place: row for row in _shown(connection, "key", {key for _, key in places})
            if (place := (row["partition"], row["key"])) in places}  # fmt: skip
    shown = {place: [row] if row["size"] else [] for place, row in rows.items()}  # the rows whose images are shown
    for part in _shown(connection, "part_of", {key for (_, key), row in rows.items() if row["turns"]}):
        shown.get((part["partition"], part["part_of"]), []).append(part)
    originals = _originals(connection, rows.values())
    for place, row in rows.items():
        shown[place] += [originals[row["of"]]] if row["of"] in originals else []
    with ThreadPoolExecutor(4) as pool:
        drawn = {p: pool.map(lambda row: picture(root, images, row), owners[:PICTURES]) for p, owners in shown.items()}
        return {p: row | {"pictures": list(drawn[p]), "picture_count": len(shown[p])} for p, row in rows.items()}


def _originals(connection: duckdb.DuckDBPyConnection, rows: Iterable[Row]) -> dict[str, Row]:
    """key -> row of the image that a row duplicates, for rows that have an image and are not duplicates themselves."""
    originals = _shown(connection, "key", {row["of"] for row in rows if row["of"]})
    return {row["key"]: row for row in originals if row["size"] and not row["duplicate"]}


def _shown(connection: duckdb.DuckDBPyConnection, column: str, keys: set[str]) -> list[Row]:
    """The rows in which a column holds one of these keys."""
    if not keys:
        return []
    wanted = ", ".join(map(literal, sorted(keys)))
    return rows_of(connection, f"{SHOWN} WHERE r.{column} IN ({wanted}) ORDER BY r.partition, r.part, r.key")


def picture(root: Root, images: Mapping[int, Commit], row: Row) -> Row:
    """A row's thumbnail with its OCR boxes, or a note why there is none."""
    if not row["size"]:
        return {"key": row["key"], "note": f"the image of {row['key']} was left out"}
    payload = images[row["partition"]].payload if row["partition"] in images else None
    try:
        data = read_payload(root, "images", {**row, "payload": payload})
    except (Corrupt, OSError) as error:
        return {"key": row["key"], "note": str(error)}
    try:
        return {"key": row["key"], "note": None, **thumbnail(data), "boxes": boxes(row["lines"] or [])}
    except Exception as error:  # decoders may raise anything on untrusted bytes
        return {"key": row["key"], "note": f"no thumbnail: {error}"}


def thumbnail(data: bytes) -> dict[str, Any]:
    """A small upright WebP of an image as a data URI, its width and height, and `full`, those of the upright image."""
    full = size_of(data)
    with open_image(data) as image:
        image.draft(None, (2 * SIDE, 2 * SIDE))  # a JPEG is decoded at about this size
        if image.width * image.height > PIXELS:
            raise ValueError(f"{image.width}x{image.height} is too large")
        with decoding:
            small = upright(image)
    small.thumbnail((SIDE, SIDE))
    for quality in (75, 50, 25, 5):
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=quality)
        if buffer.tell() <= BYTES:
            break
    source = "data:image/webp;base64," + b64encode(buffer.getvalue()).decode()
    return {"source": source, "width": small.width, "height": small.height, "full": full}


def boxes(lines: Iterable[Row]) -> list[Row]:
    """{points, text, confidence} of each line with four corners; points in SVG's notation, in the image's pixels."""
    return [
        {
            "points": " ".join(f"{x:.5g},{y:.5g}" for x, y in zip(line["box"][::2], line["box"][1::2], strict=True)),
            "text": line["text"][:200], "confidence": line["confidence"],
        }
        for line in lines
        if len(line["box"]) == 8 and all(map(math.isfinite, line["box"]))
    ]  # fmt: skip

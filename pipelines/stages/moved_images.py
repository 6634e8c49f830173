"""What was fetched for rows that have another key now, so that their URLs are not asked again.

A source of URLs names its rows by URL and text, so that a row whose text was corrected is a new row, mostly of another
partition. Before the stage `images` runs, its old rows whose keys are gone are found by the URLs that the ledger noted
of them, and stored in one file for the workers. Old payloads stay until `clean`.
"""

import pyarrow as pa

from pipelines.engine.commit_cache import read_commits
from pipelines.engine.parquet import Corrupt, opened
from pipelines.engine.partition_stage import UPSTREAM, Before
from pipelines.engine.root import Root
from schemas.images import STAGE
from schemas.parquet import checked_table
from schemas.rows import STAGE as ROWS
from schemas.views import literal

COMMITS = pa.schema([("partition", pa.int32()), ("payload", pa.string()), ("version", pa.int64())])
MOVED = f"{STAGE.name}/_moved.parquet"
FOUND = f"""
WITH gone AS (
    SELECT images.*, payload, version FROM images JOIN commits USING (partition) ANTI JOIN rows USING (partition, key)
    WHERE reason IS DISTINCT FROM '{UPSTREAM}'),
fresh AS (
    SELECT partition, key, url FROM rows ANTI JOIN images USING (partition, key)
    WHERE url IS NOT NULL AND file IS NULL AND reason IS NULL),
noted AS (
    SELECT partition, key, max_by(before->>'url', run) AS url FROM recorded_changes
    WHERE stage = 'rows' AND change = 'removed' AND key IN (SELECT key FROM gone) GROUP BY ALL)
SELECT fresh.partition AS moved_to, fresh.key AS moved_as, gone.*
FROM fresh JOIN noted USING (url) JOIN gone ON gone.partition = noted.partition AND gone.key = noted.key"""
FIRST = """
FROM ({}) QUALIFY row_number() OVER (PARTITION BY moved_to, moved_as ORDER BY size IS NULL, partition, key) = 1
ORDER BY moved_to, moved_as"""


def find_moved(root: Root) -> bool:
    """Writes `MOVED`, of images that rows of another key show now; whether there are any."""
    rows, images = read_commits(root, ROWS.name), read_commits(root, STAGE.name)
    changed = [p for p, commit in images.items()
               if p in rows and commit.inputs.get(ROWS.name, {}).get("key") != rows[p].digests["key"]]  # fmt: skip
    if not changed and not root.exists(MOVED):
        return False
    import duckdb  # no worker needs it

    from pipelines.catalog.catalog import connect, stage_files
    from pipelines.catalog.ledger_files import ledger_files

    new, temporary = [partition for partition in rows if partition not in images], root.temporary(STAGE.name)
    files = stage_files(root, [ROWS], [*changed, *new]) | stage_files(root, [STAGE], changed)
    commits = [(p, images[p].payload, images[p].version) for p in changed]
    found = FOUND
    if root.exists(MOVED):  # left by a run that was killed: as far as it can still be read
        left = f"read_parquet({literal(root.url_of(MOVED))})"
        found += f" UNION ALL BY NAME SELECT * FROM {left} WHERE size IS NULL OR payload IN (SELECT name FROM present)"
    try:
        with connect(root, files | {"changes": ledger_files(root)["changes"]}, [ROWS, STAGE], [FOUND]) as connection:
            connection.register(
                "commits",
                pa.Table.from_pylist([dict(zip(COMMITS.names, row, strict=True)) for row in commits], COMMITS),
            )
            connection.register("present", pa.table({"name": pa.array([*root.files(STAGE.name)], pa.string())}))
            options = "FORMAT parquet, ROW_GROUP_SIZE 2048"
            [(count,)] = connection.execute(
                f"COPY ({FIRST.format(found)}) TO {literal(str(temporary))} ({options})"
            ).fetchall()
    except (duckdb.Error, Corrupt):  # a damaged ledger: they are asked again
        temporary.unlink(missing_ok=True)
        return False
    root.put(temporary, MOVED)
    return count > 0


def read_moved(root: Root, partition: int) -> dict[str, Before]:
    """What was made of the URLs of a partition's rows under other keys: by the keys that the rows have now."""
    found: dict[str, Before] = {}
    with opened(root, MOVED) as file:
        places, start = checked_table(file, ["moved_to"])["moved_to"], 0
        for number, group in enumerate(file.groups):
            if partition in places.slice(start, group.rows).unique().to_pylist():
                rows = checked_table(file, groups=[number]).to_pylist()
                found |= {row["moved_as"]: Before(row, row["version"], {}, True, False)
                          for row in rows if row["moved_to"] == partition}  # fmt: skip
            start += group.rows
    return found

"""`report.html`: the fate of every row, distributions over the corpus, samples, and the changes of the last run.

The report shows data bugs early: a wrong filter can be seen in the rows that it left out. Counts come from commits, as
in `shardmill stats`; everything else comes from the catalog's views. The report is one file without scripts, written
again by each run; missing or damaged data leaves a note in it.
"""

import glob
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import duckdb

from pipelines.catalog.catalog import connect, one_line, stage_files
from pipelines.catalog.groups import add_answer, ask_each, groups, on_disk
from pipelines.catalog.stats import rows_by_source
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.commits import Commits
from pipelines.engine.ledger import Ledger, runs
from pipelines.engine.manifest import read_manifest, stages_of
from pipelines.engine.parquet import Corrupt
from pipelines.engine.partition_stage import UPSTREAM
from pipelines.engine.releases import read_cards
from pipelines.engine.root import Root
from pipelines.reports import drift, preferences, rounds
from pipelines.reports.contact_sheet import SHOWN, TEXT, cards, pick_left_out, pick_samples, rows_of
from pipelines.reports.histograms import COUNTED, MEASURED, counted, histograms, hosts
from pipelines.reports.page import page
from schemas.arrow import Row
from schemas.checked import checked, plain_json
from schemas.selection import bounds_text, encodes
from schemas.stage import StageInfo
from schemas.stages import STAGES, Stages, of_corpus
from schemas.views import Files

REPORT = "report.html"
LOOK_AT = 100_000  # rows of a larger corpus that are read for everything that commits do not count
MEMORY = {"memory_limit": "2GB", "threads": "4"}  # of each question; DuckDB puts what is beyond it on disk
TEACHES = {
    "caption": "its caption",
    "ocr": "the text in the image",
    "reconstruct": "the text in corrupted lines of the image",
    "conversation": "its conversation",
    "preference": "which of two answers is better",
}

ByStage = Mapping[str, Commits]  # stage -> partition -> commit


def write_report(root: Root, seed: int = 0) -> str:
    """Writes the report in place of the one before; returns its URL. Another seed shows other samples."""
    root.write(REPORT, page(gather(root, seed)).encode())
    return root.url_of(REPORT)


def gather(root: Root, seed: int = 0) -> dict[str, Any]:
    """The content of the page."""
    table = stages_of(root)
    commits = {stage: read_commits(root, stage) for stage in of_corpus(table)}
    settled = {partition for file in read_manifest(root) if file.split for partition in file.partitions}
    done, ledgers, sets = [stage for stage in commits if commits[stage]], runs(root), read_cards(root)
    run = ledgers[-1].row() if ledgers else None
    looked = look_at(commits)
    stages = funnel(table, {stage: commits[stage] for stage in done}, settled)
    return {
        "name": run["config"] if run else root.url, "root": root.url, "run": run,
        "rows": stages[0]["rows"] if stages else 0, "kept": stages[-1]["kept"] if stages else 0,
        "last": done[-1] if done else None, "funnel": stages, "sets": sets,
        "sources": rows_by_source(root),
        "bounds": {card["set"]: bounds_text(card["settings"]) for card in sets} if any(
            encodes(card["settings"]) for card in sets) else {},
        "samples": sum(card["samples"] for card in sets), "partitions": len(settled), "looked": len(looked),
        "notes": [] if done else ["nothing is made yet"], "teaches": TEACHES,
        **asked(root, table, commits, done, looked, seed),
        "preferences": preferred(root, table, commits, looked, settled, seed),
        "rounds": attempt(lambda: rounds.gather(root))[0],
        "drift": attempt(lambda: drift.gather(root))[0],
        **changed(root, table, ledgers[-1] if ledgers else None),
    }  # fmt: skip


def funnel(table: Stages, commits: ByStage, settled: set[int]) -> list[Row]:
    """For each stage the rows in, kept, and left out for each reason; `before` are those left out by earlier stages."""
    stages = []
    for stage, by_partition in commits.items():
        rows, kept, counts = by_partition.totals()
        reasons = Counter(counts)
        stages.append({
            "stage": stage, "rows": rows, "kept": kept, "before": reasons.pop(UPSTREAM, 0),
            "partitions": len(settled), "missing": len(settled.difference(by_partition)),
            "reasons": [{"reason": reason, "rows": rows, "meaning": table[stage].reasons.get(reason, "")}
                        for reason, rows in reasons.most_common()],
        })  # fmt: skip
    return stages


def preferred(
    root: Root, table: Stages, commits: ByStage, looked: set[int], settled: set[int], seed: int
) -> dict[str, Any] | None:
    """The content of the section on preferences; None without preferences. `commits`: those of the corpus."""
    stages = [name for name, stage in table.items() if not stage.per_image]
    ours = {stage: by_partition for stage in stages if (by_partition := read_commits(root, stage))}
    if not ours:
        return None
    every = {**commits, **ours}
    if "responses" in ours:
        looked = look_at(every, "responses")
    section, note = attempt(lambda: preferences.asked(root, table, every, looked, seed, **MEMORY))
    kept = ours.pop("pairs").totals()[1] if "pairs" in ours else 0
    return {
        "funnel": funnel(table, ours, settled), "kept": kept, "note": note, "looked": len(looked), **(section or {})
    }  # fmt: skip


def look_at(commits: ByStage, counted: str = "rows") -> set[int]:
    """The partitions to read: all of a small corpus; of a large one some drawn at random, and one with each reason.
    `counted`: the stage whose rows decide how many are read."""
    if not (rows := commits.get(counted)):
        return set()
    lots = sorted(rows, key=lambda partition: hashlib.sha256(str(partition).encode()).digest())
    chosen, left = set(), LOOK_AT
    for partition in lots:
        if left <= 0:
            break
        chosen.add(partition)
        left -= rows[partition].rows
    lot = {partition: number for number, partition in enumerate(lots)}
    for by_partition in commits.values():
        left_out = {reason: {*having.tolist()} for reason, having in by_partition.by_reason().items()}
        while unseen := [having for having in left_out.values() if chosen.isdisjoint(having) and having & lot.keys()]:
            chosen.add(min(set().union(*unseen) & lot.keys(), key=lot.__getitem__))
    return chosen


# Queries of the catalog


def asked(root: Root, table: Stages, commits: ByStage, done: list[str], looked: set[int], seed: int) -> dict[str, Any]:
    """Distributions, samples, and rows left out."""
    content: dict[str, Any] = {"charts": [], "formats": [], "verdicts": [], "hosts": [], "sheets": [], "left_out": [],
                               "cards": {}, "spread_note": None, "sheet_note": None}  # fmt: skip
    if not done:
        return content
    spread, content["spread_note"] = attempt(lambda: spread_of(root, table, commits, looked))
    content |= spread or {}
    files: dict[str, Files | None] = {}
    for stage in done:
        files |= stage_files(root, [table[stage]], sorted(looked & commits[stage].keys()))
    opened, note = attempt(lambda: connect(root, files, table.values(), [*done, SHOWN], None, **MEMORY))
    if note:
        return content | {"sheet_note": note}
    with opened as connection:
        sheets, content["sheet_note"] = attempt(lambda: pick_samples(connection, seed, done[-1]))
        content["sheets"] = sheets or []
        content["left_out"] = [left_out(connection, table[stage], commits, seed) for stage in done]
        groups = chain(content["sheets"], *(stage["reasons"] for stage in content["left_out"]))
        places = {(place["partition"], place["key"]) for group in groups for place in group["places"]}
        shown, note = attempt(lambda: cards(connection, root, commits.get("images", {}), places))
        return content | {"cards": shown or {}, "sheet_note": note or content["sheet_note"]}


def left_out(connection: duckdb.DuckDBPyConnection, stage: StageInfo, commits: ByStage, seed: int) -> dict[str, Any]:
    """{stage, reasons, note}: examples for each reason of a stage, with the counts of its commits."""
    picked, note = attempt(lambda: pick_left_out(connection, seed, stage.name))
    _, _, counts = commits[stage.name].totals()
    for group in picked or []:
        group |= {"rows": counts.get(group["reason"], 0), "meaning": stage.reasons.get(group["reason"], "")}
    return {"stage": stage.name, "reasons": picked or [], "note": note}


def attempt(query: Callable[[], Any]) -> tuple[Any, str | None]:
    """The result of a query and no note; or None and a note that the data cannot be read."""
    try:
        return query(), None
    except duckdb.Error as error:
        message = one_line(error)
    except (Corrupt, OSError) as error:
        message = str(error)
    return None, f"cannot be read, `shardmill verify` says more: {message[:500]}"


def spread_of(root: Root, table: Stages, commits: ByStage, looked: set[int]) -> dict[str, Any]:
    """Distributions of what was measured, and hosts."""
    with on_disk(**MEMORY) as gathered:
        asked = [*groups(commits["rows"], looked)] or [[]]  # without rows, too, there is a table
        for _, connection in ask_each(root, [*table.values()], commits, asked, [MEASURED], **MEMORY):
            add_answer(gathered, "measured", connection.sql(MEASURED).to_arrow_table())
        counts = {name: counted(gathered, column) for name, column in COUNTED.items()}
        return {"charts": histograms(gathered), "hosts": hosts(gathered), **counts}


# What the last run changed


def changed(root: Root, table: Stages, run: Ledger | None) -> dict[str, Any]:
    """Counts of changes by stage, and a few keys with their rows before and after the run."""
    folder = f"runs/{run.run}" if run else None
    names = list(root.files(folder)) if folder else []
    files = {
        kind: [glob.escape(root.url_of(f"{folder}/{name}")) for name in names if name.startswith(f"{kind}-")]
        for kind in ("changes", "work")
    }
    if not files["changes"]:
        return {"changes": [], "changes_note": None}
    changes, note = attempt(lambda: _changes(root, table, files))
    return {"changes": changes or [], "changes_note": note}


MADE = "SELECT stage, partition FROM recorded_changes WHERE change = 'made'"
COUNTS = f"""
SELECT stage, change, count(*) FROM recorded_changes WHERE change != 'made' GROUP BY ALL
UNION ALL
SELECT stage, 'added', sum(rows)::BIGINT
FROM (SELECT stage, partition, arg_min(rows, started) AS rows FROM work SEMI JOIN ({MADE}) USING (stage, partition)
      GROUP BY ALL)
GROUP BY ALL"""


def _changes(root: Root, table: Stages, files: Mapping[str, list[str]]) -> list[Row]:
    order = [*table, *(stage for stage in STAGES if stage not in table), "shards"]
    ledger = {kind: Files(names) for kind, names in files.items() if names}
    with connect(root, ledger, queries=["recorded_changes work"]) as connection:
        counts: dict[str, Counter[str]] = {}
        for stage, change, rows in connection.sql(COUNTS).fetchall():
            counts.setdefault(stage, Counter())[change] += rows
        row = f"{{'key': key, 'change': change, 'before': left(before, {TEXT}), 'after': left(after, {TEXT})}}"
        examples = rows_of(connection, f"""
            SELECT stage, change, min_by({row}, md5(key), 3) AS rows FROM recorded_changes
            WHERE change NOT IN ('added', 'made') GROUP BY ALL ORDER BY ALL""")  # fmt: skip
    return [
        {
            "stage": stage, **{change: counts[stage][change] for change in ("added", "changed", "removed")},
            "examples": [{**row, "parts": parts(row)} for e in examples if e["stage"] == stage for row in e["rows"]],
        }
        for stage in sorted(counts, key=lambda stage: order.index(stage) if stage in order else len(order))
    ]  # fmt: skip


def parts(row: Row) -> list[dict[str, str]]:
    """{column, before, after} of each column that changed; for a long change or a removed row, the JSON as it is."""
    try:
        before, after = (checked(dict[str, Any], plain_json(row[name] or "")) for name in ("before", "after"))
    except ValueError:  # cut, as it has more characters than are shown, or what no run wrote
        return [{"column": "", "before": row["before"] or "", "after": row["after"] or ""}]
    return [{"column": name, "before": _shown(before.get(name)), "after": _shown(after.get(name))} for name in after]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

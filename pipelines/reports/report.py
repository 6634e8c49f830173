"""`report.html`: what became of every row, how the corpus is spread, samples to look at, and what the last run changed.

It finds data bugs early: a wrong filter is seen in what it left out. Counts are those of commits, as `shardmill stats`
says them; everything else is asked of the catalog's views. One file without a script, made anew by each run; whatever
is missing or damaged leaves a note in it.
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
from pipelines.engine.commit import Commit
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.ledger import Ledger, runs
from pipelines.engine.manifest import read_manifest, stages_of
from pipelines.engine.parquet import Corrupt
from pipelines.engine.partition_stage import UPSTREAM
from pipelines.engine.releases import read_cards
from pipelines.engine.root import Root
from pipelines.reports import preferences
from pipelines.reports.contact_sheet import TEXT, cards, pick_left_out, pick_samples, rows_of
from pipelines.reports.histograms import COUNTED, MEASURED, counted, histograms, hosts
from pipelines.reports.page import page
from schemas.arrow import Row
from schemas.stages import STAGES, Stages, of_corpus
from schemas.views import Files

REPORT = "report.html"
LOOK_AT = 500_000  # rows; of a larger corpus, so many are looked at for all that is not counted in commits
TEACHES = {
    "caption": "its caption",
    "ocr": "the text in the image",
    "conversation": "its conversation",
    "preference": "which of two answers is better",
}

Commits = Mapping[str, Mapping[int, Commit]]  # stage -> partition -> commit


def write_report(root: Root, seed: int = 0) -> str:
    """Writes the report in place of the one before; returns its URL. Another seed shows other samples."""
    root.write(REPORT, page(gather(root, seed)).encode())
    return root.url_of(REPORT)


def gather(root: Root, seed: int = 0) -> dict[str, Any]:
    """All that the page says."""
    table = stages_of(root)
    commits = {stage: read_commits(root, stage) for stage in of_corpus(table)}
    settled = {p for file in read_manifest(root) if file.split for p in file.partitions}
    done, every, sets = [stage for stage in commits if commits[stage]], runs(root), read_cards(root)
    run = every[-1].row() if every else None
    looked = look_at(commits)
    stages = funnel(table, {stage: commits[stage] for stage in done}, settled)
    return {
        "name": run["config"] if run else root.url, "root": root.url, "run": run,
        "rows": stages[0]["rows"] if stages else 0, "kept": stages[-1]["kept"] if stages else 0,
        "last": done[-1] if done else None, "funnel": stages, "sets": sets,
        "samples": sum(card["samples"] for card in sets), "partitions": len(settled), "looked": len(looked),
        "notes": [] if done else ["nothing is made yet: there are no rows"], "teaches": TEACHES,
        **asked(root, table, commits, done, looked, seed),
        "preferences": preferred(root, table, commits, looked, settled, seed),
        **changed(root, table, every[-1] if every else None),
    }  # fmt: skip


def funnel(table: Stages, commits: Commits, settled: set[int]) -> list[Row]:
    """Rows in, kept, and left out under each reason, stage by stage; `before`: left out by an earlier stage."""
    stages = []
    for stage, found in commits.items():
        reasons = sum((Counter(commit.reasons) for commit in found.values()), Counter())
        stages.append({
            "stage": stage, "rows": sum(c.rows for c in found.values()), "kept": sum(c.kept for c in found.values()),
            "before": reasons.pop(UPSTREAM, 0), "partitions": len(settled), "missing": len(settled - found.keys()),
            "reasons": [{"reason": reason, "rows": rows, "meaning": table[stage].reasons.get(reason, "")}
                        for reason, rows in reasons.most_common()],
        })  # fmt: skip
    return stages


def preferred(
    root: Root, table: Stages, commits: Commits, looked: set[int], settled: set[int], seed: int
) -> dict[str, Any] | None:
    """What is said of preferences; None where nobody was asked for any. `commits`: of the corpus."""
    ours = {name: found for name, stage in table.items() if not stage.per_image and (found := read_commits(root, name))}
    if not ours:
        return None
    found, note = attempt(lambda: preferences.asked(root, table, {**commits, **ours}, looked, seed))
    kept = sum(commit.kept for commit in ours.pop("pairs", {}).values())
    return {"funnel": funnel(table, ours, settled), "kept": kept, "note": note, **(found or {})}


def look_at(commits: Commits) -> set[int]:
    """The partitions that are looked into: all of them; of a large corpus some, by lot, and one with each reason."""
    rows = commits.get("rows", {})
    lots = sorted(rows, key=lambda partition: hashlib.sha256(str(partition).encode()).digest())
    chosen, left = set(), LOOK_AT
    for partition in lots:
        if left > 0:
            chosen.add(partition)
            left -= rows[partition].rows
    for found in commits.values():
        seen = set(chain.from_iterable(found[p].reasons for p in chosen if p in found))
        for partition in lots:
            if partition in found and not found[partition].reasons.keys() <= seen:
                chosen.add(partition)
                seen |= found[partition].reasons.keys()
    return chosen


# What the catalog is asked


def asked(root: Root, table: Stages, commits: Commits, done: list[str], looked: set[int], seed: int) -> dict[str, Any]:
    """Distributions, samples, and rows left out."""
    found: dict[str, Any] = {"charts": [], "formats": [], "verdicts": [], "hosts": [], "sheets": [], "left_out": [],
                             "cards": {}, "spread_note": None, "sheet_note": None}  # fmt: skip
    files: dict[str, Files | None] = {}
    for stage in done:
        files |= stage_files(root, [table[stage]], sorted(looked & commits[stage].keys()))
    if not done:
        return found
    opened, note = attempt(lambda: connect(root, files, table.values()))
    if note:
        return found | {"spread_note": note, "sheet_note": note}
    with opened as connection:
        spread, found["spread_note"] = attempt(lambda: spread_of(connection))
        found |= spread or {}
        sheets, found["sheet_note"] = attempt(lambda: pick_samples(connection, seed, done[-1]))
        found["sheets"] = sheets or []
        for stage in done:
            picked, note = attempt(lambda: pick_left_out(connection, seed, stage))
            for one in picked or []:
                one |= {"rows": sum(c.reasons.get(one["reason"], 0) for c in commits[stage].values()),
                        "meaning": table[stage].reasons.get(one["reason"], "")}  # fmt: skip
            found["left_out"].append({"stage": stage, "reasons": picked or [], "note": note})
        groups = chain(found["sheets"], *(stage["reasons"] for stage in found["left_out"]))
        places = {(place["partition"], place["key"]) for one in groups for place in one["places"]}
        shown, note = attempt(lambda: cards(connection, root, commits.get("images", {}), places))
        return found | {"cards": shown or {}, "sheet_note": note or found["sheet_note"]}


def attempt(ask: Callable[[], Any]) -> tuple[Any, str | None]:
    """An answer, or a note that what was asked for cannot be read."""
    try:
        return ask(), None
    except duckdb.Error as error:
        said = one_line(error)
    except (Corrupt, OSError) as error:
        said = str(error)
    return None, f"cannot be read, `shardmill verify` says more: {said[:500]}"


def spread_of(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    connection.execute(MEASURED)
    counts = {name: counted(connection, column) for name, column in COUNTED.items()}
    return {"charts": histograms(connection), "hosts": hosts(connection), **counts}


# What the last run changed


def changed(root: Root, table: Stages, run: Ledger | None) -> dict[str, Any]:
    """Counts by stage, and a few keys with what stood there before and what stands there now."""
    names = root.files(f"runs/{run.run}") if run else []
    files = [glob.escape(root.url_of(f"runs/{run.run}/{n}")) for n in names if n.startswith("changes-")]
    if not files:
        return {"changes": [], "changes_note": None}
    found, note = attempt(lambda: _changes(root, table, files))
    return {"changes": found or [], "changes_note": note}


def _changes(root: Root, table: Stages, files: list[str]) -> list[Row]:
    order = [*table, *(stage for stage in STAGES if stage not in table), "shards"]
    with connect(root, {"changes": Files(files)}) as connection:
        counts: dict[str, Counter[str]] = {}
        asked = connection.sql("SELECT stage, change, count(*) FROM changes GROUP BY ALL")
        for stage, change, rows in asked.fetchall():
            counts.setdefault(stage, Counter())[change] = rows
        row = f"{{'key': key, 'change': change, 'before': left(before, {TEXT}), 'after': left(after, {TEXT})}}"
        examples = rows_of(connection, f"""
            SELECT stage, change, min_by({row}, md5(key), 3) AS rows FROM changes
            WHERE change != 'added' GROUP BY ALL ORDER BY ALL""")  # fmt: skip
    return [
        {
            "stage": stage, **{change: counts[stage][change] for change in ("added", "changed", "removed")},
            "examples": [{**row, "parts": parts(row)} for e in examples if e["stage"] == stage for row in e["rows"]],
        }
        for stage in sorted(counts, key=lambda stage: order.index(stage) if stage in order else len(order))
    ]  # fmt: skip


def parts(row: Row) -> list[dict[str, str]]:
    """{column, before, after} of each column that changed; of a long change, or a removed row, its JSON as it is."""
    try:
        before, after = json.loads(row["before"] or ""), json.loads(row["after"] or "")
    except ValueError:  # of more characters than are shown
        return [{"column": "", "before": row["before"] or "", "after": row["after"] or ""}]
    said = lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)  # noqa: E731
    return [{"column": name, "before": said(before.get(name)), "after": said(after.get(name))} for name in after]

"""Statistics of a corpus, from commits, cards and the ledger; of all rows, it reads only those of captions."""

from collections import Counter

from pipelines.catalog.catalog import connect, stage_files
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.ledger import runs
from pipelines.engine.manifest import read_manifest, sources_of, stages_of
from pipelines.engine.releases import read_cards
from pipelines.engine.root import Root
from schemas import captions
from schemas.arrow import Row
from schemas.captions import ACCEPTED
from schemas.selection import bounds_text, has_bounds
from schemas.stages import of_corpus

NO_NAME = "(without a name)"  # of a source

Table = tuple[str, tuple[str, ...], list[tuple]]


def corpus_stats(root: Root, last: int = 5) -> list[Table]:
    """(title, columns, lines) of tables: the rows of each stage by reason; sources, if they have names; captions; shard
    sets; the last runs."""
    stages = []
    for stage in stages_of(root):
        commits = read_commits(root, stage)
        if not commits:
            continue
        rows, kept, counts = commits.totals()
        reasons = Counter(counts)
        stages.append((stage, len(commits), rows, "kept", kept, share(kept, rows)))
        stages += [("", "", "", reason, count, share(count, rows)) for reason, count in reasons.most_common()]
    sources, captions = rows_by_source(root), rewritten(root)
    total = sum(count for _, count in captions)
    cards, sets = read_cards(root), []
    bounded = any(has_bounds(card["settings"]) for card in cards)
    for card in cards:
        line = (card["set"], card["task"], card["release"], card["samples"], len(card["shards"]), card["bytes"])
        sets.append((*line, bounds_text(card["settings"])) if bounded else line)
    done = [row for ledger in runs(root)[-last:] if (row := ledger.row())]
    return [
        ("stages", ("stage", "partitions", "rows in", "reason", "rows", "share"), stages),
        *([("sources", ("source", "files", "partitions", "rows in", "kept", "share"),
            [(*line.values(), share(line["kept"], line["rows"])) for line in sources])] if sources else []),
        *([("captions", ("what became of them", "rows", "share"),
            [(outcome, count, share(count, total)) for outcome, count in captions])] if captions else []),
        ("shard sets", ("set", "task", "release", "samples", "shards", "bytes", *["images"] * bounded), sets),
        ("last runs", ("run", "status", "ended", "detail"),
         [(r["run"], r["status"], (r["ended"] or "-")[:19], r["detail"] or "") for r in done]),
    ]  # fmt: skip


def rows_by_source(root: Root) -> list[Row]:
    """{source, files, partitions, rows, kept} of each source, in the order in which they came; nothing if no source has
    a name. `kept` by the last stage that has a row for each image."""
    if not sources_of(root):
        return []
    rows = read_commits(root, "rows")
    last = [commits for stage in of_corpus(stages_of(root)) if (commits := read_commits(root, stage))][-1:]
    lines: dict[str | None, Row] = {}
    for file in read_manifest(root):
        if file.split:
            line = lines.setdefault(file.source, {"source": file.source or NO_NAME, "files": 0, "partitions": 0,
                                                  "rows": 0, "kept": 0})  # fmt: skip
            line["files"] += 1
            line["partitions"] += file.buckets
            line["rows"] += sum(rows[p].rows for p in file.partitions if p in rows)
            line["kept"] += sum(commits[p].kept for commits in last for p in file.partitions if p in commits)
    return list(lines.values())


def rewritten(root: Root) -> list[tuple[str, int]]:
    """What became of captions: rewritten, left as they came because of their answers, or not asked for."""
    files = stage_files(root, [captions.STAGE])
    if not files:
        return []
    with connect(root, files, queries=["captions"]) as connection:
        counts = connection.sql(
            f"""SELECT answer, count(*) FROM captions WHERE reason IS NULL GROUP BY answer
                ORDER BY answer IS NULL, answer != '{ACCEPTED}', count(*) DESC, answer"""
        ).fetchall()
    words = {None: "not asked for", ACCEPTED: "rewritten"}
    return [(words.get(answer, f"stay as they came: {answer}"), count) for answer, count in counts]


def share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"

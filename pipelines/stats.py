"""What a corpus holds, from commits, cards and the ledger; reads no row."""

from collections import Counter

from pipelines.cards import read_cards
from pipelines.commits import read_commits
from pipelines.ledger import runs
from pipelines.root import Root
from pipelines.settled import stages_of

Table = tuple[str, tuple[str, ...], list[tuple]]


def corpus_stats(root: Root, last: int = 5) -> list[Table]:
    """(title, columns, lines) of: rows in, kept and each reason a stage; shard sets; the last runs."""
    stages = []
    for stage in stages_of(root):
        commits = read_commits(root, stage).values()
        if not commits:
            continue
        reasons: Counter[str] = Counter()
        for commit in commits:
            reasons.update(commit.reasons)
        rows, kept = sum(c.rows for c in commits), sum(c.kept for c in commits)
        stages.append((stage, len(commits), rows, "kept", kept, share(kept, rows)))
        stages += [("", "", "", reason, count, share(count, rows)) for reason, count in reasons.most_common()]
    sets = []
    for card in read_cards(root):
        sets.append((card["set"], card["task"], card["release"], card["samples"], len(card["shards"]), card["bytes"]))
    done = [row for ledger in runs(root)[-last:] if (row := ledger.row())]
    return [
        ("stages", ("stage", "partitions", "rows in", "reason", "rows", "share"), stages),
        ("shard sets", ("set", "task", "release", "samples", "shards", "bytes"), sets),
        ("last runs", ("run", "status", "ended", "detail"),
         [(r["run"], r["status"], r["ended"] or "-", (r["detail"] or "")[:80]) for r in done]),
    ]  # fmt: skip


def share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"

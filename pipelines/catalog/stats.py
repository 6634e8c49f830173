"""Statistics of a corpus, from commits, cards and the ledger; of all rows, it reads only captions and measures."""

from collections import Counter
from collections.abc import Mapping

from pipelines.catalog.catalog import connect, stage_files
from pipelines.catalog.ledger_files import ledger_files
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.ledger import runs
from pipelines.engine.manifest import read_manifest, sources_of, stages_of
from pipelines.engine.releases import read_cards
from pipelines.engine.root import Root
from schemas import captions, measures, translations
from schemas.arrow import Row
from schemas.captions import ACCEPTED
from schemas.selection import bounds_text, encodes
from schemas.stage import StageInfo
from schemas.stages import of_corpus
from schemas.views import literal

NO_NAME = "(without a name)"  # of a source
SPREAD = ("language", "script", "host", "licence")
OF_OCR = "CASE WHEN task IN ('ocr', 'reconstruct') THEN {} ELSE {} END"
TOTALS = {  # heading -> SQL over placements and `measures`
    "words": OF_OCR.format("ocr_words", "words"),
    "text tokens": OF_OCR.format("ocr_tokens", "text_tokens"),
    "slices, llama.cpp": "slices_llama_cpp",
    "visual tokens, llama.cpp": "visual_tokens_llama_cpp",
    "slices, OpenBMB": "slices_openbmb",
    "visual tokens, OpenBMB": "visual_tokens_openbmb",
}

Table = tuple[str, tuple[str, ...], list[tuple]]


def corpus_stats(root: Root, last: int = 5) -> list[Table]:
    """(title, columns, lines) of tables: the rows of each stage by reason; sources, if they have names; captions; shard
    sets, what they measure, and how their samples are distributed; pictures that were compared; the last runs."""
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
    total, asked = sum(count for _, count in captions), translated(root)
    cards, sets = read_cards(root), []
    bounded = any(encodes(card["settings"]) for card in cards)
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
        *([("translations", ("what became of them", "rows", "share"),
            [(outcome, count, share(count, sum(n for _, n in asked))) for outcome, count in asked])] if asked else []),
        ("shard sets", ("set", "task", "release", "samples", "shards", "bytes", *["images"] * bounded), sets),
        *([("measures of shard sets", ("set", *TOTALS), totals)] if (totals := totals_of(root)) else []),
        *([("samples of shard sets", ("set", "measure", "value", "samples", "share"), spread)]
          if (spread := spread_of(root, {card["set"]: card["release"] for card in cards})) else []),
        *([("pictures compared", ("run", "pairs", "copies", "share", "processor time"), compared)]
          if (compared := comparisons(root, last)) else []),
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
    """Counts of captions by outcome: rewritten, unchanged because of the model's answer, or not sent to the model."""
    return _outcomes(root, captions.STAGE, ACCEPTED, "rewritten")


def translated(root: Root) -> list[tuple[str, int]]:
    """What became of translations: taken, left out because of their answers, or not asked for."""
    return _outcomes(root, translations.STAGE, translations.ACCEPTED, "translated")


def _outcomes(root: Root, stage: StageInfo, accepted: str, word: str) -> list[tuple[str, int]]:
    files = stage_files(root, [stage])
    if not files:
        return []
    with connect(root, files, queries=[stage.name]) as connection:
        counts = connection.sql(
            f"""SELECT answer, count(*) FROM {stage.name} WHERE reason IS NULL GROUP BY answer
                ORDER BY answer IS NULL, answer != '{accepted}', count(*) DESC, answer"""
        ).fetchall()
    words = {None: "not asked for", accepted: word}
    return [(words.get(answer, f"stay as they came: {answer}"), count) for answer, count in counts]


def comparisons(root: Root, last: int) -> list[tuple]:
    """Pairs of pictures that the last runs compared, of the runs that compared any."""
    if not (files := ledger_files(root)["comparisons"]):
        return []
    question = f"""SELECT run, sum(pairs)::BIGINT, sum(copies)::BIGINT, sum(milliseconds) / 1000
                   FROM comparisons GROUP BY run ORDER BY run DESC LIMIT {last}"""
    with connect(root, {"comparisons": files}, queries=[question]) as connection:
        rows = connection.sql(question).fetchall()
    return [
        (run, pairs, copies, share(copies, pairs), f"{seconds:.1f} s") for run, pairs, copies, seconds in rows[::-1]
    ]


def totals_of(root: Root) -> list[tuple]:
    """Of each shard set of samples its words, tokens and slices, where the stage `measures` is made."""
    stages = stages_of(root)
    if not read_commits(root, measures.STAGE.name) or not read_commits(root, "selection"):
        return []
    columns = ", ".join(f"sum({sql})::BIGINT" for sql in TOTALS.values())
    question = f"""
        SELECT "set", {columns}
        FROM (SELECT partition, key, unnest(samples, recursive := true) FROM selection) AS p
        JOIN rows AS r ON r.partition = p.partition AND coalesce(r.part_of, r.key) = p.key  -- all of its images
        JOIN measures AS m ON m.partition = r.partition AND m.key = r.key GROUP BY "set" ORDER BY "set\""""
    files = stage_files(root, [stages["rows"], stages["measures"], stages["selection"]])
    with connect(root, files, queries=[question]) as connection:
        return connection.sql(question).fetchall()


def spread_of(root: Root, releases: Mapping[str, str], most: int = 5) -> list[tuple]:
    """The most frequent languages, scripts, hosts and licences of the published releases, as a run recorded them."""
    pairs = ", ".join(f"({literal(name)}, {literal(release)})" for name, release in releases.items())
    if not pairs or not (files := ledger_files(root)["distributions"]):
        return []
    question = f"""
        SELECT "set", measure, value, samples, samples / sum(samples) OVER (PARTITION BY "set", measure)
        FROM (SELECT DISTINCT * EXCLUDE (run) FROM distributions)
        WHERE ("set", release) IN ({pairs}) AND measure IN ({", ".join(map(literal, SPREAD))})
        QUALIFY row_number() OVER (PARTITION BY "set", measure ORDER BY samples DESC, value) <= {most}
        ORDER BY "set", measure, samples DESC, value"""
    with connect(root, {"distributions": files}, queries=[question]) as connection:
        rows = connection.sql(question).fetchall()
    return [(name, of, value, samples, f"{part:.1%}") for name, of, value, samples, part in rows]


def share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"

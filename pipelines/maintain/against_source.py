"""Compares a corpus with its sources as they are today: reads partitions again from local files."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipelines.build.corpus import Corpus
from pipelines.engine.commit import digest, file_of
from pipelines.engine.manifest import SourceFile, read_manifest
from pipelines.engine.parquet import Corrupt, read_rows
from pipelines.engine.root import Root
from pipelines.stages.rows import Rows, read_rows_of
from schemas import takedown
from schemas.arrow import Row

SAMPLE = 2000  # rows that are compared, about, where not all are
COMPARED = ("url", "text", "conversation", "checksum", "sha256", "reason")  # columns of `rows`


@dataclass
class Comparison:
    """What was compared with the sources, and what differs."""

    problems: list[str] = field(default_factory=list)
    rows: int = 0  # compared
    partitions: int = 0  # of these
    unreached: int = 0  # partitions whose source is remote or gone, or has changed since


def compare(corpus: Corpus, every: bool = False, say: Callable[[str], None] = lambda line: None) -> Comparison:
    """Reads partitions again and compares them row by row. `every`: all of them, not only some drawn at random.

    A file that has changed since it was split is not compared: the next run reads it.
    """
    seen, reached = Comparison(), []
    for file in read_manifest(corpus.root):
        stage = corpus.rows.get(file.source)
        if file.split is None:
            continue
        if stage and stage.source.is_local and _stands(stage, file):
            reached += [(stage, file, partition) for partition in file.partitions]
        else:
            seen.unreached += file.buckets
    random.shuffle(reached)
    for stage, file, partition in reached:
        if not every and seen.rows >= SAMPLE:
            break
        say(str(file) if file.path != "." else stage.source.config.path)
        try:
            seen.rows += _compare_partition(corpus.root, stage, file, partition, seen.problems)
        except Corrupt as error:
            seen.problems.append(str(error))
        seen.partitions += 1
    return seen


def _stands(stage: Rows, file: SourceFile) -> bool:
    """Whether a source file is unchanged since it was split."""
    return any(
        path == file.path and digest([stage.identity(), stamp]) == file.split for path, stamp in stage.source.files()
    )


def _compare_partition(root: Root, stage: Rows, file: SourceFile, partition: int, problems: list[str]) -> int:
    """Compares one partition of `rows` and its images with the source; returns the number of rows."""
    before = {row["key"]: row for row in read_rows(root, file_of("rows", partition))}
    images = {row["key"]: row for row in read_rows(root, file_of("images", partition), ["key", "sha256", "reason"])}
    now = {row["key"]: row for row in read_rows_of(stage, file, {partition - file.first: None})}
    for key in sorted(before.keys() | now.keys()):
        was, row = before.get(key), now.get(key)
        if was and was["reason"] == takedown.REASON:
            continue
        problems += (f"{file}: {key}: {problem}" for problem in _differences(was, row, images.get(key)))
    return len(before)


def _differences(was: Row | None, now: Row | None, image: Row | None) -> Iterator[str]:
    """How a row of the corpus differs from what the source says now."""
    if was is None or now is None:
        yield "only the source has this row" if was is None else "the source has no such row"
        return
    name = now["member"] or now["file"] or now["url"]
    for column in COMPARED:
        if was.get(column) != now.get(column):
            more = f" ({now['detail']})" if column == "reason" and now["detail"] else ""
            yield f"{name}: {column} is {_short(now.get(column))} in the source{more}, {_short(was.get(column))} here"
            return
    if image and image["reason"] is None and now["sha256"] and image["sha256"] != now["sha256"]:
        yield f"{name}: the bytes that are kept are not those of the source"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

"""Compares a corpus with its sources as they are today: reads partitions again from local files."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from math import ceil
from tempfile import TemporaryDirectory, TemporaryFile

from pipelines.build.corpus import Corpus
from pipelines.engine.commit import bucket_of, digest, file_of
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.manifest import SourceFile, read_manifest, sizes_of
from pipelines.engine.parquet import Corrupt, read_rows
from pipelines.engine.root import Root
from pipelines.engine.spill import Spill, read_spill
from pipelines.stages.rows import Rows, finished_rows, keyed_rows, width_of
from schemas import takedown
from schemas.arrow import Row

SPILL = "rows.zst"
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
    """Reads partitions again and compares them row by row. `every`: all of them, not only some drawn at random. Each
    source file is read once.

    A file that has changed since it was split is not compared: the next run reads it.
    """
    seen, reached = Comparison(), list[tuple[SourceFile, int]]()
    for file in read_manifest(corpus.root):
        stage = corpus.rows.get(file.source)
        if file.split is None:
            continue
        if stage and stage.source.is_local and _stands(stage, file):
            reached += [(file, partition) for partition in file.partitions]
        else:
            seen.unreached += file.buckets
    chosen = reached if every else _some_of(corpus.root, reached)
    for file, partitions in groupby(chosen, key=lambda one: one[0]):
        stage = corpus.rows[file.source]
        say(str(file) if file.path != "." else stage.source.config.path)
        for partition, rows in _read_again(corpus.root, stage, file, [partition for _, partition in partitions]):
            try:
                seen.rows += _compare_partition(corpus.root, file, partition, rows, seen.problems)
            except Corrupt as error:
                seen.problems.append(str(error))
            seen.partitions += 1
    return seen


def _some_of(root: Root, partitions: Sequence[tuple[SourceFile, int]]) -> list[tuple[SourceFile, int]]:
    """Partitions with about SAMPLE rows, drawn at random, in their order."""
    commits, drawn, rows = read_commits(root, "rows"), list[int](), 0
    for number in random.sample(range(len(partitions)), len(partitions)):
        if rows >= SAMPLE:
            break
        drawn.append(number)
        rows += commits[partition].rows if (partition := partitions[number][1]) in commits else 0
    return [partitions[number] for number in sorted(drawn)]


def _read_again(
    root: Root, stage: Rows, file: SourceFile, partitions: Sequence[int]
) -> Iterator[tuple[int, dict[str, Row]]]:
    """(partition, its rows by key) of some partitions of a source file, which is read once. Only as many as are split
    off at once are in memory: the rows of others wait in a spill."""
    buckets, width = [partition - file.first for partition in partitions], width_of(file, sizes_of(root))
    if len(buckets) <= width:
        yield from _split(stage, file, keyed_rows(stage, file), buckets)
        return
    with TemporaryDirectory(prefix="shardmill-") as folder, TemporaryFile(dir=folder) as unsorted:
        here, spill = Root(folder), Spill(unsorted, ceil(file.buckets / width))
        for row in keyed_rows(stage, file):
            spill.add(bucket_of(row["key"], file.buckets) // width, row)
        ends = spill.put(here, SPILL, here.temporary(""))
        for number, (start, end) in enumerate(pairwise([0, *ends])):
            if some := [bucket for bucket in buckets if bucket // width == number]:
                yield from _split(stage, file, read_spill(here, SPILL, start, end), some)


def _split(
    stage: Rows, file: SourceFile, keyed: Iterable[Row], buckets: Sequence[int]
) -> Iterator[tuple[int, dict[str, Row]]]:
    rows: dict[int, dict[str, Row]] = {bucket: {} for bucket in buckets}
    for row in finished_rows(stage, file, keyed, rows):
        rows[bucket_of(row["key"], file.buckets)][row["key"]] = row
    yield from ((file.first + bucket, of_it) for bucket, of_it in rows.items())


def _stands(stage: Rows, file: SourceFile) -> bool:
    """Whether a source file is unchanged since it was split."""
    return any(
        path == file.path and digest([stage.identity(), stamp]) == file.split for path, stamp in stage.source.files()
    )


def _compare_partition(
    root: Root, file: SourceFile, partition: int, now: Mapping[str, Row], problems: list[str]
) -> int:
    """Compares one partition of `rows` and its images with what the source says now; returns the number of rows."""
    before = {row["key"]: row for row in read_rows(root, file_of("rows", partition))}
    images = {row["key"]: row for row in read_rows(root, file_of("images", partition), ["key", "sha256", "reason"])}
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

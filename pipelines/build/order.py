"""The order in which the partitions of a stage are made: the largest first, so that workers end at about one time."""

from collections.abc import Collection, Mapping

from pipelines.build.corpus import Corpus
from pipelines.engine.commit import Commit
from pipelines.engine.manifest import read_manifest
from pipelines.engine.partition_stage import PartitionStage
from pipelines.stages.rows import size_in


def largest_first(
    corpus: Corpus, stage: PartitionStage, commits: Mapping[str, Mapping[int, Commit]], partitions: Collection[int]
) -> list[int]:
    """These partitions in order: by the bytes of their images, if the stage decodes them, and by their rows."""
    sizes = _bytes_of(corpus, stage, commits, partitions) if stage.decodes and len(partitions) > 1 else {}
    rows = commits[stage.answers]
    return sorted(partitions, key=lambda partition: (-sizes.get(partition, 0), -rows[partition].rows, partition))


def _bytes_of(
    corpus: Corpus, stage: PartitionStage, commits: Mapping[str, Mapping[int, Commit]], partitions: Collection[int]
) -> dict[int, int]:
    """partition -> bytes, as far as they are known: of its tar, or before it has one, its share of the source file."""
    if "images" in stage.inputs:
        tars = corpus.root.files("images")
        names = {partition: commits["images"][partition].payload or "" for partition in partitions}
        return {partition: tars[name].size for partition, name in names.items() if name in tars}
    waiting, stamps = {*partitions}, dict[tuple[str | None, str], int]()
    for source, rows in corpus.rows.items():
        with rows.naming_source():
            stamps |= {(source, path): size_in(stamp) for path, stamp in rows.source.files()}
    return {
        partition: stamps.get(file.name, 0) // file.buckets
        for file in read_manifest(corpus.root) if file.split for partition in waiting.intersection(file.partitions)
    }  # fmt: skip

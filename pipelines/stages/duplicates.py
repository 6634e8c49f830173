"""Leaves out images that the corpus has already, or that are excluded.

A corpus step over the hashes of all images. Two images are near duplicates if both of their perceptual hashes are near:
by the 64-bit one alone, pages of one layout are equal whatever is written on them. With `compare = "pixels"`, hashes
only propose, and pictures are compared themselves. A row is a duplicate of a *kept*
row. Rows that were kept before come first, then all others, both in the order of (partition, key), and each is kept if
no kept row is near it. So new rows never replace old ones, and a run that was killed half-way comes to the same result.
The pictures of conversations are compared only with what is excluded: the same picture with different turns teaches
something else. With `captions = "all"`, rows of one source image stay together: they are not duplicates of each other.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pipelines.catalog.catalog import connect, one_line, stage_files
from pipelines.catalog.whole_files import Listed
from pipelines.dedup.compared import COMPARED, VERSION, judged_by_pixels
from pipelines.dedup.decontamination import Excluded, find_excluded
from pipelines.dedup.judgement import EXACT, NEAR, WORDS, DuplicateMarks, ImageHashes
from pipelines.dedup.suspects import judged
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.corpus_stage import CorpusStage, Upstream
from pipelines.engine.ledger import Ledger
from pipelines.engine.parquet import Corrupt
from pipelines.engine.partition_stage import UPSTREAM
from pipelines.engine.root import Root
from pipelines.engine.workers import Workers
from schemas.arrow import Row
from schemas.config.model import Config
from schemas.duplicates import STAGE, DuplicatesConfig
from schemas.views import literal, quoted

AT_ONCE = 256  # partitions that are read in one question


@dataclass(frozen=True)
class MarkDuplicates(CorpusStage):
    config: DuplicatesConfig
    excluded: Excluded
    captions: tuple[str, ...] = ()  # sources with a row for each caption of an image; "": the one without a name

    info = STAGE
    version = 2  # near only if `phash256` is near too

    def settings(self) -> dict[str, Any]:
        more = {"exclude": self.excluded.digest} if self.config.exclude else {}
        if self.config.compare == "pixels":
            more |= {"compare": f"pixels, version {VERSION}"}
        return {"near": self.config.near} | more | ({"captions": [*self.captions]} if self.captions else {})

    def prepare(self) -> None:
        """Raises `UserError` if images cannot be excluded."""
        hashes = self.excluded.hashes
        lone = hashes.name[~hashes.has_sha256]
        if self.config.near < 0 and lone.size:
            raise self.excluded.files[lone[0]].error(
                "holds perceptual hashes, which duplicates.near = -1 does not look at; set it to 0 or more"
            )

    def decide(
        self, root: Root, ledger: Ledger, upstream: Upstream, workers: Workers | None = None
    ) -> Iterator[pa.Table]:  # fmt: skip
        self.prepare()
        by_pixels = partial(judged_by_pixels, root=root, stage=self.name, ledger=ledger, workers=workers)
        if self.config.compare == "hashes":
            by_pixels = None
            root.remove(f"{self.name}/{COMPARED}")
        if not any(commit.rows for commit in upstream["images"].values()):
            return
        excluded, near = self.excluded.hashes, self.config.near
        with Facts.read(root, self, list(upstream["images"]), read_commits(root, self.name)) as facts:
            for images, marks, keys in judged(facts, excluded, near, by_pixels):
                yield self._decided(images, marks, keys, [*facts.reasons])

    def _decided(
        self, images: ImageHashes, marks: DuplicateMarks, keys: np.ndarray, reasons: Sequence[str | None]
    ) -> pa.Table:  # fmt: skip
        """What was decided for some rows, by columns. `keys`: of all rows that can be repeated."""
        repeats, listed = np.isin(marks.reason, (EXACT, NEAR)), marks.by >= 0
        names = pa.array([file.name for file in self.excluded.files], pa.string())
        return pa.table({
            "partition": images.partition, "key": images.key, "sha256": images.sha256[:, 0], "phash": images.phash,
            "why": pa.array(reasons, pa.string()).take(pa.array(images.why)), "reason": marks.reason,
            "of": pa.array(keys[marks.of * repeats] if len(keys) else images.key, pa.uint64(), mask=~repeats),
            "distance": marks.distance,
            "by": names.take(pa.array(marks.by * listed, pa.int64(), mask=~listed)),
        })  # fmt: skip

    def finished(self, decided: list[Row]) -> list[Row]:
        return [
            {
                "key": f"{row['key']:016x}",
                "of": None if row["of"] is None else f"{row['of']:016x}",
                "distance": row["distance"] if row["reason"] else None,
                "reason": UPSTREAM if row["why"] else WORDS[row["reason"]],
                "detail": row["why"] or (row["by"] and f"{row['by']}, distance {row['distance']}"),
                "made_from": f"{row['sha256']:016x}{row['phash']:016x}",
            }
            for row in decided
        ]


# Reading

FACTS = """
SELECT CASE {why} END AS why, i.partition, ('0x' || i.key)::UBIGINT AS key,
       coalesce(('0x' || left(i.sha256, 16))::UBIGINT, 0) AS high,
       coalesce(('0x' || substr(i.sha256, 17, 16))::UBIGINT, 0) AS low,
       coalesce(('0x' || i.phash)::UBIGINT, 0) AS phash,
       [coalesce(('0x' || substr(i.phash256, 16 * n + 1, 16))::UBIGINT, 0) for n in range(4)] AS phash256,
       why IS NULL AND i.sha256 IS NOT NULL AS present,
       coalesce(r.conversation, r.part_of) IS NOT NULL AS talked_of, {image} AS image,
       coalesce(d.reason IS NULL AND d.made_from = left(i.sha256, 16) || i.phash, false) AS kept_before
FROM images i
LEFT JOIN rows r ON r.partition = i.partition AND r.key = i.key
LEFT JOIN duplicates d ON d.partition = i.partition AND d.key = i.key
{joins}
ORDER BY i.partition, i.key"""


IMAGE = """CASE WHEN coalesce(r.source, '') IN ({captions}) THEN hash(
           r.source, r.file, r.member, r.byte_offset, CASE WHEN r.file IS NULL AND r.member IS NULL THEN r.url END)
       ELSE 0 END"""


def facts_sql(own: Sequence[str], captions: Sequence[str] = ()) -> str:
    """FACTS with these users' stages, which come between `images` and `duplicates`. `captions`: the sources in which
    each caption of an image is a row."""
    case = "WHEN {0}.reason = 'upstream' THEN '{1}' WHEN {0}.reason IS NOT NULL THEN '{1}: ' || {0}.reason"
    named = [("i", "images"), *((quoted(name), name) for name in own)]
    why = " ".join(case.format(alias, name) for alias, name in named)
    joins = "\n".join(
        f"LEFT JOIN {alias} ON {alias}.partition = i.partition AND {alias}.key = i.key" for alias, _ in named[1:]
    )
    image = IMAGE.format(captions=", ".join(map(literal, captions))) if captions else "0::UBIGINT"
    return FACTS.format(why=why, joins=joins, image=image)


class Facts:
    """FACTS about all rows, in a temporary file: they are gone through several times, and never held as a whole.

    Iterating gives `ImageHashes` of some whole partitions at a time. `reasons` numbers the details of `why`.
    """

    def __init__(self, folder: str):
        self.path, self.batches, self.rows = f"{folder}/facts.arrow", list[int](), 0
        self.reasons: dict[str | None, int] = {None: 0}

    @classmethod
    @contextmanager
    def read(
        cls, root: Root, stage: MarkDuplicates, partitions: Sequence[int], done: Collection[int]
    ) -> Iterator["Facts"]:
        """Reads `partitions`; those `done` have a file of this stage. Raises `Corrupt` for a file that DuckDB cannot
        read."""
        with TemporaryDirectory(prefix="shardmill-") as folder:
            facts = cls(folder)
            facts._write(root, stage, partitions, done)
            yield facts

    def _write(self, root: Root, stage: MarkDuplicates, partitions: Sequence[int], done: Collection[int]) -> None:
        own = [name for name, columns in stage.inputs.items() if "reason" in (columns or ()) and name != "images"]
        sql = facts_sql(own, stage.captions)
        listed: Listed = {}
        with ExitStack() as opened:
            writer = None
            for start in range(0, len(partitions), AT_ONCE):
                some = partitions[start : start + AT_ONCE]
                files = stage_files(root, [info for info in stage.earlier if info.name in stage.inputs], some)
                files |= stage_files(root, [stage.info], [partition for partition in some if partition in done])
                with connect(root, files, stage.earlier, [sql], listed) as connection:
                    try:
                        batches = connection.sql(sql).to_arrow_reader(100_000)
                        writer = writer or opened.enter_context(pa.ipc.new_file(self.path, batches.schema))
                        before = self.batches[-1] if self.batches else 0
                        for batch in batches:
                            writer.write_batch(batch)
                            before, self.rows = before + 1, self.rows + len(batch)
                        self.batches.append(before)
                    except duckdb.Error as error:
                        raise Corrupt(f"duplicates: {one_line(error)}") from None

    def __iter__(self) -> Iterator[ImageHashes]:
        with pa.memory_map(self.path) as file, pa.ipc.open_file(file) as reader:
            for first, end in pairwise([0, *self.batches]):
                parts = [_images(reader.get_batch(number), self.reasons) for number in range(first, end)]
                if parts:
                    yield ImageHashes(*map(np.concatenate, zip(*parts, strict=True)))


def _images(batch: pa.RecordBatch, reasons: dict[str | None, int]) -> ImageHashes:
    """Rows of FACTS. New details are added to `reasons` with the next number."""
    causes = batch["why"].dictionary_encode(null_encoding="encode")
    numbers = [reasons.setdefault(reason, len(reasons)) for reason in causes.dictionary.to_pylist()]
    nested = ("why", "phash256")
    column = {name: batch[name].to_numpy(zero_copy_only=False) for name in batch.schema.names if name not in nested}
    return ImageHashes(
        partition=column["partition"],
        key=column["key"],
        sha256=np.stack([column["high"], column["low"]], axis=1),
        phash=column["phash"],
        phash256=batch["phash256"].flatten().to_numpy().reshape(-1, 4),
        present=column["present"],
        talked_of=column["talked_of"],
        kept_before=column["kept_before"],
        why=np.array(numbers, np.int32)[causes.indices.to_numpy()],
        image=column["image"],
    )


def open_stage(config: Config) -> MarkDuplicates | None:
    """Raises `UserError` for images to keep out that cannot be read."""
    if config.duplicates is None:
        return None
    captions = tuple(source.name or "" for source in config.source if getattr(source, "captions", None) == "all")
    return MarkDuplicates(config.duplicates, Excluded(find_excluded(config.duplicates.exclude)), captions)

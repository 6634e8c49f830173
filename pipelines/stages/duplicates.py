"""Leaves out images that are there already or are to be kept out.

A corpus step over the hashes of all images. A row is a duplicate of a *kept* row. First come the rows that its files
hold as kept, then all others, both in the order of (partition, key), and each is kept if no kept one is near it. So new
rows never evict old ones, and a run that was killed half-way goes on to the same end. The pictures of conversations are
only held against what is excluded: the same picture with other turns teaches something else.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from pipelines.catalog.catalog import connect, one_line, stage_files
from pipelines.dedup.decontamination import Excluded, Hashes, find_excluded
from pipelines.dedup.hamming import distances, near_pairs
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.corpus_stage import CorpusStage, Upstream
from pipelines.engine.parquet import Corrupt
from pipelines.engine.partition_stage import UPSTREAM
from pipelines.engine.root import Root
from schemas.arrow import Row
from schemas.config.model import Config
from schemas.duplicates import REASONS, STAGE, DuplicatesConfig
from schemas.views import quoted

AT_ONCE = 256  # partitions that are read in one question
KEPT, EXACT, NEAR, EXCLUDED = range(4)
WORDS = (None, *REASONS)
BLANK = ((KEPT, np.int8), (-1, np.int64), (-1, np.int8), (-1, np.int64))


class ImageHashes(NamedTuple):
    """What decides of n rows, in the order of (partition, key). Arrays of shape (n,) but for `sha256`."""

    partition: np.ndarray  # int32
    key: np.ndarray  # uint64
    sha256: np.ndarray  # uint64 of shape (n, 2): its first half
    phash: np.ndarray  # uint64
    there: np.ndarray  # bool: there is an image, and nothing has left it out
    talked_of: np.ndarray  # bool: in a conversation
    kept_before: np.ndarray  # bool: with the same bytes and hash
    why: np.ndarray  # int8, what left it out before, position in a list of reasons; 0 for nothing


class DuplicateMarks(NamedTuple):
    """What becomes of n rows."""

    reason: np.ndarray  # int8, position in WORDS
    of: np.ndarray  # int64, the row that it duplicates; -1 for none
    distance: np.ndarray  # int8; -1 for none
    by: np.ndarray  # int64, the excluded file that holds it; -1 for none


@dataclass(frozen=True)
class MarkDuplicates(CorpusStage):
    config: DuplicatesConfig
    excluded: Excluded

    info = STAGE

    def settings(self) -> dict[str, Any]:
        return {"near": self.config.near} | ({"exclude": self.excluded.digest} if self.config.exclude else {})

    def prepare(self) -> None:
        """Raises `UserError` if what is to be excluded cannot be."""
        found = self.excluded.hashes
        lone = found.name[~found.has_sha256]
        if self.config.near < 0 and lone.size:
            raise self.excluded.files[lone[0]].error(
                "holds perceptual hashes, which duplicates.near = -1 does not look at; set it to 0 or more"
            )

    def make(self, root: Root, upstream: Upstream) -> Iterator[tuple[int, list[Row]]]:
        self.prepare()
        if not any(commit.rows for commit in upstream["images"].values()):
            return
        images, reasons = read_images(root, self, list(upstream["images"]), read_commits(root, self.name))
        verdicts = judge(images, self.excluded.hashes, self.config.near)
        cuts = np.flatnonzero(np.diff(images.partition, prepend=-1, append=-1)).tolist()
        for start, end in pairwise(cuts):
            yield int(images.partition[start]), list(self._rows(images, verdicts, slice(start, end), reasons))

    def _rows(
        self, images: ImageHashes, verdicts: DuplicateMarks, some: slice, reasons: Sequence[str | None]
    ) -> Iterator[Row]:
        columns = (images.key, images.sha256[:, 0], images.phash, images.why, *verdicts)
        for key, sha256, phash, why, reason, of, distance, by in zip(*(column[some].tolist() for column in columns)):
            if why:
                said = UPSTREAM, reasons[why]
            else:
                said = WORDS[reason], f"{self.excluded.files[by].name}, distance {distance}" if by >= 0 else None
            yield {
                "key": f"{key:016x}",
                "of": f"{images.key[of]:016x}" if reason in (EXACT, NEAR) else None,
                "distance": distance if reason else None,
                "reason": said[0],
                "detail": said[1],
                "made_from": f"{sha256:016x}{phash:016x}",
            }


# Reading

FACTS = """
SELECT CASE {why} END AS why, i.partition, ('0x' || i.key)::UBIGINT AS key,
       coalesce(('0x' || left(i.sha256, 16))::UBIGINT, 0) AS high,
       coalesce(('0x' || substr(i.sha256, 17, 16))::UBIGINT, 0) AS low,
       coalesce(('0x' || i.phash)::UBIGINT, 0) AS phash,
       why IS NULL AND i.sha256 IS NOT NULL AS there,
       coalesce(r.conversation, r.part_of) IS NOT NULL AS talked_of,
       coalesce(d.reason IS NULL AND d.made_from = left(i.sha256, 16) || i.phash, false) AS kept_before
FROM images i
LEFT JOIN rows r ON r.partition = i.partition AND r.key = i.key
LEFT JOIN duplicates d ON d.partition = i.partition AND d.key = i.key
{joins}
ORDER BY i.partition, i.key"""


def facts_sql(own: Sequence[str]) -> str:
    """FACTS, where these stages of users' stand between `images` and `duplicates`."""
    said = "WHEN {0}.reason = 'upstream' THEN '{1}' WHEN {0}.reason IS NOT NULL THEN '{1}: ' || {0}.reason"
    named = [("i", "images"), *((quoted(name), name) for name in own)]
    why = " ".join(said.format(alias, name) for alias, name in named)
    joins = "\n".join(
        f"LEFT JOIN {alias} ON {alias}.partition = i.partition AND {alias}.key = i.key" for alias, _ in named[1:]
    )
    return FACTS.format(why=why, joins=joins)


def read_images(
    root: Root, stage: MarkDuplicates, partitions: Sequence[int], done: Collection[int]
) -> tuple[ImageHashes, list[str | None]]:
    """What decides of all rows, and the details that `ImageHashes.why` points to. `done`: partitions with a file of
    this stage. Raises `Corrupt` for a file that DuckDB cannot read."""
    facts = facts_sql([info.name for info in stage.before if info.own and info.name in stage.inputs])
    reasons: dict[str | None, int] = {None: 0}
    read = []
    for start in range(0, len(partitions), AT_ONCE):
        some = partitions[start : start + AT_ONCE]
        files = stage_files(root, [info for info in stage.before if info.name in stage.inputs], some)
        files |= stage_files(root, [stage.info], [partition for partition in some if partition in done])
        with connect(root, files, stage.before) as connection:
            try:
                read += [_images(batch, reasons) for batch in connection.sql(facts).to_arrow_reader(100_000)]
            except duckdb.Error as error:
                raise Corrupt(f"duplicates: {one_line(error)}") from None
    return ImageHashes(*map(np.concatenate, zip(*read))), list(reasons)


def _images(batch: pa.RecordBatch, reasons: dict[str | None, int]) -> ImageHashes:
    """Rows of FACTS. Adds the details that it meets to those with a number."""
    said = batch["why"].dictionary_encode(null_encoding="encode")
    numbers = [reasons.setdefault(reason, len(reasons)) for reason in said.dictionary.to_pylist()]
    column = {name: batch[name].to_numpy(zero_copy_only=False) for name in batch.schema.names if name != "why"}
    return ImageHashes(
        partition=column["partition"],
        key=column["key"],
        sha256=np.stack([column["high"], column["low"]], axis=1),
        phash=column["phash"],
        there=column["there"],
        talked_of=column["talked_of"],
        kept_before=column["kept_before"],
        why=np.array(numbers, np.int8)[said.indices.to_numpy()],
    )


# Judging


def judge(images: ImageHashes, excluded: Hashes, near: int) -> DuplicateMarks:
    """What becomes of each row: a function of what is excluded, of the order of rows, and of which were kept before.

    `near`: bits in which perceptual hashes may differ; -1 for none, when only equal bytes count.
    """
    at = np.flatnonzero(images.there)
    numbered = _numbered(np.concatenate([images.sha256[at], excluded.sha256[excluded.has_sha256]]))
    same, same_excluded = np.split(numbered, [len(at)])  # equal bytes have one number
    look, pairs, apart = same, np.empty((2, 0), np.int64), np.empty(0, np.int8)
    look_excluded, looks = np.empty(0, np.int64), numbered.max(initial=-1) + 1
    if near >= 0:
        phash = np.full(looks, ~np.uint64(0))
        np.minimum.at(phash, same, images.phash[at])  # one for equal bytes, whichever version measured them
        hashes = np.concatenate([phash[same], excluded.phash[excluded.has_phash]])
        hashes, look = np.unique(hashes, return_inverse=True)
        (look, look_excluded), looks = np.split(look, [len(at)]), len(hashes)  # equal hashes have one number
        pairs = np.concatenate([pairs, *map(np.stack, near_pairs(hashes, near))], axis=1)
        apart = distances(*hashes[pairs]).astype(np.int8)
    one, other, apart = *np.concatenate([pairs, pairs[::-1]], axis=1), np.tile(apart, 2)  # both ways

    # What is excluded
    names = excluded.name[excluded.has_phash][: len(look_excluded)]
    _, name = _nearest(looks, look_excluded, np.zeros_like(names), names)
    shown = name[one] >= 0
    distance, by = _nearest(
        looks,
        np.concatenate([look_excluded, other[shown]]),
        np.concatenate([np.zeros_like(names), apart[shown]]),
        np.concatenate([names, name[one][shown]]),
    )
    names = excluded.name[excluded.has_sha256]
    _, by_bytes = _nearest(numbered.max(initial=-1) + 1, same_excluded, np.zeros_like(names), names)
    distance = np.where(by_bytes[same] >= 0, 0, distance[look])
    by = np.where(by_bytes[same] >= 0, by_bytes[same], by[look])
    verdicts = DuplicateMarks(*(np.full(len(images.key), value, kind) for value, kind in BLANK))
    verdicts.reason[at] = np.where(by >= 0, EXCLUDED, KEPT)
    verdicts.distance[at], verdicts.by[at] = distance, by

    # What is left: the first of each look stands for it, and is kept if no look that is kept is near
    left = np.flatnonzero((by < 0) & ~images.talked_of[at])
    order = left[np.argsort(~images.kept_before[at[left]], kind="stable")]
    seen, first = np.unique(look[order], return_index=True)
    rank, stands = np.full((2, looks), -1)
    rank[seen], stands[seen] = first, order[first]
    later = (rank[one] >= 0) & (rank[one] < rank[other])
    kept = np.zeros(looks, bool)
    kept[seen] = kept_first(len(order), rank[one[later]], rank[other[later]])[first]
    near_kept = kept[one] & (rank[other] >= 0)
    distance, of = _nearest(looks, other[near_kept], apart[near_kept], stands[one[near_kept]])
    distance, of = np.where(kept, 0, distance)[look[left]], np.where(kept, stands, of)[look[left]]
    twice = of != left
    left, of = left[twice], of[twice]
    verdicts.reason[at[left]] = np.where(same[left] == same[of], EXACT, NEAR)
    verdicts.of[at[left]], verdicts.distance[at[left]] = at[of], distance[twice]
    return verdicts


def kept_first(count: int, earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Which of some things are kept, one after another, each if none that was kept is near: bool of shape (count,).

    `earlier`, `later`: pairs that are near, int64 of shape (m,).
    """
    order, kept = np.argsort(earlier, kind="stable"), bytearray(b"\1") * count
    for start in range(0, len(order), 1_000_000):
        some = order[start : start + 1_000_000]
        for one, other in zip(earlier[some].tolist(), later[some].tolist()):
            if kept[one]:  # final: all that could speak against it came before
                kept[other] = 0
    return np.frombuffer(kept, bool)


def _numbered(values: np.ndarray) -> np.ndarray:
    """A number for each row of an array of shape (n, 2), equal for equal rows: int64 of shape (n,)."""
    order = np.lexsort((values[:, 1], values[:, 0]))
    new = np.any(np.diff(values[order], axis=0, prepend=values[order[:1]]) != 0, axis=1)
    numbers = np.empty(len(values), np.int64)
    numbers[order] = np.cumsum(new)
    return numbers


def _nearest(count: int, where: np.ndarray, distance: np.ndarray, what: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of `count` places the smallest distance and the first that is so near; -1 where there is none."""
    order = np.lexsort((what, distance, where))
    places, first = np.unique(where[order], return_index=True)
    best = np.full((2, count), -1)
    best[:, places] = distance[order[first]], what[order[first]]
    return best[0], best[1]


def open_stage(config: Config) -> MarkDuplicates | None:
    """Raises `UserError` for images to keep out that cannot be read."""
    if config.duplicates is None:
        return None
    return MarkDuplicates(config.duplicates, Excluded(find_excluded(config.duplicates.exclude)))

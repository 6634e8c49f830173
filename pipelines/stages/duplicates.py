"""Leaves out images that the corpus has already, or that are excluded.

A corpus step over the hashes of all images. Two images are near duplicates if both of their perceptual hashes are near:
by the 64-bit one alone, pages of one layout are equal whatever is written on them. A row is a duplicate of a *kept*
row. Rows that were kept before come first, then all others, both in the order of (partition, key), and each is kept if
no kept row is near it. So new rows never replace old ones, and a run that was killed half-way comes to the same result.
The pictures of conversations are compared only with what is excluded: the same picture with different turns teaches
something else. With `captions = "all"`, rows of one source image stay together: they are not duplicates of each other.
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
from pipelines.dedup.hamming import distances
from pipelines.dedup.two_hashes import near_in_both
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.corpus_stage import CorpusStage, Upstream
from pipelines.engine.parquet import Corrupt
from pipelines.engine.partition_stage import UPSTREAM
from pipelines.engine.root import Root
from schemas.arrow import Row
from schemas.config.model import Config
from schemas.duplicates import REASONS, STAGE, DuplicatesConfig
from schemas.views import literal, quoted

AT_ONCE = 256  # partitions that are read in one question
KEPT, EXACT, NEAR, EXCLUDED = range(4)
WORDS = (None, *REASONS)
BLANK = ((KEPT, np.int8), (-1, np.int64), (-1, np.int8), (-1, np.int64))


class ImageHashes(NamedTuple):
    """The columns that decide about n rows, in the order of (partition, key). Arrays of shape (n,) but for two."""

    partition: np.ndarray  # int32
    key: np.ndarray  # uint64
    sha256: np.ndarray  # uint64 of shape (n, 2): its first half
    phash: np.ndarray  # uint64
    phash256: np.ndarray  # uint64 of shape (n, 4); zeros: unknown
    present: np.ndarray  # bool: the row has an image, and nothing has left it out
    talked_of: np.ndarray  # bool: in a conversation
    kept_before: np.ndarray  # bool: with the same bytes and hash
    why: np.ndarray  # int32, position in a list of the reasons for which an earlier stage left it out; 0 for none
    image: np.ndarray  # uint64, equal for rows of one source image; 0 where that does not matter


class DuplicateMarks(NamedTuple):
    """What happens to n rows."""

    reason: np.ndarray  # int8, position in WORDS
    of: np.ndarray  # int64, the row that it duplicates; -1 for none
    distance: np.ndarray  # int8; -1 for none
    by: np.ndarray  # int64, the excluded file that holds it; -1 for none


@dataclass(frozen=True)
class MarkDuplicates(CorpusStage):
    config: DuplicatesConfig
    excluded: Excluded
    captions: tuple[str, ...] = ()  # sources in which each caption of an image is a row of its own; "" has no name

    info = STAGE
    version = 2  # near only if `phash256` is near too

    def settings(self) -> dict[str, Any]:
        more = {"exclude": self.excluded.digest} if self.config.exclude else {}
        return {"near": self.config.near} | more | ({"captions": [*self.captions]} if self.captions else {})

    def prepare(self) -> None:
        """Raises `UserError` if images cannot be excluded."""
        hashes = self.excluded.hashes
        lone = hashes.name[~hashes.has_sha256]
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
        self, images: ImageHashes, verdicts: DuplicateMarks, rows: slice, reasons: Sequence[str | None]
    ) -> Iterator[Row]:
        columns = (images.key, images.sha256[:, 0], images.phash, images.why, *verdicts)
        for key, sha256, phash, why, reason, of, distance, by in zip(
            *(column[rows].tolist() for column in columns), strict=True
        ):
            word, detail = (UPSTREAM, reasons[why]) if why else (WORDS[reason], None)
            if not why and by >= 0:
                detail = f"{self.excluded.files[by].name}, distance {distance}"
            yield {
                "key": f"{key:016x}",
                "of": f"{images.key[of]:016x}" if reason in (EXACT, NEAR) else None,
                "distance": distance if reason else None,
                "reason": word,
                "detail": detail,
                "made_from": f"{sha256:016x}{phash:016x}",
            }


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


def read_images(
    root: Root, stage: MarkDuplicates, partitions: Sequence[int], done: Collection[int]
) -> tuple[ImageHashes, list[str | None]]:
    """The columns that decide about all rows, and the details that `ImageHashes.why` points to.

    `done`: partitions with a file of this stage. Raises `Corrupt` for a file that DuckDB cannot read.
    """
    own = [name for name, columns in stage.inputs.items() if "reason" in (columns or ()) and name != "images"]
    facts = facts_sql(own, stage.captions)
    reasons: dict[str | None, int] = {None: 0}
    read = []
    for start in range(0, len(partitions), AT_ONCE):
        batch = partitions[start : start + AT_ONCE]
        files = stage_files(root, [info for info in stage.earlier if info.name in stage.inputs], batch)
        files |= stage_files(root, [stage.info], [partition for partition in batch if partition in done])
        with connect(root, files, stage.earlier, [facts]) as connection:
            try:
                read += [_images(rows, reasons) for rows in connection.sql(facts).to_arrow_reader(100_000)]
            except duckdb.Error as error:
                raise Corrupt(f"duplicates: {one_line(error)}") from None
    return ImageHashes(*map(np.concatenate, zip(*read, strict=True))), list(reasons)


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


# Judging


def judge(images: ImageHashes, excluded: Hashes, near: int) -> DuplicateMarks:
    """What happens to each row. It depends on what is excluded, the order of rows, and which were kept before.

    `near`: bits in which perceptual hashes may differ; -1 for none, when only equal bytes count.
    """
    rows = np.flatnonzero(images.present)
    numbered, _ = numbers_of(np.concatenate([images.sha256[rows], excluded.sha256[excluded.has_sha256]]))
    same, same_excluded = np.split(numbered, [len(rows)])  # equal bytes have one number
    look, pairs, apart = same, np.empty((2, 0), np.int64), np.empty(0, np.int8)
    look_excluded, looks = np.empty(0, np.int64), numbered.max(initial=-1) + 1
    if near >= 0:
        phash, phash256 = np.full(looks, ~np.uint64(0)), np.zeros((looks, 4), np.uint64)
        np.minimum.at(phash, same, images.phash[rows])  # one for equal bytes, whichever version measured them
        np.maximum.at(phash256, same, images.phash256[rows])  # equal, or unknown
        hashes = np.column_stack([phash, phash256])[same]
        listed = np.zeros((int(excluded.has_phash.sum()), hashes.shape[1]), np.uint64)
        listed[:, 0] = excluded.phash[excluded.has_phash]  # its second hash is unknown: the first one decides
        look, first = numbers_of(np.concatenate([hashes, listed]))
        hashes = np.concatenate([hashes, listed])[first]
        (look, look_excluded), looks = np.split(look, [len(rows)]), len(hashes)  # equal hashes have one number
        pairs = np.concatenate([pairs, *map(np.stack, near_in_both(hashes[:, 0], hashes[:, 1:], near))], axis=1)
        apart = distances(*hashes[:, 0][pairs]).astype(np.int8)
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
    verdicts.reason[rows] = np.where(by >= 0, EXCLUDED, KEPT)
    verdicts.distance[rows], verdicts.by[rows] = distance, by

    # The other rows: the first row of each look represents it, and is kept if no kept look is near
    left = np.flatnonzero((by < 0) & ~images.talked_of[rows])
    order = left[np.argsort(~images.kept_before[rows[left]], kind="stable")]
    seen, first = np.unique(look[order], return_index=True)
    rank, stands = np.full((2, looks), -1)
    rank[seen], stands[seen] = first, order[first]
    later = (rank[one] >= 0) & (rank[one] < rank[other])
    kept = np.zeros(looks, bool)
    kept[seen] = kept_first(len(order), rank[one[later]], rank[other[later]])[first]
    near_kept = kept[one] & (rank[other] >= 0)
    distance, of = _nearest(looks, other[near_kept], apart[near_kept], stands[one[near_kept]])
    distance, of = np.where(kept, 0, distance)[look[left]], np.where(kept, stands, of)[look[left]]
    twice = (of != left) & ~same_image(images.image[rows], left, of)
    left, of = left[twice], of[twice]
    verdicts.reason[rows[left]] = np.where(same[left] == same[of], EXACT, NEAR)
    verdicts.of[rows[left]], verdicts.distance[rows[left]] = rows[of], distance[twice]
    return verdicts


def same_image(image: np.ndarray, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each of these rows is of one source image with the other: bool of shape (n,). `image`: 0 for no image."""
    return (image[rows] == image[others]) & (image[rows] != 0)


def kept_first(count: int, earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Which of `count` things are kept, one after another, each if no kept one is near: bool of shape (count,).

    `earlier`, `later`: pairs that are near, int64 of shape (m,).
    """
    order, kept = np.argsort(earlier, kind="stable"), bytearray(b"\1") * count
    for start in range(0, len(order), 1_000_000):
        pairs = order[start : start + 1_000_000]
        for one, other in zip(earlier[pairs].tolist(), later[pairs].tolist(), strict=True):
            if kept[one]:  # final: every pair that could drop it came before
                kept[other] = 0
    return np.frombuffer(kept, bool)


def numbers_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A number for each row of an array of shape (n, k), equal for equal rows and in their order: int64 of shape (n,).
    And of each number the position of one of its rows."""
    order = np.lexsort(values.T[::-1])
    new = np.any(np.diff(values[order], axis=0, prepend=~values[order[:1]]) != 0, axis=1)
    numbers = np.empty(len(values), np.int64)
    numbers[order] = np.cumsum(new) - 1
    return numbers, order[new]


def _nearest(count: int, where: np.ndarray, distance: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of `count` places the smallest distance and the smallest value that is so near; -1 if there is none."""
    order = np.lexsort((value, distance, where))
    places, first = np.unique(where[order], return_index=True)
    best = np.full((2, count), -1)
    best[:, places] = distance[order[first]], value[order[first]]
    return best[0], best[1]


def open_stage(config: Config) -> MarkDuplicates | None:
    """Raises `UserError` for images to keep out that cannot be read."""
    if config.duplicates is None:
        return None
    captions = tuple(source.name or "" for source in config.source if getattr(source, "captions", None) == "all")
    return MarkDuplicates(config.duplicates, Excluded(find_excluded(config.duplicates.exclude)), captions)

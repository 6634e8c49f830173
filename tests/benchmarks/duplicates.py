"""Duplicates among millions of hashes, a whole corpus judged, and how well near hashes find near pictures.

    python tests/benchmarks/duplicates.py [--hashes 5000000] [--partitions 1000] [--pictures 4000]

`hashes`: rows with random 64-bit hashes, 200,000 of them equal to another one and 50,000 each 1, 2, 3 and 4 bits away
from one. Each pair planted up to 3 bits apart must be found, and no pair beyond; the neighbours found of some are
those there are when these are compared with all others. `like_images`: as many hashes whose bits are unbalanced and
follow each other, as those of images do. `corpus`: the step over committed partitions of 1,000 rows, from nothing; with
one more partition, which holds duplicates of old rows; and when nothing changed. `pictures`: generated scenes with
planted duplicates, judged at each distance. `large`: rows that are drawn part by part and never held, one of ten near a
row of the part before; only if it is asked for (`--large 100000000`). Each part is measured in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipelines.dedup.decontamination import Excluded, Hashes
from pipelines.dedup.hamming import distances, near_pairs
from pipelines.dedup.judgement import KEPT, ImageHashes, judge
from pipelines.dedup.suspects import judged
from pipelines.engine.commit import Commit, canonical, completed, digest
from pipelines.engine.commit_cache import read_commits
from pipelines.engine.ledger import Ledger
from pipelines.engine.parquet import parquet_bytes
from pipelines.engine.partition_stage import Rejected
from pipelines.engine.root import Root
from pipelines.sources.scenes import Scenes
from pipelines.stages.duplicates import MarkDuplicates
from pipelines.stages.images import inspect
from schemas.config.sources import ScenesConfig
from schemas.duplicates import DuplicatesConfig
from schemas.images import ImagesConfig
from schemas.views import STAGES

NEAR, EQUAL, EACH = 3, 200_000, 50_000
NOTHING = Hashes(
    *(np.empty(shape, kind) for shape, kind in ((0, int), ((0, 2), "u8"), (0, bool), (0, "u8"), (0, bool)))
)


def peak() -> int:
    """The most memory that this process has held, MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


def images_of(phash: np.ndarray, contents: np.ndarray | None = None, phash256: np.ndarray | None = None) -> ImageHashes:
    """Rows with these hashes, a thousand a partition, whose bytes all differ if not said otherwise."""
    numbers, none = np.arange(len(phash)), np.zeros(len(phash), bool)
    high = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) if contents is None else contents
    return ImageHashes(
        (numbers // 1000).astype(np.int32), numbers.astype(np.uint64), np.stack([high, high], axis=1), phash,
        np.zeros((len(phash), 4), np.uint64) if phash256 is None else phash256, ~none,
        none, none, none.astype(np.int8), none.astype(np.uint64),
    )  # fmt: skip


def words_of(phash256: str) -> list[int]:
    """The four words of a 256-bit hash."""
    return [int(phash256[at : at + 16], 16) for at in range(0, 64, 16)]


# Hashes


def turned(hashes: np.ndarray, bits: int, draws: np.random.Generator) -> np.ndarray:
    """Hashes with so many bits turned."""
    places = np.argsort(draws.random((len(hashes), 64)), axis=1)[:, :bits].astype(np.uint64)
    return hashes ^ np.bitwise_or.reduce(np.uint64(1) << places, axis=1)


def hashes(count: int) -> dict[str, Any]:
    draws = np.random.default_rng(0)
    own = draws.integers(0, 2**64, count - EQUAL - 4 * EACH, dtype=np.uint64)
    planted = [(own[n * EACH : (n + 1) * EACH], n + 1) for n in range(4)]
    near = [turned(some, bits, draws) for some, bits in planted]
    phash = np.concatenate([own, own[-EQUAL:], *near])
    started = time.perf_counter()
    unique = np.unique(phash)
    pairs = np.concatenate([np.sort(np.stack(some), axis=0) for some in near_pairs(unique, NEAR)], axis=1)
    seconds = time.perf_counter() - started
    found = pairs[0] * len(unique) + pairs[1]
    missed = 0
    for (some, bits), other in zip(planted, near, strict=True):
        ends = np.sort(np.searchsorted(unique, np.stack([some, other])), axis=0)
        is_there = np.isin(ends[0] * len(unique) + ends[1], found)
        missed += int((~is_there).sum()) if bits <= NEAR else int(is_there.sum())
    wrong = int((distances(*unique[pairs]) > NEAR).sum()) + len(found) - len(np.unique(found))
    for one in draws.choice(len(unique), 500, replace=False):
        expected = np.flatnonzero(distances(unique, unique[one]) <= NEAR)
        neighbours = np.concatenate([pairs[1][pairs[0] == one], pairs[0][pairs[1] == one], [one]])
        wrong += len(np.setxor1d(expected, neighbours))
    started = time.perf_counter()
    verdicts = judge(images_of(phash), NOTHING, NEAR)
    whole = time.perf_counter() - started
    return {
        "rows": count, "pairs": len(found), "seconds": round(seconds, 1), "missed": missed, "wrong": wrong,
        "judged_seconds": round(whole, 1), "left_out": int((verdicts.reason != KEPT).sum()), "peak_MB": peak(),
    }  # fmt: skip


def like_images(count: int) -> dict[str, Any]:
    """Bits that are set in 5 to 95 % of the hashes and follow one of eight others, around a thousand frequent ones."""
    draws = np.random.default_rng(0)
    values = np.zeros(count, np.uint64)
    leads = [draws.random(count) < share for share in draws.uniform(0.05, 0.95, 8)]
    for bit in range(64):
        follows = np.where(draws.random(count) < 0.4, leads[bit % 8], draws.random(count) < draws.uniform(0.05, 0.95))
        values |= follows.astype(np.uint64) << np.uint64(bit)
    values[: count // 20] = turned(np.repeat(values[:1000], count // 20_000), 6, draws)
    values = np.unique(values)
    started = time.perf_counter()
    found = sum(len(one) for one, _ in near_pairs(values, NEAR))
    return {
        "hashes": len(values),
        "pairs": found,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_MB": peak(),
    }


# A corpus


def write_partition(root: Root, number: int, draws: np.random.Generator, old: list[tuple[str, str]]) -> None:
    """A thousand rows and images, of which a hundred have the bytes of old ones, and a hundred are near them."""
    keys = sorted(f"{key:016x}" for key in draws.choice(2**63, 1000))
    known = [(draws.bytes(32).hex(), draws.bytes(8).hex()) for _ in keys]
    for n in range(200) if old else ():
        content, phash = old[draws.integers(len(old))]
        known[n] = (content, phash) if n < 100 else (known[n][0], f"{int(phash, 16) ^ 0b101:016x}")
    old += known[200:]
    for stage in ("rows", "images"):
        schema = STAGES[stage].schema
        blank = {field.name: None if field.nullable else "" for field in schema}
        rows = [
            {**blank, "key": key} | ({"sha256": content, "phash": phash} if stage == "images" else {})
            for key, (content, phash) in zip(keys, known, strict=True)
        ]
        commit = completed(Commit(stage, number, 1, {}, {}, digest(number)), rows, schema)
        root.write(f"{stage}/{number:05d}.parquet", parquet_bytes(rows, schema, canonical(asdict(commit)).decode()))


def corpus(partitions: int) -> dict[str, Any]:
    draws, old = np.random.default_rng(0), []
    said: dict[str, Any] = {"rows": 1000 * partitions}
    with tempfile.TemporaryDirectory() as folder:
        root = Root(folder)
        for number in range(partitions):
            write_partition(root, number, draws, old)
        for what in ("from_nothing", "one_more", "nothing_new"):
            if what == "one_more":
                write_partition(root, partitions, draws, old)
            step = MarkDuplicates(DuplicatesConfig(), Excluded(()), earlier=(STAGES["rows"], STAGES["images"]))
            ledger = Ledger.start(root, what, "0")
            started = time.perf_counter()
            upstream = {stage: read_commits(root, stage, write=True) for stage in ("rows", "images")}
            if not step.is_current(root, upstream, read_commits(root, step.name, write=True)):
                step.run(root, ledger, upstream)
            seconds = round(time.perf_counter() - started, 1)
            said[what] = {"seconds": seconds, "written": ledger.done(step.name), "peak_MB": peak()}
        reasons = Counter()
        for commit in read_commits(root, "duplicates").values():
            reasons.update(commit.reasons)
    return said | {"reasons": reasons}


# A corpus that is not held


class Drawn:
    """Rows with random hashes, a million a part. One of ten is two bits away from a row of the part before."""

    def __init__(self, rows: int):
        self.rows, self.each = rows, min(rows, 1_000_000)

    def draw(self, number: int) -> np.ndarray:
        return np.random.default_rng(number).integers(0, 2**64, min(self.each, self.rows - number * self.each), "u8")

    def __iter__(self) -> Iterator[ImageHashes]:
        before = None
        for number in range(-(-self.rows // self.each)):
            own = self.draw(number)
            phash, planted = own.copy(), len(own) // 10
            if before is not None:
                phash[:planted] = before[-planted:] ^ np.uint64(0b101 << 20)
            yield images_of(phash, np.random.default_rng([number, 1]).integers(0, 2**64, len(own), "u8"))
            before = own


def large(count: int) -> dict[str, Any]:
    drawn, reasons = Drawn(count), np.zeros(4, int)
    started = time.process_time()
    for _, marks, _ in judged(drawn, NOTHING, NEAR):
        reasons += np.bincount(marks.reason, minlength=4)
    planted = sum(len(drawn.draw(number)) // 10 for number in range(1, -(-count // drawn.each)))
    return {
        "rows": count, "planted": planted, "left_out": int(reasons[1:].sum()), "peak_MB": peak(),
        "processor_seconds": round(time.process_time() - started, 1),
    }  # fmt: skip


# Pictures


def pictures(count: int) -> dict[str, Any]:
    """What is left out, against what was planted: pictures encoded again, the near ones scaled by up to 10 % before."""
    source = Scenes(ScenesConfig(count=count, planted=0.3))
    phash, phash256, contents, scene, planted = [], [], [], [], []
    for file in source.files():
        for row in source.rows(file.path):
            data = source.load(row)
            try:
                said = inspect(data, ImagesConfig())
            except Rejected:
                continue
            extra = row["extra"]
            phash.append(int(said["phash"], 16))
            phash256.append(words_of(said["phash256"]))
            contents.append(int(sha256(data).hexdigest()[:16], 16))
            scene.append(int(row["member"]) if extra["of"] is None else extra["of"])
            planted.append(extra["planted"])
    scene = np.array(scene)
    images = images_of(*(np.array(column, np.uint64) for column in (phash, contents, phash256)))
    order = np.array([sum(scene[:n] == scene[n]) > 0 for n in range(len(scene))])  # there is an earlier one of it
    found = {}
    for near in range(-1, 9):
        verdicts = judge(images, NOTHING, near)
        out = verdicts.reason != KEPT
        right = out & (scene[verdicts.of] == scene)
        found[near] = {
            "recall": {
                kind: round(float(right[(np.array(planted) == kind) & order].mean()), 4)
                for kind in ("duplicate", "near_duplicate")
            },
            "precision": round(float(right.sum() / max(out.sum(), 1)), 4), "left_out": int(out.sum()),
            "wrongly": int((out & ~right).sum()),
        }  # fmt: skip
    return {"pictures": len(scene), "planted": Counter(planted), "at_distance": found}


PARTS = {"large": large, "hashes": hashes, "like_images": like_images, "corpus": corpus, "pictures": pictures}


def main(options: argparse.Namespace) -> None:
    if options.part:
        print(json.dumps(PARTS[options.part](options.size)))
        return
    said: dict[str, Any] = {
        "benchmark": "duplicates",
        "bars": {"seconds": 60, "peak_MB": 4000, "missed": 0, "wrong": 0},
    }
    sizes = {
        "hashes": options.hashes,
        "like_images": options.hashes,
        "corpus": options.partitions,
        "pictures": options.pictures,
    } | ({"large": options.large} if options.large else {})
    for part, size in sizes.items():
        command = [sys.executable, __file__, "--part", part, "--size", str(size)]
        said[part] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    said["ratio_to_uniform"] = round(said["like_images"]["seconds"] / said["hashes"]["seconds"], 1)
    print(json.dumps(said))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hashes", type=int, default=5_000_000)
    parser.add_argument("--partitions", type=int, default=1_000)
    parser.add_argument("--pictures", type=int, default=4_000)
    parser.add_argument("--large", type=int, help="rows of a corpus that is never held; none if not given")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    main(parser.parse_args())

"""Questions to the catalog of a large corpus, and `plan` on one of many partitions: seconds against their bars.

    python tests/benchmarks/catalog.py [--files 1000] [--rows 10000] [--partitions 100000]

Both corpora are made up, true to every schema: of the first each stage has `files` Parquet files of `rows` rows, in the
second every partition of every stage has a file and a commit, and all is current.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipelines.build.corpus import Corpus, open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.catalog import open_catalog
from pipelines.engine.commit import Commit, fingerprint_of
from pipelines.engine.commit_cache import write_cache
from pipelines.engine.manifest import write_manifest
from pipelines.engine.parquet import table_bytes
from pipelines.engine.root import Root
from pipelines.stages.rows import settle
from schemas.stages import STAGES as TABLE
from schemas.stages import of_corpus

STAGES = {name: stage.schema for name, stage in of_corpus(TABLE).items()}

BARS = {"stage": 2.0, "accounting": 2.0, "yield_by_host": 2.0, "samples": 15.0, "plan": 10.0}
QUESTIONS = {
    "rows": "SELECT count(*), count(DISTINCT host), max(length(text)) FROM rows",
    "images": "SELECT reason, count(*), avg(width), sum(size) FROM images GROUP BY reason",
    "duplicates": "SELECT reason, count(*), avg(distance) FROM duplicates GROUP BY reason",
    "ocr": "SELECT verdict, count(*), avg(confidence) FROM ocr GROUP BY verdict",
    "selection": "SELECT reason, count(*), sum(len(samples)) FROM selection GROUP BY reason",
    "accounting": "FROM accounting",
    "yield_by_host": "FROM yield_by_host ORDER BY rows DESC LIMIT 10",
    "samples": "SELECT count(*), sum(width), sum(length(text)), sum(length(ocr_text)), count(reason) FROM samples",
}
LEFT = {"rows": (0.03, "no_image"), "images": (0.12, "unreadable"), "duplicates": (0.05, "near_duplicate"),
        "ocr": (0.001, "engine_failed"), "selection": (0.1, "not_selected")}  # fmt: skip
LINE = {"text": "OPEN DAILY", "confidence": 0.97, "box": [4.0, 4.0, 90.0, 4.0, 90.0, 20.0, 4.0, 20.0]}


# A corpus of many rows


def write_corpus(root: Path, number_of_files: int, rows: int) -> None:
    draws = np.random.default_rng(0)
    hosts = np.array([f"images{n}.example.com" for n in range(20_000)])
    for partition in range(number_of_files):
        keys = pa.array([f"{key:016x}" for key in np.unique(draws.integers(0, 2**63, rows))])
        host = hosts[(draws.zipf(1.3, len(keys)) - 1) % len(hosts)]
        said = {
            "key": keys, "host": host, "url": [f"https://{h}/photos/{n:08d}.jpg" for n, h in enumerate(host)],
            "text": [f"a caption of picture {n} in partition {partition}, as alt texts are" for n in range(len(keys))],
            "extra": ['{"similarity": 0.31, "punsafe": 0.01}'] * len(keys), "size": draws.integers(5e3, 5e4, len(keys)),
            "width": draws.integers(100, 2000, len(keys)), "height": draws.integers(100, 2000, len(keys)),
            "byte_offset": np.arange(len(keys)) * 50_000, "format": ["JPEG"] * len(keys),
            "sha256": [f"{n:064x}" for n in draws.integers(0, 2**62, len(keys))],
            "phash": [f"{n:016x}" for n in draws.integers(0, 2**62, len(keys))],
            "made_from": [f"{n:032x}" for n in draws.integers(0, 2**62, len(keys))],
        }  # fmt: skip
        there = np.ones(len(keys), bool)
        for stage, (share, word) in LEFT.items():
            schema = STAGES[stage]
            kept = there & (draws.random(len(keys)) >= share)
            reason = np.where(~there, "upstream", np.where(kept, None, word))
            own = {"key": keys, "made_from": said["made_from"], "reason": reason}
            if stage == "ocr":
                lines = [[LINE] if some and n % 3 == 0 else [] for n, some in enumerate(kept)]
                own |= {"lines": lines, "verdict": ["good" if line else "no_text" for line in lines]}
            elif stage == "selection":
                own["samples"] = [[{"set": "train", "task": "caption"}] if some else [] for some in kept]
            else:
                own |= {name: column for name, column in said.items() if name in schema.names}
            write_table(root / stage / f"{partition:05d}.parquet", schema, own, len(keys))
            there = kept
    (root / "root.json").write_text(json.dumps({"makes": ["images", "duplicates", "ocr"], "files": []}))


def write_table(path: Path, schema: pa.Schema, columns: dict[str, Any], rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns
        else pa.nulls(rows, field.type) if field.nullable else pa.array([[]] * rows, field.type)
        for field in schema
    ]  # fmt: skip
    path.write_bytes(table_bytes(pa.Table.from_arrays(arrays, schema=schema)))


# A corpus of many partitions

TOML = """
root = "corpus"
[source]
kind = "scenes"
count = {count}
rows_per_partition = 50
[duplicates]
[ocr]
"""  # no shard sets: their layout would look into the empty files


def write_partitions(folder: Path, partitions: int) -> Corpus:
    """A root of which every partition is current; its files are empty, as their commits are in the caches."""
    config = folder / "my.toml"
    config.write_text(TOML.format(count=50 * partitions))
    corpus = open_corpus(config)
    root = corpus.root
    settlement = settle(corpus.rows.values(), (), ())
    write_manifest(root, list(settlement.files), corpus.infos[1:], list(corpus.config.sets))
    for stage in STAGES:
        Path(root.path(stage)).mkdir(parents=True)
    numbers = settlement.partitions()
    made: dict[str, dict[int, Commit]] = {}
    stages = {"rows": corpus.rows[None], **corpus.made}
    for name, stage in stages.items():
        made[name] = {p: commit_of(stage, p, made) for p in numbers}
        for partition in made[name]:
            Path(root.path(stage.file(partition))).touch()
        write_cache(root, name, made[name].values())
    for name, stage in stages.items():
        if not hasattr(stage, "declared") and name != "rows":  # a corpus step has one fingerprint for all
            upstream = {s: made[s] for s in list(stages)[: list(stages).index(name)]}
            stage.note(root, upstream)
    print("written", file=sys.stderr, flush=True)
    return corpus


def commit_of(stage: Any, partition: int, made: dict[str, dict[int, Commit]]) -> Commit:
    digests = {c: sha256(f"{stage.name}/{partition}/{c}".encode()).hexdigest()[:32] for c in stage.schema.names}
    inputs = stage.declared({s: made[s][partition] for s in stage.reads}) if hasattr(stage, "declared") else {}
    fingerprint = fingerprint_of(stage.identity(), inputs or digests)
    commit = Commit(stage.name, partition, stage.version, stage.settings(), inputs, fingerprint, digests, 50, 50)
    return replace(commit, payload=f"{partition:05d}-{'0' * 16}.tar" if stage.name == "images" else None)


# Measuring


def seconds(ask: Callable[[], Any]) -> float:
    started = time.perf_counter()
    ask()
    return round(time.perf_counter() - started, 2)


def main(files_of_a_stage: int, rows: int, partitions: int) -> None:
    said: dict[str, Any] = {"benchmark": "catalog", "files": files_of_a_stage, "rows": files_of_a_stage * rows}
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder), files_of_a_stage, rows)
        root = Root(folder)
        with open_catalog(root) as connection:
            for name, sql in QUESTIONS.items():
                said[name] = min(seconds(connection.sql(sql).fetchall) for _ in range(2))
    print(said, file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_partitions(Path(folder), partitions)
        found = []
        said |= {"partitions": partitions, "plan": seconds(lambda: found.append(plan(corpus)))}
        said["to_make"] = found[0].work()
    said["missed"] = [name for name in [*QUESTIONS, "plan"] if said[name] > BARS.get(name, BARS["stage"])]
    print(json.dumps(said))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=int, default=1000, dest="files_of_a_stage")
    options.add_argument("--rows", type=int, default=10_000)
    options.add_argument("--partitions", type=int, default=100_000)
    main(**vars(options.parse_args()))

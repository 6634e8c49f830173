"""`report.html` of a large corpus: seconds, peak memory, and its size, each against those of a tenth of that corpus.

    python tests/benchmarks/report.py [--files 200] [--rows 5000]

The rows are made up, true to every schema; each partition has a tar with a picture, which is that of all its rows. The
report is written as by `shardmill report`, in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from catalog import LEFT, write_corpus
from support.corpora import picture

from pipelines.engine.commit import Commit, canonical
from pipelines.engine.ledger import Ledger
from pipelines.engine.parquet import FOOTER
from pipelines.engine.root import Root
from pipelines.engine.tar import TarWriter
from schemas.ledger import CHANGES
from schemas.stages import STAGES as TABLE
from schemas.stages import of_corpus

STAGES = {name: stage.schema for name, stage in of_corpus(TABLE).items() if name in LEFT}

HERE = Path(__file__).parents[2]
# Says its peak resident memory itself: what a parent learns of it begins with the parent's own.
REPORT = """
import re, sys
from flows.commands.arguments import open_root
from pipelines.reports.report import write_report

write_report(open_root(sys.argv[1]))
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def finish(root: Path) -> None:
    """Makes a corpus of bare tables whole: commits in footers, bytes of images, a ledger, a settled root."""
    partitions = len(list((root / "rows").iterdir()))
    for partition in range(partitions):
        payload, placed = write_images(root, partition)
        for stage, schema in STAGES.items():
            table = pq.read_table(root / stage / f"{partition:05d}.parquet", schema=schema)
            if stage == "images":
                for name, value in placed.items():
                    table = table.set_column(schema.get_field_index(name), name, pa.array([value] * len(table)))
            counts = {c["values"]: c["counts"] for c in table["reason"].drop_null().value_counts().to_pylist()}
            kept = len(table) - sum(counts.values())
            commit = Commit(stage, partition, 1, {}, {}, "", {}, len(table), kept, counts, payload)
            with pq.ParquetWriter(root / stage / f"{partition:05d}.parquet", schema, compression="zstd") as writer:
                writer.write_table(table)
                writer.add_key_value_metadata({FOOTER: canonical(asdict(commit)).decode()})
    settled = {"path": "made-up", "first": 0, "buckets": partitions, "split": "made-up"}
    stages = [stage for stage in STAGES if stage not in ("rows", "selection")]
    (root / "root.json").write_text(json.dumps({"makes": stages, "files": [settled]}))
    write_changes(root)


def write_changes(root: Path) -> None:
    """The ledger of a run that added every row, and changed one in ten besides."""
    ledger = Ledger.start(Root(str(root)), "made-up.toml", "0")
    for stage in STAGES:
        keys = pa.concat_tables(
            pq.read_table(path, columns=["key"]) for path in sorted((root / stage).glob("*.parquet"))
        )
        every = keys["key"].to_pylist()
        rows = [(key, "added", None, None) for key in every]
        rows += [(key, "changed", '{"text": "was"}', '{"text": "is"}') for key in every[::10]]
        columns = dict(zip(("key", "change", "before", "after"), zip(*rows, strict=True), strict=True))
        columns |= {"run": [ledger.run] * len(rows), "stage": [stage] * len(rows), "partition": [0] * len(rows)}
        table = pa.table([pa.array(columns[field.name], field.type) for field in CHANGES], schema=CHANGES)
        pq.write_table(table, root / "runs" / ledger.run / f"changes-{stage}.parquet")
    ledger.end("completed")


def write_images(root: Path, partition: int) -> tuple[str, dict]:
    """A tar with one picture; its name, and what the rows of its partition say of it."""
    data, _ = picture(partition)
    name = f"{partition:05d}-{sha256(data).hexdigest()[:16]}.tar"
    with open(root / "images" / name, "wb") as file:
        tar = TarWriter(file)
        offset = tar.add("0.png", data)
        tar.close()
    return name, {"byte_offset": offset, "size": len(data), "sha256": sha256(data).hexdigest()}


def measure(folder: str, files: int, rows: int) -> dict[str, float]:
    """Seconds, megabytes at the peak, and megabytes of the report."""
    root = Path(folder) / f"{files}"
    write_corpus(root, files, rows)
    finish(root)
    found = []
    for _ in range(2):  # the first one writes the caches of commits, as a run would have
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", REPORT, root], cwd=HERE, capture_output=True, text=True, check=True
        )
        found.append((time.perf_counter() - started, int(done.stdout.split()[-1]) / 1024))
    seconds, memory = found[-1]
    return {"seconds": seconds, "memory_mb": memory, "report_mb": (root / "report.html").stat().st_size / 1e6}


def main(files: int, rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        small, large = measure(folder, max(1, files // 10), rows), measure(folder, files, rows)
    print(json.dumps({
        "benchmark": "report", "rows": files * rows, **{name: round(value, 2) for name, value in large.items()},
        **{f"{name}_ratio": round(large[name] / small[name], 2) for name in large},
    }))  # fmt: skip


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=int, default=200)
    options.add_argument("--rows", type=int, default=5000)
    main(**vars(options.parse_args()))

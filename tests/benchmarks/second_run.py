"""What a second `shardmill run` takes when there is nothing to make: whole-process seconds.

    python tests/benchmarks/second_run.py [--repeats 5] [--images 2000] [--rows-per-partition 50]

A corpus of drawn scenes without OCR is made once; then the same command runs again some times. `made` counts what
the ledger says was made after the first run, `changed` the files under the root, the ledger's and caches included, that
came, went or have another SHA-256. Both must be 0.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq

HERE = Path(__file__).parents[2]
TOML = """
root = "corpus"
[source]
kind = "scenes"
count = {images}
rows_per_partition = {rows_per_partition}
[sets.train]
"""


def run(folder: Path) -> float:
    """Seconds of the whole process."""
    env = {
        **os.environ, "PYTHONPATH": str(HERE), "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "COLUMNS": "200",
    }  # fmt: skip
    started = time.perf_counter()
    command = [sys.executable, "-c", "from flows.cli import main; main()", "run", "my.toml"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - started


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest() for path in files}


def made(root: Path) -> int:
    """How many partitions and shards all runs together have made."""
    return sum(pq.read_metadata(path).num_rows for path in root.glob("runs/*/work-*.parquet"))


def main(repeats: int, images: int, rows_per_partition: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "my.toml").write_text(TOML.format(images=images, rows_per_partition=rows_per_partition))
        first, root = run(folder), folder / "corpus"
        before, made_before = digests(root), made(root)
        seconds = [run(folder) for _ in range(repeats)]
        after, made_after = digests(root), made(root)
        partitions = len(list((root / "rows").glob("[0-9]*.parquet")))
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    middle = statistics.median(seconds)
    print(json.dumps({
        "benchmark": "second_run", "images": images, "partitions": partitions, "files": len(before), "bar": 10,
        "first_seconds": round(first, 2), "second_seconds": round(middle, 2), "ratio": round(middle / first, 3),
        "made": made_after - made_before, "changed": len(changed), "seconds": [round(took, 2) for took in seconds],
    }))  # fmt: skip


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--images", type=int, default=2000)
    options.add_argument("--rows-per-partition", type=int, default=50)
    main(**vars(options.parse_args()))

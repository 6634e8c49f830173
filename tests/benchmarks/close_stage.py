"""What closing a stage costs the driver: memory, time and bytes of the ledger, by the rows of the corpus.

    python tests/benchmarks/close_stage.py [--partitions 100 1000 10000]

The notes are those of a first making, of 1,000 rows a partition, and of a run that changes every tenth row. Each
measurement runs in a process of its own; the peak is of its resident memory over what it had before.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

ROWS = 1000


def close(partitions: int, changed: int) -> dict:
    """Closes a stage of partitions that were made, or of which so many rows changed."""
    from pipelines.engine.ledger import Ledger
    from pipelines.engine.root import Root
    from schemas.ledger import MADE

    with tempfile.TemporaryDirectory() as folder:
        root, items = Root(folder), [f"{number:05d}" for number in range(partitions)]
        ledger = Ledger(root, "20260101T000000-aaaaaa")
        for number, item in enumerate(items):
            texts = {"before": '{"text":"a picture"}', "after": '{"text":"another picture"}'}
            rows = [{"key": f"{number:08x}{row:08x}", "change": "changed", **texts} for row in range(changed)]
            ledger.record("images", item, "f", rows or [MADE], partition=number, rows=ROWS, kept=ROWS, made=ROWS,
                          started=time.time())  # fmt: skip
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        ledger.close_stage("images", dict.fromkeys(items, "f"))
        seconds = time.process_time() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        size = sum(path.stat().st_size for path in Path(folder).glob("runs/*/*.parquet"))
    return {
        "rows": partitions * ROWS, "changed_a_partition": changed, "peak_mb": round(peak / 1024),
        "cpu_seconds": round(seconds, 2), "ledger_bytes": size,
    }  # fmt: skip


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("--partitions", type=int, nargs="+", default=[100, 1000, 10000])
    asked.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    options = asked.parse_args()
    if options.one:
        print(json.dumps(close(*options.one)))
        return
    found = []
    for partitions in options.partitions:
        for changed in (0, ROWS // 10):
            command = [sys.executable, __file__, "--one", str(partitions), str(changed)]
            found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(json.dumps({"benchmark": "close_stage", "found": found}))


if __name__ == "__main__":
    main()

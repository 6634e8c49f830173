"""How a corpus grows: the driver's memory, CPU time and bytes by the rows of a source, fitted and extrapolated.

    python tests/benchmarks/growth.py [--rows 30000 100000 1000000] [--until images] [--to 2300000000]

Each size is a real run from nothing, of LAION-like Parquet files of at most a million rows, without [fetch]: `images`
leaves every row out, and no picture is decoded. The driver is the process of `python -m pipelines.build` itself; `cpu`
is that of all processes of the run. What is measured is fitted as a + b x rows, by least squares of the relative error.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parents[2]
FILE = 1_000_000  # rows of a source file
TOML = """
root = "corpus"
[source]
kind = "laion"
path = "source"
"""
FITTED = ("driver_mb", "cpu_seconds", "root_mb", "partitions")


def write_source(folder: Path, rows: int) -> None:
    folder.mkdir()
    for number, start in enumerate(range(0, rows, FILE)):
        numbers = range(start, min(start + FILE, rows))
        table = pa.table({
            "url": [f"https://host{n % 99_991}.example.org/{n * 7919 % 1_000_003}/picture-{n}.jpg" for n in numbers],
            "caption": [f"picture {n}: a short caption, as people write them beside a picture" for n in numbers],
            "similarity": [0.3 + n % 97 / 1000 for n in numbers],
        })  # fmt: skip
        pq.write_table(table, folder / f"{number:05d}.parquet")


def measure(rows: int, until: str, folder: Path) -> dict:
    write_source(folder / "source", rows)
    (folder / "my.toml").write_text(TOML)
    command = [sys.executable, "-m", "pipelines.build", str(folder / "my.toml"), "--until", until]
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    peak, cpu = 0, {}
    while run.poll() is None:
        for pid in (run.pid, *session_of(folder)):
            cpu[pid] = max(cpu.get(pid, 0.0), cpu_of(pid))
        peak = max(peak, high_water(run.pid))
        time.sleep(0.5)
    if run.returncode:
        sys.exit(f"the run of {rows} rows failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu[run.pid] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    root = folder / "corpus"
    return {
        "rows": rows, "driver_mb": peak // 1024, "cpu_seconds": round(sum(cpu.values()), 1),
        "driver_cpu_seconds": round(cpu[run.pid], 1), "wall_seconds": round(time.monotonic() - began, 1),
        "partitions": len([*root.glob("rows/[0-9]*.parquet")]),
        "root_mb": round(sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) / 1e6, 1),
    }  # fmt: skip


def session_of(folder: Path) -> list[int]:
    """The processes that work for a run: their temporary folder is one of its own, and they name its root."""
    mark, found = f"SHARDMILL_GROWTH={folder}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def cpu_of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0


def high_water(pid: int) -> int:
    """The largest resident memory of a process so far, in KB."""
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0


def fit(found: list[dict], name: str, to: int) -> dict:
    """a + b x rows through the points, and what that says of `to` rows."""
    rows, values = (np.array([one[key] for one in found], float) for key in ("rows", name))
    weight = 1 / np.maximum(values, 1e-9)
    b, a = np.polyfit(rows, values, 1, w=weight)
    return {"a": round(float(a), 2), "b_per_million": round(float(b) * 1e6, 3), "at": round(float(a + b * to), 1)}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("--rows", type=int, nargs="+", default=[30_000, 100_000, 1_000_000])
    asked.add_argument("--until", default="images")
    asked.add_argument("--to", type=int, default=2_300_000_000)
    options = asked.parse_args()
    found = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["SHARDMILL_GROWTH"] = folder
            found.append(measure(rows, options.until, Path(folder)))
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    fitted = {name: fit(found, name, options.to) for name in FITTED} if len(found) > 1 else {}
    print(json.dumps({"benchmark": "growth", "until": options.until, "found": found, "to": options.to, "fit": fitted}))


if __name__ == "__main__":
    main()

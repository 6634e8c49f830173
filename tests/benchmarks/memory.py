"""What a run of 20,000 small images needs at its peak, against one of 2,000: memory must not grow with the corpus.

    python tests/benchmarks/memory.py [--repeats 1] [--few 2] [--many 20]

A source of WebDataset tars with 1,000 JPEGs each; no OCR; Beam as it is by default, a process a core. Memory is the
proportional set size (`Pss` in /proc/<pid>/smaps_rollup) summed over all processes of the run, every 0.15 s: pages that
forked workers share count once. `shardmill` is the command with all that Prefect starts; `pipelines` is the same work
by `python -m pipelines.build`, where that does not hide what grows.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parents[2]
EACH = 1000  # images a tar
TOML = """
root = "{name}-corpus"
[source]
kind = "webdataset"
path = "{name}"
[sets.train]
"""
COMMANDS = {
    "shardmill": ["-c", "from flows.cli import main; main()", "run"],
    "pipelines": ["-m", "pipelines.build"],
}


def write_source(folder: Path, tars: int) -> None:
    draws = random.Random(0)
    folder.mkdir()
    for tar_number in range(tars):
        with tarfile.open(folder / f"{tar_number:05d}.tar", "w") as tar:
            for number in range(EACH):
                image = BytesIO()
                Image.frombytes("RGB", (48, 48), draws.randbytes(3 * 48 * 48)).save(image, "JPEG", quality=50)
                for ext, data in (("jpg", image.getvalue()), ("txt", b"picture %d of tar %d" % (number, tar_number))):
                    info = tarfile.TarInfo(f"{tar_number:05d}{number:05d}.{ext}")
                    info.size = len(data)
                    tar.addfile(info, BytesIO(data))


def descendants(pid: int) -> Iterator[int]:
    """A process and all that it started; each comes before its children are looked for."""
    found = [pid]
    for parent in found:
        yield parent
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                found += map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            pass


def pss(pid: int) -> int:
    """Bytes; none when the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def what(pid: int) -> str:
    """A process by its command's telling part."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return "?"
    return next((w for w in words[1:] if w.count(".") and not w.startswith(("-", "/"))), words[0])[:40]


def peak(command: list[str], folder: Path) -> dict[str, object]:
    """Runs a command to its end; megabytes at the peak, when it was, and of which processes."""
    env = {
        **os.environ, "PYTHONPATH": str(HERE), "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }  # fmt: skip
    started, most, at, parts = time.monotonic(), 0, 0.0, {}
    with (folder / "log").open("w+b") as log:
        process = subprocess.Popen([sys.executable, *command], cwd=folder, env=env, stdout=log, stderr=log)
        try:
            while process.poll() is None:
                now = {pid: pss(pid) for pid in descendants(process.pid)}
                if sum(now.values()) > most:
                    most, at = sum(now.values()), time.monotonic() - started
                    parts = {f"{pid} {what(pid)}": round(size / 1e6) for pid, size in now.items()}
                time.sleep(0.15)
        finally:
            process.kill()
        if process.wait():
            sys.exit((folder / "log").read_text()[-3000:])
    return {"MB": most / 1e6, "at": round(at, 1), "seconds": round(time.monotonic() - started, 1), "parts": parts}


def main(repeats: int, few: int, many: int) -> None:
    runs: dict[str, dict[str, list]] = {name: {"few": [], "many": []} for name in COMMANDS}
    with tempfile.TemporaryDirectory() as temporary:
        for name, tars in (("few", few), ("many", many)):
            write_source(Path(temporary) / name, tars)
        for repeat in range(repeats):
            for command, words in COMMANDS.items():
                for name in ("few", "many"):
                    config = Path(temporary) / f"{command}-{name}-{repeat}.toml"
                    config.write_text(TOML.format(name=name).replace("-corpus", f"-{command}-{repeat}"))
                    runs[command][name].append(peak([*words, config.name], Path(temporary)))
    ratio = {
        c: round(statistics.median(b["MB"] / a["MB"] for a, b in zip(sides["few"], sides["many"], strict=True)), 3)
        for c, sides in runs.items()
    }
    print(json.dumps({
        "benchmark": "memory", "images": [few * EACH, many * EACH], "repeats": repeats, "bar": 1.2, "ratio": ratio,
        "peak_MB": {c: {n: [round(run["MB"]) for run in some] for n, some in s.items()} for c, s in runs.items()},
        "at_peak": {c: {n: some[0] | {"MB": round(some[0]["MB"])} for n, some in s.items()} for c, s in runs.items()},
    }))  # fmt: skip


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=1)
    options.add_argument("--few", type=int, default=2, help="tars of 1,000 images")
    options.add_argument("--many", type=int, default=20, help="tars of 1,000 images")
    main(**vars(options.parse_args()))

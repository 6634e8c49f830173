"""What a run takes beside its work: processor seconds of small corpora, and seconds until a stage has its first item.

    python tests/benchmarks/start.py [--repeats 3] [--without prefect]

- `ten`: ten pictures by `python -m pipelines.build`, with OCR and one shard set: processor seconds of all processes.
- `prefect`: the same by `shardmill run`, with Prefect's temporary server: processor seconds more than that.
- `rows`: 5,000 URLs through `rows` and `images`, that nobody asks for: seconds of the whole process.
- `stage`: seconds from the begin of a stage to its first item, where another stage was made before in the same run.
- `nothing`: seconds of the whole process where there is nothing to make.

Each is the least of some repeats, as what else the machine does only adds. Modules are compiled before, as `pip` leaves
them: PYTHONPYCACHEPREFIX is a folder that one run fills. `ratio` is the worst of figure / bar.
"""

import argparse
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from support.corpora import picture

from pipelines.engine.root import Root
from pipelines.engine.workers import Workers
from schemas.config.model import BeamConfig

HERE = Path(__file__).parents[2]
BARS = {"ten": 8.0, "prefect": 10.0, "rows": 5.0, "stage": 0.5, "nothing": 1.0}
SUBREAPER = 36  # prctl's PR_SET_CHILD_SUBREAPER: whoever loses its parent is ours, and so is its time
PICTURES = 'root = "corpus"\n[source]\nkind = "folder"\npath = "pictures"\n[ocr]\n[sets.train]\n'
URLS = 'root = "corpus"\n[source]\nkind = "laion"\npath = "urls"\n'
BUILD = ["-P", "-m", "pipelines.build", "my.toml"]
SHARDMILL = ["-P", "-c", "from flows.cli import main; main()", "run", "my.toml"]


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(command: list[str], folder: Path, cache: Path) -> dict[str, float]:
    """Seconds of a process, and processor seconds of all that it started, killed ones included."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env |= {"PYTHONPATH": str(HERE), "PYTHONPYCACHEPREFIX": str(cache), "PREFECT_HOME": str(cache / "prefect")}
    before, started = cpu(), time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    with suppress(ChildProcessError):
        while True:
            os.wait()
    return {"seconds": seconds, "cpu": cpu() - before}


@dataclass(frozen=True)
class Notes:
    """Work that notes when it is done."""

    path: Path

    name = "notes"

    def make(self, item: int) -> None:
        self.path.write_text(str(time.time()))


def stage_seconds(folder: Path, repeats: int) -> list[float]:
    took = []
    with Workers(BeamConfig(), Root(str(folder))) as workers:
        for _ in range(repeats + 1):
            began = time.time()
            workers.make(Notes(folder / "at"), [1], "log", lambda: None)
            took.append(float((folder / "at").read_text()) - began)
    return took[1:]


def prepare(folder: Path) -> None:
    for name, toml in (("ten", PICTURES), ("rows", URLS)):
        (folder / name).mkdir()
        (folder / name / "my.toml").write_text(toml)
    (folder / "ten/pictures").mkdir()
    for number in range(10):
        (folder / f"ten/pictures/{number}.png").write_bytes(picture(number)[0])
        (folder / f"ten/pictures/{number}.txt").write_text(f"picture {number}")
    (folder / "rows/urls").mkdir()
    urls = [f"https://example.org/{number}.jpg" for number in range(5000)]
    pq.write_table(
        pa.table({"URL": urls, "TEXT": [f"picture {n}" for n in range(5000)]}), folder / "rows/urls/0.parquet"
    )


def main(repeats: int, without: list[str]) -> None:
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    found: dict[str, list[float]] = {name: [] for name in BARS if name not in without}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder, cache = Path(temporary), Path(temporary) / "cache"
        prepare(folder)
        for repeat in range(repeats + 1):  # the first one compiles
            figures = {}
            shutil.rmtree(folder / "ten/corpus", ignore_errors=True)
            figures["ten"] = measured(BUILD, folder / "ten", cache)["cpu"]
            figures["nothing"] = measured(BUILD, folder / "ten", cache)["seconds"]
            if "prefect" in found:
                shutil.rmtree(folder / "ten/corpus")
                figures["prefect"] = measured(SHARDMILL, folder / "ten", cache)["cpu"] - figures["ten"]
            shutil.rmtree(folder / "rows/corpus", ignore_errors=True)
            figures["rows"] = measured([*BUILD, "--until", "images"], folder / "rows", cache)["seconds"]
            for name in figures if repeat else ():
                found[name].append(figures[name])
        found["stage"] = stage_seconds(folder, repeats)
    least = {name: min(some) for name, some in found.items()}
    print(json.dumps({
        "benchmark": "start", "repeats": repeats, "bar": 1.0,
        "ratio": round(max(least[name] / BARS[name] for name in least), 2),
        **{name: round(figure, 2) for name, figure in least.items()}, "bars": BARS,
        "all": {name: [round(figure, 2) for figure in some] for name, some in found.items()},
    }))  # fmt: skip


if __name__ == "__main__":
    import start  # under its own name, so that workers can import it too

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--without", nargs="*", default=[], choices=BARS)
    start.main(**vars(options.parse_args()))

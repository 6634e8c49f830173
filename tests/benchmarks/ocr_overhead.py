"""What Shardmill adds to OCR: its stage against a bare two-process loop over the same engine and 500 drawn scenes.

    python tests/benchmarks/ocr_overhead.py [--repeats 1] [--images 500]

Ours is the real job: Beam with two worker processes, `make_partition`, rows committed and fsynced, the
ledger, the parent that polls it. Bare is two processes that take the next image off a counter, read its file, decode it
and keep the engine's lines: no digests, no order of lines, nothing written.

Model load is left out on both sides in the same way: each process loads the engine and waits until both have; the
clock runs from there to the end of the last image (the last commit). What Beam takes to start and end, a few seconds a
stage whatever its size, stands beside it as `around`.

Both sides run at the same time, but in turns of two seconds, in which the other side's processes are stopped: so what
else the machine does falls on both alike. A side's seconds are those of its own turns. `cpu_ratio` is the processor
time of the working processes over the same stretch.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import contextlib

from memory import descendants

from pipelines.build.corpus import open_corpus
from pipelines.build.run import begin, run_stage
from pipelines.engine.child import ONE_THREAD
from pipelines.engine.make_partition import MakePartitions
from pipelines.engine.parquet import read_rows
from pipelines.engine.payload import read_payload
from pipelines.engine.worker import Work
from pipelines.ocr.engines import load_engine
from pipelines.stages.ocr import pixels

WORKERS = 2
TURN = 2.0  # seconds
TOML = """
root = "corpus"
[source]
kind = "scenes"
planted = 0
count = {images}
rows_per_partition = 25
[ocr]
[beam]
options = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
"""
spawn = multiprocessing.get_context("spawn")


# The clock


def now() -> tuple[float, float]:
    """The clock and this process's processor time, seconds."""
    return time.time(), time.process_time()


def wait_for_all(folder: Path) -> None:
    """Marks this process as ready, and goes on once all are."""
    (folder / f"{os.getpid()}.ready").touch()
    until = time.monotonic() + 300
    while len(list(folder.glob("*.ready"))) < WORKERS:
        if time.monotonic() > until:
            raise TimeoutError(f"not all {WORKERS} processes came")
        time.sleep(0.005)


def take_turns(sides: list[multiprocessing.Process]) -> list[list[tuple[float, float]]]:
    """Starts processes and lets one at a time run, with all that it starts, until all are done; when each had turns."""
    turns: list[list[tuple[float, float]]] = [[] for _ in sides]
    try:
        for side in sides:
            side.start()
            send(side, signal.SIGSTOP)
        while any(side.is_alive() for side in sides):
            for side, had in zip(sides, turns, strict=True):
                started = time.time()
                send(side, signal.SIGCONT)
                side.join(TURN)
                send(side, signal.SIGSTOP)
                had.append((started, time.time()))
        return turns
    finally:
        for side in sides:
            send(side, signal.SIGKILL)


def send(side: multiprocessing.Process, what: int) -> None:
    for pid in descendants(side.pid) if side.is_alive() else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, what)


def measured(folder: Path, turns: list[tuple[float, float]]) -> dict[str, float]:
    """Of a side's own turns, the seconds from the first start to the last end; and all its processor seconds."""
    clocks = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    assert len(clocks) == WORKERS
    first, last = min(start[0] for start, _ in clocks), max(end[0] for _, end in clocks)
    seconds = sum(max(0.0, min(end, last) - max(start, first)) for start, end in turns)
    cpu = [end[1] - start[1] for start, end in clocks]
    around = sum(end - start for start, end in turns) - seconds
    return {"seconds": seconds, "cpu": sum(cpu), "longest_cpu": max(cpu), "around": around}


# The sides


@dataclass(frozen=True)
class Clocked:
    """Another work with a clock: it starts in each process once the engine is loaded in all of them."""

    work: Work
    folder: Path

    @property
    def name(self) -> str:
        return self.work.name

    def make(self, item: Any) -> None:
        clock = self.folder / f"{os.getpid()}.json"
        if not clock.exists():
            load_engine("rapidocr")
            wait_for_all(self.folder)
            clock.write_text(json.dumps([now()]))
        self.work.make(item)
        clock.write_text(json.dumps([json.loads(clock.read_text())[0], now()]))


def shardmill(config: Path, folder: Path) -> None:
    """The OCR stage from nothing."""
    corpus = open_corpus(config)
    shutil.rmtree(corpus.root.path("ocr"), ignore_errors=True)
    images = corpus.commits("images")["images"]
    items = sorted(images, key=lambda partition: (-images[partition].rows, partition))
    with begin(corpus) as run:
        work = Clocked(MakePartitions(corpus.made["ocr"], corpus.root, run.ledger), folder)
        run.workers.make(work, items, f"runs/{run.ledger.run}/ocr.log", lambda: run.ledger.done("ocr"))


def bare(files: list[Path], folder: Path) -> None:
    """Two processes over one counter."""
    os.setsid()  # as a run does: where the kernel shares the processor out by sessions, both get an equal part
    counter = spawn.Value("i", 0)
    processes = [spawn.Process(target=loop, args=(files, counter, folder)) for _ in range(WORKERS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def loop(files: list[Path], counter, folder: Path) -> None:
    engine = load_engine("rapidocr")
    wait_for_all(folder)
    start, lines = now(), []
    while True:
        with counter.get_lock():
            number, counter.value = counter.value, counter.value + 1
        if number >= len(files):
            break
        lines.append(engine.read(pixels(files[number].read_bytes())))
    (folder / f"{os.getpid()}.json").write_text(json.dumps([start, now()]))


def prepare(folder: Path, images: int) -> tuple[Path, list[Path]]:
    """A corpus up to its images, and the same images as plain files."""
    config = folder / "my.toml"
    config.write_text(TOML.format(images=images))
    corpus, files = open_corpus(config), []
    with begin(corpus) as run:
        for stage in corpus.stages("images"):
            run_stage(run, stage)
    for partition, commit in corpus.commits("images")["images"].items():
        for row in read_rows(corpus.root, f"images/{partition:05d}.parquet"):
            files.append(folder / f"{row['key']}.png")
            files[-1].write_bytes(read_payload(corpus.root, "images", row | {"payload": commit.payload}))
    return config, files


def main(repeats: int, images: int) -> None:
    os.environ.update(ONE_THREAD)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing stays behind, stopped
    pairs = []
    with tempfile.TemporaryDirectory() as temporary:
        config, files = prepare(Path(temporary), images)
        for repeat in range(repeats):
            folders = [Path(temporary) / f"{side}-{repeat}" for side in ("shardmill", "bare")]
            for folder in folders:
                folder.mkdir()
            works = zip((shardmill, bare), (config, files), folders, strict=True)
            sides = [spawn.Process(target=side, args=(of, folder)) for side, of, folder in works]
            turns = take_turns(sides)
            pairs.append([measured(folder, had) for folder, had in zip(folders, turns, strict=True)])
        partitions = len(open_corpus(config).commits("ocr")["ocr"])
    ratios = {what: [ours[what] / theirs[what] for ours, theirs in pairs] for what in ("seconds", "cpu", "longest_cpu")}
    middle = {what: round(statistics.median(some), 3) for what, some in ratios.items()}
    print(json.dumps({
        "benchmark": "ocr_overhead", "images": len(files), "partitions": partitions, "repeats": repeats, "bar": 1.10,
        "ratio": middle["seconds"], "cpu_ratio": middle["cpu"], "longest_cpu_ratio": middle["longest_cpu"],
        "ratios": [round(ratio, 3) for ratio in ratios["seconds"]],
        "shardmill": rounded(pairs[0][0]), "bare": rounded(pairs[0][1]),
    }))  # fmt: skip


def rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(figure, 2) for name, figure in figures.items()}


if __name__ == "__main__":
    import ocr_overhead  # under its own name, so that Beam's workers can import it too

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=1)
    options.add_argument("--images", type=int, default=500)
    ocr_overhead.main(**vars(options.parse_args()))

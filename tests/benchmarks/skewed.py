"""The speed of `images` by two workers on partitions of unequal work, against a bare loop of two processes.

    python tests/benchmarks/skewed.py [--partitions 24] [--images 60] [--times 10] [--repeats 5]

Each partition is a tar of as many JPEGs; those of one have `--times` as many pixels, and that one comes last. The bare
loop is a `multiprocessing.Pool` of two, which makes the same partitions in the best order, by the same function and
with all of its writes; it is a session of its own, as the workers of a run are, since Linux shares processors among
sessions. It and the flow take turns, each on a root of its own whose `rows` are made. `ratio` is the
median of bare seconds by the flow's; what other programs take of the machine is in both, but not evenly. `busy` is the
share of the seconds of each in which its two processes made partitions, by the notes of the ledger: `busy_ratio`, the
median of the flow's by the loop's, is what the ratio would be on a machine with nothing else to do.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipelines.build.corpus import open_corpus
from pipelines.build.run import begin, run_stage
from pipelines.catalog.catalog import query
from pipelines.engine.ledger import Ledger
from pipelines.engine.make_partition import make_partition

WORKERS, WIDTH, HEIGHT = 2, 640, 480
TOML = """
root = "{name}"
[source]
kind = "webdataset"
path = "source"
[beam]
options = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
"""
making: list = []  # what the forks of the bare loop make partitions with


def write_source(folder: Path, partitions: int, images: int, times: int) -> None:
    folder.mkdir()
    draws = random.Random(0)
    for number in range(partitions):
        scale = times**0.5 if number == partitions - 1 else 1
        width, height = round(WIDTH * scale), round(HEIGHT * scale)
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for image in range(images):
                coarse = Image.frombytes(
                    "RGB", (width // 8, height // 8), draws.randbytes(3 * (width // 8) * (height // 8))
                )
                data = BytesIO()
                coarse.resize((width, height), Image.Resampling.BILINEAR).save(data, "JPEG", quality=85)
                for name, content in ((f"{image:05d}.jpg", data.getvalue()), (f"{image:05d}.txt", b"a picture")):
                    info = tarfile.TarInfo(f"{number}-{name}")
                    info.size = len(content)
                    tar.addfile(info, BytesIO(content))


def flow(config: Path) -> tuple[float, float]:
    """Seconds of the stage, and the share of them in which its workers made partitions."""
    corpus = open_corpus(config)
    with begin(corpus) as run:
        run_stage(run, "rows")
        began = time.monotonic()
        run_stage(run, "images")
        seconds = time.monotonic() - began
    made = query(corpus.root, "SELECT sum(seconds) AS made FROM work WHERE stage = 'images'")["made"][0].as_py()
    return seconds, made / seconds / WORKERS


def make(partition: int) -> None:
    make_partition(*making, partition)


def bare(config: Path) -> tuple[float, float]:
    """The same of the loop, in a process of its own."""
    command = [sys.executable, __file__, "--bare", str(config)]
    said = subprocess.run(command, start_new_session=True, check=True, capture_output=True, text=True).stdout
    seconds = float(said.split()[-1])
    notes = (config.parent / config.stem).glob("runs/*/images/*.json")
    return seconds, sum(json.loads(note.read_text())["work"]["seconds"] for note in notes) / seconds / WORKERS


def loop(config: Path) -> float:
    """Seconds of the loop."""
    corpus = open_corpus(config)
    with begin(corpus) as run:
        run_stage(run, "rows")
    making[:] = corpus.made["images"], corpus.root, Ledger.start(corpus.root, "bare", "0")
    sizes = {number: path.stat().st_size for number, path in enumerate(sorted((config.parent / "source").iterdir()))}
    with get_context("fork").Pool(WORKERS) as pool:
        pool.map(str, range(2 * WORKERS), chunksize=1)  # both are there
        began = time.monotonic()
        for _ in pool.imap_unordered(make, sorted(sizes, key=lambda number: -sizes[number]), chunksize=1):
            pass
        return time.monotonic() - began


def main(partitions: int, images: int, times: int, repeats: int) -> None:
    found: dict[str, list[tuple[float, float]]] = {"bare": [], "flow": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_source(folder / "source", partitions, images, times)
        for repeat in range(repeats):
            for side in ("bare", "flow") if repeat % 2 else ("flow", "bare"):
                config = folder / f"{side}-{repeat}.toml"
                config.write_text(TOML.format(name=f"{side}-{repeat}"))
                found[side].append(flow(config) if side == "flow" else bare(config))
                print(side, *(round(value, 3) for value in found[side][-1]), file=sys.stderr, flush=True)
    pairs = [*zip(found["bare"], found["flow"], strict=True)]
    ratios, busy = [a[0] / b[0] for a, b in pairs], [b[1] / a[1] for a, b in pairs]
    print(json.dumps({
        "benchmark": "skewed", "partitions": partitions, "images": images, "times": times, "workers": WORKERS,
        "bar": 0.93, "ratio": round(statistics.median(ratios), 3), "busy_ratio": round(statistics.median(busy), 3),
        **{name: [[round(value, 3) for value in pair] for pair in some] for name, some in found.items()},
    }))  # fmt: skip


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--partitions", type=int, default=24)
    options.add_argument("--images", type=int, default=60)
    options.add_argument("--times", type=int, default=10, help="pixels of the last partition, of those of the others")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    asked = vars(options.parse_args())
    if config := asked.pop("bare"):
        print(loop(config))
    else:
        main(**asked)

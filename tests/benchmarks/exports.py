"""A shard set exported, against `datasets` writing the same samples as Parquet.

    python tests/benchmarks/exports.py [--samples 4000] [--image 100000] [--repeats 3]

Samples have an image of random bytes with the name of a PNG, 600 bytes of JSON and a caption, in shards of 500.
`datasets` reads the tars by webdataset and writes one Parquet file by `Dataset.from_generator(...).to_parquet`, its
cache included.
Figures are MB of images a second, medians over the repeats, in which all take turns, without fsync; `ratio` is of the
form `huggingface` to `datasets`. `memory_ratio` is the peak memory of an export of all shards to that of one.
"""

import argparse
import json
import multiprocessing
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

import datasets
import webdataset
from support.published import caption, publish

import pipelines.engine.root
from pipelines.engine.root import Root
from pipelines.exports.export import export

SHARD = 500  # samples
FORMS = ("huggingface", "trl", "llava", "minicpm-v")


def by_datasets(root: Root, folder: Path) -> None:
    urls = [str(path) for path in sorted(Path(root.url, "shards").glob("*.tar"))]

    def rows():
        for sample in webdataset.WebDataset(urls, shardshuffle=False):
            yield {
                "image": {"bytes": sample["png"], "path": None},
                "text": sample["txt"].decode(),
                "json": sample["json"].decode(),
            }

    features = datasets.Features(image=datasets.Image(), text=datasets.Value("string"), json=datasets.Value("string"))
    datasets.disable_progress_bars()
    made = datasets.Dataset.from_generator(rows, features=features, cache_dir=str(folder / "cache"))
    made.to_parquet(str(folder / "train.parquet"))


def peak(root: Root, name: str, folder: str) -> int:
    """The peak memory of an export in a process of its own, in bytes."""

    def run(queue) -> None:
        export(root, name, "huggingface", Root(folder))
        queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=run, args=(queue,))
    process.start()
    most = queue.get()
    process.join()
    return most


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--image", type=int, default=100_000, help="bytes")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    pipelines.engine.root.FSYNC = False
    draws = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="shardmill-") as place:
        root, one, here = (Path(place, name) for name in ("root", "one", "out"))
        made = [
            caption(n, "A caption of some words.", draws.randbytes(options.image), extra={"note": "x" * 300})
            for n in range(options.samples)
        ]
        opened, small = publish(root, "all", made, SHARD), publish(one, "all", made[:SHARD], SHARD)
        del made
        memory = [peak(of, "all", f"{place}/peak-{n}") for n, of in enumerate((small, opened))]
        seconds: dict[str, list[float]] = {}
        for repeat in range(options.repeats):
            for form in FORMS:
                started = time.perf_counter()
                export(opened, "all", form, Root(str(here / f"{form}-{repeat}")))
                seconds.setdefault(form, []).append(time.perf_counter() - started)
            started = time.perf_counter()
            by_datasets(opened, here / f"datasets-{repeat}")
            seconds.setdefault("datasets", []).append(time.perf_counter() - started)
    speed = {name: options.samples * options.image / 1e6 / statistics.median(of) for name, of in seconds.items()}
    print(json.dumps({
        "benchmark": "exports", "samples": options.samples, "image_bytes": options.image,
        "mb_per_second": {name: round(value, 1) for name, value in speed.items()},
        "ratio": round(speed["huggingface"] / speed["datasets"], 2),
        "peak_mb": [round(of / 1e6) for of in memory], "memory_ratio": round(memory[1] / memory[0], 2),
    }))  # fmt: skip


if __name__ == "__main__":
    main()

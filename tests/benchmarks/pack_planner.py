"""What planning packs takes, and how full they get: seconds for a million samples, and fill.

    python tests/benchmarks/pack_planner.py [--samples 1000000] [--trl ~/trl/bin/python]

`--trl` names a Python that has TRL (`pip install trl datasets transformers`): its `pack_dataset` then packs the same
lengths on the same machine, all at once and in batches of 1,000 as it does by itself. It moves tokens, of one byte
here, where we plan only; that is a small part of its time. `ratio` is its seconds by ours. Without `--trl`, it is that
of best fit decreasing written down plainly, which is what TRL does, on shards of 1,000.

`fill` has for each kind of lengths: all samples planned together, shards of 1,000 each by itself, the most that a shard
could be filled, and best fit decreasing on shards.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left, insort
from collections.abc import Callable
from pathlib import Path

import numpy as np

from schemas.slices import image_tokens, plan_llama_cpp
from training.packs import fewest_packs, fill, plan_packs

LENGTH, SHARD = 2048, 1000  # tokens, samples

TRL = """
import json, sys, time
import numpy as np, pyarrow as pa
from datasets import Dataset, disable_progress_bars
from trl import __version__
from trl.data_utils import pack_dataset
disable_progress_bars()
lengths, length = np.load(sys.argv[1]), int(sys.argv[2])
offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
tokens = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.zeros(offsets[-1], np.int8)))
dataset, found = Dataset(pa.table({"input_ids": tokens})), {"version": __version__}
for name, size in (("together", len(lengths)), ("shards", 1000)):
    started = time.perf_counter()
    packed = pack_dataset(dataset, length, "bfd", {"batch_size": size, "keep_in_memory": True})
    found[name] = {"seconds": time.perf_counter() - started, "packs": len(packed)}
print(json.dumps(found))
"""


def with_text(draws: np.random.Generator, images: np.ndarray, count: int, median: float, spread: float) -> np.ndarray:
    """Lengths of samples: one of the images, text with a lognormal number of tokens, begin and end."""
    text = np.exp(draws.normal(math.log(median), spread, count)).clip(3, 1000).astype(int)
    return (images[draws.integers(0, len(images), count)] + text + 2).clip(1, LENGTH)


def make_lengths(count: int) -> dict[str, np.ndarray]:
    """Image sizes and caption lengths as web corpora have them, and some that are hard."""
    draws = np.random.default_rng(0)
    sides = np.exp(draws.normal(6.1, 0.55, (2000, 2))).clip(64, 4000).astype(int).tolist()
    web, many = (np.array([image_tokens(plan_llama_cpp(*size), queries) for size in sides]) for queries in (64, 96))
    small = np.array([image_tokens(plan_llama_cpp(256, 256), 64)])
    resized = np.array([image_tokens(plan_llama_cpp(512, side), 64) for side in range(384, 900, 4)])
    return {
        "captions": with_text(draws, web, count, 12, 0.6),
        "captions, 96 queries": with_text(draws, many, count, 12, 0.6),
        "captions, 256 pixels": with_text(draws, small, count, 12, 0.6),
        "captions, 512 pixels": with_text(draws, resized, count, 12, 0.6),  # nearly all have three views
        "text in images": with_text(draws, web, count, 80, 1.0),
        "anything": draws.integers(1, LENGTH + 1, count),
        "a quarter to a half": draws.integers(LENGTH // 4, LENGTH // 2 + 1, count),
        "just over a third": draws.integers(700, 761, count),  # two go into a pack, the third never does
    }


def best_fit_decreasing(lengths: np.ndarray) -> int:
    """How many packs the textbook's planner makes."""
    rooms: list[int] = []
    for size in np.sort(lengths)[::-1].tolist():
        at = bisect_left(rooms, size)
        insort(rooms, (rooms.pop(at) if at < len(rooms) else LENGTH) - size)
    return len(rooms)


def filled(lengths: np.ndarray, plan: Callable[[np.ndarray], int]) -> float:
    return round(fill(lengths, plan(lengths), LENGTH), 4)


def by_shard(plan: Callable[[np.ndarray], int], lengths: np.ndarray) -> int:
    """Packs when each shard is planned by itself."""
    return sum(plan(lengths[start : start + SHARD]) for start in range(0, len(lengths), SHARD))


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def run_trl(python: str, lengths: np.ndarray) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/lengths.npy", lengths)
        Path(f"{folder}/pack.py").write_text(TRL)
        command = [python, f"{folder}/pack.py", f"{folder}/lengths.npy", str(LENGTH)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main(samples: int, trl: str | None) -> None:
    def ours(some: np.ndarray) -> int:
        return len(plan_packs(some, LENGTH))

    def bound(some: np.ndarray) -> int:
        return fewest_packs(some, LENGTH)

    lengths = make_lengths(samples)
    corpus = lengths["captions"]
    took = {"together": seconds(lambda: ours(corpus)), "shards": seconds(lambda: by_shard(ours, corpus), 1)}
    found = {
        "benchmark": "pack_planner", "samples": samples, "length": LENGTH, "bars": {"seconds": 5, "fill": 0.99},
        "seconds": {name: round(value, 2) for name, value in took.items()},
        "worst_seconds": round(max(seconds(lambda: ours(some), 1) for some in lengths.values()), 2),
    }  # fmt: skip
    if trl:
        theirs = run_trl(trl, corpus)
        found["trl"] = {"version": theirs.pop("version")} | {
            name: {"seconds": round(one["seconds"], 2), "fill": round(fill(corpus, one["packs"], LENGTH), 4)}
            for name, one in theirs.items()
        }
        found["ratio"] = {name: round(theirs[name]["seconds"] / took[name], 1) for name in took}
    else:
        plain = seconds(lambda: by_shard(best_fit_decreasing, corpus), 1)
        found["ratio"] = {"shards": round(plain / took["shards"], 1)}
    found["fill"] = {}
    for name, some in lengths.items():
        shards = some[: 100 * SHARD]
        found["fill"][name] = {
            "together": filled(some, ours),
            "shards": filled(shards, lambda each: by_shard(ours, each)),
            "possible": filled(shards, lambda each: by_shard(bound, each)),
            "best_fit_decreasing": filled(shards, lambda each: by_shard(best_fit_decreasing, each)),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--samples", type=int, default=1_000_000)
    options.add_argument("--trl")
    main(**vars(options.parse_args()))

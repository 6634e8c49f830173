"""The loader against plain webdataset; how full packs get; what memory and start-up take.

    python tests/benchmarks/loader.py [--samples 1000] [--repeats 3] [--epoch 20000] [--shards 1000] [--only fill]

`webdataset`: samples a second, ours by theirs. Both sides call the same functions to decode, slice and tokenize, in as
many workers; medians over repeats in which they take turns; `cpu_ratio` is of processor seconds. webdataset reads its
tars in order and pads the samples of a batch to the longest; we read packs in random order, and hold every member
against its digest. Pictures are JPEGs of web-like sizes; in `small`, of 112 pixels, and one view. Undecoded reads are
in `shard_io.py`.

`fill`: shards of 1,000 samples planned alone, and 4, 8 and 10 together, at length 2,048 with 64 queries. `scenes` are
captions and noisy alt texts at 224 pixels, `web` those of LAION (where that file is not, alt texts) at web-like sizes.

`memory`: what all processes of a loader with two workers take (Pss) at the end of an epoch by what they take after a
tenth of it.

`start`: a set of many shards of 1,000 samples whose packs are planned: seconds until the first pack can be asked for,
milliseconds to look one up at random, the memory of a fresh process after that: its own, and mapped files'.
"""

import argparse
import io
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import webdataset as wds
from memory import descendants, pss
from PIL import Image
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from support.releases import publish

import training.pack_plan
from schemas.scenes.scene import alt_text, imagine
from schemas.shards import ShardEntry
from schemas.slices import image_tokens
from training.layout import Tokens
from training.loader import Mixture, Part, load
from training.pack_files import NO_PACK, PLANNED
from training.packs import fill, plan_packs
from training.pixels import raw_patches
from training.samples import SampleEncoder, Slicing
from training.shards import Shards
from training.tokenizer import Tokenizer, save, train

WORKERS, LENGTH, QUERIES, SHARD = 2, 2048, 64, 1000
HERE = Path(__file__).parents[3] / "shared/data"


def alt_texts(count: int) -> list[str]:
    draws = random.Random(0)
    return [alt_text(imagine(draws), draws, 0.5)[0] for _ in range(count)]


def web_sizes(count: int) -> list[tuple[int, int]]:
    sides = np.exp(np.random.default_rng(0).normal(6.1, 0.55, (count, 2))).clip(64, 1600).astype(int)
    return [tuple(size) for size in sides.tolist()]


def jpeg(size: tuple[int, int], seed: int) -> bytes:
    """Something that is about as hard to decode as a photograph."""
    draws, file = np.random.default_rng(seed), io.BytesIO()
    small = Image.fromarray(draws.integers(0, 256, (max(1, size[1] // 12), max(1, size[0] // 12), 3), np.uint8))
    small.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return file.getvalue()


def processor_seconds() -> float:
    """Of this process and of those it has seen end."""
    return sum(os.times()[:4])


# Against webdataset


def ours(mixture: Mixture) -> int:
    """Samples of one epoch, a pack at a time."""
    packs = len(mixture.planned[0])
    return sum(len(batch.samples[0]) for batch in load(mixture, packs, stop=1, workers=WORKERS))


def webdataset(tars: list[str], recipe: SampleEncoder, together: int) -> int:
    """The same samples, so many at a time."""

    def make(sample: dict) -> tuple[Tokens, list[np.ndarray]]:
        tokens = recipe.tokens(sample)
        return tokens, recipe.views(sample, tokens)

    def collate(samples: list[tuple[Tokens, list[np.ndarray]]]) -> tuple[torch.Tensor, ...]:
        ids = np.zeros((2, len(samples), max(len(tokens.ids) for tokens, _ in samples)), np.int64)
        for row, (tokens, _) in enumerate(samples):
            ids[0, row, : len(tokens.ids)], ids[1, row, : len(tokens.ids)] = tokens.ids, tokens.labels
        views = [view for _, some in samples for view in some]
        grids = [(view.shape[0] // 14, view.shape[1] // 14) for view in views]
        patches = np.concatenate([raw_patches(view) for view in views])
        return torch.from_numpy(ids), torch.from_numpy(patches), torch.tensor(grids)

    dataset = wds.WebDataset(tars, shardshuffle=False).map(make).batched(together, collation_fn=collate)
    return sum(batch[0].shape[1] for batch in DataLoader(dataset, batch_size=None, num_workers=WORKERS))


def compare(folder: Path, recipe: SampleEncoder, sizes: list[tuple[int, int]], repeats: int) -> dict:
    count, texts = len(sizes), alt_texts(len(sizes))
    samples = (
        (f"{n:016x}-caption", {"jpg": jpeg(sizes[n], n), "json": b"{}", "txt": texts[n].encode()}) for n in range(count)
    )
    root = publish(folder, "train", samples, each=count // 10)
    tars = [shard.tar for shard in Shards(root, "train").shards]
    started = time.perf_counter()
    mixture = Mixture([Part(str(root), "train")], recipe, workers=WORKERS)
    planning = time.perf_counter() - started
    together = round(count / len(mixture.planned[0]))
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "webdataset": []}
    for _ in range(repeats):
        for name in times:
            started = time.perf_counter(), processor_seconds()
            assert (ours(mixture) if name == "ours" else webdataset(tars, recipe, together)) == count
            times[name].append((time.perf_counter() - started[0], processor_seconds() - started[1]))
    ratio, cpu_ratio = (
        statistics.median(
            theirs[clock] / mine[clock] for mine, theirs in zip(times["ours"], times["webdataset"], strict=True)
        )
        for clock in (0, 1)
    )
    return {
        "ratio": round(ratio, 3), "cpu_ratio": round(cpu_ratio, 3),
        "samples_per_second": {
            name: round(count / statistics.median(wall for wall, _ in some)) for name, some in times.items()
        },
        "planned_per_second": round(count / planning), "samples_a_pack": together,
    }  # fmt: skip


# Fill


def fills(recipe: SampleEncoder, count: int, data: Path) -> dict:
    scenes = alt_texts(count)
    table = data / "laion/laion400m-url-text-10000.parquet"
    web = (pq.read_table(table)["TEXT"].to_pylist() if table.exists() else scenes) * (count // 10_000 + 1)
    small, sizes = image_tokens(recipe.slicing.of(224, 224), QUERIES), web_sizes(2000)
    large = [image_tokens(recipe.slicing.of(*size), QUERIES) for size in sizes]
    texts = {"scenes": scenes, "web": [text or "" for text in web[:count]]}
    found = {}
    for name, some in texts.items():
        images = [small if name == "scenes" else large[n % len(large)] for n in range(count)]
        lengths = np.array(
            [size + len(recipe.tokenizer.encode(text)) + 1 for size, text in zip(images, some, strict=True)]
        )
        lengths = lengths[lengths <= LENGTH]
        units = {str(shards): shards * SHARD for shards in (1, 4, 8, 10)}
        found[name] = {
            shards: round(fill(lengths, sum(
                len(plan_packs(lengths[start : start + unit], LENGTH)) for start in range(0, len(lengths), unit)
            ), LENGTH), 4)
            for shards, unit in units.items()
        }  # fmt: skip
    return found


# Memory and start


def memory(folder: Path, recipe: SampleEncoder, count: int) -> dict:
    """An epoch of small pictures with their texts; a hundred different ones."""
    pictures, texts = [jpeg((112, 112), seed) for seed in range(100)], alt_texts(count)
    samples = (
        (f"{n:016x}-caption", {"jpg": pictures[n % 100], "json": b"{}", "txt": texts[n].encode()}) for n in range(count)
    )
    mixture = Mixture([Part(str(publish(folder / "epoch", "train", samples, SHARD)), "train")], recipe, workers=WORKERS)
    packs, taken = len(mixture.planned[0]), {}
    marks = {math.ceil(packs * share): share for share in (0.1, 0.25, 0.5, 0.75, 1)}
    for number, _ in enumerate(load(mixture, packs, stop=1, workers=WORKERS), 1):
        if number in marks:
            taken[marks[number]] = sum(pss(pid) for pid in descendants(os.getpid())) / 1e6
            workers = [pss(pid) / 1e6 for pid in descendants(os.getpid()) if pid != os.getpid()]
    return {
        "samples": count, "packs": packs, "ratio": round(taken[1] / taken[0.1], 3),
        "MB": {share: round(size) for share, size in taken.items()}, "workers_MB": [round(size) for size in workers],
    }  # fmt: skip


def start(folder: Path, recipe: SampleEncoder, shards: int) -> dict:
    """Cards and side files of a large set; there are no tars, since none is opened to begin."""
    draws = np.random.default_rng(0)

    def measured(shard: training.pack_plan.Shard, recipe: SampleEncoder) -> pa.Table:
        rows = [
            {"pack": NO_PACK, "tokens": int(tokens), "sample": f"{n:016x}-caption", "tar": shard.entry["tar"],
             "byte_offset": 40_000 * n, "size": 40_000, "reason": None, "detail": None,
             "members": [{"ext": ext, "byte_offset": 40_000 * n, "size": 9, "sha256": "0" * 64} for ext in
                         ("jpg", "json", "txt")]}
            for n, tokens in enumerate(draws.integers(70, 700, SHARD))
        ]  # fmt: skip
        return pa.Table.from_pylist(rows, schema=PLANNED)

    entries = [
        ShardEntry(number=n, tar=f"train-{n:06d}.tar", index=f"train-{n:06d}.parquet", sha256=f"{n:064x}",
                   index_sha256=f"{n:064x}", bytes=0, samples=SHARD, fingerprint="")
        for n in range(shards)
    ]  # fmt: skip
    (folder / "many/shards").mkdir(parents=True)
    card = {"set": "train", "samples": shards * SHARD, "samples_per_shard": SHARD, "shards": entries}
    (folder / "many/shards/train.json").write_text(json.dumps(card))
    part = [Part(str(folder / "many"), "train")]
    training.pack_plan.measure, real = measured, training.pack_plan.measure
    Mixture(part, recipe)
    training.pack_plan.measure = real
    with get_context("spawn").Pool(1) as pool:
        found = pool.apply(opened, (part, recipe))
    sides = sum(file.stat().st_size for file in (folder / "many").rglob("*.arrows"))
    return {"samples": shards * SHARD, **found, "side_files_MB": round(sides / 1e6)}


def opened(parts: list[Part], recipe: SampleEncoder) -> dict:
    """In a process that has not seen them: packs looked up at random."""
    before, started = resident(), time.perf_counter()
    mixture = Mixture(parts, recipe)
    seconds, after = time.perf_counter() - started, resident()
    started = time.perf_counter()
    for number in range(2000):
        assert mixture.planned[0][mixture.order[number].pack]
    looked = (time.perf_counter() - started) / 2000
    taken = {
        kind: {"opened": after[kind] - size, "looked up": resident()[kind] - size} for kind, size in before.items()
    }
    return {"seconds": round(seconds, 3), "ms_a_pack": round(looked * 1e3, 2), "MB": taken}


def resident() -> dict[str, int]:
    """Megabytes of memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) // 1000 for line in lines if line.startswith("Rss")}
    return {"own": sizes["RssAnon"], "mapped": sizes["RssFile"]}


def texts_to_learn(data: Path) -> Iterator[str]:
    yield from alt_texts(5000)
    table = data / "laion/laion400m-url-text-10000.parquet"
    if table.exists():
        yield from filter(None, pq.read_table(table)["TEXT"].to_pylist())


def main(samples: int, repeats: int, epoch: int, shards: int, data: Path, only: list[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save(train(texts_to_learn(data), 8192), folder / "tokenizer")
        tokenizer = Tokenizer(folder / "tokenizer")
        recipe = SampleEncoder(tokenizer, QUERIES, LENGTH)
        small = SampleEncoder(tokenizer, queries=16, length=LENGTH, slicing=Slicing(side=112))
        parts = {
            "webdataset": lambda: compare(folder / "web", recipe, web_sizes(samples), repeats),
            "webdataset, small": lambda: compare(folder / "small", small, [(112, 112)] * 5 * samples, repeats),
            "fill": lambda: fills(recipe, 20_000, data),
            "memory": lambda: memory(folder, recipe, epoch),
            "start": lambda: start(folder, recipe, shards),
        }
        found = {name: run() for name, run in parts.items() if not only or name in only}
    bars = {"webdataset": 1, "webdataset, small": 1, "fill": 0.99, "memory": 1.1}
    print(json.dumps({"benchmark": "loader", "workers": WORKERS, "length": LENGTH, "bars": bars, **found}))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--samples", type=int, default=1000)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--epoch", type=int, default=20_000)
    options.add_argument("--shards", type=int, default=1000)
    options.add_argument("--data", type=Path, default=HERE, help="folder of real data")
    options.add_argument("--only", nargs="*", default=[], help="some of these parts")
    main(**vars(options.parse_args()))

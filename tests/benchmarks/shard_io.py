"""Shards written and read, against webdataset doing the same.

    python tests/benchmarks/shard_io.py [--repeats 25] [--samples 1000]

Three members a sample: 30 KB of image, 600 bytes of JSON, 60 of text. Files on one disk, no fsync on either side.
`ratio` is of seconds, `cpu_ratio` of processor seconds, both medians over the repeats, in which the sides take turns.

**Writing.** Ours is the whole of `pack_shard`: the SHA-256 of each member and of the tar, the index as Parquet with its
commit, both put in place. webdataset's `TarWriter` gets the same members as bytes, without an encoder, and hashes
nothing. The SHA-256 of an image is known from the images stage, so packing need not compute it; but it reads the bytes
again then, and checks them. So there are three figures:

- `write`          the image bytes are at hand, as they are for webdataset
- `write_checked`  the same, and each image's SHA-256 is computed and compared
- `pack`           as in a run: each image is also read from the images stage's tar

**Reading.** Whole samples in order from the page cache, in one thread; opening, card and indexes included.
webdataset is `WebDataset(urls)` without decoding. `read` checks no digest, `read_checked` every member's,
`read_shuffled` takes them unchecked in random order, for which webdataset has no equal.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import webdataset as wds

sys.path.insert(0, str(Path(__file__).parents[2]))

import pipelines.engine.root
from pipelines.engine.parquet import Corrupt
from pipelines.engine.payload import read_payload
from pipelines.engine.root import Root
from pipelines.engine.tar import TarWriter
from pipelines.stages import shard_packing
from pipelines.stages.shard_layout import WantedShard
from pipelines.stages.shard_releases import shards_there
from pipelines.stages.shards import ShardSet
from schemas.arrow import Row
from schemas.selection import SetConfig
from training.shards import Shards

IMAGE, SHARD = 30_000, 1000  # bytes, samples


def make_samples(root: Root, count: int) -> tuple[list[Row], dict[str, bytes]]:
    """Samples as the catalog gives them to be packed, and their images, which stand in one tar as well."""
    draws, samples, images = random.Random(0), [], {}
    os.makedirs(root.path("images"))
    with open(root.path("images/00000.tar"), "wb") as file:
        tar = TarWriter(file)
        for number in range(count):
            image = draws.randbytes(IMAGE)
            digest = sha256(image).hexdigest()
            offset = tar.add(f"{digest[:16]}.jpeg", image)
            picture = {"byte_offset": offset, "size": IMAGE, "sha256": digest, "ext": "jpeg"}
            samples.append({
                "key": digest[:16], "task": "caption", "pictures": [picture], "payload": "00000.tar",
                "made_from": digest,
                "document": json.dumps({"number": number, "text": "x" * 580}), "target": f"{number:060d}",
            })  # fmt: skip
            images[samples[-1]["key"]] = image
        tar.close()
    return samples, images


def write_ours(root: Root, samples: list[Row], read: Callable[[Root, str, Row], bytes]) -> None:
    """Packs the samples into shards, and publishes a card for the reader."""
    shard_packing.read_payload = read
    stage, entries = ShardSet("train", SetConfig(samples_per_shard=SHARD)), []
    for number, start in enumerate(range(0, len(samples), SHARD)):
        some = samples[start : start + SHARD]
        shard_packing.pack_shard(root, stage, WantedShard(number, number, f"{number}", len(some)), iter(some))
    entries = sorted(shards_there(root, stage, None).values(), key=lambda entry: entry["number"])
    Path(root.path("shards/train.json")).write_text(json.dumps({"samples": len(samples), "shards": entries}))


def write_webdataset(folder: Path, samples: list[Row], images: dict[str, bytes]) -> None:
    for start in range(0, len(samples), SHARD):
        with open(folder / f"{start:06d}.tar", "wb") as file, wds.TarWriter(file, encoder=False) as tar:
            for sample in samples[start : start + SHARD]:
                tar.write({
                    "__key__": f"{sample['key']}-{sample['task']}", "jpg": images[sample["key"]],
                    "json": sample["document"].encode(), "txt": sample["target"].encode(),
                })  # fmt: skip


def read_ours(root: Root, check: bool) -> int:
    return sum(len(sample["jpg"]) for sample in Shards(root.url, "train", check))


def read_shuffled(root: Root) -> int:
    samples = Shards(root.url, "train", check=False)
    return sum(len(samples[number]["jpg"]) for number in random.Random(0).sample(range(len(samples)), len(samples)))


def read_webdataset(tars: list[str]) -> int:
    return sum(len(sample["jpg"]) for sample in wds.WebDataset(tars, shardshuffle=False))


def clocked(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and processor seconds of all threads."""
    started = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def main(repeats: int, count: int) -> None:
    pipelines.engine.root.FSYNC = False
    times: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root, theirs = Root(f"{temporary}/ours"), Path(temporary) / "webdataset"
        root.create()
        samples, images = make_samples(root, count)

        def at_hand(root: Root, stage: str, sample: Row) -> bytes:
            return images[sample["key"]]

        def checked(root: Root, stage: str, sample: Row) -> bytes:
            data = images[sample["key"]]
            if sha256(data).hexdigest() != sample["sha256"]:
                raise Corrupt(sample["key"])
            return data

        for _ in range(repeats):
            for name, read in {"write": at_hand, "write_checked": checked, "pack": read_payload}.items():
                shutil.rmtree(root.path("shards"), ignore_errors=True)
                times.setdefault(name, []).append(clocked(lambda: write_ours(root, samples, read)))
                shutil.rmtree(theirs, ignore_errors=True)
                theirs.mkdir()
                took = clocked(lambda: write_webdataset(theirs, samples, images))
                times.setdefault(f"{name}:webdataset", []).append(took)
        tars = [root.path(f"shards/{entry['tar']}") for entry in Shards(root.url, "train").card["shards"]]
        reads = {
            "read": lambda: read_ours(root, False), "read_checked": lambda: read_ours(root, True),
            "read_shuffled": lambda: read_shuffled(root),
        }  # fmt: skip
        for _ in range(repeats):
            for name, read in reads.items():
                times.setdefault(name, []).append(clocked(read))
                times.setdefault(f"{name}:webdataset", []).append(clocked(lambda: read_webdataset(tars)))
    megabytes = count * (IMAGE + len(samples[0]["document"]) + len(samples[0]["target"])) / 1e6
    names = ["write", "write_checked", "pack", *reads]
    print(json.dumps({
        "benchmark": "shard_io", "samples": count, "repeats": repeats, "bars": {"write": 3, "read": 5},
        "ratio": {name: ratio(times[f"{name}:webdataset"], times[name], 0) for name in names},
        "cpu_ratio": {name: ratio(times[f"{name}:webdataset"], times[name], 1) for name in names},
        "MB/s": {name: round(megabytes / statistics.median(took[0] for took in some)) for name, some in times.items()},
    }))  # fmt: skip


def ratio(theirs: list[tuple[float, float]], ours: list[tuple[float, float]], clock: int) -> float:
    return round(statistics.median(a[clock] / b[clock] for a, b in zip(theirs, ours, strict=True)), 2)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=25)
    options.add_argument("--samples", type=int, default=1000, dest="count")
    main(**vars(options.parse_args()))

"""What bounds on images do to the size of a shard set, to the speed of its loader, and to the next run.

    python tests/benchmarks/bounded_images.py [--photos 24] [--repeats 3] [--sides 1344 896 448]

Photographs of 4 megapixels (2448 x 1632, JPEG at quality 92, with the spectrum and the noise of a camera's) are packed
as they came and with `max_side`. `bytes` is of the whole tars. `views` is what the trainer's workers do with a sample:
read it, check its digest, decode it, cut it into views of 448 as llama.cpp does; `pil` is plain webdataset with
`decode("pil")`. Both are processor seconds of one process, medians, the sides in turns; ratios are to the photographs
as they came. `encoded_per_second` is a worker's, in processor seconds. `encoded_again` is how many images a run
encodes after one caption has changed.
"""

import argparse
import io
import json
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import webdataset as wds
from PIL import Image

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from support.corpora import build  # noqa: E402

from pipelines.engine.releases import read_card  # noqa: E402
from pipelines.engine.root import Root  # noqa: E402
from pipelines.stages import bounded_images  # noqa: E402
from schemas.slices import plan_llama_cpp  # noqa: E402
from training.pixels import cut, decode, size_of  # noqa: E402
from training.shards import Shards  # noqa: E402

WIDTH, HEIGHT = 2448, 1632
TOML = '[source]\nkind = "webdataset"\npath = "source"\n[duplicates]\nnear = -1\n[sets.train]\n'


def photograph(seed: int) -> bytes:
    """A JPEG with what makes photographs costly: detail on all scales (1/f), hard edges, and a camera's noise."""
    draws, buffer = np.random.default_rng(seed), io.BytesIO()
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for octave in range(1, 11):
        across = 3 * 2**octave
        small = draws.normal(size=(2 * 2**octave, across, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(small[..., channel]).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            pixels[..., channel] += np.asarray(layer) / 1.7**octave
    edges = np.asarray(Image.fromarray(draws.normal(size=(32, 48)).astype(np.float32)).resize((WIDTH, HEIGHT))) > 0.3
    pixels = 128 + 60 * pixels / pixels.std() + 40 * edges[..., None] + draws.normal(0, 3, pixels.shape)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def write_source(folder: Path, photos: list[bytes], first_caption: str) -> None:
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number, photo in enumerate(photos):
            text = first_caption if number == 0 else f"photograph {number}"
            for ext, data in (("jpg", photo), ("txt", text.encode())):
                info = tarfile.TarInfo(f"{number:06d}.{ext}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def processor_seconds(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def make(config: Path) -> tuple[Root, int, float]:
    """Runs; returns the root, how many images were encoded, and the processor seconds of that."""
    spent, real = [], bounded_images.encode

    def timed(*arguments):
        started = time.process_time()
        encoded = real(*arguments)
        spent.append(time.process_time() - started)
        return encoded

    with patch.object(bounded_images, "encode", timed):
        root = build(config)
    return root, len(spent), sum(spent)


def views(root: Root) -> int:
    return sum(
        len(cut(decode(sample["jpg"]), plan_llama_cpp(*size_of(sample["jpg"]), side=448, patch=14)))
        for sample in Shards(root.url, "train")
    )


def pil(root: Root) -> int:
    tars = [root.path(f"shards/{entry['tar']}") for entry in read_card(root, "train")["shards"]]
    return sum(1 for _ in wds.WebDataset(tars, shardshuffle=False).decode("pil").to_tuple("jpg", "txt"))


def main(photos: int, repeats: int, sides: list[int]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder, taken = Path(temporary), [photograph(seed) for seed in range(photos)]
        (folder / "source").mkdir()
        write_source(folder / "source", taken, "a photograph")
        roots, encoded, first = {}, {}, {}
        for side in (0, *sides):
            config = folder / f"{side}.toml"
            config.write_text(f'root = "corpus-{side}"\n{TOML}' + (f"max_side = {side}\n" if side else ""))
            roots[side], encoded[side], first[side] = make(config)
        size = {side: read_card(root, "train")["bytes"] for side, root in roots.items()}
        took: dict[tuple, list[float]] = {}
        for _ in range(repeats):
            for read in (views, pil):
                for side, root in roots.items():
                    took.setdefault((read.__name__, side), []).append(processor_seconds(lambda: read(root)))
        middle = {name: statistics.median(times) for name, times in took.items()}
        write_source(folder / "source", taken, "another caption")
        again = {side: make(folder / f"{side}.toml")[1:] for side in sides}
    print(json.dumps({
        "benchmark": "bounded_images", "photos": photos, "megapixels": round(WIDTH * HEIGHT / 1e6, 1),
        "bytes_a_photo": sum(map(len, taken)) // photos, "processors": os.cpu_count(),
        "sides": {side: {
            "bytes_ratio": round(size[0] / size[side], 1), "bytes_a_sample": size[side] // photos,
            "views_ratio": round(middle["views", 0] / middle["views", side], 2),
            "pil_ratio": round(middle["pil", 0] / middle["pil", side], 2),
            "encoded": encoded[side], "encoded_per_second": round(photos / first[side], 1),
            "encoded_again": again[side][0],
        } for side in sides},
        "samples_per_second": {
            f"{name} {side or 'as they came'}": round(photos / seconds, 1) for (name, side), seconds in middle.items()
        },
    }))  # fmt: skip


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--photos", type=int, default=24)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--sides", type=int, nargs="+", default=[1344, 896, 448])
    main(**vars(options.parse_args()))

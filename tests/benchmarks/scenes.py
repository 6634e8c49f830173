"""Pictures a second that one core draws and encodes, as the images stage asks for them; and what goes with them.

    python tests/benchmarks/scenes.py [--images 3000] [--side 112] [--repeats 3]

`images_per_second` is by this process's own processor time, which other work on the machine disturbs little; by the
clock it stands beside it. `rows` are the rows with their truth and alt texts, `claims` the alt texts read and judged.
The bar is for images at 112 pixels.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipelines.sources.scenes import Scenes
from schemas.config.sources import ScenesConfig
from schemas.scenes.claims import check


def per_second(work: Callable[[], object], count: int, repeats: int, clock: Callable[[], float]) -> float:
    """The median of `count` by the time that the work took."""
    rates = []
    for _ in range(repeats):
        start = clock()
        work()
        rates.append(count / (clock() - start))
    return round(statistics.median(rates), 1)


def main(images: int, side: int, repeats: int) -> None:
    source = Scenes(ScenesConfig(count=images, side=side))

    def all_rows() -> list[dict]:
        return [row for file in source.files() for row in source.rows(file.path)]

    rows = all_rows()
    sizes = [len(source.load(row)) for row in rows]  # also warms up fonts

    def load() -> None:
        for row in rows:
            source.load(row)

    def judge() -> None:
        for row in rows:
            check(row["text"], row["extra"]["scene"])

    rate = per_second(load, images, repeats, time.process_time)
    print(json.dumps({
        "benchmark": "scenes", "images": images, "side": side, "repeats": repeats,
        "images_per_second": rate, "by_the_clock": per_second(load, images, 1, time.perf_counter),
        "bar": 500, "ratio": round(rate / 500, 2), "mean_bytes": round(statistics.mean(sizes)),
        "rows_per_second": per_second(all_rows, images, repeats, time.process_time),
        "texts_judged_per_second": per_second(judge, images, repeats, time.process_time),
    }))  # fmt: skip


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--images", type=int, default=3000)
    options.add_argument("--side", type=int, default=112)
    options.add_argument("--repeats", type=int, default=3)
    main(**vars(options.parse_args()))

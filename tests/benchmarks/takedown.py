"""What a takedown of some images out of many makes anew, and how long it takes against the run that made the corpus.

    python tests/benchmarks/takedown.py [--rows 50000] [--gone 100]

Of drawn scenes, without OCR. No more partitions and shards may be made anew than held any of them.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipelines.build.corpus import open_corpus
from pipelines.build.run import run
from pipelines.catalog.catalog import query
from pipelines.maintain.takedown import read_list, take_down
from pipelines.maintain.verify import verify_root

TOML = """
root = "corpus"
[source]
kind = "scenes"
count = {rows}
side = 64
rows_per_partition = 100
planted = 0.0
[duplicates]
near = -1
[sets.train]
task = "caption"
samples_per_shard = 100
"""


def main(rows: int, gone: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "my.toml").write_text(TOML.format(rows=rows))
        started = time.perf_counter()
        run(here / "my.toml")
        made_in = time.perf_counter() - started
        corpus = open_corpus(here / "my.toml")
        keys = random.Random(0).sample(sorted(query(corpus.root, "select key from rows")["key"].to_pylist()), gone)
        listed = f"key IN {tuple(keys)}"
        held = {
            "partitions": query(corpus.root, f"select distinct partition from rows where {listed}").num_rows,
            "shards": query(corpus.root, f"select distinct tar from shards where {listed}").num_rows,
        }
        every = {
            "partitions": query(corpus.root, "select distinct partition from rows").num_rows,
            "shards": query(corpus.root, "select distinct tar from shards").num_rows,
        }
        (here / "list.txt").write_text("\n".join(keys))
        started = time.perf_counter()
        done = take_down(corpus, read_list(here / "list.txt"))
        seconds = time.perf_counter() - started
        made = {stage.stage: stage.made for stage in done.stages}
        print(json.dumps({
            "benchmark": "takedown", "rows": rows, "gone": done.rows, "others": done.others, "of": every, "held": held,
            "made": made, "seconds": round(seconds, 1), "share_of_the_run": round(seconds / made_in, 3),
            "problems": len(verify_root(corpus.root).problems),
            "within": made["images"] <= held["partitions"] and made["shards"] <= held["shards"],
        }))  # fmt: skip


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=50_000)
    options.add_argument("--gone", type=int, default=100)
    main(**vars(options.parse_args()))

"""Kills real processes while a corpus is made in each of several ways, and looks at what the next attempt makes of it.

    python tests/benchmarks/kills_by_way.py [--kills 200] [--each 1] [--ways local,parts,dask,prism,s3] [--seed 0]
        [--seconds 3600]

The ways: one run with two local workers; `shardmill work --part I/3` in three processes; Dask with two workers; Prism;
a root in an object store (moto, on loopback). A kill comes at any moment and hits a worker, a process that was started,
or all at once; one in four is Ctrl-C instead, after which nothing may run on. After `--each` kills the corpus is made
whole, and the SHA-256 of every data file and the accounting of rows are compared with those of a run that nobody
disturbed.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from support.ways import Attempt, Expected, mend, ways, write_source

VICTIMS = ("worker", "run", "all", "ctrl-c")


def main(kills: int, each: int, names: list[str], seed: int, seconds: float) -> None:
    started, draws = time.monotonic(), random.Random(seed)
    hits, faults, failed, missed, corpora = Counter(), Counter(), list[str](), 0, 0
    with tempfile.TemporaryDirectory() as temporary, ways(names) as chosen:
        folder = Path(temporary)
        source, expected, takes = write_source(folder), {}, {}
        for way in chosen:
            config, root = way.configure(folder / way.name, source)
            began = time.monotonic()
            Attempt(way, config, root).run()
            takes[way.name], expected[way.name] = time.monotonic() - began, Expected.of(root)
        equal = [way.name for way in chosen if expected[way.name] == expected[chosen[0].name]]
        print(json.dumps({"undisturbed_seconds": {name: round(t) for name, t in takes.items()}, "equal": equal}),
              file=sys.stderr, flush=True)  # fmt: skip
        while hits.total() + missed < kills and time.monotonic() - started < seconds:
            way, corpora = chosen[corpora % len(chosen)], corpora + 1
            config, root = way.configure(folder / str(corpora), source)
            here = list[str]()
            try:
                for number in range(each):
                    victim = VICTIMS[(corpora // len(chosen) + number) % len(VICTIMS)]
                    hit = Attempt(way, config, root).run(draws.uniform(0.5, takes[way.name]), victim, draws)
                    mend(way)
                    if hit is None:
                        missed += 1
                        break
                    here.append(f"{way.name} {hit}")
                Attempt(way, config, root).run()
                found = expected[chosen[0].name].faults(root)
            except AssertionError as error:
                failed.append(f"{way.name}, after {here}: {error}")
                mend(way)
                continue
            finally:
                shutil.rmtree(config.parent, ignore_errors=True)
            hits.update(here)
            faults.update({what: len(wrong) for what, wrong in found.items()})
            print(corpora, *here, {k: v for k, v in found.items() if v}, file=sys.stderr, flush=True)
    print(json.dumps({
        "benchmark": "kills_by_way", "kills": hits.total(), "ended_before": missed, "corpora": corpora,
        "files_unequal": faults["files"], "rows_unaccounted": faults["rows"], "problems": faults["problems"],
        "left": faults["garbage"], "left_by_runs": faults["left_by_runs"], "failed": failed,
        "hits": dict(sorted(hits.items())), "seed": seed, "seconds": round(time.monotonic() - started),
    }))  # fmt: skip


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--each", type=int, default=1, help="kills of one corpus before it is compared")
    options.add_argument("--ways", default="local,parts,dask,prism,s3")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--seconds", type=float, default=3600.0)
    given = options.parse_args()
    main(given.kills, given.each, given.ways.split(","), given.seed, given.seconds)

"""Kills real processes of a run, one run after another, and looks at what the next run makes of it.

    python tests/benchmarks/kills.py [--kills 50]

One kill comes at each named point of a commit, in every stage that comes there; all others come at random moments, from
the begin of each stage in turn to the end of the run, and hit the run, its Beam job, one Beam worker, or all at once.
After each kill it runs again, and compares the SHA-256 of every data file, the accounting of rows and the ledger with
those of a run that nobody disturbed. Everything is made by the default Beam options: a worker process a core.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from subprocess import TimeoutExpired

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from support.kills import LEFT, ORDER, STAGES, VANISHED, finish, kill_at, kill_at_random, pictures, points, stage_of

VICTIMS = ("worker", "run", "job", "all")


def main(kills: int) -> None:
    started = time.time()
    named = [point for point in points() if point != VANISHED]
    at_points, at_random, victims, faults = Counter(), Counter(), Counter(), Counter()
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        clean = pictures(Path(temporary), beam="")
        for n in range(kills):
            folder, nth = Path(temporary) / str(n), n - len(named)
            try:
                if nth < 0:
                    what, config = named[n], clean.before(stage_of(named[n]), folder)
                    kill_at(what, config)
                    at_points[what] += 1
                else:
                    what = ORDER[nth % len(ORDER)]
                    config, killed = kill_at_random(clean, what, VICTIMS[nth % len(VICTIMS)], folder)
                    at_random[what] += 1
                    victims[killed] += 1
                finish(config)
            except (AssertionError, TimeoutExpired) as error:  # something was left, or a run did not end as it should
                failed.append(f"{what}: {error}")
                continue
            found = clean.faults(config)
            faults.update({where: len(wrong) for where, wrong in found.items()})
            print(n, what, found, file=sys.stderr, flush=True)
            shutil.rmtree(folder)
    print(json.dumps({
        "benchmark": "kills", "kills": kills, "pictures": sum(row["rows"] for row in clean.accounting) // len(STAGES),
        "files": len(clean.files), "files_unequal": faults["files"], "problems": faults["problems"],
        "rows_unaccounted": faults["rows"], "ledger_unequal": faults["ledger"],
        "processes_left": sum(LEFT in said for said in failed), "failed": failed,
        "random": at_random, "victims": victims, "points": at_points, "seconds": round(time.time() - started),
    }))  # fmt: skip


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=50)
    main(**vars(options.parse_args()))

"""Random histories of small corpora, each held against one run over what it came to; see `tests/histories.py`.

    python tests/benchmarks/histories.py [--histories 100] [--first 0] [--minutes 60] [--keep FOLDER]

One in five has models, which a scripted server plays. `wrong` names each history by its seed: `--first SEED --histories
1` is the same one again, and with `--keep` its folder stays.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from support.histories import history_of
from support.scripted_server import Scripted


def main(histories: int, first: int, minutes: float, keep: str | None) -> None:
    started, lived, did, wrong = time.monotonic(), 0, Counter(), {}
    with tempfile.TemporaryDirectory() as temporary, Scripted() as server:
        folder = Path(keep or temporary)
        answers = folder / "ocr"
        answers.mkdir(parents=True, exist_ok=True)
        for seed in range(first, first + histories):
            if time.monotonic() - started > 60 * minutes:
                break
            here = folder / str(seed)
            shutil.rmtree(here, ignore_errors=True)
            history = history_of(seed, here, answers, server.url)
            if found := history.live():
                wrong[seed] = found
                print(seed, history.source.kind, *history.said, *found, sep="\n  ", file=sys.stderr, flush=True)
            lived += 1
            did.update(history.did)
            if not keep:
                shutil.rmtree(here)
    print(json.dumps({
        "benchmark": "histories", "histories": lived, "wrong": len(wrong), "seeds": sorted(wrong),
        "runs": did["run"] + did["end"], "kills": did["killed"], "did": dict(did.most_common()),
        "seconds": round(time.monotonic() - started),
    }))  # fmt: skip


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--histories", type=int, default=100)
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--minutes", type=float, default=60)
    options.add_argument("--keep")
    main(**vars(options.parse_args()))

"""Hostile input of one kind for some time: whether anything fails, is silent, takes long, or takes much memory.

python tests/benchmarks/fuzz.py parquet --seconds 900 [--seed 0]

The kinds: tar, parquet, tables, images (through the whole flow; --seconds is not looked at), robots, opt-out, serve,
root. Prints one line of JSON: `runs`, `slowest` (CPU seconds of one run), `memory` (bytes above the beginning) and
`faults`. Each fault names its seed. A process that dies is a fault.
"""

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from support.fuzz_tables import fuzz_tables
from support.fuzzing import fuzz
from support.parquet_fuzzing import fuzz_parquet
from support.root_fuzzing import fuzz_roots
from support.serve_fuzzing import fuzz_serve
from support.tar_fuzzing import fuzz_headers, peak
from support.web_fuzzing import fuzz_opt_outs, fuzz_robots


def fuzz_images(folder: Path, seconds: float, seed: int) -> dict:
    """2,500 mutated images and as many tars through the whole flow."""
    before, said = peak(), fuzz(folder, 2500, 2500, seed)
    wrong = said["wrong"] + said.pop("problems")
    return said | {"runs": said["rows"], "wrong": wrong, "slowest": None, "memory": peak() - before}


KINDS: dict[str, Callable[..., dict]] = {
    "tar": fuzz_headers, "parquet": fuzz_parquet, "tables": fuzz_tables, "images": fuzz_images, "robots": fuzz_robots,
    "opt-out": fuzz_opt_outs, "serve": fuzz_serve, "root": fuzz_roots,
}  # fmt: skip


def main(kind: str, seconds: float, seed: int) -> int:
    here, there = get_context("fork").Pipe()
    child = get_context("fork").Process(target=_run, args=(kind, seconds, seed, there))
    child.start()
    there.close()
    try:
        said = here.recv()
    except EOFError:
        child.join()
        said = {"runs": None, "wrong": [f"the process ended with {child.exitcode}"]}
    child.join()
    wrong = said.pop("wrong")
    print("\n".join(wrong), file=sys.stderr)
    print(json.dumps({"benchmark": "fuzz", "kind": kind, "seed": seed, **said, "faults": len(wrong)}))
    return bool(wrong)


def _run(kind: str, seconds: float, seed: int, pipe) -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        pipe.send(KINDS[kind](Path(folder), seconds=seconds, seed=seed))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("kind", choices=KINDS)
    options.add_argument("--seconds", type=float, default=900)
    options.add_argument("--seed", type=int, default=0)
    sys.exit(main(**vars(options.parse_args())))

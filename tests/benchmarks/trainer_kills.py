"""Kills trainers at any moment, each with a second one started beside it, and looks at what is left of the run.

    python tests/benchmarks/trainer_kills.py [--kills 100]

A run has a stage of answers and one of pairs, with held-out samples, and writes a checkpoint after every step. Two
trainers are started in its folder; at most one may train, the other is refused in one line or takes over after the
first was killed. This goes on until a trainer ends by itself: then the folder holds one checkpoint, with the bytes of
a run that nobody disturbed. The processes are forked, so that they begin at once.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from support.recipes import DPO, SFT, make, recipe

from schemas.errors import UserError
from training.checkpoint import latest
from training.train import World, train

STAGES = (
    {**SFT, "epochs": 2, "steps": None, "held_out": {"set": "others", "every": 3, "packs": 1}},
    {**DPO, "steps": 4, "held_out": {"set": "other-pairs", "every": 2, "packs": 2}},
)
REFUSED = "is being trained by process"


def forked(do: Callable[[], None], said: Path) -> int:
    """Runs in a process of its own, whose output goes to a file; ends with 2 for a `UserError`. Returns its id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        do()
        code = 0
    except UserError as error:
        os.write(2, f"\n{error}\n".encode())
        code = 2
    except BaseException as error:  # what a user would see as a traceback
        os.write(2, f"\n{error!r}\n".encode())
    finally:
        os._exit(code)


def ended(pid: int, seconds: float) -> int | None:
    """The exit code of a process that ends within some seconds; minus the number of the signal that ended it."""
    until = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.005)


def checkpoint(run: Path) -> dict[str, bytes]:
    """All of the last checkpoint."""
    return {path.name: path.read_bytes() for path in latest(run).iterdir()}


def main(kills: int, seed: int) -> None:
    started, draws, counts, faults = time.time(), random.Random(seed), Counter(), []
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = make(Path(temporary))
        made, world = recipe(folder, *STAGES), World()

        def trainer(run: Path) -> Callable[[], None]:
            return lambda: train(made, run, world, every=0.0)

        begun = time.monotonic()
        clean = folder / "clean"
        assert ended(forked(trainer(clean), folder / "said"), 900) == 0, (folder / "said").read_text()
        whole, span = checkpoint(clean), time.monotonic() - begun
        run = folder / "run-0"
        while counts["kills"] < kills or counts["runs"] < 1:
            said = [folder / f"{name}-{counts['rounds']}" for name in ("first", "second")]
            pids = {forked(trainer(run), said[0]): said[0]}
            time.sleep(draws.uniform(0, span / 8))
            pids[forked(trainer(run), said[1])] = said[1]
            counts["rounds"] += 1
            through = False
            for pid, file in pids.items():
                enough = counts["kills"] >= kills
                code = ended(pid, 900 if enough else draws.uniform(0, span / 8))
                if code is None:
                    os.kill(pid, signal.SIGKILL)
                    code = ended(pid, 60)
                    counts["kills"] += 1
                elif code == 0:
                    through = True
                elif code == 2 and REFUSED in (words := file.read_text()) and words.strip().count("\n") == 0:
                    counts["refused"] += 1
                else:
                    faults.append(f"ended with {code}: {file.read_text()[-300:]}")
                file.unlink(missing_ok=True)
            if through:
                folders = [path for path in run.iterdir() if path.is_dir() and path.name.isdigit()]
                if checkpoint(run) != whole or len(folders) != 1:
                    faults.append(f"{run.name}: other bytes than the run that nobody disturbed")
                counts["runs"] += 1
                run = folder / f"run-{counts['runs']}"
                print(dict(counts), faults, file=sys.stderr, flush=True)
    print(json.dumps({
        "benchmark": "trainer_kills", **{name: counts[name] for name in ("kills", "rounds", "refused", "runs")},
        "faults": faults, "seconds": round(time.time() - started),
    }))  # fmt: skip


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=100)
    options.add_argument("--seed", type=int, default=0)
    main(**vars(options.parse_args()))

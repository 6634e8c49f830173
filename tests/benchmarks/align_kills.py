"""Kills an alignment in every step of a round, at random moments, and looks at what is left.

    python tests/benchmarks/align_kills.py [--kills 20]

A round of a tiny model: its answers and verdicts are a scripted server's, its pairs are trained by `training.align`.
Each kill comes in the next of the steps of a round, at a random moment of it; then the alignment goes on to its end.
The checkpoint must have the bytes of the one that nobody disturbed, and so must all data files. All runs lie in one
place, since a model's state names the corpus that it was trained on. What a kill costs are the requests in both runs
beyond those of the clean one: at most a chunk of rows, and what was in flight.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from preference_kills import finish, start
from support.aligning import align, configured
from support.corpora import data_files
from support.phones import save_tiny
from support.scripted_server import Scripted

from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from pipelines.models.model_stage import ModelStage

STEPS = ("start", "begin", "build", "train", "evaluate")
IMAGES, SLOTS = 12, 32
RECIPE = """
[[stages]]
name = "dpo"
sets = { pairs = 1.0 }
beta = 0.1
steps = 6
batch = 2
rate = 1e-3
precision = "float32"
"""


def prepared(folder: Path, server: Scripted, tiny: Path) -> Path:
    """The configuration of a round that trains a tiny model."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    config = configured(folder, server, IMAGES)
    lines = [line for line in config.read_text().splitlines() if not line.startswith("train_command")]
    text = "\n".join(lines).replace("[align]", '[align]\nrecipe = "recipe.toml"')
    config.write_text(text.replace('[endpoints.policy]\nmodel = "scripted"', f'[endpoints.policy]\nmodel = "{tiny}"'))
    (folder / "evaluate.py").write_text(EVALUATE)
    return config


EVALUATE = """
import hashlib, json, sys
from pathlib import Path
weights = hashlib.sha256((Path(sys.argv[1]) / "model.safetensors").read_bytes()).hexdigest()
print(json.dumps({"false_objects_per_response": int(weights[:4], 16) / 16**4, "recall": 1.0}))
"""


def steps_of(folder: Path) -> list[tuple[str, float]]:
    """The steps that an alignment has come to, and when."""
    file = folder / "steps"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(line.split()[0], float(line.split()[1])) for line in lines if line.count(" ") == 1]


def going(config: Path) -> None:
    def note(step: str) -> None:
        with (config.parent / "steps").open("a") as file:
            file.write(f"{step} {time.time()}\n")

    align(config, 1, between=note)
    note("end")


def left_of(folder: Path) -> tuple[dict[str, str], str]:
    """The data files of an alignment without root.json, which has times of the source; and the hash of its weights."""
    files = {
        name: sha for name, sha in data_files(folder / "corpus").items() if name not in ("root.json", "align.json")
    }
    files["align.json"] = (folder / "corpus/align.json").read_text()
    weights = (folder / "checkpoints/round-1/checkpoint/model.safetensors").read_bytes()
    return files, hashlib.sha256(weights).hexdigest()


def main(kills: int, seed: int) -> dict:
    began, draws, costs, faults = time.time(), Random(seed), [], []
    with tempfile.TemporaryDirectory() as temporary, Scripted(latency=0.005) as server:
        tiny = save_tiny(Path(temporary) / "tiny")
        folder = Path(temporary) / "round"
        clean = prepared(folder, server, tiny)
        finish(lambda: going(clean))
        wanted, requests, moments = left_of(clean.parent), server.count(), steps_of(clean.parent)
        span = {step: after - at for (step, at), (_, after) in pairwise(moments)}  # seconds of each step
        for kill in range(kills):
            step = STEPS[kill % len(STEPS)]
            config, before = prepared(folder, server, tiny), server.count()
            child = start(lambda: going(config))
            while step not in [name for name, _ in steps_of(folder)]:
                time.sleep(0.005)
            time.sleep(draws.uniform(0, span[step]))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            finish(lambda: going(config))
            costs.append(server.count() - before - requests)
            now = left_of(folder)
            if now[1] != wanted[1]:
                faults.append(f"{kill} in {step}: other weights")
            faults += [f"{kill} in {step}: {name}" for name in wanted[0] if now[0].get(name) != wanted[0][name]]
            faults += verify_root(Root(str(folder / "corpus"))).problems
            print(kill, step, "asked again", costs[-1], faults, file=sys.stderr, flush=True)
    bound = 2 * (ModelStage.__dataclass_fields__["chunk_rows"].default + 2 * SLOTS)
    return {
        "benchmark": "align_kills", "kills": kills, "requests": requests, "faults": faults,
        "asked_again_mean": round(sum(costs) / max(1, kills), 1), "asked_again_most": max(costs, default=0),
        "bound": bound, "within_bound": max(costs, default=0) <= bound, "seconds": round(time.time() - began),
    }  # fmt: skip


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--seed", type=int, default=0)
    print(json.dumps(main(**vars(options.parse_args()))))

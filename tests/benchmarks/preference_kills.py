"""Kills a preference run at random moments, and counts what is asked again.

    python tests/benchmarks/preference_kills.py [--kills 20]

Pictures go through responses, claims and verdicts of a scripted server, into shards, in one process: how Beam's are
killed is the matter of `kills.py`. Each kill comes once the server has been asked a random number of requests; then the
run goes on to its end, and the SHA-256 of every data file is compared with those of a run that nobody disturbed. What a
kill costs are the requests in both runs beyond those of the clean one: at most a chunk of rows, and what was in flight.
As many at most are missing in the view `calls`.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from support.corpora import ONE_PROCESS, build, data_files, picture
from support.scripted_server import Scripted

from pipelines.engine.ledger import runs
from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root
from pipelines.models.model_stage import ModelStage

PICTURES, DRAWS, SLOTS = 15, 10, 8
REQUESTS_A_ROW = 2  # of claims, at most


def configured(folder: Path, server: Scripted) -> Path:
    config = folder / "my.toml"
    config.write_text(
        f'root = "corpus"\n[source]\nkind = "instructions"\npath = "{folder.parent / "data"}"\n'
        f'[endpoints.m]\nmodel = "scripted"\nurl = "{server.url}"\nconcurrency = {SLOTS}\n'
        f'[responses]\nendpoint = "m"\ndraws = {DRAWS}\n[claims]\nendpoint = "m"\n[verdicts]\nlabelers = ["m"]\n'
        f'[sets.dpo]\ntask = "preference"\n{ONE_PROCESS}'
    )
    return config


def start(work: Callable[[], None]) -> int:
    """Has a fork of this process do something, which has all modules at hand; returns its number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def finish(work: Callable[[], None]) -> None:
    _, status = os.waitpid(start(work), 0)
    assert status == 0, status


def kill_after(config: Path, server: Scripted, requests: int) -> int:
    """Starts a run and kills it once so many requests were asked. Returns how many were in the end."""
    before, child = server.count(), start(lambda: build(config))
    while server.count() - before < requests and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "it ended by itself"
    time.sleep(0.1)  # until the server has read what was sent
    return server.count() - before


def check(root: Root) -> None:
    assert not verify_root(root).problems


def counted(root: Root) -> int:
    """The requests of all runs that the ledger knows."""
    return sum(ledger.spent("m")[0] for ledger in runs(root))


def main(kills: int, seed: int) -> None:
    started, draws, costs, uncounted, unequal = time.time(), Random(seed), [], [], 0
    with tempfile.TemporaryDirectory() as temporary, Scripted(latency=0.01) as server:
        data = Path(temporary) / "data"
        data.mkdir()
        lines = []
        for number in range(PICTURES):
            (data / f"{number}.png").write_bytes(picture(number)[0])
            lines.append(json.dumps({"image_path": f"{number}.png", "question": "Describe the picture."}))
        (data / "instructions.jsonl").write_text("\n".join(lines))
        (Path(temporary) / "clean").mkdir()
        clean = configured(Path(temporary) / "clean", server)
        finish(lambda: build(clean))
        files, requests = data_files(clean.parent / "corpus"), server.count()
        for kill in range(kills):
            folder = Path(temporary) / str(kill)
            folder.mkdir()
            config, before = configured(folder, server), server.count()
            asked = kill_after(config, server, draws.randint(1, requests - 1))
            finish(lambda: build(config))
            finish(lambda: check(Root(str(folder / "corpus"))))
            costs.append(server.count() - before - requests)
            uncounted.append(server.count() - before - counted(Root(str(folder / "corpus"))))
            unequal += sum(data_files(folder / "corpus").get(name) != said for name, said in files.items())
            unequal += len(data_files(folder / "corpus").keys() - files.keys())
            print(
                kill,
                "killed after",
                asked,
                "asked again",
                costs[-1],
                "uncounted",
                uncounted[-1],
                file=sys.stderr,
                flush=True,
            )
            shutil.rmtree(folder)
    bound = REQUESTS_A_ROW * (ModelStage.__dataclass_fields__["chunk_rows"].default + SLOTS)
    print(json.dumps({
        "benchmark": "preference_kills", "kills": kills, "requests": requests, "files": len(files),
        "files_unequal": unequal, "asked_again_mean": round(sum(costs) / max(1, kills), 1),
        "asked_again_most": max(costs, default=0), "uncounted_most": max(uncounted, default=0),
        "bound": bound, "within_bound": all(cost <= bound for cost in costs + uncounted),
        "seconds": round(time.time() - started),
    }))  # fmt: skip


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--seed", type=int, default=0)
    main(**vars(options.parse_args()))

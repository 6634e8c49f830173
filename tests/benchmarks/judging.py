"""CPU seconds for a judged response: pico answers about drawn scenes, and judges its own answers, through its server.

    python tests/benchmarks/judging.py [--scenes 40] [--draws 10]

Everything is counted: the run, its workers, the servers, with all their threads. Prints one line of JSON:

    judged          responses with a score
    cpu, wall       seconds of the whole run
    cpu_a_judged    CPU seconds for a judged response; starting processes is in it
    claims, asked   verdicts that are needed, and questions that were asked for them: equal ones are asked once
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb

PROJECT = Path(__file__).parents[2]
CONFIG = """
root = "corpus"
[source]
kind = "scenes"
count = {scenes}
seed = 4242
side = 126
noise = 0
planted = 0
print_height = [0.16, 0.22]
[endpoints.pico]
model = "{checkpoint}"
command = "{python} -m training.serve {{model}} --name {{model}} --port {{port}} {options}"
concurrency = 64
[instructions]
questions = ["Describe the image."]
[responses]
endpoint = "pico"
draws = {draws}
max_tokens = 100
[verdicts]
labelers = ["pico"]
[sets.pairs]
task = "preference"
[gates]
empty_sets = false
[beam]
options = ["--direct_running_mode=in_memory", "--direct_num_workers=1"]
"""


def seconds(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def judged(folder: Path, options: argparse.Namespace) -> dict:
    checkpoint, python = options.project / "training/pico", sys.executable
    said = CONFIG.format(
        scenes=options.scenes, draws=options.draws, checkpoint=checkpoint, python=python, options=options.serve
    )
    (folder / "my.toml").write_text(said)
    environment = {**os.environ, "PYTHONPATH": str(options.project)}
    began, before = time.monotonic(), seconds(resource.RUSAGE_CHILDREN)
    subprocess.run([python, "-m", "pipelines.build", "my.toml"], cwd=folder, env=environment, check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    cpu, wall = seconds(resource.RUSAGE_CHILDREN) - before, time.monotonic() - began
    verdicts = f"read_parquet('{folder}/corpus/verdicts/0*.parquet')"
    responses = f"read_parquet('{folder}/corpus/responses/0*.parquet')"
    claims, asked, scored = duckdb.sql(f"""
        SELECT count(*) FILTER (number IS NOT NULL), count(DISTINCT made_from) FILTER (number IS NOT NULL),
               count(DISTINCT response) FILTER (p_yes IS NOT NULL) FROM {verdicts}""").fetchall()[0]
    ((drawn,),) = duckdb.sql(f"SELECT count(*) FROM {responses} WHERE reason IS NULL").fetchall()
    return {
        "responses": drawn, "judged": scored, "claims": claims, "asked": asked, "saved": round(1 - asked / claims, 3),
        "cpu": round(cpu, 1), "wall": round(wall, 1), "cpu_a_judged": round(cpu / scored, 4),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--project", type=Path, default=PROJECT, help="another checkout to compare with")
    parser.add_argument("--serve", default="", help="further options of training.serve")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(judged(Path(folder), options)))


if __name__ == "__main__":
    main()

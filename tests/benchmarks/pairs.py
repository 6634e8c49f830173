"""Pairs of a million responses, with six claims each: `python tests/benchmarks/pairs.py [responses]`.

Prints one JSON line: seconds of each part, the memory at its peak, and the ratio of the whole step to a mere reading of
the columns that it reads.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipelines.catalog.catalog import connect, stage_files
from pipelines.engine.commit import Commit
from pipelines.engine.ledger import Ledger
from pipelines.engine.root import Root
from pipelines.stages.length_balance import length_balance
from pipelines.stages.pairs import DrawPairs, candidates, draw, read_scores
from schemas.pairs import PairsConfig
from schemas.stages import STAGES

DRAWS, CLAIMS, INSTRUCTIONS = 10, 6, 1000  # of an instruction; of a response, on average; of a partition
WORDS = "a the red blue dog cat sits on table window street man reads near two cups open sign"


def write_answers(root: Root, partitions: int) -> None:
    """Responses of some 80 words, claims of which three in ten are rejected, one labeler."""
    draws, words = np.random.default_rng(0), WORDS.split()
    texts = np.array([" ".join(draws.choice(words, draws.integers(40, 120))) for _ in range(10_000)])
    for partition in range(partitions):
        instructions = np.sort([f"{n:016x}" for n in draws.integers(0, 2**62, INSTRUCTIONS)])
        of = np.repeat(instructions, DRAWS)
        keys = np.array([f"{key}_{n % DRAWS:02d}" for n, key in enumerate(of)])
        said = draws.choice(texts, len(keys))
        write(root, "responses", partition, key=keys, instruction=of, draw=np.tile(np.arange(DRAWS), INSTRUCTIONS),
              text=[f"{n} {text}" for n, text in enumerate(said)], cut=np.zeros(len(keys), bool))  # fmt: skip
        many = draws.integers(1, 2 * CLAIMS, len(keys))
        claims = [[{"claim": f"Claim {n}.", "question": f"Is it {n}?"} for n in range(count)] for count in many]
        write(root, "claims", partition, key=keys, instruction=of, claims=claims)
        response = np.repeat(keys, many)
        number = np.concatenate([np.arange(count) for count in many])
        p_yes = np.where(draws.random(len(number)) < 0.7, 0.9, 0.1)
        write(root, "verdicts", partition, key=[f"{key}_{n:03d}_a" for key, n in zip(response, number, strict=True)],
              instruction=np.repeat(of, many), response=response, number=number, labeler=["a"] * len(number),
              p_yes=p_yes, p_no=1 - p_yes)  # fmt: skip


def write(root: Root, stage: str, partition: int, **columns) -> None:
    schema = STAGES[stage]
    rows = len(columns["key"])
    made = {"made_from": ["0" * 32] * rows, "reason": [None] * rows, "detail": [None] * rows}
    table = pa.table({name: pa.array((columns | made)[name], schema.field(name).type) for name in schema.names}, schema)
    path = Path(root.path(f"{stage}/{partition:05d}.parquet"))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def main(responses: int) -> None:
    partitions = max(1, responses // (INSTRUCTIONS * DRAWS))
    with tempfile.TemporaryDirectory() as folder, patch("pipelines.engine.root.FSYNC", False):
        root = Root(folder)
        write_answers(root, partitions)
        step, seconds = DrawPairs(PairsConfig()), {}
        commits = {
            stage: {p: Commit(stage, p, 1, {}, {}, "", dict.fromkeys(STAGES[stage].names, ""), rows=1)
                    for p in range(partitions)} for stage in ("responses", "claims", "verdicts")
        }  # fmt: skip
        commits["rows"] = commits["responses"]

        def timed(name, work):
            started = time.perf_counter()
            made = work()
            seconds[name] = round(time.perf_counter() - started, 2)
            return made

        def reading():
            with connect(root, stage_files(root, [STAGES[name] for name in step.reads])) as connection:
                for stage, columns in step.reads.items():
                    connection.sql(f"SELECT {', '.join(f'count({name})' for name in columns)} FROM {stage}").fetchall()

        timed("reading", reading)
        found = timed("scores", lambda: read_scores(root, range(partitions)))
        every = timed("candidates", lambda: candidates(found))
        drawn = timed("draw", lambda: draw(found, every, 2, 0))
        timed("balance", lambda: length_balance(found.words[drawn.chosen], found.words[drawn.rejected]))
        timed("step", lambda: step.run(root, Ledger(root, "a-run"), commits))
        print(json.dumps({
            "benchmark": "pairs", "responses": len(found.keys), "candidates": len(every.chosen),
            "drawn": len(drawn.chosen), "seconds": seconds,
            "step_to_reading": round(seconds["step"] / seconds["reading"], 1),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }))  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)

"""How near the client comes to what a server's slots allow, on one core, with an image of 100 KB in every request.

    python tests/benchmarks/endpoint_throughput.py [--slots 32] [--latency 0.2] [--questions 1600]

The stage `verdicts` asks a scripted server, in a process of its own on other cores, that answers each request after so
many seconds: its slots allow slots / latency answers a second. Eight questions stand together about each image. The
figure is the stage's answers a second, chunks of finished rows put down, as a share of that; the core it runs on must
not be shared while it is measured: `core_share` says how much of it this process had to itself.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from support.scripted_server import Scripted

from pipelines.engine.checkpoints import write_chunk
from pipelines.engine.partition_stage import Unit, finished
from pipelines.engine.root import Root
from pipelines.models.endpoints import open_endpoint
from pipelines.models.prompts import packaged
from pipelines.stages.verdicts import Judge
from schemas.config.endpoints import EndpointConfig

SIZE = 100_000  # bytes of an image; servers are sent any bytes, and this one looks at none
TOGETHER = 8  # questions about an image


def main(slots: int, latency: float, questions: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, Scripted(latency=latency) as server:
        os.sched_setaffinity(server.process.pid, set(cores[1:]) or {cores[0]})
        os.sched_setaffinity(0, {cores[0]})
        root = Root(folder)
        config = EndpointConfig(model="scripted", url=server.url, concurrency=slots)
        stage = Judge((open_endpoint("labeler", config),), prompt=packaged("verdict"))
        units = units_of(root, stage, questions)
        rows = [{**unit.row, "before": None} for unit in units]
        for _ in stage.make(rows[: 2 * slots], root):  # connections and imports
            pass
        began, busy, chunk = time.monotonic(), time.process_time(), []
        by_key = {unit.key: unit for unit in units}
        for key, fields in stage.make(rows, root):
            chunk.append(finished(stage, by_key[key], fields)[0])
            if len(chunk) == stage.chunk_rows:
                write_chunk(root, stage, 0, chunk)
                chunk.clear()
        seconds, busy = time.monotonic() - began, time.process_time() - busy
        most = server.says()["most"]
    limit = slots / latency
    print(json.dumps({
        "benchmark": "endpoint_throughput", "questions": questions, "slots": slots, "latency": latency,
        "answers_a_second": round(questions / seconds, 1), "limit": limit,
        "share_of_limit": round(questions / seconds / limit, 3), "in_flight_at_most": most,
        "milliseconds_of_core_a_request": round(1000 * busy / questions, 2), "core_share": round(busy / seconds, 2),
    }))  # fmt: skip


def units_of(root: Root, stage: Judge, questions: int) -> list[Unit]:
    """So many questions about images that lie in a file of the root."""
    draws, found = Random(0), []
    with open(root.temporary("images"), "wb") as file:
        for image in range(-(-questions // TOGETHER)):
            data = draws.randbytes(SIZE)
            row = {
                "byte_offset": file.tell(), "size": SIZE, "sha256": hashlib.sha256(data).hexdigest(), "format": "JPEG",
                "payload": Path(file.name).name, "reason": None,
            }  # fmt: skip
            file.write(data)
            for number in range(min(TOGETHER, questions - len(found))):
                claim = {"question": f"Is it {number}?", "claim": ""}
                of = {"key": f"{image:06d}", "instruction": "i", "claims": [claim], "reason": None}
                found += stage.units(f"{image:06d}_{number}", {"claims": of, "images": row}, "")
    return found


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--slots", type=int, default=32)
    options.add_argument("--latency", type=float, default=0.2)
    options.add_argument("--questions", type=int, default=1600)
    main(**vars(options.parse_args()))

"""Workers share the requests to one host, and tasks of Dask have a size that fits."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.corpora import picture
from support.fetched_corpora import REASONS_OF, configure
from support.paths import PROJECT

from flows.commands.build import _tell_per_host
from pipelines.build.corpus import open_corpus
from pipelines.build.plan import plan
from pipelines.catalog.catalog import query
from pipelines.engine.cluster import partition_size, workers_of

MANY = "--direct_running_mode=multi_processing"


@pytest.mark.parametrize(
    ("runner", "options", "expected"),
    [
        ("FnApiRunner", [], 1),
        ("FnApiRunner", ["--direct_num_workers=8"], 1),  # of one process
        ("FnApiRunner", [MANY, "--direct_num_workers=8"], 8),
        ("DirectRunner", [MANY, "--direct_num_workers", "3"], 3),
        ("FnApiRunner", [MANY, "--direct_num_workers=0"], os.cpu_count()),
        ("FlinkRunner", ["--parallelism=16", "--other=3"], 16),
        ("apache_beam.runners.dataflow.DataflowRunner", ["--num_workers=2", "--max_num_workers=9"], 9),
        ("PortableRunner", ["--job_endpoint=127.0.0.1:1"], 1),
        ("SparkRunner", ["--parallelism=many"], 1),  # Beam says what is wrong
    ],
)
def test_the_number_of_workers_is_what_the_options_say(runner, options, expected):
    assert workers_of(runner, options) == expected


@pytest.mark.parametrize(
    ("items", "workers", "size"),
    [
        (0, 0, 1),
        (128, 2, 1),
        (10_000, 2, 1),
        (10_001, 2, 2),
        (230_000, 16, 23),
        (230_000, 5000, 6),
        (2_300_000, 64, 230),
    ],
)
def test_a_task_of_dask_has_one_item_until_there_are_too_many(items, workers, size):
    assert partition_size(items, workers) == size


def test_a_scheduler_that_does_not_answer_is_one_line():
    pytest.importorskip("distributed")
    with pytest.raises(ValueError, match=r"no Dask scheduler at tcp://127.0.0.1:9: "):
        workers_of("x.DaskRunner", ["--dask_client_address=tcp://127.0.0.1:9"])


def test_a_run_says_how_many_requests_each_worker_sends(tmp_path, capsys):
    for workers, said in ((3, "images: each of 3 workers sends at most 1 request at a time to one host"), (1, "")):
        config = configure(tmp_path, ["http://localhost:9/a"], fetch=f"per_host = 4\n[beam]\n{options(workers)}")
        corpus = open_corpus(config)
        _tell_per_host(corpus, plan(corpus))
        assert said in (out := " ".join(capsys.readouterr().out.split())) and (said or not out)


# A server that counts


class Seen:
    """What a server saw of one host."""

    def __init__(self):
        self.now, self.most, self.lock = 0, 0, threading.Lock()
        self.times: dict[str, list[float]] = defaultdict(list)  # by path
        self.busy_until, self.while_busy = 0.0, Counter[str]()


@pytest.fixture
def served() -> Iterator[tuple[str, Seen]]:
    """The URL of a server that takes 0.2 s for a picture, and tells everyone to wait when it is asked for the first."""
    seen, data = Seen(), picture(0)[0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with seen.lock:
                seen.now += 1
                seen.most = max(seen.most, seen.now)
                seen.times[self.path].append(time.monotonic())
                if self.path.startswith("/busy") and not seen.busy_until:
                    seen.busy_until = time.monotonic() + 2
                busy = self.path.startswith("/busy") and time.monotonic() < seen.busy_until
                seen.while_busy["asked"] += busy
            time.sleep(0 if busy else 0.2)
            with seen.lock:
                seen.now -= 1
            self.send_response(429 if busy else 200)
            if busy:
                self.send_header("Retry-After", "2")
            self.send_header("Content-Length", "0" if busy else str(len(data)))
            self.end_headers()
            self.wfile.write(b"" if busy else data)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}", seen
    server.shutdown()
    server.server_close()


def options(workers: int) -> str:
    return f'options = ["{MANY}", "--direct_num_workers={workers}"]\n'


def fetch(folder: Path, urls: list[str], per_host: int, workers: int) -> None:
    fetching = f"per_host = {per_host}\ntries = 3\n[beam]\n{options(workers)}"
    config = configure(folder, urls, fetch=fetching)
    config.write_text(config.read_text().replace("rows_per_partition = 20", "rows_per_partition = 2").replace(
        "deadline = 2", "deadline = 30").replace("read_seconds = 0.5", "read_seconds = 10"))  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "pipelines.build", str(config), "--until", "images"]
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
    rows = query(open_corpus(config).root, REASONS_OF).to_pylist()
    assert len(rows) == len(urls) and {row["reason"] for row in rows} == {None}


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "per_host", "most"), [(2, 4, 4), (8, 4, 8), (8, 16, 16), (2, 1, 2)])
def test_workers_together_keep_per_host(workers, per_host, most, served, tmp_path):
    url, seen = served
    fetch(tmp_path, [f"{url}/{n}" for n in range(64)], per_host, workers)
    assert min(workers, most) <= seen.most <= most
    assert {len(times) for times in seen.times.values()} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 8])
def test_each_worker_waits_when_a_host_says_so(workers, served, tmp_path):
    url, seen = served
    fetch(tmp_path, [f"{url}/busy/{n}" for n in range(32)], workers, workers)
    assert 1 <= seen.while_busy["asked"] <= workers, "each worker was told once"

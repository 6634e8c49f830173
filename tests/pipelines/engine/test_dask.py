"""Dask as the cluster: real schedulers and workers give the same bytes, also if a worker is killed.

Needs the extra `[dask]`; without it these tests are skipped.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.corpora import build, data_files, write_tar
from support.loopback import free_port
from support.paths import PROJECT

from pipelines.engine.root import Root
from pipelines.maintain.verify import verify_root

distributed = pytest.importorskip("distributed", reason="Dask is not installed: the extra [dask]")

TOML = """
root = "{root}"
[source]
kind = "webdataset"
path = "source/*.tar"
[duplicates]
[sets.train]
task = "caption"
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """The address of a scheduler, and its two workers."""
    address = f"tcp://127.0.0.1:{free_port()}"
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}

    def start(*words: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.{words[0]}", *words[1:]]
        return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    worker = ("dask_worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny")
    processes = [start("dask_scheduler", "--host", address, "--no-dashboard"), start(*worker), start(*worker)]
    with distributed.Client(address, timeout=60) as client:
        client.wait_for_workers(2, timeout=60)
    yield address, processes[1:]
    for process in reversed(processes):
        process.kill()
        process.wait()


def begin(config: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipelines.build", str(config)]
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_workers_give_the_bytes_of_one_process_also_if_one_is_killed(cluster, tmp_path):
    address, workers = cluster
    for number in range(8):
        write_tar(tmp_path / f"source/{number}.tar", range(3 * number, 3 * number + 3))
    beam = f"""[beam]
runner = "apache_beam.runners.dask.dask_runner.DaskRunner"
options = ["--dask_client_address={address}"]
"""
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(TOML.format(root=name) + beam)
    (tmp_path / "plain.toml").write_text(TOML.format(root="plain"))
    plain = data_files(Path(build(tmp_path / "plain.toml").url))
    said = (whole := begin(tmp_path / "one.toml")).communicate(timeout=300)
    assert whole.returncode == 0, said
    assert data_files(tmp_path / "one") == plain

    killed = begin(tmp_path / "two.toml")
    while not [*tmp_path.glob("two/images/*.parquet")] and killed.poll() is None:
        time.sleep(0.05)
    workers[0].send_signal(signal.SIGKILL)
    killed.communicate(timeout=300)
    said = (again := begin(tmp_path / "two.toml")).communicate(timeout=300)
    assert again.returncode == 0, said
    assert data_files(tmp_path / "two") == plain
    assert verify_root(Root(str(tmp_path / "two"))).problems == []

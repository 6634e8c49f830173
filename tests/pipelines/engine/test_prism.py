"""Prism, Beam's portable runner, with workers of an external pool: the same bytes as a local run.

Needs the program `prism` on PATH or in Go's folder of programs; without it this test is skipped. See docs/engines.md.
"""

import os
import shutil
import socket
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
from schemas.config.file import read_config

PRISM = shutil.which("prism", path=os.pathsep.join([os.environ.get("PATH", ""), str(Path.home() / "go/bin")]))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PRISM is None,
        reason="no prism: go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0, and put it on PATH",
    ),
]

TOML = """
root = "{name}"
[source]
kind = "webdataset"
path = "source/*.tar"
[duplicates]
[sets.train]
task = "caption"
samples_per_shard = 8
"""
BEAM = """
[beam]
runner = "PrismRunner"
options = ["--prism_location={prism}", "--environment_type=EXTERNAL", "--environment_config=127.0.0.1:{port}"]
"""


@pytest.fixture
def pool(tmp_path) -> Iterator[int]:
    """The port of a pool of workers. Each is a child of it, started as `python` with its environment."""
    port = free_port()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with (tmp_path / "pool.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"],
            env={**os.environ, "PATH": path, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.2)
    yield port
    os.killpg(process.pid, 9)
    process.wait()


def test_prism_makes_and_verifies_the_bytes_of_a_local_run(pool, tmp_path):
    for number in range(6):
        write_tar(tmp_path / f"source/{number}.tar", range(3 * number, 3 * number + 4))
    (tmp_path / "plain.toml").write_text(TOML.format(name="plain"))
    config = tmp_path / "prism.toml"
    config.write_text(TOML.format(name="prism") + BEAM.format(prism=PRISM, port=pool))
    plain = data_files(Path(build(tmp_path / "plain.toml").url))
    said = subprocess.run(
        [sys.executable, "-m", "pipelines.build", str(config)],
        env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True, timeout=540,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert data_files(tmp_path / "prism") == plain
    root = Root(str(tmp_path / "prism"))
    by_workers = verify_root(root, beam=read_config(config).beam)
    assert by_workers == verify_root(root) and by_workers.problems == []

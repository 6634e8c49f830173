"""One Prefect server and one worker for all tests of flows."""

from collections.abc import Iterator

import pytest
from support.prefect_server import PREFECT, Server, serving, started


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    """A Prefect server on this machine, with a database of its own."""
    with serving(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture(scope="session")
def worker(server) -> Iterator[str]:
    """A Prefect worker, which starts a process for each flow run; its mark."""
    command = [*PREFECT, "worker", "start", "--pool", "shardmill", "--type", "process", "--limit", "2"]
    with started(command, server.home, server.home / "worker", **server.env) as (_, mark):
        yield mark

"""One Prefect server and one worker for all tests of flows."""

import socket
from collections.abc import Iterator

import httpx
import pytest
from support.prefect_server import PREFECT, Server, started, until


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    """A Prefect server on this machine, with a database of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(f"http://127.0.0.1:{port}/api", tmp_path_factory.mktemp("prefect"))
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]

    def answers() -> bool:
        try:
            return httpx.get(f"{server.url}/health").is_success
        except httpx.HTTPError:
            return False

    with started(command, server.home, server.home / "log", **server.env, PREFECT_LOGGING_LEVEL="CRITICAL"):
        until(answers, what="the server's start")
        yield server


@pytest.fixture(scope="session")
def worker(server) -> Iterator[str]:
    """A Prefect worker, which starts a process for each flow run; its mark."""
    command = [*PREFECT, "worker", "start", "--pool", "shardmill", "--type", "process"]
    with started(command, server.home, server.home / "worker", **server.env) as (_, mark):
        yield mark

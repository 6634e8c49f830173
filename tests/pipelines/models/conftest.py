"""A scripted server of models."""

import pytest
from support.scripted_server import Scripted


@pytest.fixture(scope="module")
def server():
    with Scripted(latency=0.01) as server:
        yield server


@pytest.fixture
def scripted(server) -> Scripted:
    """A server that answers at once, and fails at nothing."""
    server.does(latency=0.01)
    return server

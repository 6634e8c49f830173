"""A server that does what strangers' servers do."""

import pytest
from support.hostile_server import Hostile


@pytest.fixture(scope="module")
def server():
    with Hostile() as hostile:
        yield hostile

"""The guard of `training.serve`, without a server."""

import asyncio

import pytest

from training.guard import Guard, Limits


@pytest.mark.parametrize("sizes", [(9,), (4, 5), (4, 4, 1), (9, 0)])
def test_a_body_whose_last_part_is_beyond_the_limit_is_refused_at_once(sizes):
    parts = [{"type": "http.request", "body": bytes(size), "more_body": True} for size in sizes]
    parts[-1]["more_body"] = False
    told = []

    async def receive():
        return parts.pop(0)  # none is waited for after the last

    async def send(message):
        told.append(message)

    guard = Guard(None, Limits(body=8))
    asyncio.run(guard({"type": "http", "headers": [(b"host", b"localhost")]}, receive, send))
    assert told[0]["status"] == 413 and guard.held == 0

"""The guard of `training.serve`, without a server."""

import asyncio

import pytest

from training.guard import DRAINED, Guard, Limits


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


@pytest.mark.parametrize("declared", [b"9", b"100000000000000000000000000000"])
def test_a_body_that_says_that_it_is_too_large_is_refused_whatever_comes(declared):
    told = []

    async def receive():
        return {"type": "http.request", "body": b"abcd", "more_body": False}

    async def send(message):
        told.append(message)

    guard = Guard(None, Limits(body=8))
    asyncio.run(guard({"type": "http", "headers": [(b"Content-Length", declared)]}, receive, send))
    assert told[0]["status"] == 413 and guard.held == 0


@pytest.mark.parametrize("limit", [8, 100])
def test_the_rest_of_a_body_that_is_too_large_is_read_for_a_while_only(limit):
    read, told = [], []

    async def receive():
        assert len(read) < 1_000, "it reads without end"
        read.append(10)
        return {"type": "http.request", "body": bytes(10), "more_body": True}

    async def send(message):
        told.append(message)

    asyncio.run(Guard(None, Limits(body=limit))({"type": "http", "headers": []}, receive, send))
    assert told[0]["status"] == 413 and sum(read) <= DRAINED * limit + 10

"""Turns go to the oldest first and are never lost; a host is left alone for as long as it takes."""

import asyncio
import random
import time
from email.utils import formatdate

import pytest

from pipelines.fetching.hosts import FAILURES, REMEMBERED, FetchFailed, Host, Hosts, PrioritySemaphore, retry_after


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7),
        (" 1.5 ", 1.5),
        ("", 0),
        ("-3", 0),
        ("soon", 0),
        ("nan", 0),
        ("inf", 0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
    ],
)
def test_what_a_server_asks_for_is_understood_or_nothing(said, seconds):
    assert retry_after({"Retry-After": said}) == seconds


def test_a_moment_until_which_a_server_wants_to_be_left_alone_may_be_said_as_a_date():
    assert 28 < retry_after({"Retry-After": formatdate(time.time() + 30, usegmt=True)}) <= 30


def test_who_waits_longest_is_next_whoever_came_first():
    async def work() -> list[int]:
        turns, done = PrioritySemaphore(1), []

        async def one(number: int) -> None:
            async with turns.turn(number):
                await asyncio.sleep(0)
                done.append(number)

        await asyncio.gather(*map(one, (5, 3, 9, 1, 7)))
        return done

    assert asyncio.run(work()) == [5, 1, 3, 7, 9]


def test_no_turn_is_lost_or_taken_twice_whenever_waiting_is_given_up():
    async def work() -> None:
        turns, draws, inside, most = PrioritySemaphore(3), random.Random(0), 0, 0

        async def one(number: int) -> None:
            nonlocal inside, most
            async with turns.turn(number):
                inside += 1
                most = max(most, inside)
                try:
                    await asyncio.sleep(draws.random() / 500)
                finally:
                    inside -= 1

        tasks = [asyncio.ensure_future(one(draws.randrange(100))) for _ in range(300)]
        for task in draws.sample(tasks, 150):
            await asyncio.sleep(draws.random() / 2000)
            task.cancel()
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks, return_exceptions=True)
        assert (turns.free, inside, most) == (3, 0, 3)

    asyncio.run(work())


TIMEOUT, BUSY = FetchFailed("timeout", "no byte", again=True), FetchFailed("http_429", "status 429", again=True)


def test_a_host_that_never_answers_is_left_alone_and_one_that_answers_now_and_then_is_not():
    host = Host(4)
    for _ in range(FAILURES - 1):
        host.silent(TIMEOUT)
    host.answered()
    for _ in range(FAILURES - 1):
        host.silent(TIMEOUT)
    assert not host.rests()
    host.silent(TIMEOUT)
    assert 59 < host.rests() <= 60
    with pytest.raises(FetchFailed, match="timeout: not asked, after this: no byte"):
        asyncio.run(host.rested(patience=30))


def test_a_busy_host_rests_as_it_asks_or_longer_each_time():
    host = Host(4)
    for expected in (1, 2, 4, 8):
        for _ in range(4):  # those in flight together
            host.busy(0, BUSY)
        assert expected - 0.1 < host.rests() <= expected
        host.closed = 0.0
    host.busy(3600, BUSY)
    assert 3599 < host.rests() <= 3600
    host.closed = 0.0
    host.answered()
    host.busy(0, BUSY)
    assert 0.9 < host.rests() <= 1


def test_hosts_that_were_asked_last_are_remembered_and_one_that_is_left_alone_is_not_forgotten():
    hosts = Hosts(4)
    hosts["busy"].busy(100, BUSY)
    idle = hosts["idle"]
    for number in range(REMEMBERED + 5):
        hosts[str(number)]
    assert hosts["busy"].rests() and hosts["idle"] is not idle and len(hosts.known) <= REMEMBERED + 1

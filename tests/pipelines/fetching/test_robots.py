"""robots.txt is obeyed, and whatever it holds costs time and memory of its length only."""

import asyncio
import random
import re
import resource
import threading
import time
import tracemalloc
import zlib

import pytest
from support.fetching import fetch
from support.hostile_server import Hostile
from yarl import URL

from pipelines.fetching.robots import KEPT, MOST, MOST_WILD, KeptRobots, Robots, may_ask, read_robots
from pipelines.fetching.urls import LONGEST, url_of


def rules(text: str) -> Robots:
    return read_robots(text.encode())


@pytest.fixture(scope="module")
def server():
    with Hostile() as hostile:
        yield hostile


ROBOTS = """\
# who may come
Sitemap: https://example.com/map.xml
User-agent: *
Disallow: /private/
Allow: /private/open
Crawl-delay: 10

User-agent: otherbot
User-agent: Shardmill/2.0
Disallow: /*.gif$
Disallow: /a%20b
Disallow:
Allow: /a b/c
disallow : /x   # both
User-agent: shardmill
Disallow: /y
"""


def test_the_rules_for_our_name_count_and_of_those_the_longest_that_fits():
    ours, others = rules(ROBOTS), rules(ROBOTS.replace("hardmill", "omeone"))
    said = {
        "/private/1": (True, False), "/private/open/1": (True, True), "/1.gif": (False, True), "/1.gif?x": (True, True),
        "/a b": (False, True), "/a%20b/d": (False, True), "/a%20b/c": (True, True), "/x1": (False, True),
        "/y": (False, True), "/": (True, True), "/PRIVATE/1": (True, True),
    }  # fmt: skip
    for path, (us, them) in said.items():
        url = URL(f"http://example.com{path}")
        assert (may_ask(ours, url), may_ask(others, url)) == (us, them), path


def test_no_robots_txt_whatever_is_in_it_takes_long_or_fails():
    url = URL("http://example.com/" + "a" * 2000)
    assert may_ask(rules("User-agent: *\nDisallow: /" + "*a" * 2001 + "$"), url)
    assert not may_ask(rules("User-agent: *\nDisallow: /" + "*a" * 2000 + "$"), url)
    assert rules("<html>\0\nDisallow: /\nUser-agent\n:::\n") == Robots()
    for end in ("\r\n", "\n", "\r"):
        assert rules(f"User-agent: *{end}Disallow: /{end}").plain == {"/": False}


def test_robots_txt_is_read_once_a_host_and_obeyed_if_the_configuration_says_so(server):
    urls = [server.url(f"/good/{n}", "closed.r") for n in range(20)]
    others = [("/good/no1", "partly.r"), ("/good/secret", "partly.r"), ("/good/1", "none.r"), ("/good/1", "moved.r")]
    others.append((f"/to/http:||closed.s.localhost:{server.port}|good|1", "none.r"))
    urls += [server.url(path, host) for path, host in others]
    answers = fetch(urls, robots_txt=True, per_host=8)
    assert [answer.reason for answer in answers] == ["opt_out"] * 21 + [None, None, "opt_out", "opt_out"]
    asked = {path: len(at) for path, at in server.asked().items() if ".r." in path or ".s." in path}
    robots = {path: times for path, times in asked.items() if path.endswith(".txt")}
    assert set(robots.values()) == {1} and not [path for path in asked if path.startswith("closed") and "good" in path]
    assert answers[0].detail == f"http://closed.r.localhost:{server.port}/robots.txt" and answers[0].tries == 0
    assert [answer.reason for answer in fetch(urls[:3])] == [None] * 3  # by default nobody asks for it


def test_who_cannot_say_what_his_robots_txt_says_is_left_alone(server):
    urls = [server.url(f"/good/{n}", "broken.r") for n in range(10)]
    answers = fetch(urls, robots_txt=True)
    assert {answer.reason for answer in answers} == {"http_5xx"} and {answer.tries for answer in answers} == {0}
    assert {answer.detail for answer in answers} <= {
        "robots.txt: status 500", "not asked, after this: robots.txt: status 500"
    }  # fmt: skip
    asked = {path: len(at) for path, at in server.asked().items() if path.startswith("broken.r")}
    assert asked == {"broken.r.localhost/robots.txt": 2}  # tries


def test_a_robots_txt_without_end_is_read_so_far(server):
    (answer,) = fetch([server.url("/good/1", "huge.r")], robots_txt=True)
    assert answer.reason == "opt_out"


# Hostile ones


def packed(text: bytes, times: int) -> bytes:
    """A gzip of a text many times over, made without holding it."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(text) for _ in range(times)) + packer.flush()


def many(line: str) -> bytes:
    """A robots.txt as long as any that is read, of lines that differ."""
    text = "User-agent: *\n"
    lines = (line.format(n=n) for n in range(10**6))
    while len(text) < MOST:
        text += "\n".join(next(lines) for _ in range(1000)) + "\n"
    return text.encode()


HOSTILE = {
    "agents": b"User-agent: *\n" * 20_000 + b"allow: /\n" * 25_000,
    "agents and rules in turn": b"User-agent: *\nallow: /\n" * 25_000,
    "names": many("User-agent: bot{n}"),
    "rules": many("Disallow: /{n:x}"),
    "wildcards": many("Disallow: /*{n:x}*"),
    "stars": b"User-agent: *\nDisallow: /" + b"*a" * (MOST // 2),
    "stars alone": b"User-agent: *\nDisallow: /" + b"*" * MOST,
    "parts that nearly fit": many("Disallow: *" + "a" * 49 + "b" + "a" * 48 + "{n:x}"),
    "lengths": b"User-agent: *\n" + b"".join(b"allow: /" + b"a" * n + b"\n" for n in range(1200)),
    "ends": many("Allow: /{n:x}$"),
    "no lines": b"a" * MOST,
    "blank lines": b"\n" * MOST,
    "colons": b":" * MOST,
    "escapes": b"User-agent: *\nDisallow: /" + b"%61" * (MOST // 3),
    "marks": b"\xef\xbb\xbf" * (MOST // 3),
    "zeros": bytes(MOST),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_robots_txt_takes_time_and_memory_of_its_length(name):
    url = url_of("http://a.com/" + "a" * (LONGEST - 14))
    tracemalloc.start()
    began = time.process_time()
    robots = read_robots(HOSTILE[name])
    read = time.process_time() - began
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    began = time.process_time()
    may_ask(robots, url)
    assert read < 10 and memory < 100 * MOST, (read, memory)  # traced: ten times as slow
    assert time.process_time() - began < 5
    assert robots.size < 60 * MOST and robots.weight <= MOST_WILD


def test_too_many_wildcards_leave_more_alone_never_less():
    filler = "".join(f"Disallow: /no/*{n:x}$\n" for n in range(20_000))
    robots = rules(f"User-agent: *\n{filler}Disallow: /x/*/secret\nAllow: /x/*/secret/open\nDisallow: /plain\n")
    said = {"/x/1/secret": False, "/x/1/secret/open": False, "/x/1": False, "/plain": False, "/": True, "/y": True}
    assert {path: may_ask(robots, URL(f"http://a.com{path}")) for path in said} == said


def test_a_rule_that_the_end_cuts_is_not_read():
    text = b"User-agent: *\nDisallow: /a\n" + b"#" * (MOST - 50) + b"\nDisallow: /private/of/ours\n"
    assert read_robots(text[:MOST]).plain == {"/a": False}
    assert read_robots(b"User-agent: *\nDisallow: /a").plain == {"/a": False}  # nothing was cut here


def test_stars_and_ends_that_are_escaped_are_letters():
    robots = rules("User-agent: *\nDisallow: /a%2Ab\nDisallow: /c%24\nDisallow: /d*%24$\n")
    said = {"/a*b": False, "/axb": True, "/c": True, "/c$": False, "/dx$": False, "/dx": True}
    assert {path: may_ask(robots, URL(f"http://a.com{path}")) for path in said} == said


def test_wildcards_fit_as_a_regular_expression_would():
    draws = random.Random(0)
    for _ in range(20_000):
        pattern = "/" + "".join(draws.choices("ab*", (3, 2, 2), k=draws.randrange(7))) + draws.choice(["", "$"])
        path = "/" + "".join(draws.choices("ab", k=draws.randrange(8)))
        expected = ".*".join(map(re.escape, pattern.removesuffix("$").split("*"))) + ("$" if pattern[-1] == "$" else "")
        robots = rules(f"User-agent: *\nDisallow: {pattern}\n")
        assert may_ask(robots, URL(f"http://a.com{path}")) is not bool(re.match(expected, path)), (pattern, path)


def test_rules_of_many_hosts_are_kept_in_bounded_memory():
    kept, robots = KeptRobots(), read_robots(many("Disallow: /{n:x}"))
    places = [URL(f"http://h{n}.example") for n in range(3 * KEPT // robots.size)]
    for place in places:
        kept.add(place, robots)
        kept.weigh(place, robots)
        kept.get(places[0])
    assert kept.total <= KEPT and len(kept.known) == len(kept.sizes) < len(places) / 2
    assert kept.get(places[0]) and kept.get(places[-1]) and not kept.get(places[1])


class Loopback:
    """Answers on loopback in a thread of its own: `bad.localhost` has a robots.txt of one's choice, others are good."""

    def __init__(self, headers: bytes, robots: bytes):
        self.headers, self.robots, self.ready = headers, robots, threading.Event()

    async def handle(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                more, body = b"", b"good"
                if head.startswith(b"GET /robots.txt"):
                    more, body = (self.headers, self.robots) if b"bad.localhost" in head else (b"", b"")
                else:
                    await asyncio.sleep(0.05)
                writer.write(b"HTTP/1.1 200 OK\r\n" + more + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    async def serve(self):
        server = await asyncio.start_server(self.handle, "127.0.0.1", 0)
        self.port, self.loop = server.sockets[0].getsockname()[1], asyncio.get_running_loop()
        self.ready.set()
        self.end = asyncio.Event()
        await self.end.wait()

    def __enter__(self):
        threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True).start()
        assert self.ready.wait(10)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.end.set)


GZIP = b"Content-Encoding: gzip\r\n"
ANSWERS = {
    "agents": (b"", HOSTILE["agents"]),
    "rules": (b"", HOSTILE["rules"]),
    "wildcards": (b"", HOSTILE["wildcards"]),
    "a gzip of short lines": (GZIP, packed(b"ab\n" * (1 << 20), 60)),
    "a gzip of agents": (GZIP, packed(b"User-agent: *\n" * (1 << 16), 100)),
    "a gzip of nothing": (GZIP, b"\x1f\x8b\x08\0\0\0\0\0\0\3" + b"\0\0\0\xff\xff" * 200_000),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_other_hosts_notice_nothing(name, monkeypatch):
    """The event loop is never busy for 0.2 s, and memory stays. Waiting for it takes longer on a busy machine."""
    stalls, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def watch(self, *words, **options):
        original(self, *words, **options)

        async def measure():
            while True:
                busy, began = time.thread_time(), time.monotonic()
                await asyncio.sleep(0.01)
                stalls.append((time.thread_time() - busy, time.monotonic() - began))

        self.loop.call_soon_threadsafe(lambda: tasks.append(self.loop.create_task(measure())))

    from pipelines.fetching.fetch import Fetcher

    tasks, original = [], Fetcher.__init__
    monkeypatch.setattr(Fetcher, "__init__", watch)
    with Loopback(*ANSWERS[name]) as server:
        urls = [f"http://{'bad' if n % 4 == 0 else f'h{n}'}.localhost:{server.port}/{n}/{'a' * 10_000 * (n % 4 == 0)}"
                for n in range(40)]  # fmt: skip
        answers = fetch(urls, robots_txt=True, deadline=30.0, read_seconds=10.0)
    assert {a.reason for n, a in enumerate(answers) if n % 4} == {None}
    assert {a.reason for a in answers} <= {None, "opt_out"}
    busy, waited = map(max, zip(*stalls, strict=True))
    assert busy < 0.2 and waited < 2, (busy, waited)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # kilobytes

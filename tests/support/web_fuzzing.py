"""robots.txt and lists of opt-outs made of odd parts: each is read and held against URLs, whatever is in it."""

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from support.tar_fuzzing import peak

from pipelines.fetching.opt_out import read_opt_outs
from pipelines.fetching.robots import MOST, may_ask, read_robots
from pipelines.fetching.urls import LONGEST, url_of
from schemas.errors import UserError

NAMES = ("User-agent", "user-AGENT ", "Disallow", "Allow", "Sitemap", "Crawl-delay", "", "Disallow" * 50, "\ufeffAllow")
AGENTS = ("*", "shardmill", "Shardmill/1.0", "bot", "", "**", "*bot", "shard mill", "x" * 3_000, "\0", "ü")
PIECES = ("/", "*", "$", "a", "b", "%61", "%2F", "%", "%zz", "?", "#", "=", "ü", "\ud800", "\0", " ", "\t", "*" * 9)
ENDS = ("\n", "\r\n", "\r", "\n\n", "\0", "\x0b", "\u2028", "")
HOSTS = ("a.com", "*.a.com", "A.COM.", "[2001:db8::1]", "a.com:80", "bücher.example", "xn--bcher-kva.example", "http://a.com",
         "*", "a..com", "-", "a" * 300 + ".com", "@a.com", "a.com\\b", "1.2.3.4", "٣.com")  # fmt: skip
URLS = ("http://a.com/", "http://a.com/ab/ba?a=b", "https://b.a.com/" + "a" * 2_000, "http://xn--bcher-kva.example/%61*$",
        "http://a.com/" + "ab" * (LONGEST // 2 - 20), "http://[2001:db8::1]/" + "/" * 500)  # fmt: skip


def path(draws: random.Random) -> str:
    made = "".join(draws.choices(PIECES, k=draws.choice((0, 1, 3, 8, 40))))
    return made * draws.choice((1, 1, 1, 2, 30, 3_000))


def robots(draws: random.Random) -> bytes:
    """A robots.txt, up to a little longer than what is read of one."""
    lines = []
    for _ in range(draws.choice((1, 3, 10, 40))):
        name = draws.choice(NAMES)
        value = draws.choice(AGENTS) if "gent" in name.lower() else path(draws)
        sign = draws.choice((":", ": ", " : ", "", "::", "="))
        line = f"{name}{sign}{value}{draws.choice(('', '', ' # why', '#'))}{draws.choice(ENDS)}"
        if draws.random() < 0.7:
            line = f"Disallow: /{path(draws)}\n"
        lines.append(line * min(draws.choice((1, 1, 1, 1, 50, 20_000)), MOST // len(line or " ") + 1))
        if sum(map(len, lines)) > 2 * MOST:
            break
    draws.shuffle(lines)
    text = ("User-agent: *\n" * draws.choice((0, 1, 1, 1)) + "".join(lines))[: MOST + 5]
    data = text.encode(draws.choice(("utf-8",) * 8 + ("utf-16", "utf-16-le")), "surrogatepass")
    return draws.choice((b"",) * 8 + (b"\xef\xbb\xbf", b"\xff\xfe", bytes(9))) + data


def one_robots(folder: Path, draws: random.Random) -> str:
    rules = read_robots(robots(draws))
    for url in URLS:
        may_ask(rules, url_of(url))
    return "read" if rules.plain or rules.weight else "empty"


def one_list(folder: Path, draws: random.Random) -> str:
    lines = []
    for _ in range(draws.choice((1, 5, 30))):
        host = draws.choice(HOSTS if draws.random() < 0.05 else HOSTS[:7])
        line = host + draws.choice(("", "/", "/" + path(draws), path(draws)))
        line += draws.choice(("\n", "\r\n", " # asked\n", "\r"))
        lines.append(line * min(draws.choice((1, 1, 1, 1, 1_000)), MOST // len(line) + 1))
    data = "".join(lines).encode(draws.choice(("utf-8", "utf-8", "utf-8", "utf-16")), "surrogatepass")
    (folder / "list.txt").write_bytes(data[: draws.choice((len(data), len(data), 4 << 20))])
    try:
        said = read_opt_outs([str(folder / "list.txt")])
    except UserError as error:
        assert "\n" not in str(error) and "list.txt" in str(error), repr(error)
        return "asked"
    return "covered" if any([said.covers(url_of(url)) for url in URLS]) else "not covered"


def _fuzz(one: Callable, folder: Path, count: int | None, seconds: float, seed: int) -> dict:
    began, before, number, ends, wrong, slowest = time.monotonic(), peak(), 0, Counter(), [], 0.0
    while number < count if count is not None else time.monotonic() - began < seconds:
        started = time.process_time()
        try:
            ends[one(folder, random.Random(f"{seed}/{number}"))] += 1
        except Exception as error:
            wrong.append(f"{seed}/{number}: {error!r}")
        slowest, number = max(slowest, time.process_time() - started), number + 1
    return {
        "runs": number, "ends": dict(ends), "wrong": wrong, "slowest": round(slowest, 2), "memory": peak() - before,
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def fuzz_robots(folder: Path, count: int | None = None, seconds: float = 0, seed: int = 0) -> dict:
    """Reads so many odd robots.txt, or for so long, and holds URLs against each."""
    return _fuzz(one_robots, folder, count, seconds, seed)


def fuzz_opt_outs(folder: Path, count: int | None = None, seconds: float = 0, seed: int = 0) -> dict:
    """Reads so many odd lists of opt-outs, or for so long, and holds URLs against each."""
    return _fuzz(one_list, folder, count, seconds, seed)

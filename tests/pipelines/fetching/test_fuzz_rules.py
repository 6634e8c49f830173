"""robots.txt and lists of opt-outs, made of their own pieces: read as a plain reader reads them, or refused by line."""

import random
import re
import time
from pathlib import Path
from urllib.parse import unquote

import pytest
from yarl import URL

from pipelines.fetching.opt_out import read_opt_outs
from pipelines.fetching.robots import AGENT, MOST, may_ask, read_robots
from pipelines.fetching.urls import url_of
from schemas.errors import UserError

NAMES = ["User-agent", "user-agent", "USER-AGENT ", "Allow", "allow", "Disallow", " disallow", "Sitemap", "Crawl-delay",
         "x", ""]  # fmt: skip
AGENTS = ["*", AGENT, "Shardmill/2.0", "otherbot", "shardmill bot", "", "*bot", "SHARDMILL\t"]
PIECES = ["/", "/a", "/b", "a", "b", "*", "**", "$", "%2F", "%2a", "%24", "ü", "%C3%BC", "?", ".", "..", "#", " ", ":"]
ENDS = ["\n", "\r\n", "\r", "\n\n"]
PATHS = ["/", "/a", "/b", "a", "b", "*", "$", "%2F", "ü", "?", "%", "..", ".", "/../", "%2e"]


def robots_txt(draws: random.Random) -> bytes:
    lines = []
    for _ in range(draws.randrange(12)):
        name = draws.choice(NAMES)
        agent = "agent" in name.lower() and draws.random() < 0.9
        value = draws.choice(AGENTS) if agent else "".join(draws.choices(PIECES, k=draws.randrange(5)))
        lines.append(f"{name}{draws.choice([':', ': ', ' : ', '', '::'])}{value}{draws.choice(['', '', ' # so'])}")
    data = bytearray(("\ufeff" * draws.randrange(2) + "".join(line + draws.choice(ENDS) for line in lines)).encode())
    for _ in range(draws.choice([0, 0, 1, 3])):
        if data:
            data[draws.randrange(len(data))] = draws.randrange(256)
    return bytes(data)


def plainly(data: bytes) -> list[tuple[str, bool]]:
    """(pattern, whether it allows) of the rules for us, as RFC 9309 has them, each as often as it is written."""
    groups, agents, naming = {}, [], True
    for line in re.split(r"\r\n|\r|\n", data.decode("utf-8-sig", "replace")):
        name, _, value = (part.strip() for part in line.split("#")[0].partition(":"))
        if name.lower() == "user-agent":
            agents = [*(agents if naming else []), re.split(r"[/\s]", value.lower())[0]]
            groups.setdefault(agents[-1], [])
            naming = True
        elif name.lower() in ("allow", "disallow"):
            naming = False
            for agent in agents if value else []:
                groups[agent].append((value, name.lower() == "allow"))
    return groups.get(AGENT, groups.get("*", []))


def allowed(rules: list[tuple[str, bool]], path: str) -> bool:
    best = (0, True)
    for pattern, allows in rules:
        parts = [re.escape(unquote(part)) for part in pattern.removesuffix("$").split("*")]
        if re.match(".*".join(parts) + (r"\Z" if pattern.endswith("$") else ""), path, re.S):
            best = max(best, (len(unquote(pattern)), allows))
    return best[1]


def check_robots(count: int, seed: int) -> None:
    draws = random.Random(seed)
    for _ in range(count):
        data = robots_txt(draws)
        robots, rules = read_robots(data), plainly(data)
        for _ in range(4):
            path = "/" + "".join(draws.choices(PATHS, k=draws.randrange(5)))
            assert robots.allows(unquote(path)) is allowed(rules, unquote(path)), (data, path)
            may_ask(robots, url_of(f"http://a.com{path}"))


LINES = [
    "example.com", "*.example.com", "example.com/a/*", "*.example.com/*.png", "https://b.com/x", "b.com:80", "[::1]",
    "[::1", "# so", "", "a b.com", "/x", "bücher.example", "*bücher*/x", "ex\x00.com", "a..b", "*", "*/*", "http://",
    "a.com/#x", "-.com", "xn--bcher-kva.example/ü*", "a" * 300 + ".com", "a.com/" + "*" * 50, "\u202ea.com",
    "b.com/%2A%zz", "１２７.0.0.1/*",
]  # fmt: skip
URLS = [
    "example.com/a/1.png", "x.example.com/b.png", "b.com/x", "[::1]/", "bücher.example/ü1", "a.com/***", "127.0.0.1/a",
    "b.com/*%zz",
]  # fmt: skip


def check_lists(count: int, seed: int, folder: Path) -> None:
    """The first line that is refused alone is the one that is named; else a URL is covered iff a line covers it."""
    draws, file = random.Random(seed), folder / "list.txt"

    def read(lines: list[str]):
        file.write_text("".join(line + "\n" for line in lines), "utf-8", "surrogatepass")
        return read_opt_outs([str(file)])

    def alone(line: str):
        try:
            return read([line])
        except UserError as error:
            assert "line 1" in str(error)
            return None

    urls = [url_of(f"http://{url}") for url in URLS]
    for _ in range(count):
        lines = draws.choices(LINES, k=draws.randrange(1, 5))
        if draws.random() < 0.3:
            at, sign = draws.randrange(len(lines)), draws.choice("\t #*/:[é\u2028")
            lines[at] = lines[at][: draws.randrange(8)] + sign + lines[at][4:]
        lines = [line for line in lines if len(line.splitlines()) < 2]
        singles = [alone(line) for line in lines]
        if None in singles:
            with pytest.raises(UserError, match=f"line {singles.index(None) + 1}: "):
                read(lines)
            continue
        together = read(lines)
        for url in urls:
            assert bool(together.covers(url)) is any(bool(single.covers(url)) for single in singles), (lines, url)


def test_a_robots_txt_says_what_a_plain_reader_reads():
    check_robots(3_000, 0)


def test_a_list_covers_what_its_lines_cover(tmp_path):
    check_lists(300, 0, tmp_path)


def test_bytes_of_any_kind_are_a_robots_txt():
    draws = random.Random(0)
    for size in (0, 1, 100, 10_000, MOST, MOST + 1):
        may_ask(read_robots(draws.randbytes(size)), URL("http://a.com/b"))


@pytest.mark.slow
@pytest.mark.far
def test_rules_for_minutes(tmp_path):
    """By hand: minutes of random inputs. `make test` has some hundreds of these rules."""
    began, seed = time.monotonic(), 1
    while time.monotonic() - began < 120:
        check_robots(3_000, seed)
        check_lists(200, seed, tmp_path)
        seed += 1

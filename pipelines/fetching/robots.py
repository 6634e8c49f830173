"""robots.txt (RFC 9309): the rules that apply to us, read and matched with URLs in bounded time and memory.

The file is a stranger's. MOST bytes of it are read, as RFC 9309, section 2.5 allows; a rule is kept once,
for all its agents; and rules with wildcards, each of which has to be matched with a URL separately, are bounded again.
"""

import io
import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote

from yarl import URL

from pipelines.fetching.urls import meanings
from pipelines.fetching.wildcards import fits

AGENT = "shardmill"  # the name by which headers and robots.txt address us
MOST = 512 * 1024  # bytes of a robots.txt, unpacked, that are read; the rest is not
MOST_WILD = 128 * 1024  # characters of rules with wildcards
KEPT = 64 << 20  # bytes, about, of the rules of all hosts that are kept
LONG = 10_000_000  # characters of rules times characters of a URL: what takes some milliseconds


class Wild(NamedTuple):
    """A pattern with `*`, or with a final `$`."""

    length: int
    allows: bool
    parts: tuple[str, ...]  # between its wildcards
    whole: bool  # whether it ends with `$`


@dataclass
class Robots:
    """The rules of a robots.txt that apply to us."""

    plain: dict[str, bool] = field(default_factory=dict)  # beginning of a path -> whether it may be requested
    wild: list[Wild] = field(default_factory=list)  # the longest first
    lengths: list[int] = field(default_factory=list)  # of the plain ones, the longest first
    weight: int = 0  # characters of `wild`
    size: int = 0  # bytes of memory, about

    def allows(self, path: str) -> bool:
        """The longest matching pattern decides; of equally long ones, one that allows."""
        beginnings = (path[:length] for length in self.lengths if length <= len(path))
        best, allowed = next(((len(text), self.plain[text]) for text in beginnings if text in self.plain), (0, True))
        for length, may, parts, whole in self.wild:  # the longest first, and of these, first what allows
            if length < best or (length == best and allowed):
                break
            if fits(parts, path, whole):
                return may
        return allowed


def read_robots(data: bytes) -> Robots:
    """The rules for our name, or else those for every agent.

    A last line that MOST cuts is not read. If there are too many rules with wildcards, only the beginnings of the rest
    count, and only of rules that disallow: then more is left alone than was asked for, never less.
    """
    if len(data) >= MOST:
        data = data[: max(data.rfind(b"\n", 0, MOST), data.rfind(b"\r", 0, MOST)) + 1]
    ours, all_agents = {}, {}  # pattern -> whether it allows
    named: set[str] = set()  # agents of the group that is read, as far as they are us
    addressed, naming = False, True  # whether any group is for our name; whether the line before named an agent
    for name, value in fields(data.decode("utf-8-sig", "replace")):
        if name == "user-agent":
            agent = re.split(r"[/\s]", value.lower(), maxsplit=1)[0]
            named = (named if naming else set()) | ({agent} & {AGENT, "*"})
            addressed, naming = addressed or agent == AGENT, True
        elif name in ("allow", "disallow"):
            naming = False
            for agent in named if value else ():
                rules = ours if agent == AGENT else all_agents
                rules[value] = rules.get(value, False) or name == "allow"
    return _sorted(ours if addressed else all_agents)


def fields(text: str) -> Iterator[tuple[str, str]]:
    """(name in lower case, value) of each line."""
    for line in io.StringIO(text, newline=None):
        name, _, value = line.partition("#")[0].partition(":")
        yield name.strip().lower(), value.strip()


def _sorted(rules: dict[str, bool]) -> Robots:
    robots = Robots()
    for pattern, allowed in rules.items():
        whole = pattern.endswith("$")
        parts = [unquote(part) for part in re.split(r"\*+", pattern.removesuffix("$"))]
        length = len(unquote(pattern))
        if len(parts) > 1 or whole:
            if robots.weight + length <= MOST_WILD:
                robots.weight += length
                robots.wild.append(Wild(length, allowed, tuple(parts), whole))
                robots.size += 300 + 60 * len(parts) + 4 * length
                continue
            if allowed:
                continue
        robots.plain[parts[0]] = robots.plain.get(parts[0], False) or allowed
        robots.size += 200 + 4 * length
    robots.wild.sort(key=lambda rule: rule[:2], reverse=True)
    robots.lengths = sorted({len(text) for text in robots.plain}, reverse=True)
    return robots


def is_long(robots: Robots, url: URL) -> bool:
    """Whether checking a URL against the rules takes too long for the event loop."""
    return robots.weight * len(url.raw_path_qs) > LONG


def may_ask(robots: Robots, url: URL) -> bool:
    """Whether robots.txt allows a URL, however its path is written."""
    return all(map(robots.allows, meanings(url)))


class KeptRobots:
    """The rules of origins, those that were needed last, in bounded memory."""

    def __init__(self):
        self.known: OrderedDict[URL, Any] = OrderedDict()  # origin -> future of its `Robots`
        self.sizes: OrderedDict[URL, int] = OrderedDict()
        self.total = 0

    def get(self, origin: URL) -> Any:
        for entries in (self.known, self.sizes):
            if origin in entries:
                entries.move_to_end(origin)
        return self.known.get(origin)

    def add(self, origin: URL, reading: Any) -> None:
        self.known[origin] = reading

    def forget(self, origin: URL) -> None:
        self.known.pop(origin, None)
        self.total -= self.sizes.pop(origin, 0)

    def weigh(self, origin: URL, robots: Robots) -> None:
        """Notes how much memory the rules of an origin take, and forgets the oldest if that is too much."""
        self.sizes[origin] = 1000 + robots.size
        self.total += self.sizes[origin]
        while self.total > KEPT and len(self.sizes) > 1:
            self.forget(next(iter(self.sizes)))

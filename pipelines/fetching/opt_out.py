"""Opt-outs, by which images must not be used: `X-Robots-Tag` headers, the user's own lists, robots.txt (RFC 9309)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from yarl import URL

from pipelines.engine.commit import digest
from pipelines.fetching.addresses import is_below
from schemas.errors import UserError

AGENT = "shardmill"  # the name by which headers and robots.txt address us
REFUSALS = {"noai", "noimageai", "noindex", "noimageindex", "none"}  # `none` is noindex and nofollow in one word
VALUED = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}  # directives with a colon


# X-Robots-Tag


def refusal(headers: Iterable[str]) -> str | None:
    """The directive by which `X-Robots-Tag` headers refuse; None if they do not, or address only other agents.

    `otherbot: noindex, nofollow` addresses that agent until another agent is named.
    """
    for header in headers:
        agent = AGENT
        for part in header.lower().split(","):
            name, colon, rest = (text.strip() for text in part.partition(":"))
            if colon and name not in VALUED and re.fullmatch(r"[^\s:]+", name):
                agent, name = name.split("/")[0], rest
            if agent in (AGENT, "*") and name in REFUSALS:
                return name
    return None


# The user's own lists


@dataclass(frozen=True)
class OptOuts:
    """Hosts and URLs that are not requested. Pickles to workers with all that it holds."""

    hosts: frozenset[str] = frozenset()  # each with its subdomains
    patterns: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)  # of URLs, by host; "" for any
    digest: str = ""  # of the content of the lists

    def covers(self, url: URL) -> str | None:
        """The line that covers a URL, if one does."""
        host = (url.raw_host or "").rstrip(".")
        named = host + unquote(url.raw_path_qs)
        patterns = (*self.patterns.get(host, ()), *self.patterns.get("", ()))
        return is_below(host, self.hosts) or next((p for p in patterns if expression(p).fullmatch(named)), None)


def read_opt_outs(files: Sequence[str]) -> OptOuts:
    """Reads text files with a host or a pattern of URLs per line; `#` begins a comment.

    `example.com` is that host with its subdomains. `example.com/art/*` and `*.example.com/*.png` are patterns: `*`
    stands for any text, there is no scheme, and case makes no difference. Raises `UserError` for an unreadable file.
    """
    hosts, patterns = set(), set()
    for file in files:
        try:
            lines = Path(file).read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"fetch.opt_out: {file} cannot be read: {error}") from None
        for line in filter(None, (line.split("#")[0].strip().split("://")[-1] for line in lines)):
            host, slash, path = line.partition("/")
            host = in_ascii(host.split(":")[0].removesuffix(".").lower())
            if slash or "*" in host.removeprefix("*."):
                patterns.add(f"{host}/{unquote(path) if slash else '*'}")
            else:
                hosts.add(host.removeprefix("*."))
    by_host: dict[str, tuple[str, ...]] = {}
    for pattern in sorted(patterns):
        host = pattern.partition("/")[0]
        place = "" if "*" in host else host
        by_host[place] = (*by_host.get(place, ()), pattern)
    return OptOuts(frozenset(hosts), by_host, digest([sorted(hosts), sorted(patterns)]))


def in_ascii(host: str) -> str:
    """A host as requests have it: names in other scripts in their ASCII form."""
    return host if host.isascii() else ".".join(URL.build(host=part).raw_host or part for part in host.split("."))


@lru_cache(100_000)
def expression(pattern: str) -> re.Pattern:
    """A pattern of a list as a regular expression."""
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.IGNORECASE | re.DOTALL)


# robots.txt

Rule = tuple[str, bool]  # a pattern of paths, and whether they may be requested


def robots_rules(text: str) -> list[Rule]:
    """The rules of a robots.txt that apply to us: those for our name, or else those for every agent."""
    groups: dict[str, list[Rule]] = {}
    agents: list[str] = []
    named = True  # whether the line before named an agent
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.split("#")[0].partition(":"))
        if name.lower() == "user-agent":
            agents = [*(agents if named else ()), re.split(r"[/\s]", value.lower())[0]]
            groups.setdefault(agents[-1], [])
            named = True
        elif name.lower() in ("allow", "disallow"):
            named = False
            for agent in agents if value else ():
                groups[agent].append((unquote(value), name.lower() == "allow"))
    return groups.get(AGENT, groups.get("*", []))


def may_ask(rules: Sequence[Rule], url: URL) -> bool:
    """Whether robots.txt allows a URL: the longest matching pattern decides; of equally long ones, one that allows."""
    path = unquote(url.raw_path_qs)
    fitting = [(len(pattern), allowed) for pattern, allowed in rules if fits(pattern, path)]
    return max(fitting, default=(0, True))[1]


def fits(pattern: str, path: str) -> bool:
    """Whether a pattern matches the beginning of a path; `*` is any text, a final `$` the end of the path.

    Takes linear time, also for hostile patterns.
    """
    first, *parts = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    end = len(first)
    for part in parts:
        start = path.find(part, end)
        if start < 0:
            return False
        end = start + len(part)
    return end == len(path) or not pattern.endswith("$") or (bool(parts) and path.endswith(parts[-1]))

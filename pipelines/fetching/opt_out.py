"""Opt-outs, by which images must not be used: `X-Robots-Tag` headers, and the user's own lists."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from urllib.parse import unquote

from yarl import URL

from pipelines.engine.commit import digest
from pipelines.fetching.addresses import is_below
from pipelines.fetching.robots import AGENT, LONG
from pipelines.fetching.urls import LONGEST, meanings
from pipelines.fetching.wildcards import fits
from schemas.checked import open_file
from schemas.errors import UserError, cannot_read

HOST = r"[a-z0-9_*-]+(\.[a-z0-9_*-]+)*"
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
        """The line that covers a URL in any spelling of its path; None if no line does."""
        host = (url.raw_host or "").rstrip(".")
        texts = [(host + meaning).casefold() for meaning in meanings(url)]
        return is_below(host, self.hosts) or next(
            (p for p in self._patterns(host) for text in texts if fits(p.casefold().split("*"), text, whole=True)), None
        )

    def is_long(self, url: URL) -> bool:
        """Whether finding the line that covers a URL takes too long for the event loop."""
        return sum(map(len, self._patterns(url.raw_host or ""))) * len(url.raw_path_qs) > LONG

    def _patterns(self, host: str) -> Iterator[str]:
        """The patterns that may cover a URL of a host: its own, those of the domains it belongs to, those of any."""
        if self.patterns:
            parts = host.split(".")
            for place in (*(".".join(parts[n:]) for n in range(len(parts))), ""):
                yield from self.patterns.get(place, ())


def read_opt_outs(files: Sequence[str]) -> OptOuts:
    """Reads text files with a host or a pattern of URLs per line; `#` begins a comment.

    `example.com` is that host with its subdomains. `example.com/art/*` and `*.example.com/*.png` are patterns: `*`
    matches any text, there is no scheme, and case makes no difference. Raises `UserError` for a file that cannot be
    read, and for a line that is neither.
    """
    hosts, patterns = set(), set()
    for file in files:
        for number, line in _lines(file):
            line = line.split("#")[0].strip()
            if not line:
                continue
            host, slash, path = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://", "", line).partition("/")
            name = _host(host)
            if name is None:
                raise UserError(
                    f"fetch.opt_out: {file}, line {number}: {line[:100]!r} is neither a host nor a pattern; write "
                    "example.com or example.com/art/*, one a line"
                )
            if slash or "*" in name.removeprefix("*."):
                patterns.add(f"{name}/{unquote(path) if slash else '*'}")
            else:
                hosts.add(name.removeprefix("*."))
    by_place: dict[str, list[str]] = {}
    for pattern in sorted(patterns):
        host = pattern.partition("/")[0].removeprefix("*.")
        by_place.setdefault("" if "*" in host else host, []).append(pattern)
    by_host = {place: tuple(found) for place, found in by_place.items()}
    return OptOuts(frozenset(hosts), by_host, digest([sorted(hosts), sorted(patterns)]))


def _lines(file: str) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines of a list, of which only one is in memory."""
    number = 0
    try:
        with open(open_file(file), "rb") as opened:
            while line := opened.readline(LONGEST + 1):
                number += 1
                if len(line) > LONGEST:
                    raise UserError(f"fetch.opt_out: {file}, line {number}: longer than {LONGEST:,} bytes")
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield from ((number, part) for part in text.splitlines())
    except UnicodeDecodeError as error:
        raise UserError(f"fetch.opt_out: {file}, line {number} cannot be read: {error}; write it as UTF-8") from None
    except ValueError:
        raise UserError(f"fetch.opt_out: {file}: is not a file; name a text file") from None
    except OSError as error:
        raise UserError(f"fetch.opt_out: {cannot_read(file, error)}") from None


def _host(text: str) -> str | None:
    """The host of a line, in which `*` may stand, as requests have it: in lower case and ASCII, without a port. None if
    it is not a host."""
    try:
        if bracketed := re.fullmatch(r"\[(.*)\](:\d*)?", text):
            return str(IPv6Address(bracketed[1]))
        host = in_ascii(re.sub(r":\d*$", "", text).removesuffix(".").lower())
    except ValueError:
        return None
    return host if re.fullmatch(HOST, host) else None


def in_ascii(host: str) -> str:
    """A host as requests have it: names in other scripts in their ASCII form."""
    return host if host.isascii() else ".".join(URL.build(host=part).raw_host or part for part in host.split("."))

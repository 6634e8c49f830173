"""What was taken down, remembered under the root, so that it never comes back from a source or a server."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from yarl import URL

from pipelines.engine.commit import Stage, digest, replace_rows
from pipelines.engine.ledger import Ledger
from pipelines.engine.manifest import source_at, sources_of
from pipelines.engine.parquet import Corrupt, parquet_bytes, read_rows
from pipelines.engine.root import Root, point
from pipelines.fetching.addresses import is_below
from schemas.arrow import Row, arrow_schema
from schemas.rows import STAGE
from schemas.takedown import REASON, TakedownRow

TAKEDOWN_FILE = "takedown.parquet"
TAKEDOWNS = arrow_schema(TakedownRow)
PLAIN = r"https?://[a-z0-9.-]+(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?"  # URLs that are their own normal form


class TakedownList(NamedTuple):
    """Sets of values, as `schemas.takedown` describes them. Releases are those of shard sets that had any of it."""

    key: frozenset[str] = frozenset()
    url: frozenset[str] = frozenset()
    host: frozenset[str] = frozenset()  # each with all below it
    image: frozenset[str] = frozenset()
    release: frozenset[str] = frozenset()

    def __or__(self, other: "TakedownList") -> "TakedownList":
        return TakedownList(*(ours | theirs for ours, theirs in zip(self, other, strict=True)))

    def covers(self, row: Row) -> bool:
        """Whether the list names a row of a source: by its key, URL or host, or by its bytes if they are known."""
        url, host = row["url"], row["host"]
        kind, _, checksum = (row["checksum"] or "").partition(":")
        return (
            row["key"] in self.key
            or row["part_of"] in self.key
            or bool(url and self.url and not self.url.isdisjoint(url_values(url)))
            or bool(host and self.host and is_below(host, self.host))
            or self.has_image(row["sha256"])
            or (kind == "sha256" and self.has_image(checksum.lower()))
        )

    def covers_sample(self, row: Row) -> bool:
        """Whether the list names a sample, given as a row of an index: by its key, by the bytes of a member, or by
        those that a member was encoded from."""
        digests = [member["sha256"] for member in row["members"]]
        digests += [picture["original_sha256"] for picture in row.get("pictures") or ()]
        return row["sample"][:16] in self.key or any(map(self.has_image, digests))

    def has_image(self, digest: str | None) -> bool:
        """Whether bytes of this SHA-256 were taken down."""
        return bool(digest) and bool(self.image) and hashed(digest) in self.image


def normal(url: str) -> str:
    """A URL such that equal ones are written alike: scheme and host in lower case, escapes only where they are needed,
    no default port, no fragment, no user. The URL as it came if it is not http(s)."""
    if re.fullmatch(PLAIN, url):
        return url
    try:
        parsed = URL(url.strip())
        if parsed.scheme in ("http", "https") and parsed.raw_host:
            return str(parsed.with_user(None).with_fragment(None))
    except ValueError:
        pass
    return url


def url_values(url: str) -> frozenset[str]:
    """The hashes by which a URL is stored and recognised: of the URL as written, and of its normal form."""
    return frozenset({hashed(url), hashed(normal(url))})


def hashed(text: str) -> str:
    """The SHA-256 of a text, in hex."""
    return sha256(text.encode()).hexdigest()


def read_takedowns(root: Root) -> TakedownList:
    """What was taken down from a root. Raises `Corrupt` if the list is damaged."""
    values_of: dict[str, set[str]] = {kind: set() for kind in TakedownList._fields}
    for row in read_rows(root, TAKEDOWN_FILE, TAKEDOWNS.names):
        if row["kind"] not in values_of or not isinstance(row["value"], str):
            raise Corrupt(f"{TAKEDOWN_FILE}: has a line that no takedown wrote: {row['kind']!r:.50}")
        values_of[row["kind"]].add(row["value"])
    return TakedownList(**{kind: frozenset(values) for kind, values in values_of.items()})


def stamp_of_list(root: Root) -> str:
    """A text that changes when the list does; empty where nothing was ever taken down."""
    try:
        return root.stamp_of(TAKEDOWN_FILE)
    except FileNotFoundError:
        return ""


@lru_cache(maxsize=1)
def takedowns_at(root: Root, stamp: str) -> TakedownList:
    """The list of a root as of a stamp, which this process reads once. Raises `Corrupt`."""
    return read_takedowns(root) if stamp else TakedownList()


def write_takedowns(root: Root, taken: TakedownList) -> None:
    rows = [{"kind": kind, "value": value} for kind in TakedownList._fields for value in sorted(getattr(taken, kind))]
    root.write(TAKEDOWN_FILE, parquet_bytes(rows, TAKEDOWNS))


# Blanking


def blank(row: Row, identity: str) -> Row:
    """What stays of a row of `rows`: its key, its host, its place in a conversation. `identity`: the stage's."""
    kept = {name: row[name] for name in ("key", "host", "part_of", "part")}
    constant = {"extra": "{}", "reason": REASON, "made_from": digest([identity, REASON, *kept.values()])}
    return dict.fromkeys(STAGE.fields) | kept | constant


def blanked(rows: Iterable[Row], taken: TakedownList, identity: str) -> list[Row]:
    """The rows, blank where they were taken down."""
    return [blank(row, identity) if taken.covers(row) else row for row in rows]


def blank_partitions(
    root: Root, ledger: Ledger, stages: Mapping[str | None, Stage], partitions: Iterable[int], taken: TakedownList
) -> None:
    """Blanks what was taken down in partitions of `rows`; everything made of it is then no longer current.

    `stages`: those that split rows, by the name of their source. The next run removes the partitions of other sources.
    """
    ranges = sources_of(root)
    for partition in sorted(partitions):
        stage = stages.get(source_at(ranges, partition))
        if stage is None:
            continue
        rows = read_rows(root, stage.file(partition))
        replace_rows(root, ledger, stage, partition, blanked(rows, taken, stage.identity()))
        point("takedown:blanked")

"""Takes images, and everything that was made of them, out of a corpus: `shardmill takedown my.toml list.txt`.

Rows are blanked in `rows`, and a run follows, so that only partitions and shards with such rows are made again.
 Then everything is removed that a run leaves behind: replaced payloads, releases that had any of it, chunks, and
the old values in the ledger. A shard set that had any of it and that the configuration no longer has is withdrawn. The
list is stored first, so that a takedown can be killed at any moment and run again.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.build.corpus import Corpus
from pipelines.build.run import StageReport, begin, run_stage
from pipelines.catalog.catalog import open_catalog
from pipelines.dedup.hamming import distances
from pipelines.engine.ledger import forget
from pipelines.engine.releases import card_names, read_card, read_cards, read_index
from pipelines.engine.root import Root, point
from pipelines.fetching.addresses import is_below
from pipelines.maintain.clean import garbage
from pipelines.stages.takedown_list import (
    PLAIN,
    TakedownList,
    blank_partitions,
    hashed,
    normal,
    read_takedowns,
    url_values,
    write_takedowns,
)
from schemas.checked import read_given
from schemas.errors import UserError, cannot_read
from schemas.takedown import REASON

LONGEST = 1 << 28  # bytes of a list
NEAR = 3  # bits in which the perceptual hashes of near duplicates differ at most
KINDS = {
    "key": r"[0-9a-f]{16}",
    "sha256": r"[0-9a-f]{64}",
    "url": r"https?://\S+",
    "host": r"(\*\.)?([\w-]+\.)+[\w-]+",
}


class Line(NamedTuple):
    """What one line of a list names."""

    text: str
    kind: str  # a field of `TakedownList`
    values: frozenset[str]  # as they are remembered


@dataclass(frozen=True)
class Near:
    """An image that looks like one that was taken down, but stays."""

    key: str
    url: str | None
    distance: int  # bits


@dataclass(frozen=True)
class Takedown:
    """What was done."""

    rows: int  # that the list names
    others: int  # with the same bytes, or in a conversation with one of those
    near: list[Near]
    nothing: list[Line]  # lines of the list that match no row; they are stored too
    stages: list[StageReport]
    releases: list[str]  # `train@3f2a9c81d04e` that had any of what was ever taken down; they are gone
    withdrawn: list[str]  # shard sets that had any of it, and that the configuration no longer has; they are gone
    removed: int  # files


def take_down(
    corpus: Corpus, lines: Sequence[Line], say: Callable[[str], None] = lambda line: None, wait: float = 0.0
) -> Takedown:
    """Takes down what a list names, and whatever was taken down before. Gates do not apply."""
    root, wanted = corpus.root, TakedownList()
    for kind in {line.kind for line in lines}:
        wanted |= TakedownList(**{kind: frozenset().union(*(line.values for line in lines if line.kind == kind))})
    corpus = replace(corpus, config=corpus.config.model_copy(update={"gates": {}}))
    with begin(corpus, wait) as run:
        say("looking for the rows")
        matches = find(root, read_takedowns(root) | wanted)
        taken = read_takedowns(root) | wanted | matches.taken
        write_takedowns(root, taken)
        point("takedown:remembered")
        blank_partitions(root, run.ledger, corpus.rows, matches.partitions, taken)
        stages = []
        for name in corpus.stages():
            say(name)
            stages.append(run_stage(run, name))
        say("removing what is left")
        withdrawn = sets_with(root, taken)
        removed = remove_left(root, taken, withdrawn)
        return Takedown(
            rows=matches.rows,
            others=matches.others,
            near=matches.near,
            nothing=[line for line in lines if line.values.isdisjoint(matches.met)],
            stages=stages,
            releases=sorted(taken.release),
            withdrawn=sorted(withdrawn),
            removed=removed,
        )


# Lists


def read_list(path: Path) -> list[Line]:
    """A list of URLs, hosts, keys and SHA-256s: a text file with one on each line and comments after `#`, or Parquet
    with columns of these names. Raises `UserError` for any other line."""
    lines = []
    try:
        entries = list(_table(path) if path.suffix == ".parquet" else _lines(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(cannot_read(path, error)) from None
    for place, kind, value in entries:
        if kind is None or not re.fullmatch(KINDS[kind], value, re.IGNORECASE):
            expected = kind or "URL, host, key (16 hex digits) or SHA-256 (64)"
            raise UserError(f"{path}: {place}: {value[:70]!r} is not a {expected}")
        name = value.lower().removeprefix("*.")
        values = {"url": url_values(value), "sha256": frozenset({hashed(name)})}.get(kind, frozenset({name}))
        lines.append(Line(value, "image" if kind == "sha256" else kind, values))
    if not lines:
        raise UserError(f"{path}: has no entries; write one on each line")
    return lines


def _lines(path: Path) -> Iterator[tuple[str, str | None, str]]:
    for number, line in enumerate(read_given(path, LONGEST).decode("utf-8-sig").splitlines(), 1):
        if (line := line.strip()) and not line.startswith("#"):
            fitting = (name for name, kind in KINDS.items() if re.fullmatch(kind, line, re.IGNORECASE))
            yield f"line {number}", next(fitting, None), line


def _table(path: Path) -> Iterator[tuple[str, str | None, str]]:
    table = pq.read_table(path, use_threads=False)
    columns = [name for name in table.column_names if name.lower() in KINDS]
    if not columns:
        raise UserError(f"{path}: has none of the columns {', '.join(KINDS)}")
    for name in columns:
        for number, value in enumerate(table[name].cast(pa.string()).to_pylist(), 1):
            if value:
                yield f"row {number}", name.lower(), value


# Finding

NAMED = """
SELECT r.partition, r.key, r.part_of, coalesce(i.sha256, r.sha256) AS sha256, i.phash,
    [r.key, r.host, sha256(r.url), sha256(i.sha256), sha256(r.sha256),
     sha256(lower(regexp_extract(r.checksum, '^sha256:(.*)$', 1)))] AS known_by
FROM rows r LEFT JOIN images i ON i.partition = r.partition AND i.key = r.key
WHERE r.key IN (SELECT value FROM wanted WHERE kind = 'key')
   OR r.host IN (SELECT value FROM wanted WHERE kind = 'host')
   OR sha256(r.url) IN (SELECT value FROM wanted WHERE kind = 'url')
   OR sha256(i.sha256) IN (SELECT value FROM wanted WHERE kind = 'image')
   OR sha256(r.sha256) IN (SELECT value FROM wanted WHERE kind = 'image')
   OR sha256(lower(regexp_extract(r.checksum, '^sha256:(.*)$', 1))) IN (SELECT value FROM wanted WHERE kind = 'image')
"""
SAME = """
SELECT partition, key, part_of FROM named
UNION
SELECT r.partition, r.key, r.part_of
FROM rows r LEFT JOIN images i ON i.partition = r.partition AND i.key = r.key
WHERE i.sha256 IN (SELECT sha256 FROM named) OR r.sha256 IN (SELECT sha256 FROM named)
"""
# A conversation is removed as a whole: its turns mention each of its images.
GONE = """
SELECT partition, key, reason FROM rows
WHERE (partition, coalesce(part_of, key)) IN (SELECT (partition, coalesce(part_of, key)) FROM same)
"""


@dataclass(frozen=True)
class Matches:
    rows: int  # that are named, and not yet gone
    others: int  # that go with them
    partitions: set[int]
    near: list[Near]
    taken: TakedownList  # keys, images and releases
    met: set[str]  # values of the list by which a row is named, gone or not


def find(root: Root, wanted: TakedownList) -> Matches:
    """What a list names in a corpus, and everything that goes with it."""
    with open_catalog(root) as connection:
        hosts = [host for (host,) in connection.sql("SELECT DISTINCT host FROM rows WHERE host IS NOT NULL").fetchall()]
        spelled = _spelled_otherwise(connection, wanted) if wanted.url else {}
        connection.register("wanted", _table_of(wanted, hosts, spelled))
        for name, sql in (("named", NAMED), ("same", SAME), ("gone", GONE)):
            connection.execute(f"CREATE TEMP TABLE {name} AS {sql}")
        gone = connection.sql("SELECT partition, key, reason FROM gone").fetchall()
        still = f"(FROM gone WHERE reason IS DISTINCT FROM '{REASON}')"
        ((named,),) = connection.sql(f"SELECT count(*) FROM named SEMI JOIN {still} USING (partition, key)").fetchall()
        asked = connection.sql("SELECT key FROM instructions WHERE image IN (SELECT key FROM gone)").fetchall()
        images = connection.sql("SELECT DISTINCT sha256 FROM named WHERE sha256 IS NOT NULL").fetchall()
        near = list(_near(connection))
        met = "SELECT DISTINCT value FROM wanted WHERE value IN (SELECT unnest(known_by) FROM named)"
        met = {value for (value,) in connection.sql(met).fetchall()}
    met |= {spelled[value] for value in met & spelled.keys()}
    met |= {value for host in met.intersection(hosts) for value in _and_above(host)}
    taken = TakedownList(
        key=frozenset(key for _, key, _ in gone) | {key for (key,) in asked},
        image=frozenset(hashed(sha256) for (sha256,) in images),
    )
    return Matches(
        rows=named,
        others=sum(reason != REASON for _, _, reason in gone) - named,
        partitions={partition for partition, _, _ in gone},
        near=near,
        taken=taken._replace(release=frozenset(releases_with(root, taken | wanted))),
        met=met,
    )


def _table_of(wanted: TakedownList, hosts: Iterable[str], spelled: Iterable[str]) -> pa.Table:
    """The values of a list as the table `wanted`, with the hosts that are below its hosts, and other spellings of its
    URLs."""
    listed = [("host", host) for host in hosts if wanted.host and is_below(host, wanted.host)]
    listed += [("url", value) for value in spelled]
    listed += [(kind, value) for kind in ("key", "url", "image") for value in getattr(wanted, kind)]
    columns = {name: pa.array([pair[n] for pair in listed], pa.string()) for n, name in enumerate(("kind", "value"))}
    return pa.table(columns)


def _spelled_otherwise(connection: duckdb.DuckDBPyConnection, wanted: TakedownList) -> dict[str, str]:
    """For URLs whose normal form a list names: the hash of the URL -> the hash of its normal form."""
    sql = f"SELECT url FROM rows WHERE url IS NOT NULL AND NOT regexp_full_match(url, '{PLAIN}')"
    urls = (url for batch in connection.sql(sql).to_arrow_reader() for url in batch["url"].to_pylist())
    return {hashed(url): value for url in urls if (value := hashed(normal(url))) in wanted.url}


def _and_above(host: str) -> Iterator[str]:
    """A host's name, and those of the domains it belongs to."""
    parts = host.split(".")
    return (".".join(parts[n:]) for n in range(len(parts)))


def _near(connection: duckdb.DuckDBPyConnection) -> Iterator[Near]:
    """Images that look like named ones and stay, the nearest first."""
    looks = "('0x' || phash)::UBIGINT AS look"
    named = connection.sql(f"SELECT DISTINCT {looks} FROM named WHERE phash IS NOT NULL").to_arrow_table()
    stay = connection.sql(
        f"SELECT partition, key, {looks} FROM images ANTI JOIN gone USING (partition, key) WHERE phash IS NOT NULL"
    ).to_arrow_table()
    looking = stay["look"].to_numpy()
    best = np.full(len(looking), 64, np.uint8)
    for look in named["look"].to_numpy():
        np.minimum(best, distances(looking, look), out=best)
    close = np.flatnonzero(best <= NEAR)
    for index in close[np.argsort(best[close], kind="stable")].tolist():
        partition, key = stay["partition"][index].as_py(), stay["key"][index].as_py()
        urls = connection.execute("SELECT url FROM rows WHERE partition = ? AND key = ?", [partition, key]).fetchall()
        yield Near(key, urls[0][0] if urls else None, int(best[index]))


def releases_with(root: Root, taken: TakedownList) -> Iterator[str]:
    """The releases of shard sets, the published ones among them, that have a sample of what was taken down."""
    has: dict[str, bool] = {}
    for name in card_names(root, releases=True):
        card = read_card(root, name) if "@" in name else None
        for entry in card["shards"] if card else ():
            if entry["index"] not in has:
                has[entry["index"]] = any(map(taken.covers_sample, read_index(root, entry)))
        if card and any(has[entry["index"]] for entry in card["shards"]):
            yield name


# Removing


def sets_with(root: Root, taken: TakedownList) -> set[str]:
    """The shard sets whose published release has any of it: after a run, only sets that no run makes any more."""
    return {card["set"] for card in read_cards(root) if f"{card['set']}@{card['release']}" in taken.release}


def remove_left(root: Root, taken: TakedownList, withdrawn: set[str]) -> int:
    """Removes what no commit names, releases that had any of it, withdrawn sets, and what the ledger says of it.
    Returns how many files were removed. Call it while a run holds the root."""
    names = card_names(root, releases=True)
    old = {name for name in names if name in taken.release or name.partition("@")[0] in withdrawn}
    # A release before the files it names. The published card after all releases: it says that its set is withdrawn.
    gone = sorted(garbage(root, old), key=lambda name: (not name.endswith(".json"), "@" not in name))
    for name in gone:
        root.remove(name)
        point("takedown:removed")
    forget(root, taken.key)
    return len(gone)


# Models


def trained_on(folder: Path, releases: Iterable[str]) -> list[Path]:
    """The JSON files under a folder that name one of these releases: states of checkpoints, cards of exports."""
    names = [release.partition("@")[2] for release in releases]
    small = (path for path in sorted(folder.rglob("*.json")) if path.is_file() and path.stat().st_size < 1 << 20)
    return [path for path in small if any(name in path.read_text("utf-8", "replace") for name in names)]

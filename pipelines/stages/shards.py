"""Packs the selected samples into WebDataset shards with an index and a card.

In a group of 64 partitions a sample belongs to shard hash(key) mod n, where samples are in hash order; n is settled
when the group is full. So a changed sample changes only its own shard, and only the last, open group is laid out again
as data arrives. Image bytes are copied as they came, but where they are beyond a bound of the set: see
`pipelines.stages.bounded_images`.

A tar and its index are written under names with their digest. The set's card, written last, publishes them.
"""

import json
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from math import ceil
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.catalog.catalog import check_condition, condition_error, connect, stage_files
from pipelines.engine.commit import (
    Commit,
    Stage,
    changes,
    commit_json,
    contents,
    digest,
    old_rows,
    read_commit,
)
from pipelines.engine.ledger import Ledger
from pipelines.engine.manifest import min_mass_of
from pipelines.engine.parquet import parquet_bytes
from pipelines.engine.payload import read_payload
from pipelines.engine.releases import forget_put_back, old_index, read_card, read_cards, read_index, release_of
from pipelines.engine.root import Root, naming, new_file, point
from pipelines.engine.tar import TarWriter
from pipelines.stages.bounded_images import BoundedImages, settings_of
from pipelines.stages.sample_sql import PLACE, members, reads_of
from pipelines.stages.samples import SampleImage, add_sample
from schemas.arrow import Row
from schemas.selection import SetConfig
from schemas.shards import Card, Group, SampleRow, ShardEntry
from schemas.stage import StageInfo, stage_info
from schemas.verdicts import MIN_MASS
from schemas.views import BEST, OF_VIEWS

GROUP = 64  # partitions
AT_ONCE = 8  # shards of one group that a worker packs while its partitions are open
SHARDS = stage_info("shards", SampleRow, {})


@dataclass(frozen=True)
class ShardSet(Stage):
    """The stage of one shard set."""

    set: str
    config: SetConfig

    info = SHARDS
    version = 3

    def settings(self) -> dict[str, Any]:
        """What a shard's bytes depend on; `samples_per_shard` only decides the number of shards."""
        choosing = ("where", "weight", "seed", "other_formats", "min_score", "min_judged")
        choice = self.config.recorded(include=choosing) if self.asks else {}
        choice |= settings_of(self.config) | self.config.recorded(include=("stable_json",))
        return {"set": self.set, "task": self.config.task} | choice

    @property
    def schema(self) -> pa.Schema:
        """Of an index."""
        return pa.schema([f for f in self.info.schema if self.config.bounded or f.name not in self.info.optional])

    @property
    def own(self) -> tuple[StageInfo, ...]:
        """Users' stages, whose columns are in the `.json` of samples."""
        return tuple(stage for stage in self.stages if stage.own)

    def check(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Raises `UserError` if the condition of a set of pairs or best responses is not valid on their view."""
        if self.asks:
            check_condition(connection, f"sets.{self.set}.where", self.config.where, OF_VIEWS[self.config.task])

    @property
    def asks(self) -> bool:
        """Whether its samples are pairs or best responses."""
        return self.config.task in OF_VIEWS

    @property
    def stages(self) -> tuple[StageInfo, ...]:
        """The stages that its samples are made from; the last one decides what goes into the set."""
        names = reads_of(self.config)
        return tuple(stage for stage in self.earlier if stage.name in names or (stage.own and not self.asks))


@dataclass(frozen=True)
class WantedShard:
    """A shard as it should be."""

    number: int
    index: int  # which of its group's n shards
    fingerprint: str
    samples: int


@dataclass(frozen=True)
class PackItem:
    """Shards of one group that have to be packed."""

    partitions: tuple[int, ...]  # of the group
    shards: int  # n of the group
    wanted: tuple[WantedShard, ...]
    likely: tuple[ShardEntry, ...] = ()  # in a set with bounds: shards that probably have its images, encoded
    others: range = range(0)  # numbers of the shards that the group had in the last release


@dataclass(frozen=True)
class SetLayout:
    """A set as it should be: its groups, and the shards in each."""

    groups: tuple[Group, ...]
    partitions: tuple[tuple[int, ...], ...]  # a tuple a group
    shards: tuple[tuple[WantedShard, ...], ...]  # a tuple a group

    def packs(self, stage: ShardSet, present: Mapping[str, ShardEntry], before: Card | None) -> list[PackItem]:
        """What has to be packed: the shards whose fingerprints are not among those that are present. `before`: the
        published card, by which the shards are known that had a group's samples."""
        bounded, items = stage.config.bounded, []
        at_once = 1 if bounded else AT_ONCE  # encoding takes longer than opening partitions
        known, numbered = _groups_of(before) if before and bounded else {}, defaultdict(list)
        for entry in present.values() if bounded else ():
            numbered[entry["number"]].append(entry)
        for group, partitions, shards in zip(self.groups, self.partitions, self.shards, strict=True):
            wanted = [shard for shard in shards if shard.fingerprint not in present]
            old, begin, _ = known.get(group["first"], ({"shards": 0}, 0, ()))
            for start in range(0, len(wanted), at_once):
                some = tuple(wanted[start : start + at_once])
                numbers = dict.fromkeys((begin + some[0].index, some[0].number))
                likely = tuple(entry for number in numbers for entry in numbered.get(number, ()))
                items.append(PackItem(partitions, group["shards"], some, likely, range(begin, begin + old["shards"])))
        return items


# Where each sample belongs


def lay_out(root: Root, stage: ShardSet, card: Card | None, commits: Mapping[str, Mapping[int, Commit]]) -> SetLayout:
    """The groups and shards of a set. Groups whose inputs are those on the card are not read."""
    now = stage.settings(), stage.config.samples_per_shard
    kept = _groups_of(card) if card and (card["settings"], card["samples_per_shard"]) == now else {}
    stages = [info.name for info in stage.stages]
    numbers, min_mass = sorted(commits[stages[-1]]), min_mass_of(root)
    scored_by = [min_mass] if "verdicts" in stages and min_mass != MIN_MASS else []
    groups, parts, layout, number = [], [], [], 0
    for first in range(0, numbers[-1] + 1 if numbers else 0, GROUP):
        partitions = tuple(p for p in range(first, first + GROUP) if p in commits[stages[-1]])
        inputs = digest([stage.identity(), contents(commits[s][p] for s in stages for p in partitions), *scored_by])
        before, start, shards = kept.get(first, (None, 0, ()))
        n = before["shards"] if before and before["settled"] else None
        if before and before["inputs"] == inputs and start == number:
            n = before["shards"]
        else:
            files, query = stage_files(root, stage.stages, partitions), members(stage.set, stage.config, stage.own)
            with connect(root, files, stage.earlier, [query]) as connection:
                try:
                    n, shards = _shards_of(connection, stage, n, number)
                except duckdb.ConversionException as error:
                    raise condition_error(f"sets.{stage.set}.where", error) from None
        settled = bool(before and before["settled"]) or numbers[-1] >= first + GROUP
        groups.append(Group(first=first, shards=n, settled=settled, inputs=inputs))
        parts.append(partitions)
        layout.append(shards)
        number += n
    return SetLayout(tuple(groups), tuple(parts), tuple(layout))


def _groups_of(card: Card) -> dict[int, tuple[Group, int, tuple[WantedShard, ...]]]:
    """A card's groups by their first partition, each with the number of its first shard, and its shards.

    All but the last are settled, even if a group that was exactly full when its card was written does not say so.
    """
    groups, start, entries = {}, 0, card["shards"]
    numbers = [entry["number"] for entry in entries]
    for group in card["groups"]:
        end = start + group["shards"]
        shards = tuple(
            WantedShard(entry["number"], entry["number"] - start, entry["fingerprint"], entry["samples"])
            for entry in entries[bisect_left(numbers, start) : bisect_left(numbers, end)]
        )
        settled = group["settled"] or group is not card["groups"][-1]
        groups[group["first"]] = group | {"settled": settled}, start, shards
        start = end
    return groups


def _shards_of(
    connection: duckdb.DuckDBPyConnection, stage: ShardSet, n: int | None, number: int
) -> tuple[int, tuple[WantedShard, ...]]:
    """The number of shards of a group, computed unless `n` is settled, and those of its shards that have samples."""
    connection.execute(
        "CREATE TEMP TABLE members AS SELECT place, key, made_from "
        f"FROM ({members(stage.set, stage.config, stage.own)})"
    )
    if not n:
        [(count,)] = connection.execute("SELECT count(*) FROM members").fetchall()
        n = ceil(count / stage.config.samples_per_shard)
    counted = connection.execute(
        "SELECT (place % $n)::INTEGER AS index, count(*), sha256(string_agg(made_from, '' ORDER BY place, key))"
        " FROM members GROUP BY index ORDER BY index",
        {"n": max(n, 1)},
    ).fetchall()
    return n, tuple(
        WantedShard(number + index, index, digest([stage.identity(), number + index, made_from]), samples)
        for index, samples, made_from in counted
    )


# Packing


@dataclass(frozen=True)
class PackShards:
    """The work of this stage, for Beam: an item is a `PackItem`."""

    stage: ShardSet
    root: Root
    ledger: Ledger
    payloads: Mapping[int, str | None]  # partition -> the tar of its images

    name = "shards"

    def make(self, pack: PackItem) -> None:
        files = stage_files(self.root, self.stage.stages, pack.partitions)
        query = members(self.stage.set, self.stage.config, self.stage.own)
        settings = {"threads": "1", "memory_limit": "1GB"}
        with connect(self.root, files, self.stage.earlier, [query], **settings) as connection:
            for shard in pack.wanted:
                self._pack(connection, pack, shard)

    def _pack(self, connection: duckdb.DuckDBPyConnection, pack: PackItem, shard: WantedShard) -> None:
        started = time.time()
        chosen = members(self.stage.set, self.stage.config, self.stage.own, f"{PLACE} % $n = $index")
        batches = connection.sql(
            f"SELECT * EXCLUDE (place, bytes) FROM ({chosen}) ORDER BY place, key",
            params={"n": pack.shards, "index": shard.index},
        ).to_arrow_reader(1_000)
        samples = ({**row, "payload": self.payloads[row["partition"]]} for b in batches for row in b.to_pylist())
        commit = pack_shard(self.root, self.stage, shard, samples, self._earlier(pack))
        self.ledger.record(
            "shards", item_of(self.stage.set, shard.number), commit.fingerprint, [], partition=shard.number,
            rows=commit.rows, kept=commit.kept, made=commit.rows, started=started,
        )  # fmt: skip

    def _earlier(self, pack: PackItem) -> Iterator[ShardEntry]:
        """The shards that may have images of a shard: the likely ones, then those that its group had. The card is read
        only if they are asked for."""
        yield from pack.likely
        card = read_card(self.root, self.stage.set) if pack.others else None
        yield from (entry for entry in (card["shards"] if card else ()) if entry["number"] in pack.others)


def pack_shard(
    root: Root, stage: ShardSet, shard: WantedShard, samples: Iterator[Row], earlier: Iterable[ShardEntry] = ()
) -> Commit:
    """Writes one tar and its index; nothing names them until the card does."""
    temporary, index = root.temporary("shards"), []
    with naming(temporary), new_file(temporary) as file:
        tar = TarWriter(file)
        bounded = BoundedImages(root, stage.config, tar, earlier) if stage.config.bounded else None
        for sample in samples:
            originals = [{**sample, **picture} for picture in sample["pictures"]]
            if bounded:
                images = [bounded.fit(original) for original in originals]
            else:
                images = [SampleImage(read_payload(root, "images", o), o["ext"], o["sha256"]) for o in originals]
            index.append(add_sample(tar, sample, images, stage.config))
            if bounded:
                bounded.packed(index[-1]["members"], index[-1]["pictures"])
        tar_sha256 = tar.close()
    name = f"{item_of(stage.set, shard.number)}-{digest([shard.fingerprint, tar_sha256])[:16]}"
    root.put(temporary, f"shards/{name}.tar")
    point("shards:payload")
    commit = Commit(
        "shards", shard.number, stage.version, stage.settings(), {}, shard.fingerprint,
        payload=f"{name}.tar", payload_sha256=tar_sha256,
    )  # fmt: skip
    commit = replace(commit, rows=len(index), kept=len(index))
    root.write(f"shards/{name}.parquet", parquet_bytes(index, stage.schema, commit_json(commit)))
    point("shards:committed")
    return commit


def item_of(set_name: str, number: int) -> str:
    return f"{set_name}-{number:06d}"


# Publishing


def published(root: Root) -> dict[str, str]:
    """What the published cards name: a set's release under its name, a shard's fingerprint under `train-000001`."""
    fingerprints = {}
    for card in read_cards(root):
        fingerprints[card["set"]] = card["release"]
        fingerprints |= {item_of(card["set"], entry["number"]): entry["fingerprint"] for entry in card["shards"]}
    return fingerprints


def shards_there(root: Root, stage: ShardSet, card: Card | None) -> dict[str, ShardEntry]:
    """fingerprint -> shard, for every shard of a set whose tar and index exist, published or not.

    A run that was killed or stopped by a gate leaves shards that no card names; they are found here. A shard whose
    index cannot be read does not count: it is made again, as a partition is.
    """
    files = root.files("shards")
    entries = [entry for entry in (card["shards"] if card else ()) if {entry["tar"], entry["index"]} <= files.keys()]
    with ThreadPoolExecutor(16) as pool:
        read = pool.map(lambda entry: (entry, read_commit(root, f"shards/{entry['index']}")), entries)
        present = {e["fingerprint"]: e for e, c in read if c and c.fingerprint == e["fingerprint"]}
    known = {entry["index"] for entry in card["shards"]} if card else set()
    for name in files:
        if name.startswith(f"{stage.set}-") and name.endswith(".parquet") and name not in known:
            commit = read_commit(root, f"shards/{name}")
            if commit is None or len(old_rows(root, f"shards/{name}")) != commit.rows:
                continue
            tar, digest_of_tar = commit.payload, commit.payload_sha256
            if tar in files and digest_of_tar and commit.settings["set"] == stage.set:
                present[commit.fingerprint] = ShardEntry(
                    number=commit.partition, tar=tar, index=name, sha256=digest_of_tar,
                    index_sha256=sha256(root.read(f"shards/{name}")).hexdigest(), bytes=files[tar].size,
                    samples=commit.rows, fingerprint=commit.fingerprint,
                )  # fmt: skip
    return present


def card_of(stage: ShardSet, layout: SetLayout, present: Mapping[str, ShardEntry]) -> Card:
    """The card of a set whose shards are all present."""
    entries = [present[shard.fingerprint] for shards in layout.shards for shard in shards]
    return Card(
        set=stage.set, release=release_of(entries), task=task_of(stage.config),
        samples=sum(e["samples"] for e in entries), bytes=sum(e["bytes"] for e in entries),
        samples_per_shard=stage.config.samples_per_shard,
        settings=stage.settings(), groups=list(layout.groups), shards=entries,
    )  # fmt: skip


def task_of(config: SetConfig) -> str:
    """The task on a set's card, which its readers know: best responses are conversations."""
    return "conversation" if config.task == BEST else config.task


def card_changes(root: Root, before: Card | None, after: Card) -> list[Row]:
    """The samples that differ between two releases, key by key. Reads only shards that are not in both."""
    tars = [{entry["tar"] for entry in card["shards"]} if card else set() for card in (before, after)]
    old = _samples_of(root, before, tars[1], old_index) if before else []
    return changes(old, _samples_of(root, after, tars[0], read_index), ignored=())


def _samples_of(root: Root, card: Card, known: set[str], read: Callable[[Root, ShardEntry], list[Row]]) -> list[Row]:
    """The samples of a card's shards, without those in `known` tars."""
    return [_content(row) for entry in card["shards"] if entry["tar"] not in known for row in read(root, entry)]


def _content(row: Row) -> Row:
    """The content of a sample, without its place in the tar."""
    return {"key": row["sample"], **{member["ext"]: member["sha256"] for member in row["members"]}}


def publish(
    root: Root, ledger: Ledger, card: Card, changed: list[Row], started: float, settings: str | None = None
) -> None:
    """Publishes a set by writing its card: readers see it from now on. The last releases stay readable.

    `settings`: the digest of all that decides its samples; None where a command puts a release back.
    """
    data = json.dumps(card, indent=1).encode()
    name = f"shards/{card['set']}.json"
    if root.exists(name) and root.read(name) == data:
        return
    release = {name: card[name] for name in ("set", "release", "task", "samples", "bytes")}
    kinds = Counter(change["change"] for change in changed)
    release |= {"shards": len(card["shards"]), "settings": settings}
    release |= {kind: kinds[kind] for kind in ("added", "removed", "changed")}
    ledger.record(
        "shards", card["set"], card["release"], changed, partition=None, rows=card["samples"],
        kept=card["samples"], made=0, started=started, release=release,
    )  # fmt: skip
    root.write(f"shards/{card['set']}@{card['release']}.json", data)
    point("shards:release")
    root.write(name, data)
    point("shards:published")
    if settings is not None:
        forget_put_back(root, card["set"])

"""Decides in which shard each sample belongs, and which shards have to be packed.

In a group of 64 partitions a sample belongs to shard hash(key) mod n, where samples are in hash order; n is settled
when the group is full. So a changed sample changes only its own shard, and only the last, open group is laid out again
as data arrives.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import NotRequired, TypedDict

import duckdb

from pipelines.catalog.catalog import condition_error, connect, stage_files
from pipelines.catalog.whole_files import Listed
from pipelines.engine.commit import Commit, contents, digest
from pipelines.engine.commits import texts_of
from pipelines.engine.manifest import min_mass_of
from pipelines.engine.results import results
from pipelines.engine.root import Root
from pipelines.engine.workers import Workers
from pipelines.stages.sample_sql import members
from pipelines.stages.shards import ShardSet
from schemas.errors import UserError
from schemas.shards import Card, Group, ShardEntry
from schemas.verdicts import MIN_MASS

GROUP = 64  # partitions
LAYOUTS = "shards/layouts"  # a folder for each set that workers count shards of, until its layout is known
AT_ONCE = 8  # shards of one group that a worker packs while its partitions are open


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
        bounded, items = stage.config.encodes, []
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


# By a group's first partition: what a card says of it, the number of its first shard, and its shards
Kept = dict[int, tuple[Group, int, tuple[WantedShard, ...]]]


# Where each sample belongs


@dataclass(frozen=True)
class GroupItem:
    """A group whose shards have to be counted."""

    first: int  # partition
    partitions: tuple[int, ...]
    shards: int | None  # n, if that is settled
    inputs: str
    samples_per_shard: int

    @property
    def name(self) -> str:
        return digest([self.first, self.inputs, self.shards, self.samples_per_shard])

    @property
    def size(self) -> int:
        return len(self.partitions)


class Counted(TypedDict):
    """What the shards of a group hold."""

    shards: int  # n
    counted: list[tuple[int, int, str]]  # index, samples, and the digest of what they were made from
    error: NotRequired[str]  # a condition that fails on some sample


def lay_out(
    root: Root, stage: ShardSet, card: Card | None, commits: Mapping[str, Mapping[int, Commit]],
    workers: Workers | None = None, folder: str = "",
) -> SetLayout:  # fmt: skip
    """The groups and shards of a set. Groups whose inputs are those on the card are not read.

    `workers` count the others, if they are many, and write what they find to `folder`. Raises `UserError` for a
    condition that fails on a sample.
    """
    now = stage.settings(), stage.config.samples_per_shard
    kept = _groups_of(card) if card and (card["settings"], card["samples_per_shard"]) == now else {}
    numbers, items = sorted(commits[stage.stages[-1].name]), [*_group_items(root, stage, kept, commits)]
    changed = [item for item in items if item.first not in kept or kept[item.first][0]["inputs"] != item.inputs]
    count = CountShards(stage)
    given = results(root, "shards", changed, count, workers, folder, small=2)
    counted = {item.first: found for item, found in zip(changed, given, strict=True)}
    groups, layout, number = [], [], 0
    for item in items:
        before, start, shards = kept.get(item.first, (None, 0, ()))
        if before and item.first not in counted and start == number:
            n = before["shards"]
        else:
            found = counted.get(item.first) or count(root, item)
            if "error" in found:
                raise UserError(found["error"])
            n, shards = found["shards"], _wanted(stage, found, number)
        settled = bool(before and before["settled"]) or numbers[-1] >= item.first + GROUP
        groups.append(Group(first=item.first, shards=n, settled=settled, inputs=item.inputs))
        layout.append(shards)
        number += n
    return SetLayout(tuple(groups), tuple(item.partitions for item in items), tuple(layout))


def _group_items(
    root: Root, stage: ShardSet, kept: Kept, commits: Mapping[str, Mapping[int, Commit]]
) -> Iterator[GroupItem]:  # fmt: skip
    """All groups of a set."""
    stages = [info.name for info in stage.stages]
    numbers, min_mass = sorted(commits[stages[-1]]), min_mass_of(root)
    scored_by = [min_mass] if "verdicts" in stages and min_mass != MIN_MASS else []
    for first in range(0, numbers[-1] + 1 if numbers else 0, GROUP):
        partitions = tuple(numbers[bisect_left(numbers, first) : bisect_left(numbers, first + GROUP)])
        texts = (text for name in stages for text in texts_of(commits[name], None, first, first + GROUP))
        before, _, _ = kept.get(first, (None, 0, ()))
        n = before["shards"] if before and before["settled"] else None
        inputs = digest([stage.identity(), contents(texts), *scored_by])
        yield GroupItem(first, partitions, n, inputs, stage.config.samples_per_shard)


def _wanted(stage: ShardSet, found: Counted, number: int) -> tuple[WantedShard, ...]:
    """The shards of a group that have samples. `number`: of its first shard."""
    return tuple(
        WantedShard(number + index, index, digest([stage.identity(), number + index, made_from]), samples)
        for index, samples, made_from in found["counted"]
    )


def _groups_of(card: Card) -> Kept:
    """A card's groups. All but the last are settled, even if a group that was exactly full when its card was written
    does not say so.
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


@dataclass(frozen=True)
class CountShards:
    """What the shards of a group hold; n is computed unless it is settled. Shards without samples are left out."""

    stage: ShardSet
    listed: Listed = field(default_factory=dict, compare=False)  # folders that this process has listed

    def __call__(self, root: Root, group: GroupItem) -> Counted:
        stage = self.stage
        files, query = stage_files(root, stage.stages, group.partitions), members(stage.set, stage.config, stage.own)
        with connect(root, files, stage.earlier, [query], self.listed) as connection:
            try:
                connection.execute(f"CREATE TEMP TABLE members AS SELECT place, key, made_from FROM ({query})")
            except duckdb.ConversionException as error:
                wrong = condition_error(stage.setting, error)
                return Counted(shards=0, counted=[], error=str(wrong))
            [(count,)] = connection.execute("SELECT count(*) FROM members").fetchall()
            n = group.shards or ceil(count / stage.config.samples_per_shard)
            counted = connection.execute(
                "SELECT (place % $n)::INTEGER AS index, count(*), sha256(string_agg(made_from, '' ORDER BY place, key))"
                " FROM members GROUP BY index ORDER BY index",
                {"n": max(n, 1)},
            ).fetchall()
        return Counted(shards=n, counted=counted)

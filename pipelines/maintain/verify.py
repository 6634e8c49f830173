"""Checks that everything under a root is what was committed.

Partitions, shards and sets are checked one by one, by the workers of a configuration if it is large. What workers have
checked is noted until the end, so that a verification that was killed can go on: see `resume`. A later one reads
everything again, as a file can be damaged without a trace in its size and time.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipelines.catalog.ledger_files import check_ledger
from pipelines.engine.commit import digest, file_of
from pipelines.engine.commit_cache import is_partition
from pipelines.engine.ledger import new_attempt, utc
from pipelines.engine.manifest import MANIFEST, read_manifest, sets_of, stages_of
from pipelines.engine.parquet import Corrupt
from pipelines.engine.releases import card_names, load_card, marked
from pipelines.engine.results import forget_results, results
from pipelines.engine.root import Entry, Root
from pipelines.engine.workers import Workers
from pipelines.maintain.clean import VERIFIED, garbage
from pipelines.maintain.takedown_audit import left_of
from pipelines.maintain.verify_partitions import CheckPartitions, Found, items_of
from pipelines.maintain.verify_shards import (
    CheckGroup,
    CheckShard,
    check_card,
    differences,
    found,
    groups_of,
)
from schemas.config.model import BeamConfig
from schemas.shards import Card
from schemas.stage import StageInfo

SMALL = 64  # partitions and shards that this process checks itself, before others would have begun

Say = Callable[[str], None]


@dataclass
class Verification:
    """The result of a verification."""

    problems: list[str] = field(default_factory=list)
    garbage: list[str] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0  # of images
    samples: int = 0  # in published shards


def verify_root(
    root: Root, say: Say = lambda line: None, beam: BeamConfig | None = None, resume: bool = False
) -> Verification:  # fmt: skip
    """Reads everything: every digest, every index entry, every row from stage to stage.

    `beam`: the runner whose workers do it; without it this process does, and writes nothing. `resume`: what the last
    verification found before it was killed is not read again, unless its files have other sizes or times.
    """
    if beam is None:
        return _verify(root, say, None, "")
    folder = _folder(root, resume)
    with Workers(beam, root) as workers:
        seen = _verify(root, say, workers, folder)
    forget_results(root, folder)
    return seen


def _folder(root: Root, resume: bool) -> str:
    """The folder in which workers note what they find: a new one, or that of the last verification."""
    last = root.folders(VERIFIED)[-1:] if resume else []
    name = last[0] if last else f"{re.sub('[-:.+]', '', utc())}-{new_attempt()}"
    return f"{VERIFIED}/{name}"


def _verify(root: Root, say: Say, workers: Workers | None, folder: str) -> Verification:
    seen = Verification()
    settled = {p for file in read_manifest(root) if file.split for p in file.partitions}
    stages, begun = stages_of(root), made_by_runs(root)
    files = {stage: root.files(stage) for stage in stages}
    present = {stage: {int(name.removesuffix(".parquet")) for name in filter(is_partition, of_stage)}
               for stage, of_stage in files.items()}  # fmt: skip
    of_partitions = [*items_of(files, present)]
    sets = Sets.read(root, files, present)
    said: list[int] = []

    def progress(done: int, of: int) -> None:
        if of > 20 and 10 * done // of not in said:
            said.append(10 * done // of)
            say(f"partitions and shards: {done:,} of {of:,} done")

    say("partitions and shards")
    items = [*of_partitions, *sets.items()]
    given = results(root, "verify", items, check, workers, folder, progress, SMALL)
    told = Found()
    for _ in of_partitions:
        told += Found(**next(given))
    of_sets = [*sets.problems(root, begun, given)]
    for stage in stages.values():
        seen.problems += check_stage(stage, files[stage.name], present[stage.name], settled, told, stage.name in begun)
    seen.problems += [*told.losses, *told.payloads]
    seen.rows, seen.bytes, seen.samples = told.rows, told.bytes, sets.samples
    say("the ledger")
    seen.problems += check_ledger(root)
    seen.problems += of_sets
    with suppress(Corrupt):  # reported above
        seen.garbage = [name for name in garbage(root) if not (folder and name.startswith(f"{folder}/"))]
        seen.problems += found(left_of(root, seen.garbage))
    return seen


def check(root: Root, item: CheckPartitions | CheckGroup | CheckShard) -> Any:
    return item.result(root)


def made_by_runs(root: Root) -> set[str]:
    """The stages that made something in any run of the ledger: if the folder of one is gone, it was not just never
    begun."""
    names = (name for run in root.folders("runs") for name in root.files(f"runs/{run}"))
    work = (re.fullmatch(r"work-(.+)\.parquet", name) for name in names)
    return {found[1] for found in work if found}


def check_stage(
    stage: StageInfo, files: Iterable[str], present: set[int], settled: set[int], told: Found, begun: bool = False
) -> Iterator[str]:
    """Checks that a stage which has any partition, or was `begun`, has all and no others, each as it was committed:
    that is what workers have `told`."""
    name = stage.name
    for file in files:
        if file.endswith(".parquet") and file[0].isdigit() and not is_partition(file):
            yield f"{name}/{file}: is not a partition, but the catalog reads it; remove it"
    if not (present or begun or name == "rows"):
        return
    for partition in sorted(told.damaged.get(name, ())):
        yield f"{file_of(name, partition)}: is damaged or belongs to another partition; remove it, run again"
    if missing := settled - present:
        first = file_of(name, min(missing))
        yield f"{name}: {len(missing)} of {len(settled)} partitions missing, the first is {first}; run again"
    for partition in sorted(present - settled):
        yield f"{file_of(name, partition)}: {MANIFEST} has no such partition"
    yield from told.problems.get(name, ())


@dataclass
class Sets:
    """The cards of all sets and releases, and the work of checking their shards."""

    cards: dict[str, Card | Corrupt]
    made: set[str]  # cards that a run makes: no old releases, even if put back, and no sets that are not configured
    groups: dict[str, list[CheckGroup]] = field(default_factory=dict)  # by card, of those that are made
    shards: dict[str, list[CheckShard]] = field(default_factory=dict)  # by card: each shard once

    @classmethod
    def read(cls, root: Root, files: Mapping[str, Mapping[str, Entry]], present: Mapping[str, set[int]]) -> "Sets":
        names, configured, present_files = card_names(root, releases=True), sets_of(root), root.files("shards")
        put_back = {name.partition("@")[0] for name in marked(root, "put-back")}
        published = {name.partition("@")[0] for name in names} - put_back
        made = {name for name in published if configured is None or name in configured}
        sets, checked, stamps = cls({}, made), set(), _stamps(files, present)
        every = digest([sorted((name, entry) for name, entry in of_stage.items()) for of_stage in files.values()])
        for name in names:
            try:
                card = sets.cards[name] = load_card(root, name)
            except Corrupt as error:
                sets.cards[name] = error
                continue
            if name in made:
                sets.groups[name] = [*groups_of(card, stamps, every)]
            new = [entry for entry in card["shards"] if entry["tar"] not in checked]
            checked |= {entry["tar"] for entry in new}
            sets.shards[name] = [
                CheckShard(entry, name, name in made, digest([present_files.get(entry[f]) for f in ("tar", "index")]))
                for entry in new
            ]
        return sets

    def items(self) -> Iterator[CheckGroup | CheckShard]:
        for name in self.cards:
            yield from self.groups.get(name, ())
            yield from self.shards.get(name, ())

    @property
    def samples(self) -> int:
        """Those that are published."""
        cards = (card for name, card in self.cards.items() if "@" not in name)
        return sum(card["samples"] for card in cards if not isinstance(card, Corrupt))

    def problems(self, root: Root, begun: set[str], given: Iterator[Any]) -> Iterator[str]:
        """What is wrong with cards, sets and shards. `given`: the results of `items`."""
        if "shards" in begun and not self.cards:
            yield from (f"shards/{name}.json: is gone; run again" for name in sets_of(root) or ())
        yield from (f"shards/{gone}.json: is gone; run again" for gone in self.made - self.cards.keys())
        for name, card in self.cards.items():
            if isinstance(card, Corrupt):
                yield f"{card}; remove it, run again"
                continue
            yield from found(check_card(root, name, card))
            if name in self.made:
                yield from differences(card, [next(given) for _ in self.groups[name]])
            for _ in self.shards[name]:
                yield from next(given)


def _stamps(files: Mapping[str, Mapping[str, Entry]], present: Mapping[str, set[int]]) -> dict[int, str]:
    """Of each partition that is selected from: what changes when its rows of `selection` or `images` do."""
    stages = [stage for stage in ("selection", "images") if stage in files]
    return {
        partition: digest([files[stage].get(f"{partition:05d}.parquet") for stage in stages])
        for stage in stages for partition in present[stage]
    }  # fmt: skip

"""Checks the cards of shard sets, and their shards: tars, indexes and which samples they have."""

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.catalog.catalog import one_line, open_catalog
from pipelines.engine.commit import digest, file_of, read_commit
from pipelines.engine.parquet import Corrupt, read_rows
from pipelines.engine.releases import read_index
from pipelines.engine.root import MOST, Root
from pipelines.engine.tar import BLOCK, header
from pipelines.maintain.verify_pictures import check_pictures, lost_originals
from pipelines.stages.sample_sql import chosen
from pipelines.stages.shard_layout import GROUP
from schemas.selection import SetConfig
from schemas.shards import Card, ShardEntry
from schemas.stages import STAGES
from schemas.views import OF_VIEWS

CHUNK = 1 << 20  # bytes
SELECTED = pa.schema([STAGES["selection"].schema.field(name) for name in ("key", "samples")])


def found(problems: Iterable[str]) -> Iterator[str]:
    """The problems that a check finds. One that cannot go on, since a file is damaged, ends with that problem."""
    try:
        yield from problems
    except Corrupt as error:
        yield f"{error}; remove it, run again"


def check_card(root: Root, name: str, card: Card) -> Iterator[str]:
    """Checks a card's sums, and that a copy of it exists under the name of its release."""
    for total in ("samples", "bytes"):
        if card[total] != sum(entry[total] for entry in card["shards"]):
            yield f"shards/{name}.json: its {total} are not the sum of those of its shards"
    if "@" not in name:
        release = f"shards/{name}@{card['release']}.json"
        if not root.exists(release) or root.read(f"shards/{name}.json") != root.read(release):
            yield f"shards/{name}.json: is not the same as {release}; remove it, run again"


def check_shard(root: Root, entry: ShardEntry, card: str, is_made: bool) -> Iterator[str]:
    """Checks a shard's tar and index against the card, and every member against the index. `is_made`: whether a run
    makes the shard again if it is removed."""
    tar, index = f"shards/{entry['tar']}", f"shards/{entry['index']}"
    for name, committed, size in ((tar, entry["sha256"], entry["bytes"]), (index, entry["index_sha256"], MOST)):
        if (now := sha256_of(root, name, size)) != committed:
            wrong = "is gone" if now is None else f"its SHA-256 is not the one in card {card}"
            mend = ", run again" if now is None else "; remove it, run again"
            yield f"{name}: {wrong}" + (mend if is_made else f"; remove shards/{card}.json, which no run makes again")
            if now is None or name == index:
                return
    samples = read_index(root, entry)
    if len(samples) != entry["samples"]:
        yield f"{index}: has {len(samples)} samples, but card {card} says {entry['samples']}"
    end = 0
    for sample in samples:
        if sample["byte_offset"] != end:
            yield f"{index}: sample {sample['sample']} does not follow the one before it"
        end, members = sample["byte_offset"] + sample["size"], {}
        for member in sample["members"]:
            name = f"{sample['sample']}.{member['ext']}"
            with suppress(EOFError, ValueError):  # a name or a size that no header holds
                data = root.read_range(tar, member["byte_offset"] - BLOCK, BLOCK + member["size"])
                whole = data[:BLOCK] == header(name, member["size"])
                if whole and hashlib.sha256(data[BLOCK:]).hexdigest() == member["sha256"]:
                    members[member["ext"]] = data[BLOCK:]
                    continue
            yield f"{tar}: {name} is not what was packed"
        if sample.get("pictures") and len(members) == len(sample["members"]):
            yield from (f"{tar}: {problem}" for problem in check_pictures(sample, members))


@dataclass(frozen=True)
class CheckShard:
    """Checks one shard. The result is what is wrong."""

    entry: ShardEntry
    card: str  # that names it
    is_made: bool
    stamps: str

    @property
    def name(self) -> str:
        return f"shard-{digest([self.entry, self.card, self.is_made, self.stamps])}"

    @property
    def size(self) -> int:
        return 1

    def result(self, root: Root) -> list[str]:
        return [*found(check_shard(root, self.entry, self.card, self.is_made))]


@dataclass(frozen=True)
class CheckGroup:
    """Compares the samples of a set with those selected in a group of partitions, or in all. The result is
    what `compare_selected` and `lost_originals` say."""

    card: Card  # with the group's shards only
    partitions: tuple[int, ...]
    stamps: str

    @property
    def name(self) -> str:
        return f"group-{digest([self.card, self.partitions, self.stamps])}"

    @property
    def size(self) -> int:
        return 1

    def result(self, root: Root) -> dict[str, Any]:
        whole = {
            stage: [p for p in self.partitions if read_commit(root, file_of(stage, p))]
            for stage in ("selection", "images")
        }
        selected = compare_selected(root, self.card, whole["selection"])
        return {"selected": selected, "lost": lost_originals(root, self.card, whole["images"])}


def groups_of(card: Card, stamps: Mapping[int, str], all_stamps: str) -> Iterator[CheckGroup]:
    """The work of comparing a published set with the selection. `stamps`: of the files of a partition."""
    if card["settings"].get("task") in OF_VIEWS:
        yield CheckGroup(card, (*sorted(stamps),), all_stamps)
        return
    shards: dict[int, list[ShardEntry]] = {partition // GROUP: [] for partition in stamps}
    ends = [*accumulate(group["shards"] for group in card["groups"])]
    for entry in card["shards"]:
        place = min(bisect_right(ends, entry["number"]), len(ends) - 1)
        shards.setdefault(card["groups"][place]["first"] // GROUP if ends else 0, []).append(entry)
    partitions: dict[int, list[int]] = {}
    for partition in sorted(stamps):
        partitions.setdefault(partition // GROUP, []).append(partition)
    for number in sorted(shards):
        own = partitions.get(number, [])
        some: Card = {**card, "shards": shards[number], "groups": []}
        yield CheckGroup(some, (*own,), digest([stamps[partition] for partition in own]))


def compare_selected(root: Root, card: Card, partitions: Collection[int]) -> dict[str, Any] | None:
    """How the samples of a published set differ from the selection of these partitions."""
    try:
        if card["settings"].get("task") in OF_VIEWS:
            wanted = preferred(root, card)
        else:
            wanted = {
                f"{row['key']}-{placement['task']}"
                for partition in partitions
                for row in read_rows(root, file_of("selection", partition), SELECTED.names, SELECTED)
                for placement in row["samples"]
                if placement["set"] == card["set"]
            }
        packed = [row["sample"] for entry in card["shards"] for row in read_index(root, entry, ["sample"])]
    except Corrupt:  # one of the files is damaged; that is reported elsewhere
        return None
    missing, extra = wanted - set(packed), set(packed) - wanted
    return {
        "twice": len(packed) != len(set(packed)),
        "missing": [len(missing), min(missing, default="")],
        "extra": [len(extra), min(extra, default="")],
    }


def differences(card: Card, groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is wrong with a published set, by the results of `CheckGroup`."""
    name, selected, lost = card["set"], [group["selected"] for group in groups], [group["lost"] for group in groups]
    if None not in selected:
        if any(group["twice"] for group in selected):
            yield f"set {name}: it has a sample twice"
        for problem, which in (("selected, but not in", "missing"), ("not selected, but in", "extra")):
            count = sum(group[which][0] for group in selected)
            if count:
                first = min(group[which][1] for group in selected if group[which][0])
                yield f"set {name}: {count} samples are {problem} its shards, the first is {first}; run again"
    if None not in lost and (count := sum(number for number, _ in lost)):
        first = next(sample for number, sample in lost if number)
        counted = f"{count} images were not made from an image of the corpus, the first is that of {first}"
        yield f"set {name}: {counted}; run again"


def preferred(root: Root, card: Card) -> set[str]:
    """The pairs or best responses that should be in a set. Raises `Corrupt`."""
    try:
        settings = {name: value for name, value in card["settings"].items() if name in SetConfig.model_fields}
        config = SetConfig.model_validate(settings)
    except ValueError as error:
        raise Corrupt(f"shards/{card['set']}.json: settings: {' '.join(str(error).split())}") from None
    try:
        with open_catalog(root) as connection:
            keys = connection.sql(f"SELECT key FROM {OF_VIEWS[config.task]} WHERE {chosen(config)}").fetchall()
    except duckdb.Error as error:
        raise Corrupt(f"set {card['set']}: {one_line(error)}") from None
    return {f"{key}-{card['task']}" for (key,) in keys}


def sha256_of(root: Root, name: str, size: int) -> str | None:
    """The SHA-256 of a file, read in pieces; None if it does not exist. Of one that has more bytes than `size` it is
    another one: an endless file is not read to its end. Raises `Corrupt` for anything but a regular file."""
    sha256 = hashlib.sha256()
    try:
        with root.open(name) as file:
            while size >= 0 and (data := file.read(CHUNK)):
                size -= len(data)
                sha256.update(data)
    except FileNotFoundError:
        return None
    return sha256.hexdigest()

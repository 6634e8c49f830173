"""Checks the cards of shard sets, and their shards: tars, indexes and which samples they have."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress

import duckdb
import pyarrow as pa

from pipelines.catalog.catalog import one_line, open_catalog
from pipelines.engine.commit import Commit, file_of
from pipelines.engine.parquet import Corrupt, read_rows
from pipelines.engine.releases import read_index
from pipelines.engine.root import MOST, Root
from pipelines.engine.tar import BLOCK, header
from pipelines.maintain.verify_pictures import check_pictures
from pipelines.stages.sample_sql import chosen
from schemas.selection import SetConfig
from schemas.shards import Card, ShardEntry
from schemas.stages import STAGES
from schemas.views import OF_VIEWS

CHUNK = 1 << 20  # bytes
SELECTED = pa.schema([STAGES["selection"].schema.field(name) for name in ("key", "samples")])


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


def check_selected(root: Root, card: Card, selection: Mapping[int, Commit]) -> Iterator[str]:
    """Compares the samples of a published set with the selection, one by one."""
    try:
        if card["settings"].get("task") in OF_VIEWS:
            wanted = preferred(root, card)
        else:
            wanted = {
                f"{row['key']}-{placement['task']}"
                for partition in selection
                for row in read_rows(root, file_of("selection", partition), SELECTED.names, SELECTED)
                for placement in row["samples"]
                if placement["set"] == card["set"]
            }
        packed = [row["sample"] for entry in card["shards"] for row in read_index(root, entry, ["sample"])]
    except Corrupt:  # one of the files is damaged; that is reported elsewhere
        return
    if len(packed) != len(set(packed)):
        yield f"set {card['set']}: it has a sample twice"
    missing, extra = wanted - set(packed), set(packed) - wanted
    for problem, names in (("selected, but not in", missing), ("not selected, but in", extra)):
        if names:
            counted = f"{len(names)} samples are {problem} its shards, the first is {min(names)}"
            yield f"set {card['set']}: {counted}; run again"


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
    another one: a file without end is not read to its end. Raises `Corrupt` for what is not a file."""
    sha256 = hashlib.sha256()
    try:
        with root.open(name) as file:
            while size >= 0 and (data := file.read(CHUNK)):
                size -= len(data)
                sha256.update(data)
    except FileNotFoundError:
        return None
    return sha256.hexdigest()

"""Checks that everything under a root is what was committed."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from pipelines.catalog.catalog import one_line, open_catalog
from pipelines.engine.commit import Commit, column_digests, completed, digest, file_of, fingerprint_of
from pipelines.engine.commit_cache import is_partition, read_commits
from pipelines.engine.manifest import MANIFEST, read_manifest, sets_of, stages_of
from pipelines.engine.parquet import Corrupt, read_rows
from pipelines.engine.partition_stage import UPSTREAM
from pipelines.engine.payload import read_payload
from pipelines.engine.releases import card_names, marked, read_card
from pipelines.engine.remote import open_bytes
from pipelines.engine.root import Root
from pipelines.engine.tar import BLOCK, header
from pipelines.maintain.clean import garbage
from pipelines.maintain.takedown_audit import left_of
from pipelines.maintain.verify_pictures import check_originals, check_pictures
from pipelines.stages.sample_sql import chosen
from schemas.arrow import Row
from schemas.selection import SetConfig
from schemas.shards import Card, ShardEntry
from schemas.stage import StageInfo
from schemas.stages import Stages, of_corpus
from schemas.views import OF_VIEWS

CHUNK = 1 << 20  # bytes

Commits = dict[str, dict[int, Commit]]  # stage -> partition -> commit


@dataclass
class Verification:
    """The result of a verification."""

    problems: list[str] = field(default_factory=list)
    garbage: list[str] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0  # of images
    samples: int = 0  # in published shards


def verify_root(root: Root, say: Callable[[str], None] = lambda line: None) -> Verification:
    """Reads everything: every digest, every index entry, every row from stage to stage."""
    seen = Verification()
    settled = {p for file in read_manifest(root) if file.split for p in file.partitions}
    stages = stages_of(root)
    commits = {stage: read_commits(root, stage, cached=False) for stage in stages}
    begun = made_by_runs(root)
    for stage in stages.values():
        seen.problems += check_stage(root, stage, settled, commits, say, stage.name in begun)
    seen.problems += check_losses(root, stages, commits)
    seen.rows = sum(commit.rows for commit in commits["rows"].values())
    for commit in commits["images"].values():
        seen.bytes += check_payload(root, commit, seen.problems)
    say("shards")
    if "shards" in begun and not card_names(root, releases=True):
        seen.problems += [f"shards/{name}.json: is gone; run again" for name in sets_of(root) or ()]
    seen.samples += check_sets(root, commits, seen.problems)
    with suppress(Corrupt):  # reported above
        seen.garbage = list(garbage(root))
        seen.problems += left_of(root, seen.garbage)
    return seen


def made_by_runs(root: Root) -> set[str]:
    """The stages that made something in any run of the ledger: if the folder of one is gone, it was not just never
    begun."""
    names = (name for run in root.folders("runs") for name in root.files(f"runs/{run}"))
    work = (re.fullmatch(r"work-(.+)\.parquet", name) for name in names)
    return {found[1] for found in work if found}


def check_stage(
    root: Root, stage: StageInfo, settled: set[int], commits: Commits, say: Callable[[str], None], begun: bool = False
) -> Iterator[str]:
    """Checks that a stage which has any partition, or was `begun`, has all and no others, each as it was committed."""
    name = stage.name
    files = [file for file in root.files(name) if file.endswith(".parquet") and file[0].isdigit()]
    present = {int(file.removesuffix(".parquet")) for file in files if is_partition(file)}
    for file in files:
        if not is_partition(file):
            yield f"{name}/{file}: is not a partition, but the catalog reads it; remove it"
    if not (present or begun or name == "rows"):
        return
    say(name)
    for partition in sorted(present - commits[name].keys()):
        yield f"{file_of(name, partition)}: is damaged or belongs to another partition; remove it, run again"
    if missing := settled - present:
        first = file_of(name, min(missing))
        yield f"{name}: {len(missing)} of {len(settled)} partitions missing, the first is {first}; run again"
    for partition in sorted(present - settled):
        yield f"{file_of(name, partition)}: {MANIFEST} has no such partition"
    for commit in commits[name].values():
        yield from check_partition(root, stage, commit, commits)


def check_losses(root: Root, stages: Stages, commits: Commits) -> Iterator[str]:
    """Checks, from the files alone, that no row which a stage left out is selected for a set or asked about."""
    losing = [name for name in of_corpus(stages) if name != "selection"]
    for partition in commits.get("selection", {}):
        try:
            lost = _lost(root, [name for name in losing if partition in commits[name]], partition)
            parts = read_rows(root, file_of("rows", partition), ["key", "part_of"])
            selected = read_rows(root, file_of("selection", partition), ["key", "reason"])
            asked = read_rows(root, file_of("instructions", partition), ["image", "reason"])
        except Corrupt:  # reported by `check_partition`
            continue
        with_parts = {part["part_of"]: lost[part["key"]] for part in parts if part["part_of"] and part["key"] in lost}
        yield from _leaks("selection", partition, selected, "key", lost | with_parts)
        yield from _leaks("instructions", partition, asked, "image", lost)


def _leaks(stage: str, partition: int, rows: list[Row], column: str, lost: dict[str, str]) -> Iterator[str]:
    leaked = sorted(row[column] for row in rows if row["reason"] is None and row[column] in lost)
    if leaked:
        by = lost[leaked[0]]
        name = file_of(stage, partition)
        yield f"{name}: uses {len(leaked)} rows that {by} left out, the first is {leaked[0]}; run again"


def _lost(root: Root, stages: Iterable[str], partition: int) -> dict[str, str]:
    """key -> the first of these stages that left it out."""
    left_out_by: dict[str, str] = {}
    for stage in stages:
        for row in read_rows(root, file_of(stage, partition), ["key", "reason"]):
            if row["reason"]:
                left_out_by.setdefault(row["key"], stage)
    return left_out_by


def check_sets(root: Root, commits: Commits, problems: list[str]) -> int:
    """The cards of all sets and releases, and their shards; returns the samples that are published."""
    checked: set[str] = set()
    names, sets, samples = card_names(root, releases=True), sets_of(root), 0
    put_back = {name.partition("@")[0] for name in marked(root, "put-back")}

    def is_made(name: str) -> bool:
        """Whether a run made this card. False for an old release, even if it was put back, and for a set that the
        configuration no longer has."""
        return "@" not in name and name not in put_back and (sets is None or name in sets)

    for gone in {name.split("@")[0] for name in names if is_made(name.split("@")[0])} - {*names}:
        problems.append(f"shards/{gone}.json: is gone; run again")
    for name in names:
        card = read_card(root, name)
        if card is None:
            problems.append(f"shards/{name}.json: is damaged; remove it, run again")
            continue
        problems += check_card(root, name, card)
        if "@" not in name:
            samples += card["samples"]
        if is_made(name):
            problems += check_selected(root, card, commits["selection"])
            problems += check_originals(root, card, commits["images"])
        for entry in card["shards"]:
            if entry["tar"] not in checked:
                checked.add(entry["tar"])
                problems += check_shard(root, entry, name, is_made(name))
    return samples


def check_partition(root: Root, stage: StageInfo, commit: Commit, commits: Commits) -> Iterator[str]:
    """Checks a partition's rows against its footer, the footers of its inputs, and the keys from the source."""
    name = file_of(commit.stage, commit.partition)
    schema = pa.schema([field for field in stage.schema if field.name in commit.digests.keys() | (
        {*stage.schema.names} - stage.optional)])  # fmt: skip
    try:
        table = read_rows(root, name)
        again = completed(commit, table, schema)
    except Corrupt as error:
        yield f"{error}; remove it, run again"
        return
    except (ValueError, KeyError) as error:
        yield f"{name}: its rows are not valid for a partition: {error}"
        return
    yield from _check_footer(stage, commit, table, again, schema)
    if not stage.per_image:
        yield from check_descent(root, stage, commit, table)
    source = commits["rows"].get(commit.partition)
    if stage.per_image and source and source.digests.get("key") != commit.digests.get("key"):
        yield f"{name}: its keys differ from those of {file_of('rows', commit.partition)}: a row is not accounted for"
    yield from _check_inputs(commit, commits)


def _check_footer(
    stage: StageInfo, commit: Commit, table: list[Row], again: Commit, schema: pa.Schema
) -> Iterator[str]:
    """Checks a partition's footer against its rows and itself. `again`: the commit, computed again from the rows."""
    name = file_of(commit.stage, commit.partition)
    for column, now in column_digests(table, schema).items():
        if commit.digests.get(column) != now:
            yield f"{name}: column {column} is not what was committed"
    if (again.rows, again.kept, again.reasons) != (commit.rows, commit.kept, commit.reasons):
        yield f"{name}: its counts do not match its rows"
    identity = digest([commit.stage, commit.version, commit.settings])
    if commit.fingerprint != fingerprint_of(identity, commit.inputs or commit.digests):
        yield f"{name}: its fingerprint does not match the inputs that it names"
    for word in commit.reasons.keys() - stage.reasons.keys() - {UPSTREAM}:
        yield f"{name}: {word!r} is not a declared reason"


def _check_inputs(commit: Commit, commits: Commits) -> Iterator[str]:
    """Checks that a partition was made from the current files of its inputs."""
    for stage, columns in commit.inputs.items():
        now = commits.get(stage, {}).get(commit.partition)
        changed = [column for column, was in columns.items() if not now or now.digests.get(column) != was]
        if changed:
            name = file_of(commit.stage, commit.partition)
            yield f"{name}: was made from another version of {file_of(stage, commit.partition)}; run again"


def check_descent(root: Root, stage: StageInfo, commit: Commit, table: list[Row]) -> Iterator[str]:
    """Checks that the rows of this stage name every row of the stage before, and no others."""
    before, columns = stage.answers, stage.named_by
    wanted = {row["key"] for row in read_rows(root, file_of(before, commit.partition), ["key"])}
    named = {row[column] for row in table for column in columns} - {None}
    named |= {row["key"] for row in table if row[columns[0]] is None}
    for problem, keys in (("not accounted for", wanted - named), ("named, but missing", named - wanted)):
        if keys:
            yield (
                f"{file_of(commit.stage, commit.partition)}: {len(keys)} rows of {file_of(before, commit.partition)} "
                f"are {problem}, the first is {min(keys)}; run again"
            )


def check_payload(root: Root, commit: Commit, problems: list[str]) -> int:
    """Checks the tar beside a partition, as a whole and row by row; returns the bytes of its rows."""
    try:
        kept = [row for row in read_rows(root, file_of(commit.stage, commit.partition)) if row["size"]]
    except Corrupt:  # reported by `check_partition`
        return 0
    if commit.payload is None:
        if kept:
            problems.append(f"{file_of(commit.stage, commit.partition)}: names no tar for its {len(kept)} images")
        return 0
    name = f"{commit.stage}/{commit.payload}"
    if (now := sha256_of(root, name)) != commit.payload_sha256:
        wrong = "is gone" if now is None else "its SHA-256 is not the one committed"
        problems.append(f"{name}: {wrong}; remove {file_of(commit.stage, commit.partition)}, run again")
    for row in kept if now else []:
        try:
            read_payload(root, commit.stage, {**row, "payload": commit.payload})
        except Corrupt as error:
            problems.append(str(error))
    return sum(row["size"] for row in kept)


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
    for name, committed in ((tar, entry["sha256"]), (index, entry["index_sha256"])):
        if (now := sha256_of(root, name)) != committed:
            wrong = "is gone" if now is None else f"its SHA-256 is not the one in card {card}"
            mend = ", run again" if now is None else "; remove it, run again"
            yield f"{name}: {wrong}" + (mend if is_made else f"; remove shards/{card}.json, which no run makes again")
            if now is None or name == index:
                return
    samples = read_rows(root, index)
    if len(samples) != entry["samples"]:
        yield f"{index}: has {len(samples)} samples, but card {card} says {entry['samples']}"
    end = 0
    for sample in samples:
        if sample["byte_offset"] != end:
            yield f"{index}: sample {sample['sample']} does not follow the one before it"
        end, members = sample["byte_offset"] + sample["size"], {}
        for member in sample["members"]:
            name = f"{sample['sample']}.{member['ext']}"
            with suppress(EOFError):
                data = root.read_range(tar, member["byte_offset"] - BLOCK, BLOCK + member["size"])
                whole = data[:BLOCK] == header(name, member["size"])
                if whole and hashlib.sha256(data[BLOCK:]).hexdigest() == member["sha256"]:
                    members[member["ext"]] = data[BLOCK:]
                    continue
            yield f"{tar}: {name} is not what was packed"
        if sample.get("pictures") and len(members) == len(sample["members"]):
            yield from (f"{tar}: {problem}" for problem in check_pictures(sample, members))


def check_selected(root: Root, card: Card, selection: dict[int, Commit]) -> Iterator[str]:
    """Compares the samples of a published set with the selection, one by one."""
    try:
        if card["settings"].get("task") in OF_VIEWS:
            wanted = preferred(root, card)
        else:
            wanted = {
                f"{row['key']}-{placement['task']}"
                for partition in selection
                for row in read_rows(root, file_of("selection", partition), ["key", "samples"])
                for placement in row["samples"]
                if placement["set"] == card["set"]
            }
        packed = [row["sample"] for e in card["shards"] for row in read_rows(root, f"shards/{e['index']}", ["sample"])]
    except (Corrupt, KeyError, TypeError):  # one of the files is damaged; that is reported elsewhere
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
    settings = card["settings"]
    config = SetConfig.model_validate({name: settings[name] for name in settings if name in SetConfig.model_fields})
    try:
        with open_catalog(root) as connection:
            keys = connection.sql(f"SELECT key FROM {OF_VIEWS[config.task]} WHERE {chosen(config)}").fetchall()
    except duckdb.Error as error:
        raise Corrupt(f"set {card['set']}: {one_line(error)}") from None
    return {f"{key}-{card['task']}" for (key,) in keys}


def sha256_of(root: Root, name: str) -> str | None:
    """The SHA-256 of a file, read in pieces; None if it does not exist."""
    sha256 = hashlib.sha256()
    try:
        with open_bytes(root.fs, root.path(name)) as file:
            while data := file.read(CHUNK):
                sha256.update(data)
    except FileNotFoundError:
        return None
    return sha256.hexdigest()

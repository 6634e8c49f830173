"""Checks partitions: rows against footers, footers against each other, and the tars of their images."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.engine.commit import Commit, column_digests, completed, digest, file_of, fingerprint_of, read_commit
from pipelines.engine.commit_cache import MOST
from pipelines.engine.manifest import stages_of
from pipelines.engine.parquet import Corrupt, read_rows
from pipelines.engine.partition_stage import UPSTREAM
from pipelines.engine.payload import read_payload
from pipelines.engine.read_once import ReadOnce
from pipelines.engine.root import Entry, Root
from pipelines.engine.tar import BLOCK
from pipelines.maintain.verify_shards import found, sha256_of
from schemas.arrow import Row
from schemas.stage import StageInfo
from schemas.stages import STAGES, Stages, of_corpus

PAYLOAD = pa.schema([STAGES["images"].schema.field(name) for name in ("key", "byte_offset", "size", "sha256")])
NUMBERED = re.compile("[0-9]{5,18}")  # how partitions and their tars begin
MOST_AT_ONCE = 64  # partitions of an item: about a minute of work
ITEMS = 1000  # that many are enough for any number of workers

Commits = Mapping[str, Mapping[int, Commit]]  # stage -> partition -> commit


@dataclass
class Found:
    """What is wrong with some partitions."""

    damaged: dict[str, list[int]] = field(default_factory=dict)  # stage -> partitions whose footers cannot be read
    problems: dict[str, list[str]] = field(default_factory=dict)  # stage -> what else is wrong with its files
    losses: list[str] = field(default_factory=list)
    payloads: list[str] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0  # of images

    def __iadd__(self, other: "Found") -> "Found":
        for stage, partitions in other.damaged.items():
            self.damaged.setdefault(stage, []).extend(partitions)
        for stage, problems in other.problems.items():
            self.problems.setdefault(stage, []).extend(problems)
        self.losses += other.losses
        self.payloads += other.payloads
        self.rows += other.rows
        self.bytes += other.bytes
        return self


@dataclass(frozen=True)
class CheckPartitions:
    """Checks some partitions in all stages, and the tars of their images. The result is a `Found`."""

    present: tuple[tuple[int, tuple[str, ...]], ...]  # (partition, the stages that have it)
    stamps: str  # a digest of the stamps of all files that are read

    @property
    def name(self) -> str:
        return f"partitions-{digest([self.present, self.stamps])}"

    @property
    def size(self) -> int:
        return len(self.present)

    def result(self, root: Root) -> dict[str, Any]:
        found, stages = Found(), stages_of(root)
        for partition, names in self.present:
            found += check_all(ReadOnce(root.url), stages, partition, names)
        return asdict(found)


def items_of(
    files: Mapping[str, Mapping[str, Entry]], present: Mapping[str, Iterable[int]]
) -> Iterator[CheckPartitions]:  # fmt: skip
    """The work of checking all partitions that are `present` in a stage. `files`: of each stage's folder."""
    stamps: dict[int, list[str]] = {}
    made_by: dict[int, list[str]] = {}
    for stage, of_stage in files.items():
        for partition in present[stage]:
            made_by.setdefault(partition, []).append(stage)
        for name, entry in of_stage.items():
            if numbered := NUMBERED.match(name):
                stamps.setdefault(int(numbered[0]), []).append(f"{stage}/{name} {entry.size} {entry.stamp}")
    partitions = sorted(made_by)
    at_once = min(MOST_AT_ONCE, len(partitions) // ITEMS + 1)
    for start in range(0, len(partitions), at_once):
        some = partitions[start : start + at_once]
        of_item = tuple((partition, (*made_by[partition],)) for partition in some)
        yield CheckPartitions(of_item, digest([stamps.get(partition) for partition in some]))


def check_all(root: Root, stages: Stages, partition: int, names: Iterable[str]) -> Found:
    """Checks one partition in the stages that have it."""
    seen = Found()
    commits: dict[str, dict[int, Commit]] = {name: {} for name in stages}
    for name in names:
        commit = read_commit(root, file_of(name, partition)) if partition < MOST else None
        if commit:
            commits[name][partition] = commit
        else:
            seen.damaged.setdefault(name, []).append(partition)
    for name, of_stage in commits.items():
        for commit in of_stage.values():
            if problems := [*found(check_partition(root, stages[name], commit, commits))]:
                seen.problems[name] = problems
    seen.losses += found(check_losses(root, stages, commits))
    seen.rows += sum(commit.rows for commit in commits["rows"].values())
    for commit in commits.get("images", {}).values():
        seen.bytes += check_payload(root, commit, seen.payloads)
    return seen


def check_partition(root: Root, stage: StageInfo, commit: Commit, commits: Commits) -> Iterator[str]:
    """Checks a partition's rows against its footer, the footers of its inputs, and the keys from the source."""
    name = file_of(commit.stage, commit.partition)
    schema = pa.schema([field for field in stage.schema if field.name in commit.digests.keys() | (
        {*stage.schema.names} - stage.optional)])  # fmt: skip
    try:
        table = read_rows(root, name, schema=_settled(stage, schema))
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
    source = commits.get("rows", {}).get(commit.partition)
    if stage.per_image and source and source.digests.get("key") != commit.digests.get("key"):
        yield f"{name}: its keys differ from those of {file_of('rows', commit.partition)}: a row is not accounted for"
    yield from _check_inputs(commit, commits)


def _settled(stage: StageInfo, schema: pa.Schema) -> pa.Schema:
    """The columns that are the same in all files of a stage. A user's own columns follow its configuration."""
    return pa.schema([field for field in schema if not (stage.own and field.name in stage.optional)])


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
        rows = read_rows(root, file_of(commit.stage, commit.partition), PAYLOAD.names, PAYLOAD)
        kept = [row for row in rows if row["size"]]
        if None in (row[column] for row in kept for column in ("byte_offset", "sha256")):
            raise Corrupt(f"{file_of(commit.stage, commit.partition)}: does not say where its images are")
        end = max((row["byte_offset"] + row["size"] for row in kept), default=0)
        now = sha256_of(root, f"{commit.stage}/{commit.payload}", end + 4 * BLOCK) if commit.payload else None
    except Corrupt as error:
        problems.append(f"{error}; remove {file_of(commit.stage, commit.partition)}, run again")
        return 0
    if commit.payload is None:
        if kept:
            problems.append(f"{file_of(commit.stage, commit.partition)}: names no tar for its {len(kept)} images")
        return 0
    name = f"{commit.stage}/{commit.payload}"
    if now != commit.payload_sha256:
        wrong = "is gone" if now is None else "its SHA-256 is not the one committed"
        problems.append(f"{name}: {wrong}; remove {file_of(commit.stage, commit.partition)}, run again")
    for row in kept if now else []:
        try:
            read_payload(root, commit.stage, {**row, "payload": commit.payload})
        except Corrupt as error:
            problems.append(str(error))
    return sum(row["size"] for row in kept)


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

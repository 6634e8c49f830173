"""Checks that everything under a root is what was committed."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa

from pipelines.catalog.ledger_files import check_ledger
from pipelines.engine.commit import Commit, column_digests, completed, digest, file_of, fingerprint_of
from pipelines.engine.commit_cache import is_partition, read_commits
from pipelines.engine.manifest import MANIFEST, read_manifest, sets_of, stages_of
from pipelines.engine.parquet import Corrupt, read_rows
from pipelines.engine.partition_stage import UPSTREAM
from pipelines.engine.payload import read_payload
from pipelines.engine.releases import card_names, load_card, marked
from pipelines.engine.root import Root
from pipelines.engine.tar import BLOCK
from pipelines.maintain.clean import garbage
from pipelines.maintain.takedown_audit import left_of
from pipelines.maintain.verify_pictures import check_originals
from pipelines.maintain.verify_shards import check_card, check_selected, check_shard, sha256_of
from schemas.arrow import Row
from schemas.stage import StageInfo
from schemas.stages import STAGES, Stages, of_corpus

PAYLOAD = pa.schema([STAGES["images"].schema.field(name) for name in ("key", "byte_offset", "size", "sha256")])

Commits = Mapping[str, Mapping[int, Commit]]  # stage -> partition -> commit


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
        seen.problems += found(check_stage(root, stage, settled, commits, say, stage.name in begun))
    seen.problems += found(check_losses(root, stages, commits))
    seen.rows = commits["rows"].totals()[0]
    for commit in commits.get("images", {}).values():
        seen.bytes += check_payload(root, commit, seen.problems)
    say("the ledger")
    seen.problems += check_ledger(root)
    say("shards")
    if "shards" in begun and not card_names(root, releases=True):
        seen.problems += [f"shards/{name}.json: is gone; run again" for name in sets_of(root) or ()]
    seen.samples += check_sets(root, commits, seen.problems)
    with suppress(Corrupt):  # reported above
        seen.garbage = list(garbage(root))
        seen.problems += found(left_of(root, seen.garbage))
    return seen


def found(problems: Iterable[str]) -> Iterator[str]:
    """The problems that a check finds. One that cannot go on, since a file is damaged, ends with that problem."""
    try:
        yield from problems
    except Corrupt as error:
        yield f"{error}; remove it, run again"


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
        try:
            card = load_card(root, name)
        except Corrupt as error:
            problems.append(f"{error}; remove it, run again")
            continue
        problems += found(check_card(root, name, card))
        if "@" not in name:
            samples += card["samples"]
        if is_made(name):
            problems += found(check_selected(root, card, commits.get("selection", {})))
            problems += found(check_originals(root, card, commits.get("images", {})))
        for entry in card["shards"]:
            if entry["tar"] not in checked:
                checked.add(entry["tar"])
                problems += found(check_shard(root, entry, name, is_made(name)))
    return samples


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

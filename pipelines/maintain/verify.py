"""Checks that everything under a root is what was committed, and removes what no commit names."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import duckdb

from pipelines.catalog.catalog import CATALOG, connect, one_line, stage_files
from pipelines.engine.commit import Commit, column_digests, completed, digest, file_of, fingerprint_of
from pipelines.engine.commit_cache import CACHE, is_partition, read_commits
from pipelines.engine.corpus_stage import NOTE
from pipelines.engine.lock import LOCK, hold
from pipelines.engine.manifest import MANIFEST, NOTES, read_manifest, sets_of, stages_of
from pipelines.engine.parquet import Corrupt, read_rows
from pipelines.engine.partition_stage import UPSTREAM, read_payload
from pipelines.engine.releases import card_names, read_card, read_cards
from pipelines.engine.root import Root
from pipelines.engine.tar import BLOCK, header
from pipelines.maintain.takedown_audit import left_of
from pipelines.stages.sample_sql import chosen
from schemas.arrow import Row
from schemas.config.model import SetConfig
from schemas.shards import PACKS, Card, ShardEntry, units_of
from schemas.views import CORPUS, MADE_OF, PAID, PREFERENCE, REASONS, STAGES

CHUNK = 1 << 20  # bytes


@dataclass
class Verification:
    """What a verification saw."""

    problems: list[str] = field(default_factory=list)
    garbage: list[str] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0  # of images
    samples: int = 0  # in published shards


def verify_root(root: Root, say: Callable[[str], None] = lambda what: None) -> Verification:
    """Reads everything: every digest, every index entry, every row from stage to stage."""
    found = Verification()
    settled = {p for file in read_manifest(root) if file.split for p in file.partitions}
    stages, sets = stages_of(root), sets_of(root)
    commits = {stage: read_commits(root, stage, cached=False) for stage in stages}
    for stage in stages:
        files = [name for name in root.files(stage) if name.endswith(".parquet") and name[0].isdigit()]
        names = {int(name.removesuffix(".parquet")) for name in files if is_partition(name)}
        strangers = [name for name in files if not is_partition(name)]
        found.problems += [
            f"{stage}/{name}: is no partition, but the catalog reads it; remove it" for name in strangers
        ]
        if not names and stage != "rows":
            continue
        say(stage)
        for partition in sorted(names - commits[stage].keys()):
            found.problems.append(
                f"{file_of(stage, partition)}: is damaged, or of another partition; remove it, run again"
            )
        missing, extra = settled - names, names - settled
        if missing:
            first = file_of(stage, min(missing))
            found.problems.append(f"{stage}: {len(missing)} of {len(settled)} are not made, {first} first; run again")
        for partition in sorted(extra):
            found.problems.append(f"{file_of(stage, partition)}: {MANIFEST} has no such partition")
        for commit in commits[stage].values():
            found.problems += check_partition(root, commit, commits)
    found.rows = sum(commit.rows for commit in commits["rows"].values())
    for commit in commits["images"].values():
        found.bytes += check_payload(root, commit, found.problems)
    say("shards")
    checked: set[str] = set()
    names = card_names(root, releases=True)

    def is_made(name: str) -> bool:
        """Whether a run makes this card, and not a run of long ago, of another configuration."""
        return "@" not in name and (sets is None or name in sets)

    for gone in {name.split("@")[0] for name in names if is_made(name.split("@")[0])} - {*names}:
        found.problems.append(f"shards/{gone}.json: is gone; run again")
    for name in names:
        card = read_card(root, name)
        if card is None:
            found.problems.append(f"shards/{name}.json: is damaged; remove it, run again")
            continue
        found.problems += check_card(root, name, card)
        if "@" not in name:
            found.samples += card["samples"]
        if is_made(name):
            found.problems += check_selected(root, card, commits["selection"])
        for entry in card["shards"]:
            if entry["tar"] not in checked:
                checked.add(entry["tar"])
                found.problems += check_shard(root, entry, name, is_made(name))
    with suppress(Corrupt):  # which was said above
        found.garbage = list(garbage(root))
        found.problems += left_of(root, found.garbage)
    return found


def check_partition(root: Root, commit: Commit, commits: dict[str, dict[int, Commit]]) -> Iterator[str]:
    """A partition's rows against its own footer, its inputs' footers, and the keys that the source gave it."""
    name, schema = file_of(commit.stage, commit.partition), STAGES[commit.stage]
    try:
        table = read_rows(root, name)
        again = completed(commit, table, schema)
    except Corrupt as error:
        yield f"{error}; remove it, run again"
        return
    except (ValueError, KeyError) as error:
        yield f"{name}: its rows are not those of a partition: {error}"
        return
    for column, now in column_digests(table, schema).items():
        if commit.digests.get(column) != now:
            yield f"{name}: column {column} is not what was committed"
    if (again.rows, again.kept, again.reasons) != (commit.rows, commit.kept, commit.reasons):
        yield f"{name}: its counts are not those of its rows"
    identity = digest([commit.stage, commit.version, commit.settings])
    if commit.fingerprint != fingerprint_of(identity, commit.inputs or commit.digests):
        yield f"{name}: its fingerprint is not that of what it says it was made from"
    for word in commit.reasons.keys() - REASONS[commit.stage].keys() - {UPSTREAM}:
        yield f"{name}: {word!r} is not a declared reason"
    if commit.stage in MADE_OF:
        yield from check_descent(root, commit, table)
    source = commits["rows"].get(commit.partition)
    if commit.stage in CORPUS and source and source.digests.get("key") != commit.digests.get("key"):
        yield f"{name}: its keys are not those of {file_of('rows', commit.partition)}: a row is not accounted for"
    for stage, columns in commit.inputs.items():
        now = commits.get(stage, {}).get(commit.partition)
        changed = [column for column, was in columns.items() if not now or now.digests.get(column) != was]
        if changed:
            yield f"{name}: was made from another {file_of(stage, commit.partition)}; run again"


def check_descent(root: Root, commit: Commit, table: list[Row]) -> Iterator[str]:
    """That every row of the stage before is named by a row of this one, and no others are."""
    before, columns = MADE_OF[commit.stage]
    wanted = {row["key"] for row in read_rows(root, file_of(before, commit.partition), ["key"])}
    named = {row[column] for row in table for column in columns} - {None}
    named |= {row["key"] for row in table if row[columns[0]] is None}
    for what, keys in (("not accounted for", wanted - named), ("not there, but named", named - wanted)):
        if keys:
            yield (
                f"{file_of(commit.stage, commit.partition)}: {len(keys)} rows of {file_of(before, commit.partition)} "
                f"are {what}, {min(keys)} first; run again"
            )


def check_payload(root: Root, commit: Commit, problems: list[str]) -> int:
    """The tar beside a partition, whole and row by row; returns the bytes of its rows."""
    try:
        kept = [row for row in read_rows(root, file_of(commit.stage, commit.partition)) if row["size"]]
    except Corrupt:  # as `check_partition` says
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
    """A card's sums, and that the release it names was put down beside it."""
    for what in ("samples", "bytes"):
        if card[what] != sum(entry[what] for entry in card["shards"]):
            yield f"shards/{name}.json: its {what} are not those of its shards"
    if "@" not in name:
        release = f"shards/{name}@{card['release']}.json"
        if not root.exists(release) or root.read(f"shards/{name}.json") != root.read(release):
            yield f"shards/{name}.json: is not the same as {release}; remove it, run again"


def check_shard(root: Root, entry: ShardEntry, card: str, is_made: bool) -> Iterator[str]:
    """A shard's tar and index against the card, and every member against the index. A release of before, or a set that
    the configuration has no more, no run makes again."""
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
        yield f"{index}: {len(samples)} samples, {entry['samples']} on card {card}"
    end = 0
    for sample in samples:
        if sample["byte_offset"] != end:
            yield f"{index}: sample {sample['sample']} does not follow the one before it"
        end = sample["byte_offset"] + sample["size"]
        for member in sample["members"]:
            name = f"{sample['sample']}.{member['ext']}"
            with suppress(EOFError):
                data = root.read_range(tar, member["byte_offset"] - BLOCK, BLOCK + member["size"])
                whole = data[:BLOCK] == header(name, member["size"])
                if whole and hashlib.sha256(data[BLOCK:]).hexdigest() == member["sha256"]:
                    continue
            yield f"{tar}: {name} is not what was packed"


def check_selected(root: Root, card: Card, selection: dict[int, Commit]) -> Iterator[str]:
    """The samples of a published set against the selection, one by one."""
    try:
        if card["task"] == PREFERENCE:
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
    except (Corrupt, KeyError, TypeError):  # one of them is damaged, as is said of itself
        return
    if len(packed) != len(set(packed)):
        yield f"set {card['set']}: a sample stands in it twice"
    for what, names in (("selected, but not in", wanted - set(packed)), ("not selected, but in", set(packed) - wanted)):
        if names:
            yield f"set {card['set']}: {len(names)} samples are {what} its shards, {min(names)} first; run again"


def preferred(root: Root, card: Card) -> set[str]:
    """The pairs that should be in a set. Raises `Corrupt`."""
    config = SetConfig(**{name: value for name, value in card["settings"].items() if name != "set"})
    try:
        with connect(root, stage_files(root, stages_of(root))) as connection:
            found = connection.sql(f"SELECT key FROM preferences WHERE {chosen(config)}").fetchall()
    except duckdb.Error as error:
        raise Corrupt(f"set {card['set']}: {one_line(error)}") from None
    return {f"{key}-{PREFERENCE}" for (key,) in found}


def sha256_of(root: Root, name: str) -> str | None:
    """The SHA-256 of a file, read in pieces; None if it is not there."""
    sha256 = hashlib.sha256()
    try:
        with root.fs.open(root.path(name), "rb") as file:
            while data := file.read(CHUNK):
                sha256.update(data)
    except FileNotFoundError:
        return None
    return sha256.hexdigest()


# Garbage


def garbage(root: Root, releases: set[str] = frozenset()) -> Iterator[str]:
    """Files that no commit names: replaced payloads, leavings of killed runs, packs that training planned for releases
    that are gone. `releases` are taken as gone.

    Raises `Corrupt` for a commit that cannot be read: nobody knows what it names.
    """
    settled = {p for file in read_manifest(root) if file.split for p in file.partitions}
    named = {MANIFEST, LOCK, CATALOG}
    for stage in stages_of(root):
        named |= {f"{stage}/{CACHE}", f"{stage}/{NOTE}"}
        commits, files = read_commits(root, stage), root.files(stage)
        for name in filter(is_partition, files):
            partition = int(name.removesuffix(".parquet"))
            if partition in settled and partition not in commits:
                raise Corrupt(f"{stage}/{name}: cannot be read; `shardmill verify` says more")
            if partition in settled:
                named |= {f"{stage}/{name}", f"{stage}/{commits[partition].payload}"}
    plans = [f"shards/{PACKS}/{folder}" for folder in root.folders(f"shards/{PACKS}")]
    for name in set(card_names(root, releases=True)) - releases:
        named.add(f"shards/{name}.json")
        card = read_card(root, name)
        if card is None:
            raise Corrupt(f"shards/{name}.json: cannot be read; `shardmill verify` says more")
        for entry in card["shards"]:
            named |= {f"shards/{entry['tar']}", f"shards/{entry['index']}"}
        named |= {f"{folder}/{name}" for _, name in units_of(card) for folder in plans}
    runs = [f"runs/{run}" for run in root.folders("runs")]
    notes = [NOTES, *runs, *(f"{run}/{stage}" for run in runs for stage in root.folders(run))]
    for folder in ("", *STAGES, "shards", *plans, *notes):
        every = folder in {*STAGES, "shards", *plans}  # elsewhere only what a killed run has half written
        for name in root.files(folder, hidden=True):
            path = f"{folder}/{name}" if folder else name
            if path not in named and (every or name.startswith(".")):
                yield path
    paid = PAID & {*stages_of(root)}
    for stage in STAGES:
        for partition in root.folders(f"{stage}/chunks"):
            folder, kept = f"{stage}/chunks/{partition}", stage in paid and partition in {f"{p:05d}" for p in settled}
            every = root.files(folder, hidden=True)
            yield from (f"{folder}/{name}" for name in every if not kept or name.startswith("."))


def clean_root(root: Root, grace: float, keep: int) -> tuple[int, int]:
    """Removes garbage older than `grace` seconds and all but the last `keep` releases of each set.

    Returns how many files and bytes went. Raises `Busy` while a run holds the root.
    """
    with hold(root):
        old: set[str] = set()
        for card in read_cards(root):
            now = f"{card['set']}@{card['release']}"
            releases = [n for n in card_names(root, releases=True) if n.startswith(f"{card['set']}@") and n != now]
            releases.sort(key=lambda n: root.age(f"shards/{n}.json"))
            old |= set(releases[max(0, keep - 1) :])
        gone = [name for name in garbage(root, old) if root.age(name) >= grace or name[7:-5] in old]
        gone.sort(key=lambda name: not name.endswith(".json"))  # a release first, then what it names
        size = sum(root.fs.size(root.path(name)) for name in gone)
        for name in gone:
            root.remove(name)
        return len(gone), size

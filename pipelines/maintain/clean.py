"""Removes what no commit names: replaced payloads, leftovers of killed runs, and old releases."""

import math
from collections.abc import Collection, Iterator

from pipelines.catalog.catalog import CATALOG
from pipelines.dedup.compared import COMPARED, COMPARING
from pipelines.engine.commit import read_commit
from pipelines.engine.commit_cache import CACHE, is_partition, read_commits
from pipelines.engine.corpus_stage import DECIDED, NOTE
from pipelines.engine.lock import LOCK, hold
from pipelines.engine.manifest import MANIFEST, NOTES, read_manifest, stages_of
from pipelines.engine.parquet import Corrupt
from pipelines.engine.releases import MARKS, card_names, marked, name_of, read_card, read_cards
from pipelines.engine.root import Root
from pipelines.stages.row_counts import COUNTED
from pipelines.stages.shard_layout import LAYOUTS
from schemas.shards import PACKS, units_of
from schemas.stages import STAGES

VERIFIED = "verify-notes"  # a folder for each verification that goes on or was killed


def garbage(root: Root, releases: Collection[str] = ()) -> Iterator[str]:
    """Files that no commit names: replaced payloads, leftovers of killed runs, packs that training planned for releases
    that are gone. `releases` count as gone.

    Raises `Corrupt` for a commit that cannot be read, since the files that it names are unknown.
    """
    settled = {p for file in read_manifest(root) if file.split for p in file.partitions}
    plans = [f"shards/{PACKS}/{folder}" for folder in root.folders(f"shards/{PACKS}")]
    named = {MANIFEST, LOCK, CATALOG} | _named_by_stages(root, settled) | _named_by_cards(root, {*releases}, plans)
    folders = _folders_of_stages(root)
    for folder in (*folders, "shards", *plans):
        yield from (name for name in _files(root, folder) if name not in named)
    runs = [f"runs/{run}" for run in root.folders("runs")]
    for folder in ("", NOTES, *runs, *(f"{run}/{stage}" for run in runs for stage in root.folders(run))):
        # in these folders only half-written files are garbage
        yield from (name for name in _files(root, folder) if name not in named and _is_temporary(name))
    yield from _chunks(root, folders, settled)
    for results in (VERIFIED, LAYOUTS, COUNTED):
        for folder in root.folders(results):
            yield from _files(root, f"{results}/{folder}")
    for stage in folders:
        yield from _files(root, f"{stage}/{DECIDED}")
        yield from _files(root, f"{stage}/{COMPARING}")


def _named_by_stages(root: Root, settled: set[int]) -> set[str]:
    """The files of the stages that the corpus has: partitions, their payloads, caches and notes."""
    named: set[str] = set()
    for stage in stages_of(root):
        named |= {f"{stage}/{CACHE}", f"{stage}/{NOTE}", f"{stage}/{COMPARED}"}
        commits = read_commits(root, stage)
        for name in filter(is_partition, root.files(stage)):
            partition = int(name.removesuffix(".parquet"))
            if partition not in settled:
                continue
            if partition not in commits:
                raise Corrupt(f"{stage}/{name}: cannot be read; `shardmill verify` says more")
            named |= {f"{stage}/{name}", f"{stage}/{commits[partition].payload}"}
    return named


def _named_by_cards(root: Root, gone: set[str], plans: list[str]) -> set[str]:
    """The cards that stay, their shards, and the packs that training planned for them."""
    named: set[str] = set()
    for name in set(card_names(root, releases=True)) - gone:
        named.add(f"shards/{name}.json")
        card = read_card(root, name)
        if card is None:
            raise Corrupt(f"shards/{name}.json: cannot be read; `shardmill verify` says more")
        for entry in card["shards"]:
            named |= {f"shards/{entry['tar']}", f"shards/{entry['index']}"}
        named |= {f"{folder}/{unit}" for _, unit in units_of(card) for folder in plans}
    marks = {f"shards/{name}.{mark}" for mark in MARKS for name in marked(root, mark) - gone}
    return named | {name for name in marks if f"{name.rpartition('.')[0]}.json" in named}


def _folders_of_stages(root: Root) -> list[str]:
    """The folders of all stages, including users' stages that the configuration no longer has."""
    known = [*STAGES, *(name for name in stages_of(root) if name not in STAGES)]
    unknown = [folder for folder in root.folders("") if folder not in {*known, "shards", "runs"}]
    return [*known, *(folder for folder in unknown if _is_stage(root, folder))]


def _is_stage(root: Root, folder: str) -> bool:
    """Whether a folder holds partitions of a stage with the folder's name."""
    commits = (read_commit(root, f"{folder}/{name}") for name in root.files(folder) if is_partition(name))
    return any(commit and commit.stage == folder for commit in commits)


def _chunks(root: Root, folders: list[str], settled: set[int]) -> Iterator[str]:
    """Chunks that no run takes over. Of a paid stage all are kept while it has their partition; of another those that
    are younger than their partition's file, since it holds what is in older ones."""
    stages = stages_of(root)
    waiting = {f"{partition:05d}" for partition in settled}
    for stage in folders:
        for partition in root.folders(f"{stage}/chunks"):
            there, made = stage in stages and partition in waiting, f"{stage}/{partition}.parquet"
            age = root.age(made) if there and not stages[stage].paid and root.exists(made) else math.inf
            names = _files(root, f"{stage}/chunks/{partition}")
            yield from (name for name in names if not there or _is_temporary(name) or root.age(name) > age)


def _files(root: Root, folder: str) -> list[str]:
    """The paths of a folder's files, temporary ones included."""
    return [f"{folder}/{name}" if folder else name for name in root.files(folder, hidden=True)]


def _is_temporary(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".")


def clean_root(root: Root, grace: float, keep: int) -> tuple[int, int]:
    """Removes garbage older than `grace` seconds and all but the last `keep` releases of each set, and pinned ones.

    Returns how many files and bytes were removed. Raises `Busy` while a run holds the root.
    """
    with hold(root):
        old: set[str] = set()
        for card in read_cards(root):
            kept = {name_of(card)} | marked(root, "pinned")
            releases = [n for n in card_names(root, releases=True) if n.startswith(f"{card['set']}@") and n not in kept]
            releases.sort(key=lambda n: root.age(f"shards/{n}.json"))
            old |= set(releases[max(0, keep - 1) :])
        gone = [name for name in garbage(root, old) if root.age(name) >= grace or name[7:-5] in old]
        gone.sort(key=lambda name: not name.endswith(".json"))  # a release first, then what it names
        size = sum(map(root.size, gone))
        for name in gone:
            root.remove(name)
        return len(gone), size

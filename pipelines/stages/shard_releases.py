"""Publishes shard sets: a set's card, written last, names its shards, and each card is a release."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

from pipelines.engine.commit import changes, old_rows, read_commit
from pipelines.engine.ledger import Ledger
from pipelines.engine.releases import forget_put_back, old_index, read_cards, read_index, release_of
from pipelines.engine.root import Root, point
from pipelines.stages.shard_layout import SetLayout
from pipelines.stages.shards import ShardSet, item_of, task_of
from schemas.arrow import Row
from schemas.shards import Card, ShardEntry


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

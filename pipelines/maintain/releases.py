"""The releases of a corpus: lists them, and publishes an old one again."""

import time
from datetime import UTC
from importlib.metadata import version

from pipelines.build.run import close_ledger
from pipelines.catalog.catalog import build_catalog, connect
from pipelines.catalog.ledger_files import ledger_files
from pipelines.engine.ledger import Ledger
from pipelines.engine.lock import hold
from pipelines.engine.releases import card_named, card_names, marked, name_of, read_card, read_cards, set_mark
from pipelines.engine.root import Root
from pipelines.reports.report import write_report
from pipelines.stages.shard_releases import card_changes, publish
from schemas.arrow import Row
from schemas.errors import UserError
from schemas.shards import Card

KINDS = ("added", "removed", "changed")


def list_releases(root: Root, set_name: str | None = None) -> list[Row]:
    """{set, release, published, samples, bytes, added, removed, changed, state} of each release that can be read, the
    oldest first. `published` is in UTC; `state` holds some of `published`, `pinned`, `put back`.

    The ledger says when a release was published and what changed; of releases of version 0.1 it does not: the time is
    that of the card's file, and the changes are null. Raises `UserError` for an unknown set.
    """
    sets = card_names(root)
    if set_name is not None and set_name not in sets:
        known = f"choose from {', '.join(sets)}" if sets else "no set is published yet"
        raise UserError(f"releases: unknown shard set {set_name!r}; {known}")
    noted = _noted(root)
    current = {name_of(card) for card in read_cards(root)}
    states = {"published": current, "pinned": marked(root, "pinned"), "put back": marked(root, "put-back")}
    releases = []
    for name in card_names(root, releases=True):
        begin, _, release = name.partition("@")
        card = read_card(root, name) if release and begin == (set_name or begin) else None
        if card:
            note = noted.get(name) or {"published": _written(root, name)} | dict.fromkeys(KINDS)
            state = [state for state, names in states.items() if name in names]
            facts = {fact: card[fact] for fact in ("set", "release", "samples", "bytes")}
            releases.append({**facts, **note, "state": state})
    return sorted(releases, key=lambda row: (row["set"], row["published"], row["release"]))


def _noted(root: Root) -> dict[str, Row]:
    """What the ledger says of each release: {published, added, removed, changed} of the last time it was published."""
    with connect(root, {"releases": ledger_files(root)["releases"]}, queries=["releases"]) as connection:
        rows = connection.sql(
            "SELECT \"set\" || '@' || release, published::VARCHAR, added::BIGINT, removed::BIGINT, changed::BIGINT "
            "FROM releases WHERE release IS NOT NULL ORDER BY run"
        ).fetchall()
    return {name: dict(zip(("published", *KINDS), facts, strict=True)) for name, *facts in rows}


def _written(root: Root, name: str) -> str:
    """When a card's file was written, as the ledger writes times."""
    written = root.fs.modified(root.path(f"shards/{name}.json"))
    return written.astimezone(UTC).isoformat(timespec="milliseconds")


def put_back(root: Root, name: str, wait: float = 0.0) -> tuple[Card | None, Card, list[Row]]:
    """Publishes a release again. Returns the card that was published, the card that is, and what differs.

    It is a run of its own in the ledger. Raises `UserError` for an unknown release or one whose shards are not whole;
    `Busy` if a run holds the root.
    """
    with hold(root, wait):
        card = card_named(root, name, "publish")
        before = read_card(root, card["set"])
        if before == card:
            raise UserError(f"publish: {name_of(card)} is published already")
        there = root.files("shards")
        missing = [entry[kind] for entry in card["shards"] for kind in ("tar", "index") if entry[kind] not in there]
        if missing:
            raise UserError(f"publish: {name_of(card)} lacks shards/{missing[0]}; choose another release")
        ledger = Ledger.start(root, f"publish {name_of(card)}", version("shardmill"))
        changed = card_changes(root, before, card)
        set_mark(root, name_of(card), "put-back")
        publish(root, ledger, card, changed, time.time())
        close_ledger(root, ledger)
        ledger.end("completed")
        build_catalog(root)
        write_report(root)
        return before, card, changed

"""The cards of a root's shard sets: what is published, and the last releases. A damaged card counts as missing."""

import json

from pipelines.engine.commit import digest
from pipelines.engine.root import Root
from schemas.errors import UserError
from schemas.shards import Card, ShardEntry


def card_names(root: Root, *, releases: bool = False) -> list[str]:
    """The published shard sets (`train`); with `releases` also the releases that are left (`train@3f2a…`)."""
    names = (name.removesuffix(".json") for name in root.files("shards") if name.endswith(".json"))
    return [name for name in names if releases or "@" not in name]


def read_card(root: Root, name: str) -> Card | None:
    """The card of a set, or of one of its releases; None if it is absent or damaged."""
    try:
        card = json.loads(root.read(f"shards/{name}.json"))
        whole = card.keys() >= Card.__required_keys__ and card["release"] == release_of(card["shards"])
        whole = whole and all(entry.keys() >= ShardEntry.__required_keys__ for entry in card["shards"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return card if whole else None


def card_named(root: Root, name: str, command: str) -> Card:
    """The card of a set, or of one of its releases. Raises `UserError`, on behalf of a command, if there is none."""
    card = read_card(root, name)
    if card is None:
        names = card_names(root)
        known = f"choose from {', '.join(names)}" if names else "no set is published yet"
        raise UserError(f"{command}: unknown shard set {name!r}; {known}")
    return card


def read_cards(root: Root) -> list[Card]:
    """The published cards."""
    return [card for name in card_names(root) if (card := read_card(root, name))]


def release_of(entries: list[ShardEntry]) -> str:
    """The name of a set's content: a digest of the digests of its shards."""
    return digest([[entry["sha256"], entry["index_sha256"]] for entry in entries])[:12]

"""The cards of a root's shard sets: what is published, and the last releases. A damaged card counts as missing."""

from collections.abc import Sequence
from typing import Literal

from pipelines.engine.commit import digest
from pipelines.engine.parquet import read_rows
from pipelines.engine.root import Corrupt, Root
from schemas.arrow import Row
from schemas.checked import checked, is_name
from schemas.errors import UserError
from schemas.shards import SAMPLES, Card, SampleRow, ShardEntry, wrong_member

# Empty files beside the card of a release, such as `train@3f2a….pinned`: it is kept by `clean`, or it was put back in
# place of a later release
Mark = Literal["pinned", "put-back"]
MARKS: tuple[Mark, ...] = ("pinned", "put-back")


def card_names(root: Root, *, releases: bool = False) -> list[str]:
    """The published shard sets (`train`); with `releases` also the releases that are left (`train@3f2a…`)."""
    names = (name.removesuffix(".json") for name in root.files("shards") if name.endswith(".json"))
    return [name for name in names if releases or "@" not in name]


def load_card(root: Root, name: str) -> Card:
    """The card of a set, or of one of its releases. Raises `FileNotFoundError`, and `Corrupt` if it is damaged."""
    file = f"shards/{name}.json"
    try:
        card = checked(Card, root.read_json(file))
        if card["release"] != release_of(card["shards"]):
            raise ValueError("release: is not the digest of its shards")
        if card["set"] != name.partition("@")[0]:
            raise ValueError("set: is not that of the file's name")
    except ValueError as error:
        raise Corrupt(f"{file}: is damaged: {error}") from None
    return card


def read_card(root: Root, name: str) -> Card | None:
    """The card of a set, or of one of its releases; None if it is absent or damaged."""
    try:
        return load_card(root, name)
    except (FileNotFoundError, Corrupt):
        return None


def read_index(root: Root, entry: ShardEntry, columns: Sequence[str] | None = None) -> list[Row]:
    """The rows of a shard's index; none if it is absent. Raises `Corrupt` for one that no run wrote."""
    name = f"shards/{entry['index']}"
    rows = read_rows(root, name, columns, SAMPLES, SampleRow.__optional_keys__)
    for row in rows:
        for member in row.get("members", ()):
            if wrong := wrong_member(row.get("sample", ""), member):
                raise Corrupt(f"{name}: members: {wrong}")
    return rows


def old_index(root: Root, entry: ShardEntry) -> list[Row]:
    """The rows of an index that is about to be replaced; none if it is absent or damaged."""
    try:
        return read_index(root, entry)
    except Corrupt:
        return []


def card_named(root: Root, name: str, command: str) -> Card:
    """The card of a set, or of one of its releases, of whose name the beginning is enough.

    Raises `UserError`, on behalf of a command, if there is none.
    """
    try:
        if not is_name(name):
            raise FileNotFoundError(name)
        return load_card(root, name)
    except FileNotFoundError:
        if "@" in name:
            return _release_named(root, name, command)
        names = card_names(root)
        known = f"choose from {', '.join(names)}" if names else "no set is published yet"
        raise UserError(f"{command}: unknown shard set {name!r}; {known}") from None
    except Corrupt as error:
        raise UserError(f"{command}: {error}; `shardmill verify` says more") from None


def _release_named(root: Root, name: str, command: str) -> Card:
    set_name, _, begin = name.partition("@")
    releases = [one for one in card_names(root, releases=True) if one.startswith(f"{set_name}@")]
    if not releases:
        return card_named(root, set_name, command)  # says which sets there are
    found = [one for one in releases if begin and one.startswith(name)]
    if len(found) == 1:
        return card_named(root, found[0], command)
    wrong = f"{len(found)} releases begin with {name!r}" if len(found) > 1 else f"unknown release {name!r}"
    raise UserError(f"{command}: {wrong}; choose from {', '.join(releases[:20])}")


def name_of(card: Card) -> str:
    """The name of a release: `train@3f2a9c81d04e`."""
    return f"{card['set']}@{card['release']}"


def marked(root: Root, mark: Mark) -> set[str]:
    """The names of the releases that have a mark. A release that was put back counts while it is the published one."""
    names = {name.removesuffix(f".{mark}") for name in root.files("shards") if name.endswith(f".{mark}")}
    return names & {name_of(card) for card in read_cards(root)} if mark == "put-back" else names


def set_mark(root: Root, name: str, mark: Mark) -> None:
    root.write(f"shards/{name}.{mark}", b"")


def remove_mark(root: Root, name: str, mark: Mark) -> None:
    root.remove(f"shards/{name}.{mark}")


def forget_put_back(root: Root, set_name: str) -> None:
    """Removes the marks of a set's releases that were put back: a run has published another one."""
    for name in root.files("shards"):
        if name.startswith(f"{set_name}@") and name.endswith(".put-back"):
            root.remove(f"shards/{name}")


def read_cards(root: Root) -> list[Card]:
    """The published cards."""
    return [card for name in card_names(root) if (card := read_card(root, name))]


def release_of(entries: list[ShardEntry]) -> str:
    """The name of a release: a digest of the digests of its shards."""
    return digest([[entry["sha256"], entry["index_sha256"]] for entry in entries])[:12]

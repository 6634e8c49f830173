"""Commands for the releases of shard sets: they list, compare, keep and put them back."""

from typing import Annotated

import typer

from flows.commands.arguments import RootUrl, open_root
from flows.commands.terminal import cell, console, table, tell

Release = Annotated[
    str,
    typer.Argument(
        metavar="SET@RELEASE", help="Release, such as train@3f2a; the beginning is enough.", show_default=False
    ),
]


def releases(
    root: RootUrl,
    set_name: Annotated[str | None, typer.Argument(metavar="SET", help="Show only this shard set.")] = None,
) -> None:
    """List the releases of a corpus that can be read: when each was published, its size, and what changed in it."""
    from pipelines.maintain.releases import list_releases

    shown = table("set", "release", "published (UTC)", "samples", "bytes", "added", "removed", "changed", "state")
    found = list_releases(open_root(root), set_name)
    for row in found:
        counts = ("-" if row[name] is None else f"{row[name]:,}" for name in ("added", "removed", "changed"))
        when = row["published"][:16].replace("T", " ")
        size = (f"{row['samples']:,}", f"{row['bytes']:,}")
        shown.add_row(cell(row["set"]), row["release"], when, *size, *counts, ", ".join(row["state"]))
    if found:
        console.print(shown)
    else:
        tell("no release yet")


def diff(
    root: RootUrl,
    before: Annotated[
        str, typer.Argument(metavar="BEFORE", help="Release, such as train@3f2a, or set.", show_default=False)
    ],
    after: Annotated[
        str, typer.Argument(metavar="AFTER", help="Release or set to compare it with.", show_default=False)
    ],
    names: Annotated[bool, typer.Option("--names", help="Print the name of each sample that differs instead.")] = False,
) -> None:
    """Compare two releases: samples added, removed and changed; and their distributions side by side."""
    from pipelines.engine.releases import card_named, name_of
    from pipelines.maintain.release_diff import DRAWN, distributions
    from pipelines.stages.shard_releases import card_changes

    opened = open_root(root)
    cards = card_named(opened, before, "diff"), card_named(opened, after, "diff")
    changed = card_changes(opened, *cards)
    if names:
        for row in changed:
            print(row["change"], row["key"])
        return
    kinds = [row["change"] for row in changed]
    counts = ", ".join(f"{kinds.count(kind):,} {kind}" for kind in ("added", "removed", "changed"))
    tell(f"{name_of(cards[0])} -> {name_of(cards[1])}: {counts}; the same: {_same(cards[0], kinds):,}")
    shown = table("measure", "", *map(name_of, cards))
    shown.add_row("samples", "", *(f"{card['samples']:,}" for card in cards))
    shown.add_row("bytes", "", *(f"{card['bytes']:,}" for card in cards))
    for line in distributions(opened, *cards):
        shown.add_row(line.measure, cell(line.value), line.before, line.after)
    console.print(shown)
    if max(card["samples"] for card in cards) > DRAWN:
        tell(f"distributions cover {DRAWN:,} samples of each release, drawn by a hash of their names")


def _same(before, kinds: list[str]) -> int:
    """How many samples are the same in both releases."""
    return before["samples"] - kinds.count("removed") - kinds.count("changed")


def pin(root: RootUrl, release: Release) -> None:
    """Keep a release, however old: `clean` does not remove it until it is unpinned."""
    from pipelines.engine.releases import card_named, name_of, read_card, remove_mark, set_mark
    from schemas.errors import UserError

    opened = open_root(root)
    name = name_of(card_named(opened, release, "pin"))
    set_mark(opened, name, "pinned")
    if read_card(opened, name) is None:  # `clean` removed it at this moment
        remove_mark(opened, name, "pinned")
        raise UserError(f"pin: {name} was just removed; choose another release")
    tell(f"pinned {name}: `shardmill clean` keeps it")


def unpin(root: RootUrl, release: Release) -> None:
    """Let `clean` remove a pinned release once it is old."""
    from pipelines.engine.releases import card_named, marked, name_of, remove_mark
    from schemas.errors import UserError

    opened = open_root(root)
    name = name_of(card_named(opened, release, "unpin"))
    if name not in marked(opened, "pinned"):
        raise UserError(f"unpin: {name} is not pinned")
    remove_mark(opened, name, "pinned")
    tell(f"unpinned {name}: `shardmill clean` removes it once it is old")


def publish(
    root: RootUrl,
    release: Release,
    wait: Annotated[float, typer.Option(help="Seconds to wait for a run of the same corpus.")] = 0.0,
) -> None:
    """Publish a release again, in place of the one that is published. The next run may replace it; `plan` says so."""
    from pipelines.engine.releases import name_of
    from pipelines.maintain.releases import put_back

    before, card, changed = put_back(open_root(root), release, wait)
    kinds = [row["change"] for row in changed]
    counts = ", ".join(f"{kinds.count(kind):,} {kind}" for kind in ("added", "removed", "changed"))
    tell(f"published {name_of(card)}" + (f" in place of {name_of(before)}: {counts}" if before else f": {counts}"))
    tell("the next run makes the set as the configuration says, and may replace it; `shardmill plan` says so first")

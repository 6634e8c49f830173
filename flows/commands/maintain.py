"""Commands that check a corpus, remove what it no longer needs, and take images down."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.arguments import Config, RootUrl, open_root
from flows.commands.terminal import cell, counted, size_text, tell
from schemas.errors import UserError

GRACE = 24.0  # hours that files of no commit are kept, since a worker may be about to commit them


def verify(
    root: RootUrl,
    against_source: Annotated[
        bool,
        typer.Option("--against-source", help="Also read some partitions again from local sources, and compare them."),
    ] = False,
    every: Annotated[bool, typer.Option("--every", help="With --against-source: compare all partitions.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the last verification, which was stopped or killed.")
    ] = False,
) -> None:
    """Check every digest and index entry, and that every row is accounted for. Exit code 1 if there are problems.

    Named by its configuration, a large corpus is checked by the workers of [beam].
    """
    from pipelines.maintain.verify import verify_root
    from schemas.config.file import read_config

    if every and not against_source:
        raise UserError("--every: only with --against-source")
    if against_source and not root.endswith(".toml"):
        raise UserError(
            f"--against-source: {root} does not say where the source is; name the configuration, a TOML file"
        )
    if resume and not root.endswith(".toml"):
        raise UserError(f"--resume: {root} has no workers, whose notes are needed; name the configuration, a TOML file")
    beam = read_config(root).beam if root.endswith(".toml") else None
    seen = verify_root(open_root(root), lambda what: tell(f"checking {what}", style="dim"), beam, resume)
    if against_source:
        seen.problems += _compared(root, every)
    for problem in seen.problems:
        tell(f"[bold red]wrong[/] {cell(problem)}", highlight=False)
    if seen.garbage:
        belong = "belongs" if len(seen.garbage) == 1 else "belong"
        files = f"{counted(len(seen.garbage), 'file')} {belong}"
        tell(f"{files} to no commit; `shardmill clean` removes those that are older than {GRACE:g} hours")
    verdict = counted(len(seen.problems), "problem") if seen.problems else "all is well"
    rows, samples = counted(seen.rows, "row"), counted(seen.samples, "sample")
    tell(f"{rows}, {size_text(seen.bytes)} of images, {samples}: {verdict}")
    if seen.problems:
        raise typer.Exit(1)


def _compared(config: str, every: bool) -> list[str]:
    """Compares a corpus with its sources, says how much was compared, and returns what differs."""
    from pipelines.build.corpus import open_corpus
    from pipelines.maintain.against_source import compare

    compared = compare(open_corpus(config), every, lambda file: tell(f"comparing {cell(file)}", style="dim"))
    partitions = counted(compared.partitions, "partition")
    tell(f"{counted(compared.rows, 'row')} of {partitions} compared with the source")
    if compared.unreached:
        partitions = counted(compared.unreached, "partition")
        tell(f"{partitions} not compared: their source is remote, is gone or has changed since")
    return compared.problems


def clean(
    root: RootUrl,
    grace: Annotated[float, typer.Option(help="Keep files that are younger than this many hours.", min=0)] = GRACE,
    keep: Annotated[int, typer.Option(help="Number of releases of each shard set to keep.", min=1)] = 3,
) -> None:
    """Remove files that are no longer needed: from killed runs, replaced payloads, old releases and their packs."""
    from pipelines.maintain.clean import clean_root, garbage

    opened = open_root(root)
    removed, size = clean_root(opened, grace * 3600, keep)
    tell(f"removed {counted(removed, 'file')}, {size_text(size)}" if removed else "nothing to remove")
    if young := sum(1 for _ in garbage(opened)):
        files = f"{counted(young, 'file')} that {'belongs' if young == 1 else 'belong'}"
        tell(f"kept {files} to no commit: younger than {grace:g} hours; `--grace 0` removes them, too")


def takedown(
    config: Config,
    wanted: Annotated[
        Path | None,
        typer.Argument(
            metavar="LIST", help="File of URLs, hosts, keys and SHA-256s; without it, repeat earlier takedowns."
        ),
    ] = None,
    models: Annotated[
        list[Path], typer.Option(help="Folder of checkpoints or exports to check; can be repeated.")
    ] = [],
    wait: Annotated[float, typer.Option(help="Seconds to wait for another run of the same corpus.")] = 0.0,
) -> None:
    """Remove images and everything made from them for good, and list models that were trained on them."""
    from pipelines.build.corpus import open_corpus
    from pipelines.maintain.takedown import read_list, take_down, trained_on

    corpus = open_corpus(config)
    open_root(corpus.root.url)
    for folder in models:
        if not folder.is_dir():
            raise UserError(f"--models: {folder}: no such folder")
    lines = read_list(wanted) if wanted else []
    done = take_down(corpus, lines, lambda line: tell(line, style="dim"), wait)
    tell(f"{counted(done.rows, 'row')} taken down, and {done.others:,} others that show the same image")
    for line in done.nothing[:20]:
        tell(f"matches no row: {cell(line.text)}")
    if len(done.nothing) > 20:
        tell(f"matches no row: {len(done.nothing) - 20:,} more lines")
    for image in done.near:
        tell(f"near duplicate, {image.distance} bits apart, not taken down: {image.key} {cell(image.url)}")
    for stage in done.stages:
        if stage.made:
            unit = "shard" if stage.stage == "shards" else "partition"
            tell(f"{stage.stage}: {counted(stage.made, unit)} made again")
    if done.withdrawn:
        sets = ", ".join(map(cell, done.withdrawn))
        tell(f"withdrawn, because it had some of this and is no longer configured: shard set {sets}")
    tell(f"{counted(done.removed, 'file')} removed; every run and `shardmill verify` check the corpus against the list")
    for folder in models:
        for path in trained_on(folder, done.releases):
            tell(f"made from a release that had some of this: {cell(path)}")

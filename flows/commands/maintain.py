"""Commands that keep a corpus whole, small, and free of what may not be in it."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.arguments import Config, RootUrl, open_root
from flows.commands.terminal import cell, tell
from schemas.errors import UserError


def verify(root: RootUrl) -> None:
    """Check every digest, every index entry, and that every row is accounted for. Exit code 1 if something is wrong."""
    from pipelines.maintain.verify import verify_root

    found = verify_root(open_root(root), lambda stage: tell(f"checking {stage}", style="dim"))
    for problem in found.problems:
        tell(f"[bold red]wrong[/] {cell(problem)}", highlight=False)
    if found.garbage:
        tell(f"{len(found.garbage)} files are named by no commit; `shardmill clean` removes them")
    verdict = f"{len(found.problems)} problems" if found.problems else "all is well"
    tell(f"{found.rows:,} rows, {found.bytes / 1e6:,.1f} MB of images, {found.samples:,} samples: {verdict}")
    if found.problems:
        raise typer.Exit(1)


def clean(
    root: RootUrl,
    grace: Annotated[float, typer.Option(help="Keep what is younger than this many hours.")] = 24.0,
    keep: Annotated[int, typer.Option(help="Releases of each shard set to keep.")] = 3,
) -> None:
    """Remove what no commit names: leavings of killed runs, replaced payloads, old releases and their packs."""
    from pipelines.maintain.clean import clean_root

    removed, size = clean_root(open_root(root), grace * 3600, keep)
    tell(f"removed {removed:,} files, {size / 1e6:,.1f} MB")


def takedown(
    config: Config,
    wanted: Annotated[
        Path | None,
        typer.Argument(metavar="LIST", help="URLs, hosts, keys, SHA-256s; if not given, what was taken down before."),
    ] = None,
    models: Annotated[list[Path], typer.Option(help="A folder of checkpoints or exports; can be given again.")] = [],
    wait: Annotated[float, typer.Option(help="Seconds to wait for another run of the same root.")] = 0.0,
) -> None:
    """Take images and all that was said of them out of a corpus, for good, and say what was trained on them."""
    from pipelines.build.corpus import open_corpus
    from pipelines.maintain.takedown import read_list, take_down, trained_on

    corpus = open_corpus(config)
    open_root(corpus.root.url)
    for folder in models:
        if not folder.is_dir():
            raise UserError(f"--models: {folder}: no such folder")
    lines = read_list(wanted) if wanted else []
    done = take_down(corpus, lines, lambda what: tell(what, style="dim"), wait)
    tell(f"{done.rows:,} rows taken down, and {done.others:,} of the same bytes or conversations")
    for one in done.nothing[:20]:
        tell(f"named nothing here: {cell(one.text)}")
    if len(done.nothing) > 20:
        tell(f"named nothing here: {len(done.nothing) - 20:,} lines more")
    for one in done.near:
        tell(f"near duplicate, {one.distance} bits apart, still there: {one.key} {cell(one.url)}")
    for stage in done.stages:
        if stage.made:
            what = "shards" if stage.stage == "shards" else "partitions"
            tell(f"{stage.stage}: {stage.made:,} {what} made anew")
    if done.withdrawn:
        sets = ", ".join(map(cell, done.withdrawn))
        tell(f"withdrawn, as the configuration has it no more and it had some of it: shard set {sets}")
    tell(f"{done.removed:,} files removed; every run and `shardmill verify` hold the corpus against the list")
    for folder in models:
        for path in trained_on(folder, done.releases):
            tell(f"trained on a release that had some of it: {path}")

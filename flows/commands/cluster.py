"""Commands for work on several machines."""

from typing import Annotated

import typer

from flows.commands.arguments import Config
from flows.commands.terminal import cell, say, tell


def work(
    config: Config,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="Stage to make, such as `images`.", show_default=False)],
    part: Annotated[str, typer.Option(help="Part to make: I/N is the I-th of N parts, such as 3/16.")],
    wait: Annotated[float, typer.Option(help="Seconds to wait for a run of the same corpus.")] = 0.0,
) -> None:
    """Make one part of a stage. Any number of parts can be made at once, on any machine that reaches the corpus."""
    from pipelines.build.corpus import open_corpus
    from pipelines.build.work import part_of, stage_to_share
    from pipelines.build.work import work as make

    chosen = part_of(part)
    corpus = open_corpus(config)
    share = stage_to_share(corpus, stage).among(chosen.of)
    if (fetch := getattr(share, "fetch", None)) is not None:
        tell(f"{stage}: at most {fetch.per_host} requests to one host at a time, as one of {chosen.of} parts")
    done = make(corpus, stage, chosen, wait)
    tell(f"{stage} {chosen}: {done.made:,} of {done.partitions:,} partitions made, the others were current")


def check(
    config: Config,
    wait: Annotated[float, typer.Option(help="Seconds within which a worker has to answer.")] = 60.0,
) -> None:
    """Ask each worker of the configured Beam runner for its versions, variables and access, and say what differs."""
    from pipelines.build.cluster_check import check_cluster
    from pipelines.build.corpus import open_corpus

    count, lines = check_cluster(open_corpus(config), wait)
    for line in lines:
        tell(cell(line))
    workers = f"{count} worker{'s' * (count != 1)}"
    if lines:
        raise typer.Exit(say(None, 1, f"{workers} answered; {len(lines)} things differ from this machine"))
    tell(f"{workers} answered: all have the versions, variables and access of this machine")

"""The command that aligns a policy: rounds of preferences and training."""

from shlex import quote
from typing import Annotated

import typer

from flows.commands.arguments import Config
from flows.commands.build import in_prefect
from flows.commands.terminal import cell, console, fits, table, tell


def align(
    config: Config,
    rounds: Annotated[
        int | None, typer.Option(help="Number of rounds in all, instead of align.rounds.", min=1, show_default=False)
    ] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for another run of the same corpus.")] = 0.0,
) -> None:
    """Align the policy in rounds: ask, judge, draw pairs, train, evaluate. Can be stopped and run again."""
    from flows.rounds import settings_of
    from pipelines.build.corpus import open_corpus
    from pipelines.engine.alignment import read_alignment
    from pipelines.reports.report import REPORT
    from pipelines.reports.rounds import markdown, table_of
    from schemas.align import best_policy

    corpus = open_corpus(config)
    settings_of(corpus)

    def load():
        from flows.align import align as flow

        return lambda: flow(config, rounds, wait, return_state=True)

    in_prefect(corpus, load)
    columns, lines = table_of(corpus.root)
    shown = table(*columns)
    for line in lines:
        shown.add_row(*map(cell, line))
    if fits(shown):
        console.print(shown)
    else:
        print(markdown(columns, lines))
    alignment = read_alignment(corpus.root)
    for number, one in enumerate(alignment["rounds"], 1):
        tell(cell(f"round {number}: {one['outcome'] or 'going on'}: {one['why'] or ''}"))
    best = best_policy(alignment)[0]["model"]
    tell(cell(f"best policy: {best}" if best else "best policy: still the one at the start"))
    tell(f"report: {corpus.root.url_of(REPORT)}; query it: shardmill sql {quote(corpus.root.url)} 'from preferences'")
